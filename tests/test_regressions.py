"""TBA, A*-PO and REBEL: regressions of log-ratios to rewards, worked by hand."""

import math
from typing import Any

import pytest
import torch
from batches import close, coefficients, random_batch, worked_example

from algorithms import REBEL, TBA, AStarPO
from algorithms.base import Anchor

# ℓ = (.2, −.4, .8) and, in the group of one, .6.
NOW: list[Any] = [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0, -2.0]]]
THEN: list[Any] = [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-1.3, -2.3]]]
ELSEWHERE: list[Any] = [[[-5.0, -0.5], [-4.0], [-3.0, -1.0, -0.5]], [[-9.3, -2.3]]]


def with_reference_rewards(batch, *rows):
    return batch.with_extras(reference_reward_GN=torch.tensor(rows, dtype=torch.float64))


def test_tba_estimates_the_partition_function_by_the_group():
    policy, batch = worked_example(rewards=[[1.2, 0.0, 0.0], [7.0]], logp=NOW, ref=THEN, old=ELSEWHERE)
    # β = ½: R/β = (2.4, 0, 0). log Ẑ = (2.2 + .4 − .8)/3 = .6 and 14 − .6 = 13.4
    # log Ẑ + ℓ − R/β = (.6 + .2 − 2.4, .6 − .4, .6 + .8) = (−1.6, .2, 1.4) and 0
    out = TBA(beta=0.5).loss(policy, batch)
    close(out.loss, (2.56 + 0.04 + 1.96) / 3 / 2)
    close(out.metrics["log_z"], (0.6 + 13.4) / 2)
    # −2/(k·|D|) times the residual
    close(coefficients(TBA(beta=0.5), policy, batch), [[[1.6 / 3] * 2, [-0.2 / 3], [-1.4 / 3] * 3], [[0.0] * 2]])


def test_rebel_regresses_every_difference_of_log_ratios_on_that_of_rewards():
    policy, batch = worked_example(
        rewards=[[0.6, 0.0, 0.0], [7.0]], logp=NOW, old=ELSEWHERE, behaviour=THEN, ref=ELSEWHERE
    )
    # ℓ − 2R = (−1, −.4, .8): differences −.6, −1.8, −1.2; squares .36, 3.24, 1.44, mean 1.68; over |D| = 2
    close(REBEL(eta=2.0).loss(policy, batch).loss, 0.84)
    # −2/3 Σ_j (d_i − d_j)/|D|: −(−.6 − 1.8)/3, −(.6 − 1.2)/3, −(1.8 + 1.2)/3
    close(coefficients(REBEL(eta=2.0), policy, batch), [[[0.8] * 2, [0.2], [-1.0] * 3], [[0.0] * 2]])


def test_rebel_pair_is_the_papers_equation():
    policy, batch = worked_example(rewards=[[1.0, 0.0]], logp=[[[-1.0], [-2.0]]], behaviour=[[[-1.3], [-2.1]]])
    close(REBEL(eta=1.0).loss(policy, batch).loss, (0.3 - 0.1 - 1.0) ** 2)


@pytest.mark.parametrize("cls", [TBA, REBEL])
def test_group_of_one_adds_nothing_and_equal_rewards_still_pull_the_log_ratios_together(cls):
    policy, batch = worked_example(rewards=[[1.2] * 3, [1.2]], logp=NOW, old=THEN, ref=THEN)
    c = coefficients(cls(), policy, batch)
    assert not c[1].any()
    # ℓ̄ = .2: the response above it is pushed down, the one below it up.
    assert c[0, 2, 0] < 0 < c[0, 1, 0]
    close(c[0, 0, 0], 0.0)


@pytest.mark.parametrize("cls", [TBA, REBEL])
@pytest.mark.parametrize("samples", [6, 7, 8])
def test_on_policy_equal_rewards_teach_exactly_nothing_in_float32(cls, samples):
    policy, batch = random_batch(0, dtype=torch.float32, samples=samples, ragged=False)
    batch = type(batch)(
        mask_GKT=batch.mask_GKT,
        valid_GK=batch.valid_GK,
        rewards_GK=torch.full_like(batch.rewards_GK, 1.2),
        old_logp_GKT=policy.logp_GKT,
        behaviour_logp_GKT=policy.logp_GKT,
        sampler_logp_GKT=policy.logp_GKT,
    )
    assert not coefficients(cls(anchor="old"), policy, batch).any()


def test_a_star_po_regresses_the_scaled_log_ratio_on_the_advantage_over_the_optimal_value():
    policy, batch = worked_example(rewards=[[1.2, 0.0, 0.0], [1.0]], logp=NOW, ref=THEN, old=ELSEWHERE)
    batch = with_reference_rewards(batch, [math.log(3), 0.0, 0.0, 0.0], [0.5] * 4)
    # β₁ = 1: V* = ln (3 + 1 + 1 + 1)/4 = ln 1.5, and ½. β₂ = ½: βℓ = (.1, −.2, .4) and .3
    v = math.log(1.5)
    residual = [0.1 - 1.2 + v, -0.2 + v, 0.4 + v]
    algorithm = AStarPO(value_beta=1.0, beta=0.5)
    out = algorithm.loss(policy, batch)
    close(out.loss, (sum(r * r for r in residual) / 3 + 0.2**2) / 2)  # .3 − (1 − ½) = −.2
    close(out.metrics["optimal_value"], (v + 0.5) / 2)
    # −2β₂/(k·|D|) = −1/6 and −½ times the residual: one response a prompt is enough
    a, b, c = (-r / 6 for r in residual)
    close(coefficients(algorithm, policy, batch), [[[a] * 2, [b], [c] * 3], [[0.1] * 2]])


def test_a_star_po_value_has_a_temperature():
    policy, batch = worked_example(rewards=[[0.0]], logp=[[[-1.0]]], ref=[[[-1.0]]])

    def value(value_beta, *rewards):
        metrics = AStarPO(value_beta=value_beta).loss(policy, with_reference_rewards(batch, rewards)).metrics
        return metrics["optimal_value"].item()

    assert value(0.5, math.log(3) / 2, 0.0, 0.0, 0.0) == pytest.approx(math.log(1.5) / 2)
    assert value(1e-3, 1.0, 0.0, 0.0, 0.0) == pytest.approx(1.0, abs=2e-3)  # the best
    assert value(1e4, 1.0, 0.0, 0.0, 0.0) == pytest.approx(0.25, abs=1e-4)  # the mean
    assert value(0.5, 1e4, 0.0) == pytest.approx(1e4 - math.log(2) / 2)
    assert value(0.5, 0.0, 0.0) == 0.0


def test_a_star_po_where_the_reference_is_never_right_pushes_every_right_answer():
    policy, batch = worked_example(rewards=[[1.0, 0.0]], logp=[[[-1.0], [-1.0]]], ref=[[[-1.0], [-1.0]]])
    c = coefficients(AStarPO(), policy, with_reference_rewards(batch, [0.0] * 8))
    assert c[0, 0, 0] > 0
    assert c[0, 1, 0] == 0


@pytest.mark.parametrize(("cls", "share"), [(TBA, 0.25), (REBEL, 1.0)])
def test_anchor_chooses_the_policy_of_the_log_ratio(cls, share):
    policy, batch = worked_example(
        rewards=[[0.0, 0.0]],
        logp=[[[-1.0], [-1.0]]],
        old=[[[-2.0], [-1.0]]],
        behaviour=[[[-3.0], [-1.0]]],
        ref=[[[-4.0], [-1.0]]],
    )  # ℓ = (1, 0), (2, 0), (3, 0): half the difference, squared, or its whole
    anchors: tuple[tuple[Anchor, float], ...] = (("old", 1.0), ("behaviour", 4.0), ("reference", 9.0))
    for anchor, square in anchors:
        close(cls(anchor=anchor).loss(policy, batch).loss, share * square)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TBA(beta=0.0), r"tba: beta is 0\.0; it must be positive"),
        (lambda: REBEL(eta=0.0), r"rebel: eta is 0\.0; it must be positive"),
        (lambda: AStarPO(beta=0.0), r"a_star_po: beta is 0\.0; it must be positive"),
        (lambda: AStarPO(value_beta=0.0), r"a_star_po: value_beta is 0\.0; it must be positive"),
        (lambda: AStarPO(reference_samples=0), "a_star_po: reference_samples is 0; at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
