"""CISPO, SAPO, VESPO, DPPO and TOPR: the weight that each gives off-policy, worked by hand."""

import math
from typing import Any, cast

import pytest
import torch
from batches import close, coefficients, worked_example

from algorithms import CISPO, DPPO, SAPO, TOPR, VESPO
from algorithms.terms import STD_EPSILON

S = 1 + STD_EPSILON
"""The divisor of rewards (1, 0, −1): their mean is 0, their sample standard deviation √(2/2) = 1."""


def example(*ratios, rewards=(1.0, 0.0, -1.0)):
    """One group of responses whose tokens have log π_θ = −1 and the given ratios to the policy that sampled.

    The policy at the start of the iteration is another one: no ratio is to it.
    """
    return worked_example(
        rewards=[list(rewards)],
        logp=[[[-1.0] * len(row) for row in ratios]],
        old=[[[-7.0] * len(row) for row in ratios]],
        behaviour=[[[-1.0 - math.log(r) for r in row] for row in ratios]],
    )


def of_probabilities(*rows, rewards=(1.0, 0.0, -1.0)):
    """One group of responses whose tokens have the given pairs of p under π_θ and q under the sampling policy."""
    return worked_example(
        rewards=[list(rewards)],
        logp=[[[math.log(p) for p, _ in row] for row in rows]],
        behaviour=[[[math.log(q) for _, q in row] for row in rows]],
    )


def test_cispo_clips_the_weight_and_every_token_keeps_a_gradient():
    policy, batch = example([4.0, 1.5], [4.0], [0.25, 1.5])
    algorithm = CISPO(clip_low=0.5, clip_high=1.0)
    # weights in [½, 2]: (2, 1.5) and (½, 1.5), over five tokens; log π = −1: −Σ w Â log π = 3.5 − 2
    out = algorithm.loss(policy, batch)
    close(out.loss, 1.5 / 5 / S)
    close(out.metrics["clipped_share"].double(), 3 / 5, atol=1e-7)  # Â = 0 is clipped as well
    close(coefficients(algorithm, policy, batch), [[[2 / 5 / S, 1.5 / 5 / S], [0.0], [-0.5 / 5 / S, -1.5 / 5 / S]]])


def test_cispo_by_default_has_no_floor_and_a_ceiling_of_five():
    policy, batch = example([9.0, 4.9], [1.0], [0.01, 9.0])
    c = coefficients(CISPO(), policy, batch) * 5 * S
    close(c, [[[5.0, 4.9], [0.0], [-0.01, -5.0]]])


def test_sapo_gate_is_a_sigmoid_whose_temperature_is_that_of_the_advantages_sign():
    high, low = 1 + math.log(3) / 2, 1 + math.log(3)
    policy, batch = example([high, 1.0], [5.0], [low])
    # τ = 2 above: 4/2·σ(ln 3) = 3/2 and 4/2·½ = 1; τ = 1 below: 4·¾ = 3. −[(1.5 + 1)/2 − 3]/3
    algorithm = SAPO(tau_pos=2.0, tau_neg=1.0)
    close(algorithm.loss(policy, batch).loss, 1.75 / 3 / S)
    # 4σ(1 − σ)ρ = ¾ρ at σ = ¾, and 1 at ρ = 1, over |y|·k
    expected = [[[0.75 * high / 6 / S, 1 / 6 / S], [0.0], [-0.75 * low / 3 / S]]]
    close(coefficients(algorithm, policy, batch), expected)


def test_sapo_fades_softly_where_grpo_stops_and_on_both_sides():
    policy, batch = example([1.0, 1.3, 3.0, 9.0, 0.01], [1.0], [1.0])
    c = coefficients(SAPO(), policy, batch)[0, 0] * 15 * S
    c = c / torch.tensor([1.0, 1.3, 3.0, 9.0, 0.01], dtype=torch.float64)  # dρ = ρ d log π
    gate = [1.0] + [4 * s * (1 - s) for s in (1 / (1 + math.exp(-x)) for x in (0.3, 2.0, 8.0, -0.99))]
    close(c, torch.tensor(gate, dtype=torch.float64))
    assert 0 < c[3] < c[2] < c[1] < c[0]


def test_vespo_weights_the_whole_response_by_its_advantages_sign():
    root = math.sqrt(2)
    policy, batch = example([root, root], [1.0], [0.5])
    # W = 2: 2² e^{3(1 − 2)} = 4e⁻³; W = ½: (½)³ e^{2(1 − ½)} = e/8; four tokens, log π = −1 each
    good, bad = 4 * math.exp(-3), math.e / 8
    out = VESPO().loss(policy, batch)
    close(out.loss, (2 * good - bad) / 4 / S)
    close(out.metrics["weight"], (good + 1 + bad) / 3)
    close(coefficients(VESPO(), policy, batch), [[[good / 4 / S] * 2, [0.0], [-bad / 4 / S]]])


def test_vespo_weight_is_largest_at_kappa_over_lambda_and_vanishes_on_both_sides():
    ratios = [1e-6, 0.3, 2 / 3, 1.0, 3.0, 30.0]
    weights = []
    for ratio in ratios:
        policy, batch = example([ratio], [1.0], [1.0])
        weights.append(coefficients(VESPO(), policy, batch)[0, 0, 0].item() * 3 * S)
    assert max(weights) == weights[2]  # κ/λ = ⅔
    assert weights[3] == pytest.approx(1.0, abs=1e-12)
    assert weights[0] < 1e-9
    assert weights[-1] < 1e-9


# Good response: .3 → .5 has risen by .2; .25 → .3 by .05; .5 → .3 has fallen. Bad: .4 → .2 has fallen by .2;
# .2 → .4 has risen. In between, .1 → .9, with an advantage of zero.
MOVED = ([(0.5, 0.3), (0.3, 0.25), (0.3, 0.5)], [(0.9, 0.1)], [(0.2, 0.4), (0.4, 0.2)])


def test_dppo_masks_tokens_that_have_moved_far_the_way_of_their_advantage():
    policy, batch = of_probabilities(*MOVED)
    algorithm = DPPO(divergence="tv", threshold=0.15)
    out = algorithm.loss(policy, batch)
    # .3/.25 = 1.2, .3/.5 = .6, .4/.2 = 2, over six tokens
    expected = [[[0.0, 1.2 / 6, 0.6 / 6], [0.0], [0.0, -2 / 6]]]
    close(coefficients(algorithm, policy, batch), expected)
    close(out.loss, -(1.8 * math.log(0.3) - 2 * math.log(0.4)) / 6)
    close(out.metrics["masked_share"].double(), 2 / 6, atol=1e-7)


def test_dppo_threshold_is_how_far_a_probability_may_move():
    policy, batch = of_probabilities(*MOVED)
    assert DPPO(threshold=0.21).loss(policy, batch).metrics["masked_share"] == 0
    close(DPPO(threshold=0.04).loss(policy, batch).metrics["masked_share"].double(), 3 / 6, atol=1e-7)


@pytest.mark.parametrize(("threshold", "masked"), [(0.13, True), (0.131, False)])
def test_dppo_kl_is_that_of_this_token_against_all_others(threshold, masked):
    # ¼ ln(¼/½) + ¾ ln(¾/½) = −.17329 + .30410 = .13081
    policy, batch = of_probabilities([(0.5, 0.25)], [(0.5, 0.5)], [(0.5, 0.5)])
    c = coefficients(DPPO(divergence="kl", threshold=threshold), policy, batch)[0, 0, 0]
    close(c, 0.0 if masked else 2 / 3)


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_dppo_lets_a_rare_token_grow_a_hundredfold_and_truncates_its_weight(divergence):
    policy, batch = of_probabilities([(1e-3, 1e-5)], [(0.5, 0.5)], [(0.5, 0.5)])
    close(coefficients(DPPO(divergence=divergence), policy, batch)[0, 0, 0], 20 / 3)


@pytest.mark.parametrize("divergence", ["tv", "kl"])
@pytest.mark.parametrize(("p", "q"), [(1.0, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_dppo_is_finite_where_a_probability_is_one(divergence, p, q):
    policy, batch = of_probabilities([(p, q)], [(0.5, 0.5)], [(p, q)])
    out = DPPO(divergence=divergence).loss(policy, batch)
    assert out.loss.isfinite()
    # From ½ to 1 the good response is masked and the bad one kept; from 1 to ½ the other way round; at rest neither.
    kept = coefficients(DPPO(divergence=divergence), policy, batch)[0, [0, 2], 0] != 0
    assert kept.tolist() == [p <= q, p >= q]


def test_topr_tapers_only_what_it_pushes_down_and_never_above_one():
    policy, batch = example([0.5, 0.5], [2.0], [1.0, 0.5, 1.0], [1.0], rewards=(3.0, -1.0, -1.0, -1.0))
    # A = R; w = 1 (not ¼), 1 (not 2), ½, 1. −Σ w A Σ log π/4 = (3·2 − 1·1 − ½·3 − 1·1)/4
    out = TOPR().loss(policy, batch)
    close(out.loss, 2.5 / 4)
    close(coefficients(TOPR(), policy, batch), [[[0.75] * 2, [-0.25], [-0.125] * 3, [-0.25]]])
    close(out.metrics["tapered_share"].double(), 1 / 4)


@pytest.mark.parametrize("ratio", [1e-3, 0.5, 1.0, 30.0])
def test_topr_learns_a_right_answer_whoever_found_it(ratio):
    policy, batch = example([ratio], [1.0], rewards=(1.0, 0.0))
    close(coefficients(TOPR(), policy, batch), [[[0.25], [-0.25]]])


@pytest.mark.parametrize("algorithm", [CISPO(), SAPO(), VESPO(), DPPO(), DPPO(divergence="kl"), TOPR()], ids=repr)
def test_equal_rewards_and_a_group_of_one_teach_exactly_nothing(algorithm):
    policy, batch = example([0.5, 0.5], [2.0], [1.0, 0.5, 1.0], [1.0], rewards=(1.2,) * 4)
    assert not coefficients(algorithm, policy, batch).any()
    policy, batch = example([2.0, 3.0], rewards=(7.0,))
    assert not coefficients(algorithm, policy, batch).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CISPO(clip_low=-0.1), r"cispo: clip_low is -0\.1; it must lie in \[0, 1\]"),
        (lambda: CISPO(clip_high=0.0), r"cispo: clip_high is 0\.0; it must be positive"),
        (lambda: SAPO(tau_pos=0.0), r"sapo: tau_pos is 0\.0; it must be positive"),
        (lambda: SAPO(tau_neg=-1.0), r"sapo: tau_neg is -1\.0; it must be positive"),
        (lambda: VESPO(rate_neg=0.0), r"vespo: rate_neg is 0\.0; it must be positive"),
        (lambda: DPPO(divergence=cast(Any, "js")), r"dppo: divergence is 'js'; use 'tv' or 'kl'"),
        (lambda: DPPO(threshold=0.0), r"dppo: threshold is 0\.0; it must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
