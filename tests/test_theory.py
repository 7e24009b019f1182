"""Each claim of the theory at reduced size, and wrong versions of the losses that the claims must tell from right."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from algorithms import ALGORITHMS, Batch, LossOutput, PolicyOutput
from algorithms.base import centred, covariance, sequence_log_ratio
from algorithms.gvpo import GVPO
from harness.theory import (
    decomposition,
    estimator,
    fixed_batch,
    optimum,
    policy_gradient_tie,
    rounds,
    sampling_policies,
)
from harness.theory.expectation import (
    Groups,
    expected_gradient,
    expected_hessian,
    expected_loss,
    gradient_noise,
    iterate,
    minimise,
    ordered_groups,
    sampled_groups,
)
from harness.theory.findings import SMALL, Record
from harness.theory.problem import (
    Problem,
    entropy,
    kl,
    mixed_problems,
    random_problem,
    starting_logits,
    total_variation,
    weighted_covariance,
)

# torch's second derivative of logsigmoid under vmap; a test below holds its values against plain autograd.
pytestmark = pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")

LOG2 = math.log(2)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def coin(reward: tuple[float, float] = (0.0, 1.0), beta: float = 1.0) -> Problem:
    """Two responses and a uniform anchor."""
    return Problem(reward_EN=numbers(*reward)[None], anchor_logp_EN=numbers(-LOG2, -LOG2)[None], beta=beta)


def failed(record: Record) -> list[str]:
    return [f"{row.setting}: {row.quantity} = {row.measured}" for row in record.rows if row.holds == "no"]


# Problems and expectations


def test_optimum_of_a_coin_is_the_logistic_function_of_the_reward():
    # π*(2) = ½e / (½ + ½e) = e/(1+e), and Z = (1+e)/2
    problem = coin()
    assert problem.optimum_logp_EN.exp()[0, 1].item() == pytest.approx(math.e / (1 + math.e), abs=1e-15)
    assert problem.log_partition_E1.item() == pytest.approx(math.log((1 + math.e) / 2), abs=1e-15)


def test_distances_between_two_coins():
    p, q = numbers(0.5, 0.5).log(), numbers(0.25, 0.75).log()
    assert total_variation(p, q).item() == pytest.approx(0.25)
    # ½ log 2 + ½ log ⅔ = ½ log 4/3
    assert kl(p, q).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert entropy(p).item() == pytest.approx(LOG2)


def test_weighted_covariance_by_hand():
    # p = (¼, ¾), x = (0, 1), y = (0, 2): E xy − E x E y = 1.5 − 0.75·1.5 = 0.375
    x = numbers(0.0, 1.0)
    assert weighted_covariance(numbers(0.25, 0.75), x, 2 * x).item() == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "positive"),
        ({"anchor_logp_EN": numbers(0, 0)[None]}, "sum to 1"),
        ({"reward_EN": numbers(0, math.inf)[None]}, "finite"),
        ({"reward_EN": numbers(0, 0, 0)[None]}, "[E, N]"),
    ],
)
def test_a_problem_without_a_known_optimum_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(coin(), **change)


def test_groups_are_ordered_and_drawn_with_replacement():
    assert ordered_groups(2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert ordered_groups([0, 2], 1).tolist() == [[0], [2]]
    with pytest.raises(ValueError, match="Monte Carlo"):
        ordered_groups(64, 3)


def test_group_probabilities_multiply_over_the_slots():
    half, biased = numbers(0.5, 0.5).log(), numbers(0.25, 0.75).log()
    independent = sampled_groups(coin(), biased[None], ordered_groups(2, 2))
    torch.testing.assert_close(independent.weight_EG, numbers(1, 3, 3, 9)[None] / 16)
    per_slot = sampled_groups(coin(), torch.stack([half, biased])[None], ordered_groups(2, 2))
    torch.testing.assert_close(per_slot.weight_EG, numbers(1, 3, 1, 3)[None] / 8)


def test_expected_loss_of_a_coin_by_hand():
    # X = βℓ − R is 0 for response 1 and −1 for response 2 (π_θ = π', β = 1). A pair differs with probability ½, and
    # S² = (0 − (−1))²/2 = ½ then: the expectation is ¼ = p(1 − p), the variance of X.
    problem = coin()
    groups = sampled_groups(problem, problem.anchor_logp_EN, ordered_groups(2, 2))
    gvpo = GVPO(beta=1.0, anchor="reference")
    assert expected_loss(gvpo, groups, problem.anchor_logp_EN).item() == pytest.approx(0.25, abs=1e-15)
    # ∇ = −2 Cov(R, ∇log π_θ) = −2 p(1−p) (−1, 1) = (½, −½)
    torch.testing.assert_close(expected_gradient(gvpo, groups, problem.anchor_logp_EN), numbers(0.5, -0.5)[None])


@pytest.mark.parametrize("name", ["gvpo", "kimi", "dpo"])
def test_derivatives_agree_with_automatic_differentiation_through_the_logits(name):
    rng = np.random.default_rng(0)
    problem = mixed_problems(rng, count=1, n=4, beta=0.5)
    groups = sampled_groups(problem, problem.anchor_logp_EN, ordered_groups(4, 2))
    make: Any = ALGORITHMS[name]
    algorithm = make(beta=0.5, anchor="reference")
    logits_EN = torch.tensor(rng.normal(size=(3, 4))).requires_grad_()
    (wanted_EN,) = torch.autograd.grad(expected_loss(algorithm, groups, logits_EN).sum(), logits_EN, create_graph=True)
    torch.testing.assert_close(expected_gradient(algorithm, groups, logits_EN.detach()), wanted_EN.detach())
    rows = [torch.autograd.grad(wanted_EN[:, i].sum(), logits_EN, retain_graph=True)[0] for i in range(4)]
    torch.testing.assert_close(expected_hessian(algorithm, groups, logits_EN.detach()), torch.stack(rows, 1))


def test_gradient_noise_of_a_coin_by_hand():
    # Equal pairs have no gradient; the two unequal ones have (1, −1), with probability ½ together: E = (½, −½), and
    # E|g|² = ½·2 = 1, less |E|² = ½.
    problem = coin()
    groups = sampled_groups(problem, problem.anchor_logp_EN, ordered_groups(2, 2))
    mean_EN, trace_E = gradient_noise(GVPO(beta=1.0, anchor="reference"), groups, problem.anchor_logp_EN)
    torch.testing.assert_close(mean_EN, numbers(0.5, -0.5)[None])
    assert trace_E.item() == pytest.approx(0.5)


def test_an_enumerated_group_gives_the_expectation_under_the_uniform_policy_and_under_no_other():
    rng = np.random.default_rng(1)
    problem, logits_EN, sampling_EN = estimator.anywhere(rng, count=1, n=5, beta=0.7)
    known = {"reward": problem.reward_EN, "anchor_logp": problem.anchor_logp_EN, "behaviour_logp": sampling_EN}
    one_group = Groups(torch.arange(5)[None], numbers(1)[None], {name: x_EN[:, None] for name, x_EN in known.items()})
    # The group's S² divides by n − 1 where the variance divides by n.
    got = expected_loss(GVPO(beta=0.7, anchor="reference"), one_group, logits_EN).item() * 4 / 5
    uniform_EN = torch.full_like(sampling_EN, -math.log(5))
    assert got == pytest.approx(estimator.variance(problem, logits_EN, uniform_EN).item(), rel=1e-12)
    assert got != pytest.approx(estimator.variance(problem, logits_EN, sampling_EN).item(), rel=1e-2)


def test_a_minimum_has_no_gradient_and_no_downward_curvature():
    rng = np.random.default_rng(2)
    problem = random_problem(rng, count=2, n=4, rewards="heavy-tailed", beta=0.05)
    many = problem.repeat(4)
    groups = sampled_groups(many, many.anchor_logp_EN, ordered_groups(4, 2))
    end = minimise(GVPO(beta=0.05, anchor="reference"), groups, starting_logits(rng, problem, 4))
    assert end.gradient_E.max() < 1e-12
    assert end.curvature_E.min() > -1e-12
    assert end.loss_E.max() < 1e-18


# The claims


def test_gvpo_reaches_the_optimum_from_every_start():
    record = optimum.gvpo(replace(SMALL, largest_n=4), 0)
    assert failed(record) == []
    assert len(record.rows) == 6


def test_dpo_has_one_minimum_if_its_pairs_connect_and_many_or_none_otherwise():
    assert failed(optimum.dpo(SMALL, 0)) == []


def test_leaving_out_or_guessing_the_partition_function_moves_the_optimum():
    record = optimum.partition(replace(SMALL, starts=2), 0)
    assert {row.equation for row in record.rows if row.holds == "no"} == {
        "seed, DPO section: optimum R + βZ",
        "the same, read as R + β log Z",
        "the same, read as R + any constant",
        "seed, Kimi section: β log Z ≈ R̄",
        "seed, Kimi section: same optimum",
    }


def test_the_naive_loss_of_a_coin_ends_where_its_derivative_says():
    # π_θ(2) = p minimises ½[(log 2(1−p))² + (log 2p − 1)²]: (log 2p − 1)/p = log(2(1−p))/(1−p), so p = 0.6575,
    # where π*(2) = e/(1+e) = 0.7311.
    p = brentq(lambda p: (math.log(2 * p) - 1) / p - math.log(2 * (1 - p)) / (1 - p), 0.5, 0.9)
    record = Record("counterexample")
    optimum._counterexample(record)
    assert record.rows[0].measured == pytest.approx(p, abs=1e-10)
    z = (1 + math.e) / 2
    assert record.rows[1].expected == f"{z:.6g}"
    # R_θ(2) − R(2) = log 2p + log Z − 1
    assert record.rows[2].measured == pytest.approx(math.log(2 * p) + math.log(z) - 1, abs=1e-10)


def test_where_the_other_algorithms_end_on_policy():
    record = optimum.others(replace(SMALL, starts=2), 0, cases=((4, 2),))
    assert failed(record) == []
    far = {
        row.setting.split(",")[0] for row in record.rows if row.quantity == "mean TV from π*" and row.measured > 0.01
    }
    assert far == {"PPO", "GRPO", "GRPO + KL", "Kimi"}


def test_kimi_on_policy_ends_at_a_reward_smaller_by_one_over_k():
    # k = 2: π ∝ π' e^{R/(2β)}; for the coin with β = 1 that is √e/(1 + √e)
    problem = coin()
    make: Any = ALGORITHMS["kimi"]
    kimi = make(beta=1.0, anchor="reference")
    end = iterate(kimi, problem, problem.anchor_logp_EN, ordered_groups(2, 2), step_size=0.5, steps=200)
    assert end.logp_EN.exp()[0, 1].item() == pytest.approx(math.exp(0.5) / (1 + math.exp(0.5)), abs=1e-10)


def test_any_sampling_policy_leads_to_the_optimum_unless_it_misses_a_response():
    assert failed(sampling_policies.exact(replace(SMALL, starts=2), 0)) == []


def test_training_on_samples_comes_closer_to_the_optimum():
    start, *ends = (row.measured for row in sampling_policies.budget(SMALL, 0).rows)
    # The nearly deterministic policy, last, hardly ever shows two different responses.
    assert all(end < 0.7 * start for end in ends[:-1])


def test_importance_weights_lose_their_samples_as_the_sampling_policy_moves_away():
    table = sampling_policies.efficiency(replace(SMALL, updates=20), 0).frames["efficiency"]
    ess = table[table.what == "ess"].sort_values("s").value.tolist()
    assert ess[0] == pytest.approx(1.0)  # π_s = π*
    assert all(later < earlier for earlier, later in itertools.pairwise(ess))
    noise: Any = table[table.what == "noise"].pivot(index="s", columns="algorithm", values="value")
    assert noise.loc[3.0, "PG + KL"] > 100 * noise.loc[3.0, "GVPO"]
    cosine = table[table.what == "cosine"].pivot(index="s", columns="algorithm", values="value")
    assert cosine["PG + KL"].tolist() == pytest.approx([1.0] * 5, abs=1e-6)


def test_one_over_k_minus_one_is_unbiased():
    assert failed(estimator.exact(SMALL, 0)) == []


def test_z_scores_and_the_decline_of_the_error():
    record = estimator.monte_carlo(replace(SMALL, draws=20_000), 0)
    assert failed(record) == []
    against_var = [row.measured for row in record.rows if row.quantity == "z-score against Var itself"]
    assert len(against_var) == 5
    assert max(against_var) < -10


def test_the_decomposition_and_its_ablations_have_the_same_gradient():
    assert failed(decomposition.identity(SMALL, 0)) == []


def test_without_a_term_training_goes_where_the_other_terms_lead():
    record = decomposition.ablations(SMALL, 0)
    assert [row.equation for row in record.rows if row.holds == "no"] == [
        "the authors' report, second hand: training diverges without Cov alone"
    ]


def test_gvpo_is_policy_gradient_times_two_beta():
    assert failed(policy_gradient_tie.identity(SMALL, 0)) == []


def test_rounds_multiply_the_reward():
    assert failed(rounds.law(SMALL, 0)) == []


def test_coefficients_of_one_batch():
    record = fixed_batch.one_batch(SMALL, 0)
    assert failed(record) == []
    table = record.frames["coefficients"]
    assert set(table.algorithm) >= {"GVPO", "GRPO", "PPO", "DPO", "Kimi k1.5", "PG + KL", "naive"}
    gvpo = table[(table.algorithm == "GVPO") & (table["where"] == "on-policy")].coefficient.tolist()
    # R̄ = ¼ and k = 6: w = 2/5 · β (R − R̄) with β = ½
    assert gvpo == pytest.approx([0.2 * (r - 0.25) for r in fixed_batch.REWARD], abs=1e-15)


# Wrong losses that the claims must tell from the right one


@dataclass(frozen=True, kw_only=True)
class Wrong(GVPO):
    """GVPO with one mistake."""

    mistake: str

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        loss = super().loss(policy, batch).loss
        valid_GK = batch.valid_GK
        k = valid_GK.sum(-1).to(loss.dtype).mean()
        ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        if self.mistake == "half":
            loss = loss / 2
        elif self.mistake == "1/k":
            loss = loss * (k - 1) / k
        elif self.mistake == "sign of the anchor":
            flipped_GK = ratio_GK + 2 * batch.anchor_logp_GKT(self.anchor).sum(-1)
            x_GK = self.beta * flipped_GK - batch.rewards_GK
            loss = covariance(x_GK, x_GK, valid_GK).mean()
        elif self.mistake == "detached square of the mean":
            x_GK = self.beta * ratio_GK - batch.rewards_GK
            loss = ((x_GK.square().sum(-1) - k * x_GK.mean(-1).square().detach()) / (k - 1)).mean()
        elif self.mistake == "mean left in":
            x_GK = self.beta * ratio_GK - centred(batch.rewards_GK, valid_GK)
            loss = (x_GK.square().sum(-1) / (k - 1)).mean()
        elif self.mistake == "beta left out":
            x_GK = ratio_GK - batch.rewards_GK
            loss = covariance(x_GK, x_GK, valid_GK).mean()
        return LossOutput(loss=loss)


UP_TO_SCALE = ["sign of the anchor", "detached square of the mean", "mean left in", "beta left out"]
MISTAKES = ["half", "1/k", *UP_TO_SCALE]


def wrong(mistake: str) -> dict[str, type]:
    class One(Wrong):
        def __init__(self, **options):
            super().__init__(mistake=mistake, **options)

    return {**ALGORITHMS, "gvpo": One}


def test_the_wrong_loss_without_a_mistake_is_the_right_one():
    assert failed(estimator.exact(SMALL, 0, wrong("none"))) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_estimator_notices(mistake):
    assert failed(estimator.exact(SMALL, 0, wrong(mistake)))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_decomposition_notices(mistake):
    assert failed(decomposition.identity(SMALL, 0, wrong(mistake)))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_policy_gradient_notices(mistake):
    assert failed(policy_gradient_tie.identity(SMALL, 0, wrong(mistake)))


@pytest.mark.parametrize("mistake", UP_TO_SCALE)
def test_the_optimum_notices_what_a_learning_rate_would_not_absorb(mistake):
    assert failed(optimum.gvpo(replace(SMALL, largest_n=4, starts=1, largest_sum=16), 0, wrong(mistake)))
