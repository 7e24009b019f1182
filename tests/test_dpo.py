"""Online DPO on the pairs of a group, worked by hand."""

import math
from typing import Any

import pytest
from batches import close, coefficients, random_batch, worked_example

from algorithms.dpo import DPO


def sigma(x):
    return 1 / (1 + math.exp(-x))


def nll(x):
    """−log σ(x)."""
    return math.log1p(math.exp(-x))


# Group 1: ℓ = (.2, −.4, .8), R = (1, 0, 0): two pairs, (1, 2) and (1, 3), of margins ½·.6 = .3 and ½·(−.6) = −.3.
# Group 2: equal rewards, no pair. Group 3: ℓ = 0, one pair of margin 0. Group 4: one sample, no pair.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.0, 0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0]],
    "logp": [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0], [-2.0]], [[-1.0], [-2.0]], [[-1.0]]],
    "ref": [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-3.0], [-4.0]], [[-1.0], [-2.0]], [[-5.0]]],
}


def test_loss_is_the_mean_over_pairs_then_over_the_groups_that_have_one():
    policy, batch = worked_example(**EXAMPLE)
    close(DPO(beta=0.5).loss(policy, batch).loss, ((nll(0.3) + nll(-0.3)) / 2 + math.log(2)) / 2)


def test_coefficient_is_beta_times_the_probability_of_the_wrong_order():
    policy, batch = worked_example(**EXAMPLE)
    # β/pairs/groups = ½/2/2 = ⅛ in group 1, times σ(−margin): σ(−.3) for sample 2, σ(.3) for 3, their sum 1 for 1.
    # ½/1/2 = ¼ in group 3, times σ(0) = ½.
    a, b = sigma(-0.3) / 8, sigma(0.3) / 8
    close(
        coefficients(DPO(beta=0.5), policy, batch),
        [[[0.125] * 2, [-a], [-b] * 3], [[0.0], [0.0]], [[-0.125], [0.125]], [[0.0]]],
    )


@pytest.mark.parametrize(
    ("rewards", "pairs"),
    [
        ([1.0, 0.0, 0.0, 0.0], 3),  # 1·3
        ([1.0, 1.0, 0.0, 0.0], 4),  # 2·2: ties give no pair
        ([3.0, 2.0, 1.0, 0.0], 6),  # 4·3/2
        ([2.0, 1.0, 1.0, 0.0], 5),  # 6 − the tie
    ],
)
def test_every_strictly_ordered_pair_counts_once(rewards, pairs):
    policy, batch = worked_example(
        rewards=[rewards], logp=[[[-1.0], [-1.0], [-1.0], [-1.0]]], ref=[[[-1.0], [-1.0], [-1.0], [-1.0]]]
    )
    # At margin 0 each pair gives its winner β/pairs·½: the winners' sum is ½β, the best one's that times the share won.
    c = coefficients(DPO(beta=1.0), policy, batch)[0, :, 0]
    wins = sum(r < rewards[0] for r in rewards)
    close(c[0], wins * 0.5 / pairs)
    close(DPO(beta=1.0).loss(policy, batch).loss, math.log(2))


def test_metrics_count_the_groups_with_pairs_and_the_pairs_in_the_right_order():
    policy, batch = worked_example(**EXAMPLE)
    metrics = DPO(beta=0.5).loss(policy, batch).metrics
    close(metrics["groups_with_pairs"], 0.5)  # 2 of 4
    close(metrics["pair_accuracy"], 0.25)  # (½ + 0)/2: a margin of zero is not the right order


def test_batch_without_any_pair_gives_zero_loss_and_no_gradient():
    policy, batch = random_batch(0, samples=1, ragged=False)
    assert DPO().loss(policy, batch).loss.item() == 0
    assert not coefficients(DPO(), policy, batch).any()


def test_size_of_the_difference_in_reward_does_not_matter():
    policy, batch = worked_example(**EXAMPLE)
    scaled, scaled_batch = worked_example(
        **{**EXAMPLE, "rewards": [[100.0, -7.0, -7.0], [3.0, 3.0], [0.1, 0.2], [0.0]]}
    )
    close(coefficients(DPO(), scaled, scaled_batch), coefficients(DPO(), policy, batch))


def test_missing_reference_is_named():
    policy, batch = worked_example(**{**EXAMPLE, "ref": None})
    with pytest.raises(ValueError, match="ref_logp_GKT"):
        DPO(anchor="reference").loss(policy, batch)


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match=r"dpo: beta is 0\.0; it must be positive"):
        DPO(beta=0.0)
