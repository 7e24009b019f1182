"""How the algorithms relate to one another, and to their closed forms, on any batch: off-policy, ragged, with ties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import close, coefficients, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms import DPO, GRPO, GVPO, PPO, Kimi, PolicyOutput
from algorithms import PolicyGradient as PG

seeds = st.integers(0, 2**32 - 1)
betas = st.floats(0.03, 3.0)
constants = st.floats(-10.0, 10.0)
few = settings(max_examples=30, deadline=None)


def groups(policy, batch, anchor="old"):
    """The valid samples of each group as numpy arrays: rewards, log-ratios, Σ log π_θ, Σ log π'."""
    anchor_GKT = batch.anchor_logp_GKT(anchor)
    for g in range(len(batch.valid_GK)):
        valid = batch.valid_GK[g].numpy()
        logp = np.array([policy.logp_GKT[g, k][batch.mask_GKT[g, k]].sum() for k in range(len(valid))])[valid]
        other = np.array([anchor_GKT[g, k][batch.mask_GKT[g, k]].sum() for k in range(len(valid))])[valid]
        yield batch.rewards_GK[g].numpy()[valid], logp - other, logp, other


def sample_coefficients(algorithm, policy, batch):
    """The coefficient of each response [G, K], after checking that its tokens share it."""
    c_GKT = coefficients(algorithm, policy, batch)
    c_GK = c_GKT[..., 0]
    close(c_GKT, torch.where(batch.mask_GKT, c_GK[..., None], 0.0))
    return c_GK


def stacked(rows, K):
    """One array per group as [G, K], zero where there is no sample."""
    return torch.stack([torch.nn.functional.pad(torch.as_tensor(row), (0, K - len(row))) for row in rows])


def on_policy(batch, policy):
    return replace(batch, old_logp_GKT=policy.logp_GKT, behaviour_logp_GKT=policy.logp_GKT)


def shifted(policy, constant):
    """The policy with each response's log-ratio larger by a constant, on its first token."""
    logp_GKT = policy.logp_GKT.clone()
    logp_GKT[..., 0] += constant
    return replace(policy, logp_GKT=logp_GKT)


@few
@given(seeds, betas)
def test_gvpo_is_the_unbiased_sample_variance_of_implicit_minus_given_reward(seed, beta):
    policy, batch = random_batch(seed)
    variances = [np.var(beta * ell - r, ddof=1) if len(r) > 1 else 0.0 for r, ell, _, _ in groups(policy, batch)]
    close(GVPO(beta=beta).loss(policy, batch).loss, float(np.mean(variances)), rtol=1e-12)


@few
@given(seeds, betas)
def test_gvpo_weight_is_the_seeds_equation_9(seed, beta):
    policy, batch = random_batch(seed)
    # w_i = β[(R_i − R̄) − β(ℓ_i − ℓ̄)], times 2/(k−1)/|D| for the loss of eq. 16
    w = [
        2 / max(len(r) - 1, 1) / 3 * beta * ((r - r.mean()) - beta * (ell - ell.mean()))
        for r, ell, _, _ in groups(policy, batch)
    ]
    close(sample_coefficients(GVPO(beta=beta), policy, batch), stacked(w, 4), atol=1e-11)


@few
@given(seeds, betas)
def test_gvpo_coefficients_sum_to_zero_in_each_group(seed, beta):
    policy, batch = random_batch(seed)
    close(sample_coefficients(GVPO(beta=beta), policy, batch).sum(-1), torch.zeros(3), atol=1e-11)


@few
@given(seeds, betas, constants)
def test_constant_added_to_the_rewards_of_a_group_changes_neither_gvpo_nor_kimi(seed, beta, constant):
    policy, batch = random_batch(seed)
    raised = replace(batch, rewards_GK=batch.rewards_GK + constant * torch.tensor([[1.0], [-2.0], [0.5]]))
    for algorithm in (GVPO(beta=beta), Kimi(beta=beta)):
        close(algorithm.loss(policy, raised).loss, algorithm.loss(policy, batch).loss, atol=1e-9)
        close(coefficients(algorithm, policy, raised), coefficients(algorithm, policy, batch), atol=1e-10)


@few
@given(seeds, betas, constants)
def test_constant_added_to_the_log_ratios_of_a_group_changes_kimi_but_not_gvpo(seed, beta, constant):
    policy, batch = random_batch(seed)
    moved = shifted(policy, constant)
    close(GVPO(beta=beta).loss(moved, batch).loss, GVPO(beta=beta).loss(policy, batch).loss, atol=1e-9)
    close(coefficients(GVPO(beta=beta), moved, batch), coefficients(GVPO(beta=beta), policy, batch), atol=1e-10)
    # Kimi's coefficient is 2β/k/|D|·(R_i − R̄ − βℓ_i)
    change = [np.full(len(r), -2 * beta**2 * constant / len(r) / 3) for r, *_ in groups(policy, batch)]
    before, after = (sample_coefficients(Kimi(beta=beta), p, batch) for p in (policy, moved))
    close(after - before, stacked(change, 4), atol=1e-10)


@few
@given(seeds, betas)
def test_centring_the_log_ratio_is_all_that_separates_gvpo_from_kimi(seed, beta):
    policy, batch = random_batch(seed)
    k_G1 = batch.valid_GK.sum(-1, keepdim=True)
    gvpo = sample_coefficients(GVPO(beta=beta), policy, batch) * (k_G1 - 1) / (2 * beta)
    kimi = sample_coefficients(Kimi(beta=beta), policy, batch) * k_G1 / (2 * beta)
    mean_log_ratio = [np.full(len(ell), beta * ell.mean() / 3) for r, ell, _, _ in groups(policy, batch)]
    expected = stacked(mean_log_ratio, 4)
    expected[k_G1[:, 0] == 1] = -kimi[k_G1[:, 0] == 1]  # GVPO gives a group of one nothing; there Kimi has −βℓ
    close(gvpo - kimi, expected, atol=1e-11)


@few
@given(seeds, betas)
def test_gvpo_and_kimi_are_proportional_where_the_mean_log_ratio_is_zero(seed, beta):
    policy, batch = random_batch(seed, ragged=False)
    mean_G = torch.tensor([ell.mean() for _, ell, _, _ in groups(policy, batch)])
    centred = shifted(policy, -mean_G[:, None])
    gvpo, kimi = (coefficients(a, centred, batch) for a in (GVPO(beta=beta), Kimi(beta=beta)))
    close(gvpo * (4 - 1), kimi * 4, atol=1e-11)


@few
@given(seeds, betas)
def test_on_policy_gvpo_kimi_and_policy_gradient_point_the_same_way(seed, beta):
    policy, batch = random_batch(seed)
    batch = on_policy(batch, policy)
    k_G1 = batch.valid_GK.sum(-1, keepdim=True)
    centred = stacked([(r - r.mean()) / 3 for r, *_ in groups(policy, batch)], 4)
    close(sample_coefficients(GVPO(beta=beta), policy, batch) * (k_G1 - 1) / (2 * beta), centred * (k_G1 > 1))
    close(sample_coefficients(Kimi(beta=beta), policy, batch) * k_G1 / (2 * beta), centred)
    close(sample_coefficients(PG(beta=beta), policy, batch) * (k_G1 - 1), centred * (k_G1 > 1))


@few
@given(seeds, betas, st.sampled_from(["old", "behaviour", "reference"]))
def test_policy_gradient_without_importance_weight_is_gvpo_over_2_beta(seed, beta, anchor):
    policy, batch = random_batch(seed, off_policy=1.0)
    gvpo = coefficients(GVPO(beta=beta, anchor=anchor), policy, batch)
    pg = coefficients(PG(beta=beta, anchor=anchor, importance_weight=False), policy, batch)
    close(pg, gvpo / (2 * beta), atol=1e-11)


@few
@given(seeds, betas)
def test_importance_weight_is_all_that_separates_policy_gradient_from_gvpo(seed, beta):
    policy, batch = random_batch(seed)
    rho = [np.exp(ell) for _, ell, _, _ in groups(policy, batch, "behaviour")]
    weighted = sample_coefficients(PG(beta=beta), policy, batch)
    close(weighted, stacked(rho, 4) * sample_coefficients(GVPO(beta=beta), policy, batch) / (2 * beta), atol=1e-9)


@few
@given(seeds, betas)
def test_gvpo_decomposes_into_reward_anchor_and_entropy_terms(seed, beta):
    """The seed's eq. 13 with β kept, each term by torch.cov."""
    policy, batch = random_batch(seed)
    logp_GKT = policy.logp_GKT.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for g in range(2):  # the third group has one sample
        valid = batch.valid_GK[g]
        logp, anchor = (
            torch.stack([x[g, k][batch.mask_GKT[g, k]].sum() for k in valid.nonzero()[:, 0]])
            for x in (logp_GKT, batch.old_logp_GKT)
        )
        cov = torch.cov(torch.stack([batch.rewards_GK[g][valid], logp, anchor]))
        total = total - 2 * beta * cov[0, 1] - 2 * beta**2 * cov[1, 2] + beta**2 * cov[1, 1]
    (gradient,) = torch.autograd.grad(total / 3, logp_GKT)
    close(coefficients(GVPO(beta=beta), policy, batch), -gradient, atol=1e-10)


@few
@given(seeds, betas, constants)
def test_gvpo_is_at_rest_where_the_log_ratio_is_the_reward_over_beta(seed, beta, constant):
    """log π*/π' = R/β − log Z for any Z: the seed's eq. 4."""
    policy, batch = random_batch(seed)
    target_GKT = torch.where(batch.mask_GKT, batch.old_logp_GKT, math.nan)
    target_GKT[..., 0] += batch.rewards_GK / beta + constant
    optimum = replace(policy, logp_GKT=target_GKT)
    close(GVPO(beta=beta).loss(optimum, batch).loss, 0.0)
    close(coefficients(GVPO(beta=beta), optimum, batch), torch.zeros(3, 4, 5), atol=1e-11)


@few
@given(seeds, betas)
def test_gvpo_with_two_samples_regresses_the_difference_of_rewards(seed, beta):
    """½(β(ℓ₁ − ℓ₂) − (R₁ − R₂))², the variance of two numbers being half their squared difference."""
    policy, batch = random_batch(seed, samples=2, ragged=False)
    expected = np.mean(
        [0.5 * (beta * (ell[0] - ell[1]) - (r[0] - r[1])) ** 2 for r, ell, _, _ in groups(policy, batch)]
    )
    close(GVPO(beta=beta).loss(policy, batch).loss, float(expected), rtol=1e-12)


@few
@given(seeds, betas)
def test_dpo_with_two_samples_has_the_sigmoid_as_its_weight(seed, beta):
    """± βσ(β(ℓ_l − ℓ_w)): the gradient of arXiv 2305.18290, section 4."""
    policy, batch = random_batch(seed, groups=5, samples=2, ragged=False)
    expected, losses = [], []
    for r, ell, _, _ in groups(policy, batch, "reference"):
        sign = np.sign(r[0] - r[1])
        weight = beta / (1 + np.exp(sign * beta * (ell[0] - ell[1])))
        expected.append(np.array([sign * weight, -sign * weight]))
        if sign:
            losses.append(np.log1p(np.exp(-sign * beta * (ell[0] - ell[1]))))
    close(sample_coefficients(DPO(beta=beta), policy, batch), stacked(expected, 2) / len(losses), atol=1e-11)
    close(DPO(beta=beta).loss(policy, batch).loss, float(np.mean(losses)), rtol=1e-12)


@few
@given(seeds, constants)
def test_constant_added_to_the_log_ratios_of_a_group_changes_nothing_in_dpo(seed, constant):
    policy, batch = random_batch(seed)
    moved = shifted(policy, constant)
    close(coefficients(DPO(), moved, batch), coefficients(DPO(), policy, batch), atol=1e-11)


@few
@given(seeds, st.sampled_from([0.0, 0.04]))
def test_grpo_on_policy_is_standardised_reinforce_plus_the_pull_of_k3(seed, beta):
    """Â_i + β(π_ref/π_θ − 1) over k·|y|: DeepSeekMath, arXiv 2402.03300, eq. 21, averaged over prompts."""
    policy, batch = random_batch(seed)
    batch = on_policy(batch, policy)
    standardised = [
        (r - r.mean()) / (r.std(ddof=1) + 1e-6) if len(r) > 1 else np.zeros(1) for r, *_ in groups(policy, batch)
    ]
    pull_GKT = beta * ((batch.ref_logp_GKT - policy.logp_GKT).exp() - 1)
    k_G11 = batch.valid_GK.sum(-1)[:, None, None]
    length_GK1 = batch.mask_GKT.sum(-1, keepdim=True)
    expected = (stacked(standardised, 4)[..., None] + pull_GKT) / length_GK1 / k_G11 / 3
    close(coefficients(GRPO(beta=beta), policy, batch), torch.where(batch.mask_GKT, expected, 0.0), atol=1e-11)


@few
@given(seeds)
def test_grpo_with_a_wide_clip_is_importance_weighted_reinforce(seed):
    policy, batch = random_batch(seed, off_policy=0.05)  # within (0, 2), where a clip of almost 1 does nothing
    wide = coefficients(GRPO(clip=1 - 1e-9), policy, batch)
    advantage = coefficients(GRPO(), policy, on_policy(batch, policy))
    ratio_GKT = (policy.logp_GKT - batch.behaviour_logp_GKT).exp()
    close(wide, torch.where(batch.mask_GKT, ratio_GKT * advantage, 0.0), atol=1e-11)


@few
@given(seeds)
def test_ppo_without_critic_and_discount_is_reinforce_with_the_reward_at_each_token(seed):
    policy, batch = random_batch(seed)
    zero_GKT = torch.zeros_like(policy.logp_GKT)
    batch = replace(on_policy(batch, policy), old_value_GKT=zero_GKT, final_value_GK=zero_GKT[..., 0])
    algorithm = PPO(gamma=1.0, gae_lambda=1.0, whiten=False)
    batch = algorithm.prepare(batch)
    reward_GKT = torch.where(batch.mask_GKT, batch.rewards_GK[..., None], 0.0)
    close(batch.extras["advantage_GKT"], reward_GKT)
    close(coefficients(algorithm, policy, batch), reward_GKT / batch.mask_GKT.sum())


@few
@given(seeds, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_ppo_advantage_is_the_discounted_sum_of_td_errors(seed, gamma, lam):
    """GAE, arXiv 1506.02438, eq. 16, one response at a time and without recursion."""
    _, batch = random_batch(seed)
    assert batch.old_value_GKT is not None and batch.final_value_GK is not None  # noqa: PT018
    assert batch.truncated_GK is not None and batch.ref_logp_GKT is not None  # noqa: PT018
    extras = PPO(gamma=gamma, gae_lambda=lam, whiten=False, beta=0.03).prepare(batch).extras
    for g, k in batch.valid_GK.nonzero().tolist():
        n = int(batch.mask_GKT[g, k].sum())
        after = batch.final_value_GK[g, k] if batch.truncated_GK[g, k] else torch.zeros(())
        value = [*batch.old_value_GKT[g, k, :n].tolist(), after.item()]
        reward = (-0.03 * (batch.old_logp_GKT - batch.ref_logp_GKT)[g, k, :n]).tolist()
        reward[-1] += batch.rewards_GK[g, k].item()
        delta = [reward[t] + gamma * value[t + 1] - value[t] for t in range(n)]
        expected = [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)]
        close(extras["advantage_GKT"][g, k, :n], torch.tensor(expected, dtype=torch.float64), atol=1e-11)


@few
@given(seeds)
def test_ppo_with_lambda_one_returns_the_discounted_reward_whatever_the_critic_says(seed):
    _, batch = random_batch(seed)
    batch = replace(batch, truncated_GK=torch.zeros_like(batch.valid_GK))
    extras = PPO(gamma=0.9, gae_lambda=1.0).prepare(batch).extras
    to_go_GKT = batch.mask_GKT.sum(-1, keepdim=True) - 1.0 - torch.arange(5, dtype=torch.float64)
    expected = torch.where(batch.mask_GKT, batch.rewards_GK[..., None] * 0.9**to_go_GKT, 0.0)
    close(extras["return_GKT"], expected, atol=1e-11)


@few
@given(seeds)
def test_whitened_advantages_have_mean_zero_and_variance_one_over_the_tokens(seed):
    _, batch = random_batch(seed)
    advantage = PPO().prepare(batch).extras["advantage_GKT"][batch.mask_GKT].numpy()
    assert advantage.mean() == pytest.approx(0.0, abs=1e-12)
    assert advantage.std() == pytest.approx(1.0, abs=1e-6)


@few
@given(seeds, st.sampled_from([GVPO(), GRPO(), Kimi(), PG()]))
def test_loss_of_a_batch_is_the_mean_over_its_prompts(seed, algorithm):
    policy, batch = random_batch(seed)
    losses = [
        algorithm.loss(PolicyOutput(logp_GKT=policy.logp_GKT[g : g + 1]), batch.groups(slice(g, g + 1))).loss
        for g in range(3)
    ]
    close(algorithm.loss(policy, batch).loss, torch.stack(losses).mean(), atol=1e-11)
