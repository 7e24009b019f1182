"""GRPO's loss and coefficients, worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
from batches import close, coefficients, random_batch, worked_example

from algorithms.grpo import GRPO, STD_EPSILON

S = 1 + STD_EPSILON
"""The divisor of rewards (1, 0, −1): their mean is 0, their sample standard deviation √(2/2) = 1."""


def log(*ratios):
    return [math.log(r) for r in ratios]


def test_ratio_is_clipped_above_for_good_and_below_for_bad_responses():
    policy, batch = worked_example(
        rewards=[[1.0, 0.0, -1.0]],
        logp=[[log(1.1, 1.5, 0.5), log(1.5), log(0.5, 1.5)]],
        old=[[[0.0, 0.0, 0.0], [0.0], [0.0, 0.0]]],
    )
    out = GRPO(clip=0.2).loss(policy, batch)
    # Â = 1: min(1.1, 1.1), min(1.5, 1.2), min(.5, .8): (1.1 + 1.2 + .5)/3 = 2.8/3
    # Â = 0: 0
    # Â = −1: min(−.5, −.8), min(−1.5, −1.2): (−.8 − 1.5)/2 = −1.15
    close(out.loss, -(2.8 / 3 - 1.15) / 3 / S)
    # ρ Â/(k·|y|), and zero where the clip holds: the second token of the first, the first of the last
    expected = [[[1.1 / 9 / S, 0.0, 0.5 / 9 / S], [0.0], [0.0, -1.5 / 6 / S]]]
    close(coefficients(GRPO(clip=0.2), policy, batch), expected)
    close(out.metrics["clipped_share"], 2 / 6)


def test_importance_ratio_is_against_the_behaviour_policy():
    policy, batch = worked_example(
        rewards=[[1.0, 0.0, -1.0]],
        logp=[[log(1.1), log(1.0), log(1.0)]],
        old=[[log(1.1), log(1.0), log(1.0)]],
        behaviour=[[log(1.0), log(1.0), log(1.0)]],
    )
    close(coefficients(GRPO(), policy, batch), [[[1.1 / 3 / S], [0.0], [-1 / 3 / S]]])


def test_each_response_is_averaged_over_its_own_length_and_each_group_over_its_own_size():
    policy, batch = worked_example(
        rewards=[[1.0, -1.0], [1.0, 0.0, -1.0]],
        logp=[[[-1.0], [-1.0, -1.0, -1.0, -1.0]], [[-1.0], [-1.0, -1.0], [-1.0, -1.0]]],
    )
    # Group 1: std = √(2/1); Â = ±1/√2; over k = 2 and |D| = 2. Group 2: std = 1; Â = (1, 0, −1); over 3 and 2.
    a = 1 / (math.sqrt(2) + STD_EPSILON)
    close(
        coefficients(GRPO(), policy, batch),
        [[[a / 4], [-a / 16] * 4], [[1 / 6 / S], [0.0] * 2, [-1 / 12 / S] * 2]],
    )


def test_k3_adds_beta_times_its_estimate_and_pulls_towards_the_reference():
    # Equal rewards: only the KL is left. π_ref/π_θ = 2 for the first, ½ for the second sample.
    policy, batch = worked_example(
        rewards=[[1.0, 1.0]], logp=[[[-1.0], [-1.0, -1.0]]], ref=[[[-1.0 + math.log(2)], [-1.0 - math.log(2)] * 2]]
    )
    out = GRPO(beta=0.04).loss(policy, batch)
    k3_above, k3_below = 2 - math.log(2) - 1, 0.5 + math.log(2) - 1
    close(out.loss, 0.04 * (k3_above + k3_below) / 2)
    close(out.metrics["k3"], (k3_above + 2 * k3_below) / 3)  # a mean over tokens
    # β(π_ref/π_θ − 1)/(k·|y|): .04·1/2 and .04·(−½)/4
    close(coefficients(GRPO(beta=0.04), policy, batch), [[[0.02], [-0.005] * 2]])


@pytest.mark.parametrize(("log_ref_ratio", "direction"), [(50.0, 1), (19.0, 1), (0.1, 1), (-0.1, -1), (-50.0, -1)])
def test_k3_never_pushes_away_from_the_reference(log_ref_ratio, direction):
    policy, batch = worked_example(rewards=[[0.0, 0.0]], logp=[[[-1.0], [-1.0]]], ref=[[[log_ref_ratio - 1], [-1.0]]])
    assert coefficients(GRPO(beta=0.04), policy, batch)[0, 0, 0].item() * direction >= 0


def test_groups_without_signal_are_counted_and_add_nothing():
    policy, batch = worked_example(
        rewards=[[0.3] * 6, [1.0, 0.0, -1.0], [1.0]],
        logp=[[[-1.0]] * 6, [[-1.0]] * 3, [[-1.0]]],
    )
    close(GRPO().loss(policy, batch).metrics["no_signal_share"], 2 / 3)
    c = coefficients(GRPO(), policy, batch)
    assert not c[0].any()
    assert not c[2].any()


@pytest.mark.parametrize("samples", [6, 7, 8])
def test_equal_rewards_that_are_no_binary_fractions_have_exactly_zero_advantages_in_float32(samples):
    # The float32 mean of eight times 1.2 is one ulp off, 1.2e-7: over std + 1e-6 that was an advantage of 0.1.
    policy, batch = random_batch(0, dtype=torch.float32, samples=samples, ragged=False)
    batch = replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, 1.2))
    assert not coefficients(GRPO(), policy, batch).any()


def test_reference_is_asked_for_only_with_a_kl_term():
    assert not GRPO(beta=0.0).needs.reference
    assert GRPO(beta=0.01).needs.reference


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_clip_must_lie_between_0_and_1(clip):
    with pytest.raises(ValueError, match=r"grpo: clip is .*between 0 and 1"):
        GRPO(clip=clip)


def test_beta_must_not_be_negative():
    with pytest.raises(ValueError, match="grpo: beta is -1"):
        GRPO(beta=-1.0)
