"""Policy gradient with KL, worked by hand."""

import math
from typing import Any

import pytest
from batches import close, coefficients, worked_example

from algorithms.base import LOG_RATIO_LIMIT
from algorithms.pg import PolicyGradient as PG

LN2 = math.log(2)

# ℓ = (.2, −.4, .8), β = ½: u = R − βℓ = (1.1, .2, −.4). Against the mean of the others:
# 1.1 + .1 = 1.2, .2 − .35 = −.15, −.4 − .65 = −1.05. The importance weights are ρ = (2, 1, ½).
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.2, 0.0, 0.0], [7.0]],
    "logp": [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0, -2.0]]],
    "old": [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-1.3, -2.3]]],
    "behaviour": [[[-0.9 - LN2, -0.4], [-2.4], [-0.7, -0.7, -0.3 + LN2]], [[-1.0, -2.0]]],
}


def test_coefficient_is_the_weighted_leave_one_out_advantage():
    policy, batch = worked_example(**EXAMPLE)
    # ρ·advantage = (2.4, −.15, −.525), over k·|D| = 6. A group of one has no others to compare with: zero.
    expected = [[[0.4] * 2, [-0.025], [-0.0875] * 3], [[0.0, 0.0]]]
    close(coefficients(PG(beta=0.5), policy, batch), expected)


def test_loss_is_minus_the_coefficients_times_the_log_probs():
    policy, batch = worked_example(**EXAMPLE)
    # −(.4·(−1.3) − .025·(−2.4) − .0875·(−1.7)) = .52 − .06 − .14875
    close(PG(beta=0.5).loss(policy, batch).loss, 0.31125)


def test_without_importance_weight_every_sample_counts_alike():
    policy, batch = worked_example(**EXAMPLE)
    # (1.2, −.15, −1.05)/6
    expected = [[[0.2] * 2, [-0.025], [-0.175] * 3], [[0.0, 0.0]]]
    close(coefficients(PG(beta=0.5, importance_weight=False), policy, batch), expected)


def test_effective_sample_share_is_one_for_equal_weights_and_falls_with_their_spread():
    policy, batch = worked_example(**EXAMPLE)
    # weights (2, 1, ½, 1): 4.5²/(4 + 1 + ¼ + 1)/4 = 20.25/6.25/4 = .81
    close(PG().loss(policy, batch).metrics["effective_sample_share"], 0.81)
    on_policy, batch = worked_example(rewards=EXAMPLE["rewards"], logp=EXAMPLE["logp"])
    close(PG().loss(on_policy, batch).metrics["effective_sample_share"], 1.0)


def test_importance_weight_is_clamped_and_the_share_counted():
    # log ρ = 100 nats for the first of four samples, 0 for the others. Its advantage at β = 0 is 1, over k = 4.
    policy, batch = worked_example(
        rewards=[[1.0, 0.0, 0.0, 0.0]],
        logp=[[[-1.0], [-1.0], [-1.0], [-1.0]]],
        behaviour=[[[-101.0], [-1.0], [-1.0], [-1.0]]],
    )
    assert PG(beta=0.0).loss(policy, batch).metrics["clamped_share"].item() == 0.25
    close(coefficients(PG(beta=0.0), policy, batch)[0, 0, 0], math.exp(LOG_RATIO_LIMIT) / 4, rtol=1e-12)


def test_beta_may_be_zero_but_not_negative():
    assert PG(beta=0.0).beta == 0
    with pytest.raises(ValueError, match=r"pg: beta is -1\.0; it must not be negative"):
        PG(beta=-1.0)
