"""Rows without padding give the numbers of padded ones: outputs, gradients, on ranks, and for every split."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_here import on_ranks
from test_gradient import BUDGETS, TEMPERATURE, assert_same, policy_and_critic, taken, worked
from tiny import PROMPTS, gradients, random_critic, tiny_gpt2, tiny_lm, tiny_model
from torch import Tensor
from training_runs import run
from transformers import BloomConfig, BloomForCausalLM, Llama4ForCausalLM, Llama4TextConfig, OPTConfig, OPTForCausalLM

from algorithms.gvpo import GVPO
from algorithms.ppo import PPO
from harness.model.language import frozen_base
from harness.model.packing import packed_attention, sampling_attention
from harness.model.policy import PolicyModel, recompute_activations, shard
from harness.model.ranks import Ranks, whole
from harness.model.rows import Rows, fits, micro_batches
from harness.model.scorer import Scorer, score
from harness.suite.config import ConfigError, Resources
from harness.training.gradient import Passes, accumulate_gradient, one_pass_is_right

RESPONSES = [[8, 3, 1], [22], [17, 17, 4, 9, 1], [6, 12]]
T = 5
ROWS = Rows.of(PROMPTS, RESPONSES, "cpu")


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def packed(model, chunk=None) -> PolicyModel:
    return PolicyModel(model, chunk, model.config._attn_implementation)


def test_packed_rows_are_one_sequence_in_which_positions_start_anew():
    rows = Rows.of([[5, 6], [7]], [[8], [9, 2, 1]], "cpu")
    inputs = rows.inputs(packing=True)
    assert inputs["input_ids"].tolist() == [[5, 6, 8, 7, 9, 2, 1]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    # The prompts' last tokens, 6 and 7: the second and the fourth of seven; padded to rows of four, second and fifth.
    assert rows.prompt_end_N(packing=True).tolist() == [1, 3]
    assert rows.prompt_end_N(packing=False).tolist() == [1, 4]


def everything(scorer: Scorer, rows: Rows = ROWS) -> list[Tensor]:
    """All that a scorer puts out, and the gradients of a weighted sum of it."""
    out: Any = scorer(rows, response_length=T + 2, entropy=True)
    found = [x for x in (out.logp_NT, out.entropy_NT, out.value_NT) if x is not None]
    weight_NT = torch.arange(1.0, 1 + found[0].numel(), dtype=torch.float64).view_as(found[0])
    torch.stack([(x * weight_NT).sum() for x in found]).sum().backward()
    if scorer.critic is not None:
        found.append(out.final_value_N)
    return [x.detach() for x in found] + list(gradients(scorer.model, scorer.critic).values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
@pytest.mark.parametrize("new_model", [tiny_model, tiny_gpt2])
def test_outputs_and_gradients_of_packed_rows_are_those_of_padded_ones(new_model, chunk, recompute):
    model = new_model(torch.float64)
    critic = random_critic(model) if new_model is tiny_model else None
    expected = everything(Scorer(PolicyModel(model), critic, 0.7))
    for module in filter(None, (model, critic)):
        if recompute:
            recompute_activations(module)
    found = everything(Scorer(packed(model, chunk), critic, 0.7))
    assert len(found) == len(expected) > 10
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_either_attention_of_the_cpu_keeps_packed_rows_apart(attention):
    model = tiny_model(torch.float64)
    expected = everything(Scorer(PolicyModel(model)))
    for a, b in zip(everything(Scorer(PolicyModel(model, None, attention))), expected, strict=True):
        close(a, b, atol=1e-10 if attention == "sdpa" else 1e-4)  # the eager softmax is one of float32


@pytest.mark.parametrize("token_budget", [1, 12, 20, 10**6])
@pytest.mark.parametrize("chunk", [None, 2])
def test_scores_kl_and_log_likelihoods_of_packed_rows_are_those_of_padded_ones(model64, chunk, token_budget):
    base = copy.deepcopy(model64)
    with torch.no_grad():
        for weight in base.parameters():
            weight *= 0.9
    critic = random_critic(model64)
    plain, mine = Scorer(PolicyModel(model64), critic, 0.7), Scorer(packed(model64, chunk), critic, 0.7)
    expected = score(plain, ROWS, response_length=T, token_budget=10**6, entropy=True).tensors()
    found = score(mine, ROWS, response_length=T, token_budget=token_budget, entropy=True).tensors()
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        close(found[name], x)
    kl_N, logp_N = Scorer(PolicyModel(model64)).kl_from(Scorer(PolicyModel(base)), ROWS)
    assert float(kl_N.min()) > 0.01
    for a, b in zip(
        Scorer(packed(model64, chunk)).kl_from(Scorer(packed(base, chunk)), ROWS, token_budget),
        (kl_N, logp_N),
        strict=True,
    ):
        close(a, b)
    for a, b in zip(mine.loglikelihood(ROWS), plain.loglikelihood(ROWS), strict=True):
        close(a, b)


@pytest.mark.parametrize("token_budget", BUDGETS)
@pytest.mark.parametrize("name", ["gvpo", "ppo-everything", "dpo", "whitened"])
def test_the_gradient_of_packed_rows_is_plain_autograds_for_every_split(name, token_budget):
    algorithm, batch, rows, loss, expected = worked(name)
    model, critic = policy_and_critic()
    ways: list[tuple[int | None, Passes]] = [(None, "auto"), (3, "auto"), (3, "two")]
    for chunk, passes in ways:
        scorer = Scorer(packed(model, chunk), critic if algorithm.needs.critic else None, TEMPERATURE)
        found = accumulate_gradient(scorer, algorithm, batch, rows, token_budget=token_budget, passes=passes)
        assert_same(taken(algorithm), expected)
        assert found.loss == pytest.approx(loss, abs=1e-10)


NAMES = ("gvpo", "ppo-everything", "whitened")


def gradients_on(ranks: Ranks) -> dict[tuple[str, int], tuple[float, dict[str, Tensor]]]:
    """Of packed rows in chunks, with activations computed again: loss and gradient at several budgets."""
    model = tiny_model(torch.float64)
    critic = random_critic(model)
    policy = packed(model, 3)
    for module in (policy, critic):
        recompute_activations(module)
        shard(module, ranks)
    found = {}
    for name in NAMES:
        algorithm, batch, rows, *_ = worked(name)
        scorer = Scorer(policy, critic if algorithm.needs.critic else None, TEMPERATURE, ranks=ranks)
        for budget in (1, 45, 10**6):
            loss = accumulate_gradient(scorer, algorithm, batch, rows, token_budget=budget).loss
            gradient = {}
            for i, part in enumerate((model, critic)):
                for at, parameter in part.named_parameters():
                    if parameter.grad is not None:
                        gradient[f"{i}.{at}"], parameter.grad = whole(parameter.grad), None
            found[name, budget] = (loss, gradient)
    return found


def test_the_gradient_of_packed_rows_on_two_ranks_is_plain_autograds(tmp_path):
    for answers in on_ranks(2, tmp_path / "meeting", gradients_on):
        for (name, _), (loss, gradient) in answers.items():
            *_, expected_loss, expected = worked(name)
            assert loss == pytest.approx(expected_loss, abs=1e-10)
            for at, x in gradient.items():
                close(x, expected[at])


def test_packed_micro_batches_worked_example():
    # By length: 2, 3, 5 are the 10 tokens of the budget; the other 5 would be 15, and with 9 it is 14.
    lengths = torch.tensor([5, 9, 3, 5, 2])
    assert [part.tolist() for part in micro_batches(lengths, 10, packing=True)] == [[4, 2, 0], [3], [1]]
    # On two ranks 2, 3, 5, 5 are 2 + 5 on one and 3 + 5 on the other; 9 would make the first 16.
    assert [part.tolist() for part in micro_batches(lengths, 10, ranks=2, packing=True)] == [[4, 2, 0, 3], [1]]


@given(
    rows=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=20),
    budget=st.integers(1, 120),
    ranks=st.integers(1, 4),
)
@settings(deadline=None)
def test_packed_micro_batches_hold_each_row_once_and_keep_units_and_the_budget_of_each_rank(rows, budget, ranks):
    lengths, units = (torch.tensor(column) for column in zip(*rows, strict=True))
    parts = micro_batches(lengths, budget, units, ranks, packing=True)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(rows)))
    within = []
    for i, part in enumerate(parts):
        held = set(units[part].tolist())
        assert not held & set(
            torch.cat([units[other] for j, other in enumerate(parts) if j != i] or [units[:0]]).tolist()
        )
        most = max(int(lengths[part[rank::ranks]].sum()) for rank in range(ranks))
        assert len(held) == 1 or most <= budget
        within.append(len(part) <= ranks or most <= budget)
    assert fits(lengths, budget, units, ranks, packing=True) == all(within)


def test_what_is_coupled_fits_packed_where_it_does_not_with_padding():
    # A group of 2, 2 and 10 tokens: 14 packed, and 30 with padding.
    valid_GK = torch.ones(1, 3, dtype=torch.bool)
    for packing in (False, True):
        assert one_pass_is_right("group", valid_GK, torch.tensor([2, 10, 2]), 14, packing=packing) == packing


@pytest.mark.parametrize("algorithm", [GVPO(), PPO()])
def test_a_packed_run_ends_with_the_weights_of_a_padded_one_and_has_no_padding(algorithm, tmp_path):
    settings: dict[str, Any] = {"steps": 2, "epochs": 2, "token_budget": 60, "eos_ids": tuple(range(8))}
    a = run(tmp_path / "a", algorithm, **settings)
    b = run(tmp_path / "b", algorithm, packing=True, **settings)
    assert a.judge.shown == b.judge.shown
    for name, weight in a.weights.items():
        close(weight, b.weights[name], atol=1e-4)
    assert any(row["padding"] > 0 for row in a.rows)
    assert all(row["padding"] == 0 for row in b.rows)


def test_on_the_cpu_a_model_keeps_its_attention_and_its_copies_are_packed_too():
    lm = tiny_lm()
    for own in ("sdpa", "eager"):
        lm.model.set_attn_implementation(own)
        assert packed_attention(lm.model) == packed_attention(lm.model, "bfloat16") == own
    base = frozen_base(lm, Resources(packing=True))
    assert base.packing == base.of(lm.model).packing == "eager"
    assert frozen_base(lm, Resources()).packing is None


SMALL: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16}
UNABLE = {
    "attention by distance": (
        lambda: BloomForCausalLM(BloomConfig(**SMALL, n_layer=1, n_head=2)),
        "it takes no positions",
    ),
    "a mask that positions do not decide": (
        lambda: OPTForCausalLM(
            OPTConfig(**SMALL, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16)
        ),
        "logits differ by up to 0.",
    ),
    "attention in chunks of positions of the pack": (
        lambda: Llama4ForCausalLM(
            Llama4TextConfig(
                **SMALL,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                intermediate_size=16,
                intermediate_size_mlp=16,
                num_local_experts=2,
            )
        ),
        "it has layers of chunked_attention",
    ),
}


@pytest.mark.parametrize("name", UNABLE)
def test_a_model_that_cannot_keep_rows_apart_is_refused(name):
    new_model, reason = UNABLE[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = new_model().eval()
    own = model.config._attn_implementation
    message = rf"resources\.packing = true: {type(model).__name__} needs padding under {own}.*{reason}.*packing = false"
    with pytest.raises(ConfigError, match=message):
        packed_attention(model)
    assert model.config._attn_implementation == own


def test_sampling_takes_no_flex_attention_and_leaves_every_other_as_it_is():
    model = tiny_model()
    for attention, within in (("flex_attention", "sdpa"), ("eager", "eager")):
        model.set_attn_implementation(attention)
        with contextlib.suppress(InterruptedError), sampling_attention(model):
            assert model.config._attn_implementation == within
            raise InterruptedError
        assert model.config._attn_implementation == attention
