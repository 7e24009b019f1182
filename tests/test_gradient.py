"""The shared backward pass: one total gradient, however the mini-batch is split, for every algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import full_logits, gradients, random_critic, tiny_model

from algorithms import ALGORITHMS, Algorithm, Batch, LossOutput, Needs, PolicyOutput
from algorithms.base import sequence_sum
from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.gvpo import GVPO
from algorithms.kimi import Kimi
from algorithms.pg import PolicyGradient
from algorithms.ppo import PPO
from harness.model.rows import Rows
from harness.model.scorer import Scorer, score
from harness.training.gradient import accumulate_gradient, differentiate, to_groups, truncated_ratio

TEMPERATURE = 0.8


@dataclass(frozen=True, kw_only=True)
class Whitened(Algorithm):
    """Couples the whole batch: the sequence log-probs are standardised over all samples, and entropy is used too."""

    @property
    def needs(self) -> Needs:
        return Needs(entropy=True, coupling="batch")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        x_GK, valid_GK = sequence_sum(policy.logp_GKT - batch.old_logp_GKT, batch.mask_GKT), batch.valid_GK
        mean = x_GK[valid_GK].mean()
        std = x_GK[valid_GK].std(correction=0)
        white_GK = (x_GK - mean) / (std + 1)
        assert policy.entropy_GKT is not None
        entropy_GK = sequence_sum(policy.entropy_GKT, batch.mask_GKT)
        return LossOutput(loss=((white_GK - batch.rewards_GK)[valid_GK].square()).sum() + entropy_GK.sum() * std)


SETTINGS = {
    "gvpo": GVPO(beta=0.5),
    "gvpo-reference-without-var": GVPO(beta=0.7, anchor="reference", variance_term=False),
    "gvpo-behaviour-without-cov": GVPO(beta=0.3, anchor="behaviour", covariance_term=False),
    "grpo": GRPO(),
    "grpo-k3": GRPO(beta=0.1),
    "ppo": PPO(),
    "ppo-everything": PPO(beta=0.1, entropy_coefficient=0.2, gamma=0.95, gae_lambda=0.9, value_clip=0.2),
    "dpo": DPO(beta=0.5),
    "dpo-old": DPO(beta=0.5, anchor="old"),
    "kimi": Kimi(beta=0.5),
    "kimi-reference": Kimi(beta=0.5, anchor="reference"),
    "pg": PolicyGradient(beta=0.5),
    "pg-without-importance-weight": PolicyGradient(beta=0.5, anchor="reference", importance_weight=False),
    "whitened": Whitened(),
}
SETTINGS |= {name: cls() for name, cls in ALGORITHMS.items() if cls not in map(type, SETTINGS.values())}
BUDGETS = [1, 25, 45, 90, 10**6]


@cache
def policy_and_critic():
    model = tiny_model(torch.float64)
    return model, random_critic(model)


def scorer_for(algorithm: Algorithm) -> Scorer:
    model, critic = policy_and_critic()
    return Scorer(model, critic if algorithm.needs.critic else None, TEMPERATURE)


def example(sizes: tuple[int, ...], seed: int = 0) -> tuple[Batch, Rows]:
    """Groups of the given sizes, with prompts and responses of different lengths, off-policy."""
    rng = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, generator=rng)

    G, K, T = len(sizes), max(sizes), 6
    valid_GK = torch.arange(K) < torch.tensor(sizes)[:, None]
    length_GK = integers(1, T, G, K)
    length_GK[0, 0] = T
    mask_GKT = (torch.arange(T) < length_GK[..., None]) & valid_GK[..., None]
    prompts = [integers(2, 31, int(integers(2, 9, 1))).tolist() for _ in sizes]
    owners, members = valid_GK.nonzero(as_tuple=True)
    responses = [integers(2, 31, int(length_GK[g, k])).tolist() for g, k in zip(owners, members, strict=True)]
    rows = Rows.of([prompts[g] for g in owners], responses, "cpu")

    model, critic = policy_and_critic()
    scores = score(Scorer(model, critic, TEMPERATURE), rows, response_length=T, token_budget=10**6)
    now: Any = to_groups(scores, valid_GK)

    def near(x_GKT: torch.Tensor) -> torch.Tensor:
        return x_GKT + 0.2 * torch.randn(G, K, T, generator=rng, dtype=torch.float64)

    batch = Batch(
        mask_GKT=mask_GKT,
        valid_GK=valid_GK,
        rewards_GK=torch.rand(G, K, generator=rng, dtype=torch.float64).round(decimals=1),
        old_logp_GKT=near(now.logp_GKT),
        behaviour_logp_GKT=near(now.logp_GKT),
        sampler_logp_GKT=near(now.logp_GKT),
        ref_logp_GKT=near(now.logp_GKT),
        old_value_GKT=near(now.value_GKT),
        final_value_GK=torch.randn(G, K, generator=rng, dtype=torch.float64),
        truncated_GK=integers(0, 1, G, K).bool(),
        extras={
            "greedy_reward_G": integers(0, 1, G).double(),
            "reference_reward_GN": integers(0, 1, G, 8).double(),
            "teacher_logp_GK": near(now.logp_GKT).sum(-1),
            "length_limit_G": torch.full((G,), 7.0, dtype=torch.float64),
        },
    )
    return batch, rows


def autograd_gradient(algorithm: Algorithm, batch: Batch, rows: Rows) -> tuple[float, dict[str, torch.Tensor]]:
    """The reference: each row alone through transformers' full logits into the loss, and one `backward()` on it."""
    model, critic = policy_and_critic()
    shape = batch.mask_GKT.shape
    logp, entropy, value = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    for n, (g, k) in enumerate(batch.valid_GK.nonzero().tolist()):
        P, R = int(rows.prompt_length_N[n]), int(rows.response_length_N[n])
        ids = rows.input_ids_NL[n, : P + R].tolist()
        logp_RV = (full_logits(model, ids[:P], ids[P:]) / TEMPERATURE).log_softmax(-1)
        place = (torch.full((R,), g), torch.full((R,), k), torch.arange(R))
        logp = logp.index_put(place, logp_RV[torch.arange(R), torch.tensor(ids[P:])])
        entropy = entropy.index_put(place, -(logp_RV.exp() * logp_RV).sum(-1))
        value = value.index_put(place, critic(torch.tensor([ids]))[0, P - 1 : -1])
    policy = PolicyOutput(logp_GKT=logp, entropy_GKT=entropy, value_GKT=value)
    loss = algorithm.loss(policy, batch).loss
    loss.backward()
    return loss.item(), taken(algorithm)


def taken(algorithm: Algorithm) -> dict[str, torch.Tensor]:
    """The accumulated gradients of the models that the algorithm has. Where a model got none it is zero."""
    model, critic = policy_and_critic()
    modules = (model, critic) if algorithm.needs.critic else (model,)
    found = gradients(*modules)
    gradients(critic)
    names = [(f"{i}.{name}", p) for i, m in enumerate(modules) for name, p in m.named_parameters()]
    return {name: found.get(name, torch.zeros_like(p)) for name, p in names}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=0, msg=f"{name}: {{}}".format)


@cache
def worked(name: str):
    """Four groups, one of a single sample, with the reference gradient."""
    algorithm = SETTINGS[name]
    batch, rows = example((4, 2, 1, 3))
    batch = algorithm.prepare(batch)
    return algorithm, batch, rows, *autograd_gradient(algorithm, batch, rows)


@pytest.mark.parametrize("token_budget", BUDGETS)
@pytest.mark.parametrize("name", SETTINGS)
def test_the_gradient_is_plain_autograds_for_every_split_in_one_pass_and_in_two(name, token_budget):
    algorithm, batch, rows, loss, expected = worked(name)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for passes in ("auto", "two"):
        found = accumulate_gradient(
            scorer_for(algorithm), algorithm, batch, rows, token_budget=token_budget, passes=passes
        )
        assert_same(taken(algorithm), expected)
        assert found.loss == pytest.approx(loss, abs=1e-10)
        if passes == "two":
            assert found.extra_pass


@pytest.mark.parametrize("name", ["gvpo", "ppo-everything", "dpo", "pg", "whitened"])
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1),
    token_budget=st.integers(1, 160),
    passes=st.sampled_from(["auto", "two"]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=6)
def test_the_gradient_is_plain_autograds_for_any_groups_and_budget(name, sizes, token_budget, passes, seed):
    algorithm = SETTINGS[name]
    batch, rows = example(tuple(sizes), seed)
    batch = algorithm.prepare(batch)
    _, expected = autograd_gradient(algorithm, batch, rows)
    accumulate_gradient(scorer_for(algorithm), algorithm, batch, rows, token_budget=token_budget, passes=passes)
    assert_same(taken(algorithm), expected)


@pytest.mark.parametrize("name", ["grpo", "kimi", "ppo"])
def test_algorithms_that_couple_a_sequence_take_one_pass_even_a_row_at_a_time(name):
    algorithm, batch, rows, _, expected = worked(name)
    with counted_passes() as passes:
        found = accumulate_gradient(scorer_for(algorithm), algorithm, batch, rows, token_budget=1, passes="one")
    assert_same(taken(algorithm), expected)
    assert passes == [1] * 10  # (4, 2, 1, 3) samples
    assert not found.extra_pass


def test_algorithms_that_couple_a_group_take_one_pass_where_groups_fit():
    algorithm, batch, rows, _, expected = worked("gvpo")
    # The longest row has at most 9 + 6 tokens: a group of 4 fits into 60, two never into 40.
    with counted_passes() as passes:
        found = accumulate_gradient(scorer_for(algorithm), algorithm, batch, rows, token_budget=60, passes="one")
    assert_same(taken(algorithm), expected)
    assert len(passes) > 1
    assert sum(passes) == 10
    assert not found.extra_pass


@pytest.mark.parametrize(("name", "token_budget", "unit"), [("gvpo", 1, "group"), ("whitened", 90, "batch")])
def test_one_pass_is_refused_where_what_is_coupled_does_not_fit(name, token_budget, unit):
    algorithm, batch, rows, _, expected = worked(name)
    message = f"{type(algorithm).__name__} couples the log-probs of a {unit}, .*{token_budget} tokens: raise token_bud"
    with pytest.raises(ValueError, match=message):
        accumulate_gradient(scorer_for(algorithm), algorithm, batch, rows, token_budget=token_budget, passes="one")
    assert not any(gradient.any() for gradient in taken(algorithm).values())
    found = accumulate_gradient(scorer_for(algorithm), algorithm, batch, rows, token_budget=token_budget)
    assert found.extra_pass
    assert_same(taken(algorithm), expected)


@pytest.mark.parametrize("name", ["gvpo", "ppo-everything", "whitened"])
def test_a_known_first_pass_saves_the_extra_one_and_changes_nothing(name):
    algorithm, batch, rows, _, expected = worked(name)
    scorer = scorer_for(algorithm)
    known = to_groups(
        score(scorer, rows, response_length=6, token_budget=10**6, entropy=algorithm.needs.entropy), batch.valid_GK
    )
    counts = {}
    for first_pass in (None, known):
        with counted_passes() as passes:
            found = accumulate_gradient(
                scorer, algorithm, batch, rows, token_budget=1, passes="two", first_pass=first_pass
            )
        counts[first_pass is None] = len(passes)
        assert found.extra_pass == (first_pass is None)
        assert_same(taken(algorithm), expected)
    assert counts == {True: 20, False: 10}


@pytest.mark.parametrize("name", ["gvpo", "grpo"])
def test_gradients_of_mini_batches_add_up_in_the_parameters(name):
    # Both losses are means over prompts: half of the sum over the two halves is the mean over all four.
    algorithm, batch, rows, _, expected = worked(name)
    row_group = batch.valid_GK.nonzero()[:, 0]
    for index in (torch.tensor([0, 3]), torch.tensor([1, 2])):
        part = rows.pick(torch.isin(row_group, index).nonzero().flatten())
        accumulate_gradient(scorer_for(algorithm), algorithm, batch.groups(index), part, token_budget=25)
    assert_same({at: gradient / 2 for at, gradient in taken(algorithm).items()}, expected)


@pytest.mark.parametrize("token_budget", [1, 10**6])
def test_a_loss_that_is_flat_in_the_policy_has_zero_gradient(token_budget):
    class Flat(Algorithm):
        def loss(self, policy, batch):
            return LossOutput(loss=batch.rewards_GK.mean() + policy.logp_GKT.sum() * 0)

    _, batch, rows, *_ = worked("gvpo")
    found = accumulate_gradient(scorer_for(Flat()), Flat(), batch, rows, token_budget=token_budget)
    assert found.loss == float(batch.rewards_GK.mean())
    assert not any(gradient.any() for gradient in taken(Flat()).values())


def test_a_coefficient_that_is_not_finite_is_named_with_its_place():
    class Broken(Algorithm):
        def loss(self, policy, batch):
            return LossOutput(loss=policy.logp_GKT.sum() + (policy.logp_GKT[1, 0, 2] * 0).sqrt())

    _, batch, rows, *_ = worked("gvpo")
    with pytest.raises(FloatingPointError, match=r"Broken: ∂loss/∂logp_GKT is nan at prompt 1, sample 0, token 2"):
        accumulate_gradient(scorer_for(Broken()), Broken(), batch, rows, token_budget=10**6)
    assert not any(gradient.any() for gradient in taken(Broken()).values())


@pytest.mark.parametrize("bad", ["inf", "nan"])
def test_a_loss_that_is_not_finite_is_refused_even_where_its_gradient_is(bad):
    class Broken(Algorithm):
        def loss(self, policy, batch):
            return LossOutput(loss=policy.logp_GKT.sum() + float(bad))

    _, batch, rows, *_ = worked("gvpo")
    with pytest.raises(FloatingPointError, match=f"Broken: the loss is {bad}"):
        accumulate_gradient(scorer_for(Broken()), Broken(), batch, rows, token_budget=10**6)
    assert not any(gradient.any() for gradient in taken(Broken()).values())


def test_coefficients_of_a_worked_example():
    # L = Σ R log π: ∂L/∂log π_t = R at each of the sample's tokens; the metric is passed on.
    class Weighted(Algorithm):
        def loss(self, policy, batch):
            loss = (batch.rewards_GK[..., None] * policy.logp_GKT * batch.mask_GKT).sum()
            return LossOutput(loss=loss, metrics={"answer": torch.tensor(42.0)})

    _, batch, *_ = worked("gvpo")
    found = differentiate(Weighted(), PolicyOutput(logp_GKT=batch.old_logp_GKT), batch)
    assert torch.equal(found.logp_GKT, batch.rewards_GK[..., None] * batch.mask_GKT)
    assert found.metrics == {"answer": 42.0}
    assert found.entropy_GKT is None
    assert found.value_GKT is None


@contextmanager
def counted_passes() -> Iterator[list[int]]:
    """The number of rows in each forward pass of the policy."""
    passes: list[int] = []
    model, _ = policy_and_critic()
    hook = model.register_forward_hook(
        lambda module, args, kwargs, output: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    yield passes
    hook.remove()


def test_truncated_importance_sampling_multiplies_each_tokens_coefficient():
    # L = Σ R log π, so that the coefficient of a token is its sample's R.
    class Weighted(Algorithm):
        def loss(self, policy, batch):
            return LossOutput(loss=(batch.rewards_GK[..., None] * policy.logp_GKT * batch.mask_GKT).sum())

    # π_behaviour/π_sampler: .5/.25 = 2, .5/.1 = 5 cut at 3, .2/.4 = .5; the second sample has one token, .3/.3 = 1.
    behaviour = torch.tensor([[[0.5, 0.5, 0.2], [0.3, 1.0, 1.0]]], dtype=torch.float64).log()
    sampler = torch.tensor([[[0.25, 0.1, 0.4], [0.3, 1e-9, 1.0]]], dtype=torch.float64).log()
    batch = Batch(
        mask_GKT=torch.tensor([[[True, True, True], [True, False, False]]]),
        valid_GK=torch.tensor([[True, True]]),
        rewards_GK=torch.tensor([[4.0, -2.0]], dtype=torch.float64),
        old_logp_GKT=behaviour + 1.0,  # of no importance: the correction is between two ways to compute one policy
        behaviour_logp_GKT=behaviour,
        sampler_logp_GKT=sampler,
        correction_GKT=truncated_ratio(behaviour, sampler, cap=3.0),
    )
    found = differentiate(Weighted(), PolicyOutput(logp_GKT=behaviour), batch).logp_GKT
    expected = torch.tensor([[[4 * 2.0, 4 * 3.0, 4 * 0.5], [-2.0, 0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_ratios_beyond_every_float_are_cut_at_the_cap():
    assert float(truncated_ratio(torch.tensor(0.0), torch.tensor(-1e4), cap=2.0)) == pytest.approx(2.0)


@pytest.mark.parametrize("token_budget", [1, 45, 10**6])
@pytest.mark.parametrize("name", ["grpo", "pg", "ppo"])
def test_the_correction_scales_the_gradient_for_every_split(name, token_budget):
    algorithm, batch, rows, _, expected = worked(name)
    corrected = replace(batch, correction_GKT=torch.full_like(batch.old_logp_GKT, 0.5))
    accumulate_gradient(scorer_for(algorithm), algorithm, corrected, rows, token_budget=token_budget)
    found = taken(algorithm)
    # The policy's gradient is halved; the critic's is not a coefficient of log-probs.
    assert_same(found, {at: gradient * (0.5 if at.startswith("0.") else 1) for at, gradient in expected.items()})
