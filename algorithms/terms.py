"""Terms that several losses share: baselines, averages, and the clipped surrogate.

Each loss still states its whole formula; these are its words. Imports torch and `algorithms.base` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.base import (
    Batch,
    PolicyOutput,
    centred,
    clamped_ratio,
    covariance,
    group_size,
    masked,
    require,
    sequence_sum,
    token_log_ratio,
    token_mean,
)

STD_EPSILON = 1e-6
"""Added to the standard deviation, as in verl: a group of equal rewards, exactly zero once centred, stays zero."""

VARIANCE_EPSILON = 1e-8
"""Added to the variance before whitening, as in TRL and verl, so that equal advantages are zero."""


def group_std(x_GK: Tensor, valid_GK: Tensor) -> Tensor:
    """The sample standard deviation (1/(k−1)) of each group, [G]; zero for a group of one."""
    return covariance(x_GK, x_GK, valid_GK).sqrt()


def standardised(x_GK: Tensor, valid_GK: Tensor) -> Tensor:
    """(x_i − x̄)/std(x) within each group, [G, K]: GRPO's advantage."""
    return centred(x_GK, valid_GK) / (group_std(x_GK, valid_GK)[:, None] + STD_EPSILON)


def leave_one_out(x_GK: Tensor, valid_GK: Tensor) -> Tensor:
    """x_i − 1/(k−1) Σ_{j≠i} x_j = (x_i − x̄) k/(k−1) within each group, [G, K]; zero for a group of one."""
    k_G1 = group_size(valid_GK)
    return centred(x_GK, valid_GK) * k_G1 / (k_G1 - 1).clamp(min=1)


def whitened(x_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    """x with mean 0 and variance 1 over all tokens of the batch, [G, K, T]; zero where all are equal."""
    # All tokens of the batch are one group here.
    x_GKT = centred(x_GKT.reshape(1, -1), mask_GKT.reshape(1, -1)).view_as(x_GKT)
    return x_GKT / (token_mean(x_GKT.square(), mask_GKT) + VARIANCE_EPSILON).sqrt()


def per_token(x_GK: Tensor, mask_GKT: Tensor) -> Tensor:
    """What is known of a response, at each of its tokens, [G, K, T]."""
    return masked(x_GK[..., None].expand(mask_GKT.shape), mask_GKT)


def response_length(mask_GKT: Tensor) -> Tensor:
    """|y_i| in tokens, [G, K], at least 1 so that it can divide."""
    return mask_GKT.sum(-1).clamp(min=1)


def response_mean(x_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    """1/|y_i| Σ_t x, [G, K]."""
    return sequence_sum(x_GKT, mask_GKT) / response_length(mask_GKT)


def mean_of_groups(x_GK: Tensor, valid_GK: Tensor) -> Tensor:
    """1/|D| Σ_x 1/k(x) Σ_i x_i, scalar: each prompt counts the same, however many samples it has."""
    return (masked(x_GK, valid_GK) / group_size(valid_GK)).sum(-1).mean()


def log_mean_exp(x_GN: Tensor, valid_GN: Tensor) -> Tensor:
    """log 1/n Σ exp(x) over the valid ones of each row, [G, 1]; 0 where there is none."""
    count_G1 = group_size(valid_GN).to(x_GN.dtype)
    log_sum_G1 = x_GN.masked_fill(~valid_GN, -torch.inf).logsumexp(-1, keepdim=True)
    return masked(log_sum_G1 - count_G1.log(), valid_GN.any(-1, keepdim=True))


def ordered_pairs(batch: Batch) -> Tensor:
    """bool [G, K, K]. Whether sample i is valid and better than sample j, which is valid too."""
    valid_GK = batch.valid_GK
    better_GKK = batch.rewards_GK[:, :, None] > batch.rewards_GK[:, None, :]
    return better_GKK & valid_GK[:, :, None] & valid_GK[:, None, :]


def mean_of_pairs(x_GKK: Tensor, pair_GKK: Tensor) -> Tensor:
    """The mean over the pairs of each group, then over the groups that have one, scalar; 0 if none has."""
    pairs_G = pair_GKK.sum((1, 2))
    mean_G = masked(x_GKK, pair_GKK).sum((1, 2)) / pairs_G.clamp(min=1)
    return mean_G.sum() / (pairs_G > 0).sum().clamp(min=1)


def share(x_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    """The share of the batch's tokens at which a condition holds, scalar."""
    return mask_GKT.logical_and(x_GKT).sum() / mask_GKT.sum().clamp(min=1)


def k3(policy: PolicyOutput, batch: Batch) -> Tensor:
    """π_ref/π_θ − log(π_ref/π_θ) − 1 of each token, [G, K, T], in nats: an estimate of KL(π_θ‖π_ref) that is never
    negative (Schulman 2020).

    With the clamped ratio in both terms: the log alone would push π_θ away from a π_ref that is far above it.
    """
    ref_ratio_GKT, _ = clamped_ratio(-token_log_ratio(policy, batch, "reference"), batch.mask_GKT)
    return ref_ratio_GKT - ref_ratio_GKT.log() - 1


def clipped_surrogate(
    policy: PolicyOutput, batch: Batch, advantage_GKT: Tensor, *, low: float, high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """min[ρ Â, clip(ρ, 1−low, 1+high) Â] of each token, with ρ = π_θ/π_behaviour (PPO, arXiv 1707.06347, eq. 7).

    `advantage_GKT` may have a last dimension of 1. Returns [G, K, T], and as metrics the share of tokens whose gradient
    the clip stops, and of log-ratios that were clamped.
    """
    mask_GKT = batch.mask_GKT
    ratio_GKT, clamped = clamped_ratio(token_log_ratio(policy, batch, "behaviour"), mask_GKT)
    clipped_GKT = ratio_GKT.clamp(1 - low, 1 + high)
    objective_GKT = torch.minimum(ratio_GKT * advantage_GKT, clipped_GKT * advantage_GKT)
    clipped_share = token_mean((objective_GKT < ratio_GKT * advantage_GKT).to(ratio_GKT.dtype), mask_GKT)
    return objective_GKT, {"clipped_share": clipped_share, "clamped_share": clamped}


def require_clip(name: str, *, low: float, high: float) -> None:
    """Raises ValueError unless 0 ≤ low ≤ 1 and high > 0: clip(ρ, 1−low, 1+high) is then a range of ratios."""
    require(0 <= low <= 1, f"{name}: clip_low is {low}; it must lie in [0, 1]")
    require(high > 0, f"{name}: clip_high is {high}; it must be positive")
