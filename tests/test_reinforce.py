"""RLOO, ReMax, OPO, MaxRL, GPG and OPMD: REINFORCE with one baseline or another, worked by hand.

What they do not read is not worked: none of them weights or clips, whoever sampled.
"""

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from batches import close, coefficients, random_batch, worked_example

from algorithms import GPG, OPMD, OPO, RLOO, MaxRL, ReMax

# log π_θ of the responses: (−1.3, −2.4, −1.7) and −3; eight tokens, two prompts.
# log π_old/π_ref: (.2, −.4, .8) and −.6.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.2, 0.0, 0.0], [7.0]],
    "logp": [[[-0.9, -0.4], [-2.4], [-0.7, -0.7, -0.3]], [[-1.0, -2.0]]],
    "old": [[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -0.5]], [[-1.3, -2.3]]],
    "behaviour": [[[-3.0, -0.5], [-1.0], [-1.0, -4.0, -0.5]], [[-1.3, -0.3]]],
    "ref": [[[-1.1, -0.6], [-1.6], [-1.4, -1.2, -0.7]], [[-1.0, -2.0]]],
}
ALL = [RLOO(), ReMax(), OPO(), MaxRL(), GPG(), GPG(rescale=False), OPMD(), OPMD(baseline="log_mean_exp")]


def with_greedy(batch, *rewards):
    return batch.with_extras(greedy_reward_G=torch.tensor(rewards, dtype=torch.float64))


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.name)
def test_coefficients_depend_neither_on_the_policy_of_now_nor_on_the_one_that_sampled(algorithm):
    policy, batch = random_batch(0)
    batch = algorithm.prepare(batch)
    expected = coefficients(algorithm, policy, batch)
    moved = replace(policy, logp_GKT=policy.logp_GKT - 1.5)
    elsewhere = replace(batch, behaviour_logp_GKT=batch.behaviour_logp_GKT + 2.0)
    close(coefficients(algorithm, moved, elsewhere), expected)


@pytest.mark.parametrize(
    "algorithm", [RLOO(beta=0.0), OPO(), MaxRL(), GPG(), OPMD(), OPMD(tau=0.1, baseline="log_mean_exp")], ids=repr
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 6, 7, 8])
def test_equal_rewards_teach_exactly_nothing(algorithm, dtype, samples):
    policy, batch = random_batch(0, dtype=dtype, samples=samples, ragged=False)
    batch = algorithm.prepare(replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, 1.2)))
    assert algorithm.loss(policy, batch).loss.item() == 0
    assert not coefficients(algorithm, policy, batch).any()


def test_rloo_compares_each_penalised_reward_with_the_mean_of_the_others():
    policy, batch = worked_example(**EXAMPLE)
    # u = R − ½(.2, −.4, .8) = (1.1, .2, −.4), less the mean of the others: 1.1 + .1, .2 − .35, −.4 − .65
    # −(1.2·(−1.3) − .15·(−2.4) − 1.05·(−1.7))/3/2 = −.585/6; a group of one has no others: 0
    close(RLOO(beta=0.5).loss(policy, batch).loss, -0.0975)
    close(coefficients(RLOO(beta=0.5), policy, batch), [[[0.2] * 2, [-0.025], [-0.175] * 3], [[0.0] * 2]])


def test_rloo_without_penalty_needs_no_reference():
    policy, batch = worked_example(**{**EXAMPLE, "ref": None})
    # 1.2 − 0, 0 − .6, 0 − .6, over 6
    close(coefficients(RLOO(beta=0.0), policy, batch), [[[0.2] * 2, [-0.1], [-0.1] * 3], [[0.0] * 2]])
    assert not RLOO(beta=0.0).needs.reference
    assert RLOO(beta=0.1).needs.reference


def test_rloo_beta_must_not_be_negative():
    with pytest.raises(ValueError, match=r"rloo: beta is -0\.1; it must not be negative"):
        RLOO(beta=-0.1)


def test_remax_compares_each_reward_with_that_of_the_greedy_response():
    policy, batch = worked_example(**EXAMPLE)
    batch = with_greedy(batch, 1.0, 4.0)
    # (.2, −1, −1): (.2·(−1.3) + 2.4 + 1.7)/3 = 1.28; 3·(−3) = −9 for the group of one
    close(ReMax().loss(policy, batch).loss, -(1.28 - 9) / 2)
    close(coefficients(ReMax(), policy, batch), [[[0.2 / 6] * 2, [-1 / 6], [-1 / 6] * 3], [[1.5] * 2]])


@pytest.mark.parametrize(
    ("greedy", "expected"), [(1.0, [0.0, -0.5]), (0.0, [0.5, 0.0])], ids=["greedy right", "greedy wrong"]
)
def test_remax_learns_only_from_what_the_greedy_response_does_not_do(greedy, expected):
    policy, batch = worked_example(rewards=[[1.0, 0.0]], logp=[[[-1.0], [-1.0]]])
    close(coefficients(ReMax(), policy, with_greedy(batch, greedy)), [[[c] for c in expected]])


def test_remax_where_all_are_right_learns_nothing():
    policy, batch = worked_example(rewards=[[1.0, 1.0]], logp=[[[-1.0], [-1.0]]])
    assert not coefficients(ReMax(), policy, with_greedy(batch, 1.0)).any()


def test_remax_without_a_greedy_reward_says_who_supplies_it():
    policy, batch = worked_example(**EXAMPLE)
    with pytest.raises(ValueError, match=r"no 'greedy_reward_G'; declare it in needs\.extras"):
        ReMax().loss(policy, batch)


def test_opo_weights_the_baseline_by_length():
    policy, batch = worked_example(**{**EXAMPLE, "rewards": [[1.2, 0.0, 0.6], [7.0]]})
    # b = (2·1.2 + 1·0 + 3·.6)/6 = .7, where the mean is .6: (.5, −.7, −.1)
    # −(.5·(−1.3) − .7·(−2.4) − .1·(−1.7))/3/2 = −1.2/6
    close(OPO().loss(policy, batch).loss, -0.2)
    close(coefficients(OPO(), policy, batch), [[[0.5 / 6] * 2, [-0.7 / 6], [-0.1 / 6] * 3], [[0.0] * 2]])


def test_maxrl_divides_by_the_rate_of_success():
    policy, batch = worked_example(**EXAMPLE)
    # R̄ = .4: (.8, −.4, −.4)/.4 = (2, −1, −1). −(2·(−1.3) + 2.4 + 1.7)/3/2 = −1.5/6
    close(MaxRL().loss(policy, batch).loss, -0.25)
    close(coefficients(MaxRL(), policy, batch), [[[1 / 3] * 2, [-1 / 6], [-1 / 6] * 3], [[0.0] * 2]])


def test_maxrl_weights_the_only_success_of_eight_more_than_one_of_two():
    policy, batch = worked_example(
        rewards=[[1.0] + [0.0] * 7, [1.0, 0.0]], logp=[[[-1.0]] * 8, [[-1.0]] * 2]
    )  # (1 − ⅛)/⅛ = 7 over 8·2; (1 − ½)/½ = 1 over 2·2
    close(coefficients(MaxRL(), policy, batch)[:, 0, 0], torch.tensor([7 / 16, 1 / 4]))


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [-1.0, 0.5], [-1.0, 1.0]])
def test_maxrl_group_without_success_adds_nothing_and_stays_in_the_mean_over_prompts(rewards):
    policy, batch = worked_example(rewards=[rewards, [1.0, 0.0]], logp=[[[-1.0], [-2.0]], [[-1.0], [-2.0]]])
    c = coefficients(MaxRL(), policy, batch)
    close(c, [[[0.0], [0.0]], [[0.25], [-0.25]]])  # ±1/2/2
    close(MaxRL().loss(policy, batch).metrics["no_success_share"].double(), 0.5)


def test_gpg_is_a_mean_over_tokens_scaled_up_for_the_groups_that_teach_nothing():
    policy, batch = worked_example(**EXAMPLE)
    batch = GPG().prepare(batch)
    # α = 2/1; −2·(.8·(−1.3) − .4·(−2.4) − .4·(−1.7))/8 = −2·.6/8
    close(GPG().loss(policy, batch).loss, -0.15)
    close(coefficients(GPG(), policy, batch), [[[0.2] * 2, [-0.1], [-0.1] * 3], [[0.0] * 2]])
    plain = GPG(rescale=False)
    close(coefficients(plain, policy, plain.prepare(batch)), [[[0.1] * 2, [-0.05], [-0.05] * 3], [[0.0] * 2]])


def test_gpg_alpha_is_that_of_the_rollout_batch_and_not_of_the_mini_batch():
    policy, batch = worked_example(**EXAMPLE)
    mini = GPG().prepare(batch).groups(slice(0, 1))
    one = replace(policy, logp_GKT=policy.logp_GKT[:1])
    # α stays 2, over the six tokens of the first group
    close(coefficients(GPG(), one, mini), [[[1.6 / 6] * 2 + [0.0], [-0.8 / 6, 0.0, 0.0], [-0.8 / 6] * 3]])


def test_gpg_without_prepare_is_refused():
    policy, batch = worked_example(**EXAMPLE)
    with pytest.raises(ValueError, match=r"no 'advantage_GK'; prepare\(\) computes it"):
        GPG().loss(policy, batch)


def test_opmd_by_default_compares_with_the_mean_and_tau_is_but_a_scale():
    policy, batch = worked_example(**EXAMPLE)
    # (.8, −.4, −.4), over 8 tokens and 1 + τ = 4
    close(coefficients(OPMD(tau=3.0), policy, batch), [[[0.025] * 2, [-0.0125], [-0.0125] * 3], [[0.0] * 2]])


def test_opmd_compares_with_the_soft_maximum_of_the_group():
    policy, batch = worked_example(**{**EXAMPLE, "rewards": [[math.log(3), 0.0, 0.0], [7.0]]})
    # τ = 1: b = ln (3 + 1 + 1)/3; ln 3 − b = ln 9/5, 0 − b = −ln 5/3; over 8 tokens and 1 + τ = 2
    a, b = math.log(9 / 5), math.log(5 / 3)
    close(OPMD(tau=1.0, baseline="log_mean_exp").loss(policy, batch).loss, -(a * -1.3 - b * (-2.4 - 1.7)) / 16)
    close(
        coefficients(OPMD(tau=1.0, baseline="log_mean_exp"), policy, batch),
        [[[a / 16] * 2, [-b / 16], [-b / 16] * 3], [[0.0] * 2]],
    )
    # τ = ½ on half the rewards: the same logarithms, halved, over 8 and 1.5
    policy, batch = worked_example(**{**EXAMPLE, "rewards": [[math.log(3) / 2, 0.0, 0.0], [7.0]]})
    c = coefficients(OPMD(tau=0.5, baseline="log_mean_exp"), policy, batch)
    close(c, [[[a / 2 / 12] * 2, [-b / 2 / 12], [-b / 2 / 12] * 3], [[0.0] * 2]])


def test_opmd_baseline_goes_to_the_best_reward_as_tau_falls_whatever_the_size_of_the_rewards():
    policy, batch = worked_example(rewards=[[1e3, 0.0, 500.0]], logp=[[[-1.0], [-1.0], [-1.0]]])
    c = coefficients(OPMD(tau=1e-4, baseline="log_mean_exp"), policy, batch)
    close(c, [[[0.0], [-1e3 / 3], [-500 / 3]]], atol=1e-1)


def test_opmd_tau_must_be_positive():
    with pytest.raises(ValueError, match=r"opmd: tau is 0\.0; it must be positive"):
        OPMD(tau=0.0)


def test_opmd_baseline_must_be_known():
    with pytest.raises(ValueError, match=r"opmd: baseline is 'median'; use 'mean' or 'log_mean_exp'"):
        OPMD(baseline=cast(Any, "median"))
