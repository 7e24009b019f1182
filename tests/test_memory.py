"""What saves memory changes no number: chunked log-probs, recomputed activations, bfloat16, and less padding."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from tiny import PROMPTS, gradients, random_critic, tiny_gpt2, tiny_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import harness.model.policy
from harness.model.language import frozen_copy
from harness.model.policy import PolicyModel, decoder_layers, logprob_chunk, recompute_activations
from harness.model.rows import Rows, micro_batches, padding_share
from harness.model.scorer import Scorer, score

RESPONSES = [[8, 3, 1], [22], [17, 17, 4, 9, 1], [6, 12]]
T = 5
ROWS = Rows.of(PROMPTS, RESPONSES, "cpu")


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def outputs(scorer: Scorer) -> list[torch.Tensor]:
    """Log-probs and entropies, and the gradients of a weighted sum of them."""
    found: Any = scorer(ROWS, response_length=T, entropy=True)
    weight_NT = torch.arange(1.0, 1 + len(ROWS) * T, dtype=torch.float64).view(len(ROWS), T)
    ((found.logp_NT + 0.3 * found.entropy_NT) * weight_NT).sum().backward()
    return [found.logp_NT.detach(), found.entropy_NT.detach(), *gradients(scorer.model).values()]


@pytest.mark.parametrize("new_model", [tiny_model, tiny_gpt2])
@pytest.mark.parametrize("chunk", [1, 3, 4, 10])
def test_log_probs_entropies_and_gradients_in_chunks_are_those_of_all_logits_at_once(new_model, chunk):
    # 3 + 1 + 5 + 2 = 11 response tokens: chunks of 3 and 4 have a remainder.
    model = new_model(torch.float64)
    expected = outputs(Scorer(PolicyModel(model), temperature=0.7))
    found = outputs(Scorer(PolicyModel(model, chunk), temperature=0.7))
    assert len(found) == len(expected) > 10
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("token_budget", [20, 10**6])
def test_kl_in_chunks_is_that_of_all_logits_at_once(model64, token_budget):
    base = tiny_model(torch.float64)
    with torch.no_grad():
        for weight in base.parameters():
            weight *= 0.9
    expected = torch.stack(Scorer(model64).kl_from(Scorer(base), ROWS))
    found = torch.stack(Scorer(PolicyModel(model64, 2)).kl_from(Scorer(PolicyModel(base, 2)), ROWS, token_budget))
    assert float(expected[0].min()) > 0.01
    close(found, expected)


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_likelihoods_in_chunks_are_those_of_all_logits_at_once(model64, chunk, temperature):
    # The third row's response is what greedy decoding gives, so that both answers occur.
    greedy = model64.generate(torch.tensor([PROMPTS[2]]), max_new_tokens=3, do_sample=False)[0, len(PROMPTS[2]) :]
    rows = Rows.of(PROMPTS, [*RESPONSES[:2], greedy.tolist(), RESPONSES[3]], "cpu")
    expected, found = (
        Scorer(PolicyModel(model64, at_once), temperature=temperature).loglikelihood(rows) for at_once in (None, chunk)
    )
    close(found[0], expected[0])
    assert found[1].tolist() == expected[1].tolist() == [False, False, True, False]


class Largest(TorchDispatchMode):
    """The largest number of elements that any tensor had which an operation made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return made


def large_vocabulary() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=8192,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=8,
        max_position_embeddings=512,
    )
    return Qwen3ForCausalLM(config).eval()


def test_chunked_log_probs_and_their_gradient_need_an_eighth_of_the_memory_of_all_logits(monkeypatch):
    model = large_vocabulary()
    # As with 150,000 words and 4,096 tokens at 2^26 logits: a ninth of the tokens' logits at once.
    tokens = 512
    rows = Rows.of([[1]] * 2, [list(range(2, 2 + tokens // 2))] * 2, "cpu")
    monkeypatch.setattr(harness.model.policy, "LOGITS_AT_ONCE", tokens * 8192 // 9)
    chunk = logprob_chunk(model, 0, token_budget=tokens)
    assert chunk == tokens // 9

    def largest(chunk: int | None) -> int:
        with Largest() as seen:
            out: Any = Scorer(PolicyModel(model, chunk))(rows, response_length=tokens // 2, entropy=True)
            (out.logp_NT.sum() + out.entropy_NT.sum()).backward()
        assert model.get_input_embeddings().weight.grad.abs().max() > 0
        return seen.numel

    assert largest(None) >= tokens * 8192
    assert largest(chunk) <= tokens * 8192 / 8


def test_chunked_log_likelihoods_need_an_eighth_of_the_memory_of_all_logits():
    model, tokens = large_vocabulary(), 512
    rows = Rows.of([[1]] * 2, [list(range(2, 2 + tokens // 2))] * 2, "cpu")

    def largest(chunk: int | None) -> int:
        with Largest() as seen:
            Scorer(PolicyModel(model, chunk)).loglikelihood(rows)
        return seen.numel

    assert largest(None) >= tokens * 8192
    assert largest(tokens // 9) <= tokens * 8192 / 8


def test_logits_are_computed_all_at_once_where_they_are_few(model32):
    # The embedded default has 32 words: 2^26 / 32 = 2,097,152 tokens.
    assert logprob_chunk(model32, 0, token_budget=16384) is None
    assert logprob_chunk(model32, 0, token_budget=3_000_000) == 2_097_152
    assert logprob_chunk(model32, 100, token_budget=16384) == 100


def test_a_model_that_caps_its_logits_is_not_taken_in_chunks():
    config = Gemma2Config(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
        final_logit_softcapping=0.1,
    )
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight *= 20
    with pytest.warns(UserWarning, match="Gemma2ForCausalLM cannot compute log-probs in chunks.*soft-capped"):
        assert logprob_chunk(model, 0, token_budget=2**27) is None
    with pytest.raises(ValueError, match=r"resources\.logprob_chunk = 7.*leave it at 0"):
        logprob_chunk(model, 7, token_budget=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logprob_chunk(model, 0, token_budget=100) is None  # chunks would not be needed


def saved_bytes(scorer: Scorer) -> int:
    """Of the distinct tensors that autograd keeps for the backward pass, parameters not counted."""
    parameters = {p.untyped_storage().data_ptr() for p in scorer.model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in parameters:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = scorer(ROWS, response_length=T)
    out.logp_NT.sum().backward()
    gradients(scorer.model)
    return sum(kept.values())


@pytest.mark.parametrize("new_model", [tiny_model, tiny_gpt2])
def test_recomputed_activations_give_the_same_gradient_from_less_memory(new_model):
    model = new_model(torch.float64)
    expected, before = outputs(Scorer(model)), saved_bytes(Scorer(model))
    assert not model.training  # dropout stays off
    recompute_activations(model)
    for a, b in zip(outputs(Scorer(model)), expected, strict=True):
        close(a, b)
    assert saved_bytes(Scorer(model)) < before / 2


def test_recomputing_runs_each_layer_of_a_policy_and_of_a_critic_twice_and_of_a_copy_its_own():
    policy = tiny_model()
    critic = random_critic(policy)
    for model in (policy, critic):
        recompute_activations(model)
    reference = frozen_copy(policy)
    calls = []
    for model in (policy, critic, reference):
        for layer in decoder_layers(model):
            layer.get_submodule("self_attn").register_forward_hook(lambda module, *_: calls.append(module))

    def runs(*models: nn.Module) -> list[int]:
        found = [calls.count(layer.self_attn) for model in models for layer in decoder_layers(model)]
        calls.clear()
        return found

    out: Any = Scorer(policy, critic)(ROWS, response_length=T)
    (out.logp_NT.sum() + out.value_NT.sum()).backward()
    assert runs(policy, critic, reference) == [2, 2, 2, 2, 0, 0]
    score(Scorer(reference), ROWS, response_length=T, token_budget=10**6)
    assert runs(policy, critic, reference) == [0, 0, 0, 0, 1, 1]


def test_a_policy_whose_activations_are_recomputed_still_generates_with_a_cache(model32):
    model = copy.deepcopy(model32)
    recompute_activations(model)
    ids = torch.tensor([PROMPTS[0]])
    for use_cache in (True, False):
        found = [m.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use_cache) for m in (model, model32)]
        assert torch.equal(*found)


@pytest.mark.parametrize("chunk", [None, 3])
def test_bfloat16_gives_float32_log_probs_near_the_exact_ones_and_float32_gradients(model32, chunk):
    exact = score(Scorer(model32), ROWS, response_length=T, token_budget=10**6)
    half = Scorer(PolicyModel(model32, chunk), precision="bfloat16")(ROWS, response_length=T)
    assert half.logp_NT.dtype == torch.float32
    difference = (half.logp_NT.detach() - exact.logp_NT).abs()
    assert 0 < float(difference.max()) < 0.2
    assert float(difference.sum() / 11) < 0.05  # nats, in the mean over 11 tokens
    half.logp_NT.sum().backward()
    assert {gradient.dtype for gradient in gradients(model32).values()} == {torch.float32}


def test_the_share_of_padding_worked_example():
    # At 10 tokens: 2, 3 | 5, 5 | 9, so 2·3 + 2·5 + 9 = 25 tokens are computed, of which 24 are real.
    lengths = torch.tensor([5, 9, 3, 5, 2])
    assert padding_share(lengths, 10) == pytest.approx(1 / 25)
    # On two ranks 2, 3, 5, 5 are one round, two a rank: 2, 5 and 3, 5 are 2·5 each; then 9. 29 computed.
    assert [part.tolist() for part in micro_batches(lengths, 10, ranks=2)] == [[4, 2, 0, 3], [1]]
    assert padding_share(lengths, 10, ranks=2) == pytest.approx(5 / 29)
