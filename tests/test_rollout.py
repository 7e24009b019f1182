"""The two sampling engines: their log-probs are the trainer's, their draws follow them, and nothing else matters."""

import copy

import pytest
import torch
from scipy.stats import chisquare
from tiny import PROMPTS, full_logits, tiny_gpt2, tiny_model, token_logp
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

from harness.model.policy import PolicyModel
from harness.model.rows import Rows
from harness.model.scorer import Scorer, score
from harness.sampling.engine import ENGINES
from harness.sampling.local import CachedEngine, TransformersEngine, sample

EOS_IDS = (1, 3, 9, 12, 19, 23, 28)
"""Seven of 32 tokens end a response, so lengths differ widely."""


def drawn(engine, prompts=PROMPTS, counts=(3, 5, 2, 4), *, temperature=1.0, max_new_tokens=12, seed=0):
    """Responses at the prompts' own seeds, which begin with `seed`."""
    seeds = [seed + i for i in range(len(prompts))]
    return engine.generate(prompts, list(counts), temperature=temperature, max_new_tokens=max_new_tokens, seeds=seeds)


def engine_of(name, model, *, eos_ids=EOS_IDS, batch=512):
    return ENGINES[name](model, eos_ids=eos_ids, batch=batch)


def flat(groups):
    return [response for group in groups for response in group]


def assert_same_responses(found, expected, atol=1e-5):
    """The same tokens, and the same log-probs up to rounding, which differs with the size of a matrix product."""
    assert [[r.tokens for r in group] for group in found] == [[r.tokens for r in group] for group in expected]
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.truncated == b.truncated
        assert a.logp == pytest.approx(b.logp, abs=atol)


@pytest.fixture(scope="module")
def gpt2():
    return tiny_gpt2()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.8])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
@pytest.mark.parametrize("name", ENGINES)
def test_the_samplers_log_probs_are_the_trainers(name, architecture, temperature, model32, gpt2):
    model = model32 if architecture == "qwen3" else gpt2
    check_parity(name, model, temperature, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_in_float64_the_cached_engine_agrees_to_ten_digits(architecture, temperature, model64):
    # transformers' generate rounds the logits to float32 whatever the model's dtype, so it has no such test.
    model = model64 if architecture == "qwen3" else tiny_gpt2(torch.float64)
    check_parity("cached", model, temperature, atol=1e-10)


def check_parity(name, model, temperature, atol):
    groups = drawn(engine_of(name, model), temperature=temperature)
    assert [len(group) for group in groups] == [3, 5, 2, 4]
    assert len({len(response.tokens) for response in flat(groups)}) > 2
    prompts = [prompt for prompt, group in zip(PROMPTS, groups, strict=True) for _ in group]
    rows = Rows.of(prompts, [r.tokens for r in flat(groups)], "cpu")
    logp_NT = score(Scorer(model, None, temperature), rows, response_length=12, token_budget=60).logp_NT
    for n, (prompt, response) in enumerate(zip(prompts, flat(groups), strict=True)):
        assert len(response.logp) == len(response.tokens)
        assert response.logp == pytest.approx(logp_NT[n, : len(response.tokens)].tolist(), abs=atol)
        alone = token_logp(model, prompt, response.tokens, temperature)
        assert response.logp == pytest.approx(alone.tolist(), abs=atol)


@pytest.mark.parametrize("name", ENGINES)
def test_the_same_seed_gives_the_same_responses_bit_for_bit_and_another_seed_does_not(name, model32):
    first = drawn(engine_of(name, model32), seed=7)
    torch.rand(3)  # the state of the global generator is of no importance
    assert drawn(engine_of(name, model32), seed=7) == first
    assert drawn(engine_of(name, model32), seed=8) != first


@pytest.mark.parametrize("name", ENGINES)
def test_sampling_leaves_the_global_generator_alone(name, model32):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn(engine_of(name, model32))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("batch", [1, 3, 6])
@pytest.mark.parametrize("name", ENGINES)
def test_responses_do_not_depend_on_the_batch(name, batch, model32):
    expected = drawn(engine_of(name, model32))
    assert_same_responses(drawn(engine_of(name, model32, batch=batch)), expected)


def test_the_two_engines_draw_the_same_responses(model32):
    assert_same_responses(drawn(engine_of("transformers", model32)), drawn(engine_of("cached", model32)))


def test_an_engine_samples_from_the_weights_it_was_synced_with_last(model32):
    other = copy.deepcopy(model32)
    other.get_input_embeddings().weight.data *= 0.5
    engine = engine_of("cached", model32)
    engine.sync(PolicyModel(other))
    assert drawn(engine) == drawn(engine_of("cached", other)) != drawn(engine_of("cached", model32))


@pytest.mark.parametrize("name", ENGINES)
def test_the_responses_to_a_prompt_depend_on_its_seed_alone(name, model32):
    engine = engine_of(name, model32)
    expected = drawn(engine)
    others = drawn(engine, [PROMPTS[0], [2] * 15, PROMPTS[2], [30, 4]], (3, 1, 2, 9))
    assert_same_responses([others[0], others[2]], [expected[0], expected[2]])
    settings = {"temperature": 1.0, "max_new_tokens": 12}
    turned = engine.generate(PROMPTS[::-1], [4, 2, 5, 3], seeds=[3, 2, 1, 0], **settings)
    assert_same_responses(turned[::-1], expected)
    more = engine.generate(PROMPTS[1:2], [9], seeds=[1], **settings)
    assert_same_responses([more[0][:5]], [expected[1]])


@pytest.mark.parametrize("name", ENGINES)
def test_samples_of_a_prompt_differ_from_each_other(name, model32):
    groups = drawn(engine_of(name, model32), [PROMPTS[0], PROMPTS[0]], (8, 8))
    assert len({tuple(r.tokens) for r in flat(groups)}) > 8


def test_a_response_cut_short_is_the_beginning_of_the_longer_one(model32):
    # Temperature 0, since the random numbers of a sample are laid out by max_new_tokens.
    long = drawn(engine_of("cached", model32), temperature=0.0)
    short = drawn(engine_of("cached", model32), temperature=0.0, max_new_tokens=4)
    assert [r.tokens for r in flat(short)] == [r.tokens[:4] for r in flat(long)]


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
@pytest.mark.parametrize("name", ENGINES)
def test_greedy_is_the_argmax_and_transformers_greedy_token_for_token(name, architecture, model32, gpt2):
    model = model32 if architecture == "qwen3" else gpt2
    groups = drawn(engine_of(name, model), counts=(1, 2, 1, 1), temperature=0.0)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        argmax: list[int] = []
        while len(argmax) < 12 and not (argmax and argmax[-1] in EOS_IDS):
            argmax.append(int(full_logits(model, [*prompt, *argmax], [0])[0].argmax()))
        greedy = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=12, eos_token_id=list(EOS_IDS), pad_token_id=0
            ),
        )[0, len(prompt) :].tolist()
        assert argmax == greedy
        for response in group:
            assert response.tokens == argmax
            # Documented: the log-probs of greedy tokens are those of temperature 1.
            assert response.logp == pytest.approx(token_logp(model, prompt, argmax).tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_a_response_ends_with_its_first_eos_or_is_truncated_at_the_limit(name, model32):
    responses = flat(drawn(engine_of(name, model32), counts=(20, 20, 20, 20), max_new_tokens=8))
    assert {r.truncated for r in responses} == {True, False}
    assert len({r.tokens[-1] for r in responses if not r.truncated}) > 3
    for response in responses:
        assert not set(response.tokens[:-1]) & set(EOS_IDS)
        assert response.truncated == (response.tokens[-1] not in EOS_IDS)
        assert len(response.tokens) == 8 or not response.truncated
    # An EOS on the very last place is an end and no truncation.
    assert any(len(r.tokens) == 8 and not r.truncated for r in responses)


@pytest.mark.parametrize("name", ENGINES)
def test_a_prompt_with_no_samples_asked_for_gets_none(name, model32):
    groups = drawn(engine_of(name, model32), counts=(2, 0, 0, 1))
    assert [len(group) for group in groups] == [2, 0, 0, 1]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("name", ENGINES)
def test_first_tokens_are_drawn_as_often_as_the_model_says(name, temperature, model32):
    n = 4000
    groups = drawn(engine_of(name, model32), PROMPTS[:2], (n, 10), temperature=temperature, max_new_tokens=1, seed=3)
    p_V = (full_logits(model32, PROMPTS[0], [0])[0].double() / temperature).softmax(-1).detach()
    counts_V = torch.bincount(torch.tensor([r.tokens[0] for r in groups[0]]), minlength=32)
    check_frequencies(counts_V, p_V)


def test_second_tokens_are_drawn_as_often_as_the_model_says_after_the_first(model32):
    groups = drawn(engine_of("cached", model32, eos_ids=()), PROMPTS[:1], (6000,), max_new_tokens=2, seed=4)
    first = int(torch.tensor([r.tokens[0] for r in groups[0]]).mode().values)
    seconds = torch.tensor([r.tokens[1] for r in groups[0] if r.tokens[0] == first])
    p_V = full_logits(model32, [*PROMPTS[0], first], [0])[0].double().softmax(-1).detach()
    assert len(seconds) > 300
    check_frequencies(torch.bincount(seconds, minlength=32), p_V)


def check_frequencies(counts_V, p_V):
    """χ² with the tokens that are expected fewer than five times as one class."""
    n, rare_V = int(counts_V.sum()), p_V * counts_V.sum() < 5
    observed = [*counts_V[~rare_V].tolist(), int(counts_V[rare_V].sum())]
    expected = [*(p_V[~rare_V] * n).tolist(), float(p_V[rare_V].sum()) * n]
    if expected[-1] == 0:
        assert observed.pop() == 0
        expected.pop()
    expected = [x * n / sum(expected) for x in expected]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_sampling_inverts_the_cumulative_distribution():
    # p = 1/8, 4/8, 3/8: cumulative 1/8, 5/8, 1.
    logits_NV = torch.tensor([1.0, 4.0, 3.0], dtype=torch.float64).log().expand(5, 3)
    uniform_N = torch.tensor([0.0, 0.124, 0.126, 0.624, 0.626], dtype=torch.float64)
    token_N, logp_N = sample(logits_NV, uniform_N, 1.0)
    assert token_N.tolist() == [0, 0, 1, 1, 2]
    assert logp_N.exp().tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 2, 1 / 2, 3 / 8])
    # At temperature 1/2 the probabilities are squared: 1/26, 16/26, 9/26, cumulative .0385, .654, 1.
    token_N, logp_N = sample(logits_NV, torch.tensor([0.03, 0.04, 0.65, 0.66, 0.9], dtype=torch.float64), 0.5)
    assert token_N.tolist() == [0, 1, 1, 2, 2]
    assert logp_N.exp().tolist() == pytest.approx([1 / 26, 16 / 26, 16 / 26, 9 / 26, 9 / 26])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_of_probability_zero_is_never_drawn(dtype):
    # Zeros stand first, in the middle and last, and the uniform numbers include both ends of [0, 1).
    random = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(3000, 12, generator=random, dtype=dtype)
    logits_NV[:, [0, 5, 6, 10, 11]] = -torch.inf
    for uniform in (0.0, 2**-53, 0.3, 1 - 2**-53):
        token_N, logp_N = sample(logits_NV, torch.full((3000,), uniform, dtype=torch.float64), 1.0)
        assert torch.isfinite(logp_N).all()
        assert not torch.isin(token_N, torch.tensor([0, 5, 6, 10, 11])).any()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("name", ENGINES)
def test_a_generation_config_on_the_model_changes_nothing(name, temperature, model32):
    model = tiny_model()
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        min_p=0.5,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        suppress_tokens=[4, 5, 6, 7],
        eos_token_id=17,
        max_length=5,
    )
    before = copy.deepcopy(model.generation_config.to_dict())
    assert drawn(engine_of(name, model), temperature=temperature) == drawn(
        engine_of(name, model32), temperature=temperature
    )
    assert model.generation_config.to_dict() == before


def test_a_model_with_a_sliding_window_is_refused_by_the_cached_engine_alone_with_the_way_out():
    config = MistralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    with pytest.raises(ValueError, match=r"MistralForCausalLM.*sliding-window.*set rollout.engine = 'transformers'"):
        drawn(CachedEngine(model, eos_ids=EOS_IDS, batch=8))
    groups = drawn(TransformersEngine(model, eos_ids=EOS_IDS, batch=64))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for response in group:
            alone = token_logp(model, prompt, response.tokens).tolist()
            assert response.logp == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_under_bfloat16_weights_are_cast_once_for_all_passes_and_train_afterwards(name):
    model = tiny_model()
    casts = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
                casts.append(args[0].data_ptr())
            return func(*args, **(kwargs or {}))

    engine = ENGINES[name](model, eos_ids=(), batch=512, precision="bfloat16")
    with Casts():
        drawn(engine, max_new_tokens=4)  # four passes
    assert len(casts) == len(set(casts)) > 0
    rows = Rows.of([[1, 2]], [[3]], "cpu")
    Scorer(model, precision="bfloat16")(rows, response_length=1).logp_NT.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_grouped_key_value_heads_are_cached_too():
    config = MistralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    check_parity("cached", MistralForCausalLM(config).eval(), 1.0, atol=1e-5)
