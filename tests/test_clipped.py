"""Dr.GRPO, DAPO, GSPO and GMPO: what each clips and how it averages, worked by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from batches import close, coefficients, random_batch, worked_example

from algorithms import DAPO, GMPO, GSPO, DrGRPO
from algorithms.terms import STD_EPSILON

S = 1 + STD_EPSILON
"""The divisor of rewards (1, 0, −1): their mean is 0, their sample standard deviation √(2/2) = 1."""


def log(*ratios):
    return [math.log(r) for r in ratios]


def with_limit(batch, *limits):
    return batch.with_extras(length_limit_G=torch.tensor(limits, dtype=torch.float64))


# Ratios (1.1, 1.5, .5) of a good response, 1.5 of one that is neither, (.5, 1.5) of a bad one; and a group of one.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.0, 0.0, -1.0], [7.0]],
    "logp": [[log(1.1, 1.5, 0.5), log(1.5), log(0.5, 1.5)], [log(1.5)]],
    "old": [[[0.0, 0.0, 0.0], [0.0], [0.0, 0.0]], [[0.0]]],
}


def test_dr_grpo_sums_over_tokens_and_divides_by_the_limit_of_the_prompt():
    policy, batch = worked_example(**EXAMPLE)
    batch = with_limit(batch, 10.0, 5.0)
    # Â = R: 1.1 + 1.2 + .5 = 2.8 and −.8 − 1.5 = −2.3; .5/10/3, the group of one nothing, over |D| = 2
    out = DrGRPO(clip=0.2).loss(policy, batch)
    close(out.loss, -0.5 / 60)
    close(coefficients(DrGRPO(), policy, batch), [[[1.1 / 60, 0.0, 0.5 / 60], [0.0], [0.0, -1.5 / 60]], [[0.0]]])
    close(out.metrics["clipped_share"], 2 / 7)


def test_dr_grpo_grows_with_the_spread_of_the_rewards():
    policy, batch = worked_example(**{**EXAMPLE, "rewards": [[2.0, 0.0, -2.0], [7.0]]})
    batch = with_limit(batch, 10.0, 5.0)
    close(coefficients(DrGRPO(), policy, batch), [[[2.2 / 60, 0.0, 1 / 60], [0.0], [0.0, -3 / 60]], [[0.0]]])


def test_dapo_clips_higher_above_and_averages_over_all_tokens():
    policy, batch = worked_example(**EXAMPLE)
    # 1.1 + 1.28 + .5 − .8 − 1.5 = .58, over seven tokens
    algorithm = DAPO(clip_low=0.2, clip_high=0.28, overlong=0.0)
    close(algorithm.loss(policy, batch).loss, -0.58 / 7 / S)
    expected = [[[1.1 / 7 / S, 0.0, 0.5 / 7 / S], [0.0], [0.0, -1.5 / 7 / S]], [[0.0]]]
    close(coefficients(algorithm, policy, batch), expected)
    # 1.5 is within 1 + .6
    expected[0][0][1] = 1.5 / 7 / S
    close(coefficients(DAPO(clip_high=0.6, overlong=0.0), policy, batch), expected)


def test_dapo_reward_falls_over_the_last_share_of_the_limit_and_by_no_more_than_one():
    lengths = (5, 6, 10, 11)
    policy, batch = worked_example(rewards=[[1.0] * 4], logp=[[[-1.0] * n for n in lengths]])
    # M = 10, s = ½: from 5 on, 1 at 10. R' = (1, .8, 0, 0), mean .45, Σ(.55², .35², .45², .45²) = .83
    std = math.sqrt(0.83 / 3) + STD_EPSILON
    c = coefficients(DAPO(overlong=0.5), policy, with_limit(batch, 10.0))
    close(c[0, :, 0], torch.tensor([0.55, 0.35, -0.45, -0.45], dtype=torch.float64) / std / 32)


def test_dapo_without_shaping_reads_no_limit_in_effect():
    policy, batch = worked_example(**EXAMPLE)
    far = with_limit(batch, 100.0, 100.0)
    close(coefficients(DAPO(), policy, far), coefficients(DAPO(overlong=0.0), policy, batch))


def test_dapo_draws_groups_of_equal_rewards_anew():
    keep = DAPO().needs.refill
    assert keep is not None
    assert [keep(torch.tensor(r)) for r in ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.5])] == [True, False, False, False]
    assert DAPO(dynamic_sampling=False).needs.refill is None


def test_gspo_clips_the_geometric_mean_of_a_response_and_drops_it_whole():
    policy, batch = worked_example(
        rewards=[[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]],
        logp=[[log(1.21, 1.0), log(1.0), log(0.25, 1.0)], [log(2.25, 1.0), log(1.0), log(8.0, 1.0, 1.0)]],
        old=[[[0.0] * 2, [0.0], [0.0] * 2], [[0.0] * 2, [0.0], [0.0] * 3]],
    )
    algorithm = GSPO(clip_low=0.2, clip_high=0.4)
    # s = 1.1, 1, ½: 1.1 and min(−.5, −.8). s = 1.5, 1, 2: min(1.5, 1.4) and min(−2, −1.4)
    # −½·[(1.1 − .8)/3 + (1.4 − 2)/3] = .05
    out = algorithm.loss(policy, batch)
    close(out.loss, 0.05 / S)
    close(out.metrics["clipped_share"].double(), 2 / 6, atol=1e-7)
    # s Â/(|y|·k·|D|): 1.1/(2·3·2) and −2/(3·3·2)
    expected = [[[1.1 / 12 / S] * 2, [0.0], [0.0] * 2], [[0.0] * 2, [0.0], [-2 / 18 / S] * 3]]
    close(coefficients(algorithm, policy, batch), expected)


@pytest.mark.parametrize(("log_ratio", "clipped"), [(3e-4, False), (5e-4, True)])
def test_gspo_by_default_clips_where_a_ratio_has_hardly_moved(log_ratio, clipped):
    policy, batch = worked_example(
        rewards=[[1.0, 0.0]],
        logp=[[[-1.0 + 2 * log_ratio, -1.0], [-1.0]]],
        old=[[[-1.0, -1.0], [-1.0]]],
    )
    assert bool(coefficients(GSPO(), policy, batch)[0, 0].any()) is not clipped  # 1 + 4e-4 is the most


def test_gmpo_clips_each_token_on_the_side_to_which_its_advantage_pushes():
    policy, batch = worked_example(
        rewards=[[1.0, 0.0, -1.0]],
        logp=[[log(4.0, 0.5), log(4.0), log(0.25, 4.0)]],
        old=[[[0.0] * 2, [0.0], [0.0] * 2]],
    )
    algorithm = GMPO(clip=math.log(2))
    # Good: (ln 2, −ln 2), the first clipped: ratio 1. Bad: (−ln 2, ln 4), the first clipped: mean ½ ln 2, ratio √2.
    out = algorithm.loss(policy, batch)
    close(out.loss, -(1 - math.sqrt(2)) / 3 / S)
    close(out.metrics["clipped_share"].double(), 2 / 5, atol=1e-7)
    # ratio·Â/(|y|·k) where it is not clipped
    close(coefficients(algorithm, policy, batch), [[[0.0, 1 / 6 / S], [0.0], [0.0, -math.sqrt(2) / 6 / S]]])


@pytest.mark.parametrize("algorithm", [DrGRPO(), DAPO(overlong=0.0), GSPO(), GMPO()], ids=lambda a: a.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 7])
def test_equal_rewards_and_a_group_of_one_teach_exactly_nothing(algorithm, dtype, samples):
    policy, batch = random_batch(0, dtype=dtype, samples=samples, ragged=False)
    batch = replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, 1.2))
    assert not coefficients(algorithm, policy, batch).any()


def test_importance_ratio_is_against_the_policy_that_sampled():
    same: dict[str, Any] = {"logp": [[[-1.0], [-1.0]]], "old": [[[-3.0], [-3.0]]], "behaviour": [[[-1.0], [-1.0]]]}
    policy, batch = worked_example(rewards=[[1.0, 0.0]], **same)
    batch = with_limit(batch, 9.0)
    for algorithm in (DrGRPO(), DAPO(), GSPO(), GMPO()):
        assert coefficients(algorithm, policy, batch)[0, 0, 0] > 0, algorithm.name
        close(algorithm.loss(policy, batch).metrics["clipped_share"].double(), 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DrGRPO(clip=1.0), r"dr_grpo: clip is 1\.0; it must lie between 0 and 1"),
        (lambda: DAPO(clip_low=1.5), r"dapo: clip_low is 1\.5; it must lie in \[0, 1\]"),
        (lambda: DAPO(clip_high=0.0), r"dapo: clip_high is 0\.0; it must be positive"),
        (lambda: DAPO(overlong=1.5), r"dapo: overlong is 1\.5; it must lie in \[0, 1\]"),
        (lambda: GSPO(clip_low=-0.1), r"gspo: clip_low is -0\.1"),
        (lambda: GSPO(clip_high=0.0), r"gspo: clip_high is 0\.0"),
        (lambda: GMPO(clip=0.0), r"gmpo: clip is 0\.0; it must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
