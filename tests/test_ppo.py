"""PPO: generalised advantage estimation and both halves of the loss, worked by hand."""

import math
from typing import Any

import pytest
from batches import close, coefficients, random_batch, worked_example

from algorithms.ppo import PPO
from algorithms.terms import VARIANCE_EPSILON


def log(*ratios):
    return [math.log(r) for r in ratios]


def prepared(algorithm, *, truncated=False, **changes):
    """A response of three tokens with reward 1 and values (.5, .4, .2), the critic saying .6 after the last token; and,
    so that there is padding on every side, a group of two in which nothing happens."""
    example: dict[str, Any] = {
        "rewards": [[1.0], [0.0, 0.0]],
        "logp": [[[-1.0, -1.0, -1.0]], [[-1.0], [-1.0, -1.0, -1.0, -1.0]]],
        "old_value": [[[0.5, 0.4, 0.2]], [[0.0], [0.0, 0.0, 0.0, 0.0]]],
        "final_value": [[0.6], [0.0, 0.0]],
        "truncated": [[truncated], [True, False]],
    }
    _, batch = worked_example(**{**example, **changes})
    return algorithm.prepare(batch).extras


def test_advantages_and_returns_of_a_finished_response():
    extras = prepared(PPO(gamma=0.9, gae_lambda=0.5, whiten=False))
    # δ₃ = 1 − .2 = .8; δ₂ = .9·.2 − .4 = −.22; δ₁ = .9·.4 − .5 = −.14; the value after EOS is 0, not .6
    # A₃ = .8; A₂ = −.22 + .45·.8 = .14; A₁ = −.14 + .45·.14 = −.077
    close(extras["advantage_GKT"], [[[-0.077, 0.14, 0.8]], [[0.0], [0.0] * 4]])
    # G = A + V
    close(extras["return_GKT"], [[[0.423, 0.54, 1.0]], [[0.0], [0.0] * 4]])


def test_truncated_response_bootstraps_from_the_critic():
    extras = prepared(PPO(gamma=0.9, gae_lambda=0.5, whiten=False), truncated=True)
    # δ₃ = 1 + .9·.6 − .2 = 1.34; A₂ = −.22 + .45·1.34 = .383; A₁ = −.14 + .45·.383 = .03235
    close(extras["advantage_GKT"], [[[0.03235, 0.383, 1.34]], [[0.0], [0.0] * 4]])
    close(extras["return_GKT"], [[[0.53235, 0.783, 1.54]], [[0.0], [0.0] * 4]])


def test_kl_penalty_is_a_reward_at_every_token():
    ref = [[[-1.3, -0.8, -1.5]], [[-1.0], [-1.0] * 4]]
    extras = prepared(PPO(gamma=0.9, gae_lambda=0.5, whiten=False, beta=0.1), ref=ref)
    # log π_old/π_ref = (.3, −.2, .5): r = (−.03, .02, 1 − .05); δ = (−.17, −.2, .75)
    # A₃ = .75; A₂ = −.2 + .45·.75 = .1375; A₁ = −.17 + .45·.1375 = −.108125
    close(extras["advantage_GKT"], [[[-0.108125, 0.1375, 0.75]], [[0.0], [0.0] * 4]])


def test_whitening_is_over_the_tokens_of_the_rollout_batch_and_leaves_the_returns():
    _, batch = worked_example(
        rewards=[[3.0, -1.0]],
        logp=[[[-1.0], [-1.0, -1.0, -1.0]]],
        old_value=[[[0.0], [0.0, 0.0, 0.0]]],
        final_value=[[0.0, 0.0]],
        truncated=[[False, False]],
    )
    extras = PPO().prepare(batch).extras
    # γ = λ = 1 and no critic: A = R at each token: (3, −1, −1, −1), mean 0, variance (9 + 3)/4 = 3
    std = math.sqrt(3 + VARIANCE_EPSILON)
    close(extras["advantage_GKT"], [[[3 / std], [-1 / std] * 3]])
    close(extras["return_GKT"], [[[3.0], [-1.0] * 3]])


def loss_example(**changes):
    """Advantages 1 for the first response and −1 for the second, by rewards and no critic; log-ratios as in GRPO's."""
    example = {
        "rewards": [[1.0, -1.0]],
        "logp": [[log(1.1, 1.5, 0.5), log(0.5, 1.5)]],
        "old": [[[0.0] * 3, [0.0] * 2]],
        "value": [[[1.0] * 3, [-1.0] * 2]],
        "old_value": [[[0.0] * 3, [0.0] * 2]],
        "final_value": [[0.0, 0.0]],
        "truncated": [[False, False]],
    }
    return worked_example(**{**example, **changes})


def test_ratio_is_clipped_above_for_good_and_below_for_bad_tokens():
    algorithm = PPO(clip=0.2, whiten=False, value_clip=10.0)
    policy, batch = loss_example()
    batch = algorithm.prepare(batch)
    out = algorithm.loss(policy, batch)
    # 1.1 + 1.2 + .5 − .8 − 1.5 over 5 tokens; the values equal the returns, so the critic's error is zero
    close(out.loss, -0.5 / 5)
    close(coefficients(algorithm, policy, batch), [[[1.1 / 5, 0.0, 0.5 / 5], [0.0, -1.5 / 5]]])
    close(out.metrics["clipped_share"], 2 / 5)
    close(out.metrics["value_error"], 0.0)


def test_importance_ratio_is_against_the_behaviour_policy():
    algorithm = PPO(whiten=False)
    policy, batch = loss_example(old=[[log(1.1, 1.5, 0.5), log(0.5, 1.5)]], behaviour=[[[0.0] * 3, log(0.5, 1.5)]])
    c = coefficients(algorithm, policy, algorithm.prepare(batch))
    close(c, [[[1.1 / 5, 0.0, 0.5 / 5], [-1 / 5, -1 / 5]]])


def test_value_error_takes_the_worse_of_the_clipped_and_the_free_value():
    algorithm = PPO(whiten=False, value_clip=0.5)
    # Return 1, old value 0. V = .9: near = .5, max(.01, .25)/2 = .125, and the clipped one does not move with V.
    # V = .4: .36/2 = .18. V = −.9: near = −.5, max(3.61, 2.25)/2 = 1.805.
    policy, batch = loss_example(
        rewards=[[1.0]], logp=[[[-1.0] * 3]], old=[[[-1.0] * 3]], value=[[[0.9, 0.4, -0.9]]],
        old_value=[[[0.0] * 3]], final_value=[[0.0]], truncated=[[False]],
    )  # fmt: skip
    batch = algorithm.prepare(batch)
    out = algorithm.loss(policy, batch)
    close(out.metrics["value_error"], (0.125 + 0.18 + 1.805) / 3)
    close(out.loss, 2.11 / 3 - 1.0)  # the surrogate is the mean advantage, 1
    # −∂L/∂V = (G − V)/3 where the free value is the worse
    close(coefficients(algorithm, policy, batch, of="value_GKT"), [[[0.0, 0.6 / 3, 1.9 / 3]]])


def test_entropy_bonus_is_the_mean_over_tokens():
    algorithm = PPO(whiten=False, value_clip=10.0, entropy_coefficient=0.1)
    policy, batch = loss_example(entropy=[[[1.0, 2.0, 3.0], [0.0, 4.0]]])
    batch = algorithm.prepare(batch)
    close(algorithm.loss(policy, batch).loss, -0.1 - 0.1 * 10 / 5)
    close(coefficients(algorithm, policy, batch, of="entropy_GKT"), [[[0.02] * 3, [0.02] * 2]])


def test_the_critic_and_the_policy_share_no_gradient():
    algorithm = PPO()
    policy, batch = random_batch(0)
    batch = algorithm.prepare(batch)
    moved, _ = random_batch(1)
    same_logp = type(policy)(logp_GKT=policy.logp_GKT, value_GKT=moved.value_GKT)
    close(coefficients(algorithm, same_logp, batch), coefficients(algorithm, policy, batch))


def test_a_batch_that_was_not_prepared_is_refused():
    policy, batch = loss_example()
    with pytest.raises(ValueError, match=r"prepare\(\)"):
        PPO().loss(policy, batch)


@pytest.mark.parametrize("missing", ["old_value", "final_value", "truncated"])
def test_missing_values_are_refused_before_the_update(missing):
    _, batch = loss_example(**{missing: None})
    with pytest.raises(ValueError, match=missing):
        PPO().prepare(batch)


def test_missing_entropy_is_refused():
    algorithm = PPO(entropy_coefficient=0.1)
    policy, batch = loss_example()
    with pytest.raises(ValueError, match="entropy_GKT"):
        algorithm.loss(policy, algorithm.prepare(batch))


def test_needs_follow_the_hyper_parameters():
    assert PPO().needs.critic
    assert not PPO().needs.reference
    assert PPO(beta=0.01).needs.reference
    assert not PPO().needs.entropy
    assert PPO(entropy_coefficient=0.01).needs.entropy


@pytest.mark.parametrize(
    "bad",
    [
        {"clip": 0.0},
        {"clip": 1.0},
        {"value_clip": 0.0},
        {"gamma": 1.1},
        {"gae_lambda": -0.1},
        {"beta": -0.1},
        {"entropy_coefficient": -0.1},
    ],
)
def test_hyper_parameter_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=f"ppo: {next(iter(bad))} is"):
        PPO(**bad)
