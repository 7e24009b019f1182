"""Divergence Proximal Policy Optimization (DPPO, arXiv 2602.04879v3, eq. 12 to 14; averaged as in verl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    clamped_ratio,
    hyperparameter,
    masked,
    require,
    stop_gradient,
    token_log_ratio,
    token_mean,
)
from algorithms.terms import share

LARGEST_RATIO = 20.0
"""The importance weight is truncated here, as in verl."""


@dataclass(frozen=True, kw_only=True)
class DPPO(Algorithm):
    """REINFORCE with truncated importance weights on tokens whose probability has not moved too far yet:

        L = −1/Σ|y_i| Σ_x Σ_i Σ_t M_it sg[min(ρ, 20)] A_i log π_θ(y_it)
        M_it = 0 where D_it > δ and the ratio has moved the way of its advantage (ρ > 1 and A_i > 0, or ρ < 1 and
        A_i < 0), else 1;   ρ = π_θ/π_behaviour = p/q,   A_i = R_i − R̄
        TV: D = |p − q|;   KL: D = q log(q/p) + (1−q) log((1−q)/(1−p))

    where sg stops the gradient: a trust region in probabilities, not in ratios, of which a rare token may grow fast.

    Reduces to: CISPO with weights from 0 to 20 (ε_low = 1, ε_high = 19) and no std, where no token is masked. On-policy
    it is GPG's gradient without α.

    Pitfalls: δ is a probability (TV) or nats (KL), and one value does not fit both: the paper has 0.15 or 0.2 for TV
    and 0.05 for KL. It truncates ρ at 5 or nowhere, the authors' code (sail-sg/Stable-RL) at 10. With GRPO's std, which
    verl's advantage has by default, it is another loss.
    """

    name: ClassVar[str] = "DPPO"
    family: ClassVar[Family] = "weighted ratio"

    divergence: Literal["tv", "kl"] = hyperparameter(
        "tv", "D, 'tv' or 'kl', between two outcomes: this token or another"
    )
    threshold: float = hyperparameter(
        0.15, "δ, how far a token may have moved; 0.05 for kl", search=LogUniform(0.01, 0.5)
    )

    def __post_init__(self) -> None:
        require(self.divergence in ("tv", "kl"), f"dppo: divergence is {self.divergence!r}; use 'tv' or 'kl'")
        require(self.threshold > 0, f"dppo: threshold is {self.threshold}; it must be positive")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT = batch.mask_GKT
        advantage_GK1 = centred(batch.rewards_GK, batch.valid_GK)[..., None]
        ratio_GKT, clamped = clamped_ratio(token_log_ratio(policy, batch, "behaviour"), mask_GKT)
        logp_GKT = masked(policy.logp_GKT, mask_GKT)
        divergence_GKT = self.divergence_of(logp_GKT, batch.behaviour_logp_GKT)
        away_GKT = (ratio_GKT - 1) * advantage_GK1 > 0
        kept_GKT = ~(away_GKT & (divergence_GKT > self.threshold))
        weight_GKT = stop_gradient(kept_GKT * ratio_GKT.clamp(max=LARGEST_RATIO))
        return LossOutput(
            loss=-token_mean(weight_GKT * advantage_GK1 * logp_GKT, mask_GKT),
            metrics={"masked_share": share(~kept_GKT, mask_GKT), "clamped_share": clamped},
        )

    def divergence_of(self, logp_GKT: Tensor, behaviour_logp_GKT: Tensor) -> Tensor:
        """D between the two policies on {this token, any other}, [G, K, T]: a probability, or nats."""
        p_GKT, q_GKT = logp_GKT.exp(), behaviour_logp_GKT.exp()
        if self.divergence == "tv":
            return (p_GKT - q_GKT).abs()
        tiny = torch.finfo(p_GKT.dtype).tiny
        rest_GKT = torch.log((1 - q_GKT).clamp(min=tiny) / (1 - p_GKT).clamp(min=tiny))
        return q_GKT * (behaviour_logp_GKT - logp_GKT) + (1 - q_GKT) * rest_GKT
