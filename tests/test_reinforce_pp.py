"""REINFORCE++ and its variant with a baseline, worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
from batches import close, coefficients, random_batch, worked_example

from algorithms import PolicyOutput, ReinforcePP, ReinforcePPBaseline
from algorithms.terms import VARIANCE_EPSILON


def log(*ratios):
    return [math.log(r) for r in ratios]


def scale(variance):
    return 1 / math.sqrt(variance + VARIANCE_EPSILON)


def prepared(algorithm, **example):
    policy, batch = worked_example(**example)
    return policy, algorithm.prepare(batch)


def test_kl_penalty_is_summed_from_each_token_to_the_end_and_the_whole_whitened():
    _, batch = prepared(
        ReinforcePP(beta=0.5),
        rewards=[[2.0], [-1.0]],
        logp=[[[-1.0]], [[-1.0, -1.0, -1.0]]],
        ref=[[[-3.0]], [[-3.0, -1.0, 1.0]]],
    )
    # log π_old/π_ref = 2 and (2, 0, −2); from each token on: 2 and (0, −2, −2)
    # A = 2 − 1 and −1 − (0, −1, −1) = (−1, 0, 0): mean 0, variance 2/4
    a = scale(0.5)
    close(batch.extras["advantage_GKT"], [[[a]], [[-a, 0.0, 0.0]]])


def test_penalty_is_that_of_the_policy_that_started_the_iteration():
    policy, batch = prepared(
        ReinforcePP(beta=0.5),
        rewards=[[1.0], [0.0]],
        logp=[[[-5.0]], [[-0.1]]],
        old=[[[-1.0]], [[-1.0]]],
        behaviour=[[[-5.0]], [[-0.1]]],
        ref=[[[-2.0]], [[-1.0]]],
    )
    # A = 1 − .5·1 and 0 − 0: mean ¼, deviations ±¼, variance 1/16. ρ = 1, over two tokens
    a = 0.25 * scale(1 / 16)
    close(coefficients(ReinforcePP(), policy, batch), [[[a / 2]], [[-a / 2]]])


def test_surrogate_is_clipped_and_averaged_over_all_tokens():
    algorithm = ReinforcePP(beta=0.0, clip=0.2)
    policy, batch = prepared(
        algorithm,
        rewards=[[3.0, -1.0]],
        logp=[[log(1.5), log(0.5, 1.5, 1.1)]],
        old=[[[0.0], [0.0, 0.0, 0.0]]],
    )
    # A = (3; −1, −1, −1): mean 0, variance (9 + 3)/4 = 3
    # min(1.5·3, 1.2·3) = 3.6; min(−.5, −.8) = −.8; min(−1.5, −1.2) = −1.5; −1.1: together .2
    a = scale(3.0)
    out = algorithm.loss(policy, batch)
    close(out.loss, -0.2 * a / 4)
    close(coefficients(algorithm, policy, batch), [[[0.0], [0.0, -1.5 * a / 4, -1.1 * a / 4]]])
    close(out.metrics["clipped_share"], 2 / 4)


@pytest.mark.parametrize("cls", [ReinforcePP, ReinforcePPBaseline])
def test_whitening_is_over_the_rollout_batch_and_not_the_mini_batch(cls):
    policy, batch = random_batch(0)
    algorithm = cls(beta=0.0)
    batch = algorithm.prepare(batch)
    mini = batch.groups(slice(1, 2))
    assert mini.extras["advantage_GKT"].equal(batch.extras["advantage_GKT"][1:2])
    part = coefficients(algorithm, PolicyOutput(logp_GKT=policy.logp_GKT[1:2]), mini)
    # Only the number of tokens of the mean differs.
    close(part * mini.mask_GKT.sum(), coefficients(algorithm, policy, batch)[1:2] * batch.mask_GKT.sum())


def test_one_response_a_prompt_is_enough():
    policy, batch = prepared(ReinforcePP(beta=0.0), rewards=[[1.0], [0.0]], logp=[[[-1.0]], [[-2.0]]])
    a = 0.5 * scale(0.25)
    close(coefficients(ReinforcePP(beta=0.0), policy, batch), [[[a / 2]], [[-a / 2]]])
    assert ReinforcePP().needs.min_group_size == 1


@pytest.mark.parametrize("cls", [ReinforcePP, ReinforcePPBaseline])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_teach_exactly_nothing(cls, dtype):
    policy, batch = random_batch(0, dtype=dtype, samples=7)
    batch = replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, 1.2))
    assert not coefficients(cls(beta=0.0), policy, cls(beta=0.0).prepare(batch)).any()


def test_baseline_is_the_groups_and_the_scale_the_batchs():
    algorithm = ReinforcePPBaseline(beta=0.0)
    policy, batch = prepared(algorithm, rewards=[[3.0, 1.0], [9.0, 9.0]], logp=[[[-1.0], [-1.0]], [[-1.0], [-1.0]]])
    # (1, −1) and (0, 0): mean 0, variance 2/4, over four tokens
    a = scale(0.5)
    close(coefficients(algorithm, policy, batch), [[[a / 4], [-a / 4]], [[0.0], [0.0]]])


def test_long_responses_move_the_mean_that_whitening_takes_away():
    algorithm = ReinforcePPBaseline(beta=0.0)
    policy, batch = prepared(algorithm, rewards=[[3.0, 1.0]], logp=[[[-1.0] * 3, [-1.0]]])
    # A = (1, 1, 1; −1): mean ½, variance (3·¼ + 9/4)/4 = ¾: (½, −3/2)
    a = scale(0.75)
    close(coefficients(algorithm, policy, batch), [[[a / 8] * 3, [-3 * a / 8]]])


def test_k2_pulls_towards_the_reference_in_proportion_to_the_log_ratio():
    algorithm = ReinforcePPBaseline(beta=0.1)
    policy, batch = prepared(
        algorithm, rewards=[[1.0, 1.0]], logp=[[[-1.0], [-1.0, -1.0]]], ref=[[[-1.2], [-0.6, -1.6]]]
    )
    # log π_θ/π_ref = .2, (−.4, .6): ½(.04 + .16 + .36) = .28, over three tokens
    out = algorithm.loss(policy, batch)
    close(out.loss, 0.1 * 0.28 / 3)
    close(out.metrics["k2"], 0.28 / 3)
    close(coefficients(algorithm, policy, batch), [[[-0.02 / 3], [0.04 / 3, -0.06 / 3]]])


@pytest.mark.parametrize("cls", [ReinforcePP, ReinforcePPBaseline])
def test_settings_out_of_range_are_refused_and_no_penalty_asks_for_no_reference(cls):
    assert cls(beta=0.1).needs.reference
    assert not cls(beta=0.0).needs.reference
    with pytest.raises(ValueError, match=r"reinforce_pp\w*: clip is 1\.0; it must lie between 0 and 1"):
        cls(clip=1.0)
    with pytest.raises(ValueError, match=r"reinforce_pp\w*: beta is -1\.0; it must not be negative"):
        cls(beta=-1.0)
