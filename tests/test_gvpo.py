"""GVPO's loss and coefficients, worked by hand."""

import math
from typing import Any

import pytest
from batches import close, coefficients, random_batch, worked_example

from algorithms.base import Anchor
from algorithms.gvpo import GVPO

# Group 1, sums over the tokens: log π_θ = (−1.3, −2.4, −1.7), log π' = (−1.5, −2.0, −2.5), so ℓ = (.2, −.4, .8).
# With β = ½ and R = (1.2, 0, 0): βℓ − R = (−1.1, −.2, .4), mean −.3, deviations (−.8, .1, .7).
# Group 2 has one sample: it contributes zero to the loss and one to |D|.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.2, 0.0, 0.0], [7.0]],
    "logp": [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0, -2.0]]],
    "old": [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-1.3, -2.3]]],
}


def per_token(c1, c2, c3):
    """The coefficient of a response is that of each of its tokens; the group of one has none."""
    return [[[c1] * 2, [c2], [c3] * 3], [[0.0, 0.0]]]


def test_loss_is_the_sample_variance_of_each_group_averaged_over_all_prompts():
    policy, batch = worked_example(**EXAMPLE)
    # (.64 + .01 + .49)/(3 − 1) = .57; with the group of one: (.57 + 0)/2
    close(GVPO(beta=0.5).loss(policy, batch).loss, 0.285)


def test_coefficient_is_2_beta_over_k_minus_1_times_minus_the_deviation():
    policy, batch = worked_example(**EXAMPLE)
    # 2β/(k−1)/|D| = 2·½/2/2 = ¼; ¼·(.8, −.1, −.7)
    close(coefficients(GVPO(beta=0.5), policy, batch), per_token(0.2, -0.025, -0.175))


def test_each_group_is_divided_by_its_own_size():
    policy, batch = worked_example(
        rewards=[[1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], logp=[[[-1.0], [-1.0]], [[-1.0], [-1.0], [-1.0], [-1.0]]]
    )
    # ℓ = 0. Var(1, 0) = ½; Var(1, 0, 0, 0) = (9 + 3)/16/3 = ¼; mean 3/8
    close(GVPO(beta=0.5).loss(policy, batch).loss, 0.375)
    # 2β/(k−1)/|D|·(R − R̄): ½·(±½) for k = 2; 1/6·(¾, −¼, −¼, −¼) for k = 4
    close(
        coefficients(GVPO(beta=0.5), policy, batch),
        [[[0.25], [-0.25]], [[0.125], [-1 / 24], [-1 / 24], [-1 / 24]]],
    )


def test_metric_is_the_variance_of_the_log_ratio():
    policy, batch = worked_example(**EXAMPLE)
    # ℓ − ℓ̄ = (0, −.6, .6): .72/2 = .36, averaged with the group of one
    close(GVPO(beta=0.5).loss(policy, batch).metrics["log_ratio_variance"], 0.18)


# The deviations of log π_θ are (.5, −.6, .1), those of log π' (.5, 0, −.5): Var = .62/2 = .31, Cov = .2/2 = .1.
@pytest.mark.parametrize(
    ("variance_term", "covariance_term", "loss", "c"),
    [
        # .57 − β²·.31 = .4925. C gains 2β²/(k−1)/|D|·dev = ⅛·(.5, −.6, .1)
        (False, True, 0.4925 / 2, (0.2625, -0.1, -0.1625)),
        # .57 + 2β²·.1 = .62. C loses 2β²/(k−1)/|D|·dev' = ⅛·(.5, 0, −.5)
        (True, False, 0.62 / 2, (0.1375, -0.025, -0.1125)),
        # .57 − .0775 + .05 = .5425. What is left is −2β Cov(R, log π_θ): C = ¼·(R − R̄) = ¼·(.8, −.4, −.4)
        (False, False, 0.5425 / 2, (0.2, -0.1, -0.1)),
    ],
)
def test_ablation_leaves_out_its_term_of_the_decomposition(variance_term, covariance_term, loss, c):
    policy, batch = worked_example(**EXAMPLE)
    algorithm = GVPO(beta=0.5, variance_term=variance_term, covariance_term=covariance_term)
    close(algorithm.loss(policy, batch).loss, loss)
    close(coefficients(algorithm, policy, batch), per_token(*c))


def test_anchor_chooses_the_policy_of_the_log_ratio():
    # ℓ differs between the two samples by 1 nat under old, 2 under behaviour, 3 under the reference; R is equal, so
    # L = β²·Var(ℓ) = β²·(1, 4, 9)/2
    policy, batch = worked_example(
        rewards=[[0.0, 0.0]],
        logp=[[[-1.0], [-1.0]]],
        old=[[[-1.0], [-2.0]]],
        behaviour=[[[-1.0], [-3.0]]],
        ref=[[[-1.0], [-4.0]]],
    )
    anchors: tuple[tuple[Anchor, float], ...] = (("old", 0.125), ("behaviour", 0.5), ("reference", 1.125))
    for anchor, loss in anchors:
        close(GVPO(beta=0.5, anchor=anchor).loss(policy, batch).loss, loss)


def test_only_the_reference_anchor_asks_for_a_reference():
    assert [GVPO(anchor=a).needs.reference for a in ("old", "behaviour", "reference")] == [False, False, True]


def test_group_of_equal_rewards_still_pulls_the_log_ratios_together():
    policy, batch = worked_example(
        rewards=[[1.0, 1.0]], logp=[[[-1.0], [-1.0]]], old=[[[-1.4], [-1.0]]]
    )  # ℓ = (.4, 0): β = 1: C = 2/(k−1)·(−(ℓ − ℓ̄)) = 2·(−.2, .2)
    close(coefficients(GVPO(beta=1.0), policy, batch), [[[-0.4], [0.4]]])


def test_batch_of_single_samples_gives_zero_and_not_nan():
    policy, batch = random_batch(0, samples=1, ragged=False)
    out = GVPO().loss(policy, batch)
    assert out.loss.item() == 0
    assert math.isfinite(out.metrics["log_ratio_variance"].item())


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=r"gvpo: beta is .*must be positive"):
        GVPO(beta=beta)
