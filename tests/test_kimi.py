"""Kimi k1.5's loss and coefficients, worked by hand."""

from typing import Any

import pytest
from batches import close, coefficients, worked_example

from algorithms.base import Anchor
from algorithms.kimi import Kimi

# ℓ = (.2, −.4, .8) and, in the group of one, .6. With β = ½, R − R̄ − βℓ is (.8, −.4, −.4) − (.1, −.2, .4) =
# (.7, −.2, −.8) and 0 − .3.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.2, 0.0, 0.0], [7.0]],
    "logp": [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0, -2.0]]],
    "old": [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-1.3, -2.3]]],
}


def test_loss_is_the_mean_squared_error_of_the_implicit_reward():
    policy, batch = worked_example(**EXAMPLE)
    # (.49 + .04 + .64)/3 = .39; .09/1; mean (.39 + .09)/2
    close(Kimi(beta=0.5).loss(policy, batch).loss, 0.24)


def test_coefficient_is_2_beta_over_k_times_the_residual():
    policy, batch = worked_example(**EXAMPLE)
    # 2β/k/|D| = 1/6 for k = 3, ½ for k = 1
    expected = [[[0.7 / 6] * 2, [-0.2 / 6], [-0.8 / 6] * 3], [[-0.15] * 2]]
    close(coefficients(Kimi(beta=0.5), policy, batch), expected)


def test_error_is_squared_per_response_and_not_per_token():
    # Two tokens of log-ratio .3 are one response of .6: (β·.6)² = .09 at β = ½, where two tokens would give 2·.0225.
    policy, batch = worked_example(rewards=[[0.0]], logp=[[[-1.0, -1.0]]], old=[[[-1.3, -1.3]]])
    close(Kimi(beta=0.5).loss(policy, batch).loss, 0.09)


def test_metric_is_the_mean_log_ratio_in_nats_per_response():
    policy, batch = worked_example(**EXAMPLE)
    close(Kimi().loss(policy, batch).metrics["log_ratio"], (0.2 - 0.4 + 0.8 + 0.6) / 4)


def test_anchor_chooses_the_policy_of_the_log_ratio():
    policy, batch = worked_example(
        rewards=[[0.0]], logp=[[[-1.0]]], old=[[[-2.0]]], behaviour=[[[-3.0]]], ref=[[[-4.0]]]
    )  # (βℓ)² with ℓ = 1, 2, 3
    anchors: tuple[tuple[Anchor, float], ...] = (("old", 0.25), ("behaviour", 1.0), ("reference", 2.25))
    for anchor, loss in anchors:
        close(Kimi(beta=0.5, anchor=anchor).loss(policy, batch).loss, loss)


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match=r"kimi: beta is 0\.0; it must be positive"):
        Kimi(beta=0.0)
