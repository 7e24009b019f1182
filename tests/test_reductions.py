"""What the docstrings say under "Reduces to:", and what else is true of an algorithm on any batch.

Two losses with the same coefficients are the same algorithm, whatever constant separates their values.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import close, coefficients, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms import (
    CISPO,
    DAPO,
    DPO,
    DPPO,
    GMPO,
    GPG,
    GRPO,
    GSPO,
    GVPD,
    GVPO,
    IPO,
    OPMD,
    OPO,
    PPO,
    REBEL,
    RFT,
    RLOO,
    SAPO,
    SFT,
    TBA,
    TOPR,
    VESPO,
    AStarPO,
    Batch,
    DrGRPO,
    Kimi,
    MaxRL,
    OfflineDPO,
    OnlineRFT,
    PolicyGradient,
    PolicyOutput,
    ReinforcePP,
    ReinforcePPBaseline,
    ReMax,
)

seeds = st.integers(0, 2**32 - 1)
betas = st.floats(0.03, 3.0)
clips = st.floats(0.05, 0.8)
anchors = st.sampled_from(["old", "behaviour", "reference"])
few = settings(max_examples=20, deadline=None)


def on_policy(batch, policy):
    return replace(batch, old_logp_GKT=policy.logp_GKT, behaviour_logp_GKT=policy.logp_GKT)


def same(a, b, policy, batch, *, scale=1.0, loss=True):
    """Asserts that the coefficients of `a` are those of `b` times `scale`, a number or [G, 1, 1], [G, K, 1].

    With `loss`, and a scale that is a number, also that the losses are.
    """
    a_batch, b_batch = a.prepare(batch), b.prepare(batch)
    expected = coefficients(b, policy, b_batch) * scale
    largest = max(1.0, expected.abs().max().item())
    close(coefficients(a, policy, a_batch), expected, atol=1e-11 * largest)
    if loss:
        close(a.loss(policy, a_batch).loss, b.loss(policy, b_batch).loss * scale, atol=1e-11 * largest, rtol=1e-11)


def sizes(batch):
    """k [G, 1, 1]."""
    return batch.valid_GK.sum(-1)[:, None, None].double()


def lengths(batch):
    """|y| [G, K, 1], at least 1."""
    return batch.mask_GKT.sum(-1, keepdim=True).clamp(min=1).double()


def group_stds(batch):
    """The standard deviation of the rewards and 1e-6, [G, 1, 1]; 1 for a group of one, which has no advantage."""
    rows = [r[v].numpy() for r, v in zip(batch.rewards_GK, batch.valid_GK, strict=True)]
    return torch.tensor([r.std(ddof=1) + 1e-6 if len(r) > 1 else 1.0 for r in rows])[:, None, None]


# Supervised


@few
@given(seeds)
def test_rft_is_sft_where_every_sample_is_right(seed):
    policy, batch = random_batch(seed)
    batch = replace(batch, rewards_GK=torch.ones_like(batch.rewards_GK))
    same(RFT(), SFT(), policy, batch)
    same(OnlineRFT(), SFT(), policy, batch)


@few
@given(seeds, st.floats(-1.0, 1.0))
def test_online_rft_is_rft_on_other_samples(seed, threshold):
    same(OnlineRFT(threshold=threshold), RFT(threshold=threshold), *random_batch(seed))


@few
@given(seeds)
def test_online_rft_is_reinforce_without_a_baseline_averaged_per_response(seed):
    policy, batch = random_batch(seed)
    batch = replace(batch, rewards_GK=(batch.rewards_GK > 0.5).double())
    without = batch.with_extras(greedy_reward_G=torch.zeros(3, dtype=torch.float64))
    same(OnlineRFT(), ReMax(), policy, without, scale=1 / lengths(batch), loss=False)


# REINFORCE


@few
@given(seeds)
def test_rloo_is_policy_gradient_without_its_kl_and_weight(seed):
    same(RLOO(beta=0.0), PolicyGradient(beta=0.0, importance_weight=False), *random_batch(seed))


@few
@given(seeds, betas)
def test_on_policy_rloo_points_where_gvpo_kimi_and_dr_grpo_do(seed, beta):
    policy, batch = random_batch(seed)
    batch = on_policy(batch, policy)
    k_G11 = sizes(batch)
    same(GVPO(beta=beta), RLOO(beta=0.0), policy, batch, scale=2 * beta, loss=False)
    others = (k_G11 - 1) / k_G11
    for algorithm, scale in ((Kimi(beta=beta), 2 * beta), (DrGRPO(), 1 / 10)):  # random_batch's limit is 10 tokens
        same(algorithm, RLOO(beta=0.0), policy, batch, scale=scale * others, loss=False)


@few
@given(seeds)
def test_remax_is_rloo_with_another_baseline(seed):
    policy, batch = random_batch(seed)
    mean_G = batch.rewards_GK.sum(-1) / batch.valid_GK.sum(-1)
    k_G11 = sizes(batch)
    with_mean = batch.with_extras(greedy_reward_G=mean_G)
    same(ReMax(), RLOO(beta=0.0), policy, with_mean, scale=(k_G11 - 1) / k_G11, loss=False)
    # Another baseline b moves each coefficient of a group by (R̄ − b)/k/|D|.
    moved = coefficients(ReMax(), policy, batch.with_extras(greedy_reward_G=mean_G + 0.3))
    close(moved - coefficients(ReMax(), policy, with_mean), torch.where(batch.mask_GKT, -0.3 / k_G11 / 3, 0.0))


@few
@given(seeds)
def test_opo_is_rloo_where_all_responses_have_the_same_length(seed):
    policy, batch = random_batch(seed, ragged=False)
    same(OPO(), RLOO(beta=0.0), policy, batch, scale=3 / 4)


@few
@given(seeds, st.floats(-3.0, 3.0))
def test_no_baseline_has_less_length_weighted_variance_than_opos(seed, other):
    policy, batch = random_batch(seed)
    length_GK = batch.mask_GKT.sum(-1)
    advantage_GK = coefficients(OPO(), policy, batch)[..., 0] * sizes(batch)[..., 0] * 3
    # Σ |y| A² is least where Σ |y| A = 0.
    close((length_GK * advantage_GK).sum(-1), torch.zeros(3), atol=1e-11)
    raised_GK = torch.where(batch.valid_GK, advantage_GK + other, 0.0)
    assert ((length_GK * raised_GK.square()).sum(-1) >= (length_GK * advantage_GK.square()).sum(-1) - 1e-11).all()


@few
@given(seeds)
def test_maxrl_is_reinforce_against_the_groups_mean_each_prompt_weighted_by_its_inverse(seed):
    policy, batch = random_batch(seed)
    batch = replace(batch, rewards_GK=batch.rewards_GK.abs())
    k_G11 = sizes(batch)
    mean_G11 = batch.rewards_GK.sum(-1)[:, None, None] / k_G11
    inverse = torch.where(mean_G11 > 0, 1 / mean_G11, 0.0)
    same(MaxRL(), RLOO(beta=0.0), policy, batch, scale=(k_G11 - 1) / k_G11 * inverse, loss=False)


def all_groups(probabilities, rewards, k):
    """Every group of k one-token responses that a bandit can give, each with its probability, as one batch."""
    arms_GK = torch.tensor(list(itertools.product(range(len(probabilities)), repeat=k)))
    logp_A = torch.tensor(probabilities, dtype=torch.float64).log()
    logp_GK1 = logp_A[arms_GK][..., None]
    valid_GK = torch.ones(arms_GK.shape, dtype=torch.bool)
    batch = Batch(
        mask_GKT=valid_GK[..., None],
        valid_GK=valid_GK,
        rewards_GK=torch.tensor(rewards, dtype=torch.float64)[arms_GK],
        old_logp_GKT=logp_GK1,
        behaviour_logp_GKT=logp_GK1,
        sampler_logp_GKT=logp_GK1,
    )
    return PolicyOutput(logp_GKT=logp_GK1), batch, arms_GK, logp_GK1.sum((1, 2)).exp()


def expected_gradient(algorithm, probabilities, rewards, k):
    """The mean ascent direction over all groups, in the logits of a softmax policy [A]."""
    policy, batch, arms_GK, probability_G = all_groups(probabilities, rewards, k)
    c_GK = coefficients(algorithm, policy, batch)[..., 0] * len(arms_GK)  # each group as its own batch
    score_GKA = torch.nn.functional.one_hot(arms_GK, len(probabilities)) - torch.tensor(probabilities)
    return (probability_G[:, None, None] * c_GK[..., None] * score_GKA).sum((0, 1))


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("probabilities", [(0.1, 0.2, 0.7), (0.6, 0.3, 0.1)])
def test_maxrl_follows_the_gradient_of_log_p_of_success_short_of_what_no_group_can_show(k, probabilities):
    """(1 − (1−p)^(k−1)) ∇ log p: a group without a success teaches nothing, one without a failure neither."""
    p = probabilities[0] + probabilities[1]
    gradient_p = torch.tensor([q * ((a < 2) - p) for a, q in enumerate(probabilities)])  # ∂p of a softmax
    expected = (1 - (1 - p) ** (k - 1)) * gradient_p / p
    close(expected_gradient(MaxRL(), probabilities, (1.0, 1.0, 0.0), k), expected, atol=1e-7)


@pytest.mark.parametrize("algorithm", [RLOO(beta=0.0), PolicyGradient(beta=0.0)], ids=lambda a: a.name)
def test_leave_one_out_follows_the_gradient_of_the_mean_reward_without_bias(algorithm):
    probabilities, rewards = (0.2, 0.3, 0.5), (1.0, -0.4, 0.3)
    mean = sum(q * r for q, r in zip(probabilities, rewards, strict=True))
    expected = torch.tensor([q * (r - mean) for q, r in zip(probabilities, rewards, strict=True)])
    close(expected_gradient(algorithm, probabilities, rewards, 3), expected, atol=1e-7)


@few
@given(seeds)
def test_on_policy_gpg_is_dr_grpo_but_for_the_scale_where_groups_have_one_size(seed):
    policy, batch = random_batch(seed, groups=2)
    batch = on_policy(batch, policy)
    batch = batch.groups(torch.tensor([0, 0]))  # twice the group of four, with its ragged lengths
    policy = PolicyOutput(logp_GKT=policy.logp_GKT[[0, 0]])
    scale = 4 * 10 * 2 / batch.mask_GKT.sum().item()
    same(GPG(rescale=False), DrGRPO(), policy, batch, scale=scale, loss=False)


@few
@given(seeds)
def test_opmd_is_gpg_over_one_plus_tau_with_the_mean_or_as_tau_grows(seed):
    policy, batch = random_batch(seed)
    same(OPMD(tau=0.7), GPG(rescale=False), policy, batch, scale=1 / 1.7)
    ours = coefficients(OPMD(tau=1e7, baseline="log_mean_exp"), policy, batch) * (1 + 1e7)
    close(ours, coefficients(OPMD(), policy, batch) * 2, atol=1e-5)


@few
@given(seeds, st.floats(0.1, 10.0))
def test_opmd_coefficients_of_a_group_sum_to_less_than_zero_the_more_so_the_smaller_tau(seed, tau):
    policy, batch = random_batch(seed, signal=True)
    total_G, smaller_G = (
        coefficients(OPMD(tau=t, baseline="log_mean_exp"), policy, batch)[..., 0].sum(-1) for t in (tau, tau / 2)
    )
    assert (total_G < 0).all()
    assert (smaller_G < total_G).all()


@few
@given(seeds, clips, st.floats(0.0, 0.1))
def test_reinforce_pp_is_ppo_with_a_critic_that_says_zero(seed, clip, beta):
    policy, batch = random_batch(seed)
    zero_GKT = torch.zeros_like(batch.old_logp_GKT)
    batch = replace(batch, old_value_GKT=zero_GKT, final_value_GK=zero_GKT[..., 0])
    policy = replace(policy, value_GKT=zero_GKT)
    ppo = PPO(clip=clip, beta=beta)
    same(ReinforcePP(clip=clip, beta=beta), ppo, policy, batch, loss=False)
    advantages = [a.prepare(batch).extras["advantage_GKT"] for a in (ppo, ReinforcePP(beta=beta))]
    close(*advantages, atol=1e-11)


@few
@given(seeds, clips)
def test_reinforce_pp_baseline_is_grpo_with_one_standard_deviation_where_lengths_are_equal(seed, clip):
    policy, batch = random_batch(seed, ragged=False)
    deviation_GK = batch.rewards_GK - batch.rewards_GK.mean(-1, keepdim=True)
    scale = group_stds(batch) / math.sqrt(deviation_GK.square().mean().item() + 1e-8)
    same(ReinforcePPBaseline(clip=clip, beta=0.0), GRPO(clip=clip), policy, batch, scale=scale, loss=False)


@few
@given(seeds, betas)
def test_reinforce_pp_baseline_pulls_by_k2_where_grpo_pulls_by_k3(seed, beta):
    policy, batch = random_batch(seed)
    batch = replace(batch, rewards_GK=torch.ones_like(batch.rewards_GK))
    algorithm = ReinforcePPBaseline(beta=beta)
    log_ratio_GKT = torch.where(batch.mask_GKT, policy.logp_GKT - batch.anchor_logp_GKT("reference"), 0.0)
    expected = -beta * log_ratio_GKT / batch.mask_GKT.sum()
    close(coefficients(algorithm, policy, algorithm.prepare(batch)), expected, atol=1e-11)


# Clipped and weighted ratios


@few
@given(seeds, clips)
def test_dr_grpo_is_grpo_without_the_standard_deviation_and_the_length(seed, clip):
    policy, batch = random_batch(seed)
    scale = 10 / group_stds(batch) / lengths(batch)
    same(GRPO(clip=clip), DrGRPO(clip=clip), policy, batch, scale=scale, loss=False)


@few
@given(seeds, clips)
def test_dapo_with_one_epsilon_and_no_shaping_is_grpo_up_to_the_average(seed, clip):
    policy, batch = random_batch(seed)
    dapo = DAPO(clip_low=clip, clip_high=clip, overlong=0.0, dynamic_sampling=False)
    scale = batch.mask_GKT.sum().item() / (lengths(batch) * sizes(batch) * 3)
    same(GRPO(clip=clip), dapo, policy, batch, scale=scale, loss=False)
    one, full = random_batch(seed, ragged=False)  # the same average, where all lengths and sizes are equal
    same(GRPO(clip=clip), dapo, one, full)


@few
@given(seeds, clips)
def test_gspo_on_responses_of_one_token_is_grpo(seed, clip):
    policy, batch = random_batch(seed, tokens=1)
    same(GSPO(clip_low=clip, clip_high=clip), GRPO(clip=clip), policy, batch)


@few
@given(seeds)
def test_gmpo_is_gspo_where_neither_clips(seed):
    policy, batch = random_batch(seed)
    same(GMPO(clip=100.0), GSPO(clip_low=1.0, clip_high=1e9), policy, batch)


@few
@given(seeds, clips)
def test_on_policy_gspo_and_gmpo_are_grpo(seed, clip):
    policy, batch = random_batch(seed)
    batch = on_policy(batch, policy)
    for algorithm in (GSPO(), GSPO(clip_low=clip, clip_high=clip), GMPO(), GMPO(clip=clip)):
        same(algorithm, GRPO(), policy, batch)


@few
@given(seeds, st.floats(0.3, 10.0), st.floats(0.3, 10.0))
def test_on_policy_sapo_has_the_gradient_of_grpo_whatever_tau(seed, tau_pos, tau_neg):
    policy, batch = random_batch(seed)
    same(SAPO(tau_pos=tau_pos, tau_neg=tau_neg), GRPO(), policy, on_policy(batch, policy), loss=False)


@few
@given(seeds)
def test_on_policy_cispo_and_vespo_have_the_gradient_of_dapo_without_shaping_and_dppo_that_of_gpg(seed):
    policy, batch = random_batch(seed)
    batch = on_policy(batch, policy)
    for algorithm in (CISPO(), CISPO(clip_low=0.2, clip_high=0.2), VESPO()):
        same(algorithm, DAPO(overlong=0.0), policy, batch, loss=False)
    for dppo in (DPPO(), DPPO(divergence="kl", threshold=0.05)):
        same(dppo, GPG(rescale=False), policy, batch)


@few
@given(seeds, st.sampled_from(["tv", "kl"]))
def test_dppo_is_cispo_with_weights_up_to_20_and_no_std_where_no_token_is_masked(seed, divergence):
    policy, batch = random_batch(seed, off_policy=2.0)
    far = DPPO(divergence=divergence, threshold=1e9)
    same(far, CISPO(clip_low=1.0, clip_high=19.0), policy, batch, scale=group_stds(batch), loss=False)


@few
@given(seeds)
def test_on_policy_topr_is_reinforce_against_the_groups_mean(seed):
    policy, batch = random_batch(seed)
    k_G11 = sizes(batch)
    same(TOPR(), RLOO(beta=0.0), policy, on_policy(batch, policy), scale=(k_G11 - 1) / k_G11, loss=False)


# Regressions, preferences, distillation


@few
@given(seeds, betas, anchors)
def test_tba_has_the_gradient_of_gvpo_times_k_minus_one_over_k_beta_squared(seed, beta, anchor):
    policy, batch = random_batch(seed)
    k_G11 = sizes(batch)
    scale = (k_G11 - 1) / (k_G11 * beta**2)
    same(TBA(beta=beta, anchor=anchor), GVPO(beta=beta, anchor=anchor), policy, batch, scale=scale, loss=False)


@few
@given(seeds, betas, anchors)
def test_rebel_is_gvpo_with_the_inverse_beta_times_2_eta_squared(seed, eta, anchor):
    policy, batch = random_batch(seed)
    rebel, gvpo = REBEL(eta=eta, anchor=anchor), GVPO(beta=1 / eta, anchor=anchor)
    same(rebel, gvpo, policy, batch, scale=2 * eta**2)


@few
@given(seeds, betas)
def test_a_star_po_is_kimi_with_the_optimal_value_in_place_of_the_mean_reward(seed, beta):
    policy, batch = random_batch(seed)
    mean_G1 = batch.rewards_GK.sum(-1, keepdim=True) / batch.valid_GK.sum(-1, keepdim=True)
    batch = batch.with_extras(reference_reward_GN=mean_G1.expand(3, 8))
    same(AStarPO(beta=beta), Kimi(beta=beta, anchor="reference"), policy, batch)


@few
@given(seeds, betas)
def test_a_star_po_is_at_rest_at_its_optimum_where_the_value_is_exact(seed, beta):
    """π_ref exp(R/β)/Z over four equally likely answers, of which the reference samples hold each once."""
    reward_A = torch.from_numpy(np.random.default_rng(seed).normal(size=4))
    ref_A = torch.full((4,), math.log(1 / 4), dtype=torch.float64)
    optimum_A = (ref_A + reward_A / beta).log_softmax(-1)
    valid_GK = torch.ones(1, 4, dtype=torch.bool)
    logp_GKT = optimum_A[None, :, None]
    batch = Batch(
        mask_GKT=valid_GK[..., None],
        valid_GK=valid_GK,
        rewards_GK=reward_A[None],
        old_logp_GKT=logp_GKT,
        behaviour_logp_GKT=logp_GKT,
        sampler_logp_GKT=logp_GKT,
        ref_logp_GKT=ref_A[None, :, None],
        extras={"reference_reward_GN": reward_A[None]},
    )
    algorithm = AStarPO(value_beta=beta, beta=beta)
    close(algorithm.loss(PolicyOutput(logp_GKT=logp_GKT), batch).loss, 0.0)
    close(coefficients(algorithm, PolicyOutput(logp_GKT=logp_GKT), batch), torch.zeros(1, 4, 1), atol=1e-12)


@few
@given(seeds, betas, anchors, st.floats(-10.0, 10.0))
def test_tba_and_rebel_are_at_rest_where_the_log_ratio_is_the_reward_over_beta(seed, beta, anchor, constant):
    policy, batch = random_batch(seed)
    target_GKT = torch.where(batch.mask_GKT, batch.anchor_logp_GKT(anchor), math.nan)
    target_GKT[..., 0] += batch.rewards_GK / beta + constant
    for algorithm in (TBA(beta=beta, anchor=anchor), REBEL(eta=1 / beta, anchor=anchor)):
        optimum = replace(policy, logp_GKT=target_GKT)
        close(coefficients(algorithm, optimum, batch), torch.zeros(3, 4, 5), atol=1e-9)


@few
@given(seeds, betas)
def test_offline_dpo_is_dpo_on_given_pairs(seed, beta):
    same(OfflineDPO(beta=beta), DPO(beta=beta), *random_batch(seed, samples=2, ragged=False))


@few
@given(seeds, betas, betas, anchors)
def test_ipo_at_the_anchor_points_where_dpo_does_and_rests_at_its_margin(seed, beta, beta_dpo, anchor):
    policy, batch = random_batch(seed, signal=True)
    anchor_GKT = torch.where(batch.mask_GKT, batch.anchor_logp_GKT(anchor), math.nan)
    at_anchor = replace(policy, logp_GKT=anchor_GKT)
    # For each pair: 2·1/(2β) in the square, βσ(0) = β/2 in the logistic
    ipo, dpo = IPO(beta=beta, anchor=anchor), DPO(beta=beta_dpo, anchor=anchor)
    same(ipo, dpo, at_anchor, batch, scale=(1 / beta) / (beta_dpo / 2), loss=False)
    # Two samples, the better ahead by 1/(2β): at rest, where DPO still pushes on.
    pairs, pair_batch = random_batch(seed, samples=2, ragged=False, signal=True)
    target_GKT = pair_batch.anchor_logp_GKT(anchor).clone()
    best_G1 = pair_batch.rewards_GK.argmax(-1, keepdim=True)
    target_GKT[..., 0] = target_GKT[..., 0].scatter_add(1, best_G1, torch.full((3, 1), 1 / (2 * beta)).double())
    optimum = replace(pairs, logp_GKT=target_GKT)
    close(coefficients(ipo, optimum, pair_batch), torch.zeros(3, 2, 5), atol=1e-5)
    assert (coefficients(dpo, optimum, pair_batch) != 0).any()


@few
@given(seeds, anchors)
def test_gvpd_without_weights_is_gvpo_on_the_teachers_log_ratio_to_any_anchor(seed, anchor):
    policy, batch = random_batch(seed)
    reward_GK = batch.extras["teacher_logp_GK"] - batch.anchor_logp_GKT(anchor).sum(-1)
    same(
        GVPD(length_normalised=False),
        GVPO(beta=1.0, anchor=anchor),
        policy,
        replace(batch, rewards_GK=torch.where(batch.valid_GK, reward_GK, 0.0)),
    )


@few
@given(seeds)
def test_gvpd_weights_make_no_difference_where_lengths_are_equal(seed):
    same(GVPD(), GVPD(length_normalised=False), *random_batch(seed, ragged=False))
