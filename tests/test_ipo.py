"""IPO, and DPO on given pairs, worked by hand."""

import math
from typing import Any

import pytest
from batches import close, coefficients, random_batch, worked_example

from algorithms import DPO, IPO, OfflineDPO

# Group 1: ℓ = (.2, −.4, .8), R = (1, 0, 0): pairs (1, 2) and (1, 3), of margins .6 and −.6. Group 2: equal rewards, no
# pair. Group 3: ℓ = 0, one pair of margin 0. Group 4: one sample, no pair.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.0, 0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0]],
    "logp": [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0], [-2.0]], [[-1.0], [-2.0]], [[-1.0]]],
    "ref": [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-3.0], [-4.0]], [[-1.0], [-2.0]], [[-5.0]]],
}


def test_ipo_regresses_each_margin_to_one_over_two_beta():
    policy, batch = worked_example(**EXAMPLE)
    # β = ½ aims at 1: ((.6 − 1)² + (−.6 − 1)²)/2 = 1.36 and 1, over the two groups with a pair
    out = IPO(beta=0.5).loss(policy, batch)
    close(out.loss, 1.18)
    close(out.metrics["pair_accuracy"], (0.5 + 0.0) / 2)
    # 2(1 − margin)/pairs/groups: .4/2 and 1.6/2 in group 1, 2·1/2 in group 3
    expected = [[[1.0] * 2, [-0.2], [-0.8] * 3], [[0.0], [0.0]], [[-1.0], [1.0]], [[0.0]]]
    close(coefficients(IPO(beta=0.5), policy, batch), expected)


def test_ipo_length_average_takes_the_mean_log_ratio_of_a_token():
    policy, batch = worked_example(**EXAMPLE)
    # (.1, −.4, .8/3): margins ½ and −1/6, short of 1 by ½ and 7/6
    algorithm = IPO(beta=0.5, length_average=True)
    close(algorithm.loss(policy, batch).loss, ((0.25 + 49 / 36) / 2 + 1) / 2)
    # over 2 as above, and over |y|: (½ + 7/6)/2/2, −½/2/1, −7/6/2/3
    expected = [[[5 / 12] * 2, [-0.25], [-7 / 36] * 3], [[0.0], [0.0]], [[-1.0], [1.0]], [[0.0]]]
    close(coefficients(algorithm, policy, batch), expected)


def test_ipo_pulls_a_margin_back_that_is_too_large():
    policy, batch = worked_example(rewards=[[1.0, 0.0]], logp=[[[-1.0], [-4.0]]], ref=[[[-3.0], [-3.0]]])
    close(coefficients(IPO(beta=0.5), policy, batch), [[[-4.0], [4.0]]])  # margin 3: 2·(1 − 3)
    close(coefficients(IPO(beta=1 / 6), policy, batch), [[[0.0], [0.0]]])  # aims at 3


def test_ipo_sees_who_wins_and_not_by_how_much():
    policy, batch = worked_example(**EXAMPLE)
    scaled, scaled_batch = worked_example(
        **{**EXAMPLE, "rewards": [[100.0, -7.0, -7.0], [3.0, 3.0], [0.1, 0.2], [0.0]]}
    )
    close(coefficients(IPO(), scaled, scaled_batch), coefficients(IPO(), policy, batch))


@pytest.mark.parametrize("cls", [IPO, OfflineDPO])
def test_batch_without_any_pair_gives_zero_loss_and_no_gradient(cls):
    policy, batch = random_batch(0, samples=1, ragged=False)
    assert cls().loss(policy, batch).loss.item() == 0
    assert not coefficients(cls(), policy, batch).any()


def test_offline_dpo_is_the_negative_log_likelihood_of_the_given_preference():
    policy, batch = worked_example(
        rewards=[[1.0, 0.0], [1.0, 0.0]],
        logp=[[[-0.9, -0.4], [-2.4]], [[-1.0], [-2.0]]],
        ref=[[[-1.0, -0.5], [-2.0]], [[-1.0], [-2.0]]],
    )  # ℓ = (.2, −.4): margin ½·.6 = .3; and 0
    algorithm = OfflineDPO(beta=0.5)
    close(algorithm.loss(policy, batch).loss, (math.log1p(math.exp(-0.3)) + math.log(2)) / 2)
    # β σ(−margin)/|D|
    a = 0.25 / (1 + math.exp(0.3))
    close(coefficients(algorithm, policy, batch), [[[a] * 2, [-a]], [[0.125], [-0.125]]])


def test_offline_dpo_differs_from_dpo_in_where_the_pairs_come_from_alone():
    assert OfflineDPO().needs.data == "pairs"
    assert DPO().needs.data == "policy"
    policy, batch = random_batch(0)
    close(coefficients(OfflineDPO(), policy, batch), coefficients(DPO(), policy, batch))
    with pytest.raises(ValueError, match="beta is 0"):
        OfflineDPO(beta=0.0)


def test_beta_of_ipo_must_be_positive():
    with pytest.raises(ValueError, match=r"ipo: beta is 0\.0; it must be positive"):
        IPO(beta=0.0)
