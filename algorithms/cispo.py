"""CISPO, clipped importance-sampling weights (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    clamped_ratio,
    hyperparameter,
    masked,
    stop_gradient,
    token_log_ratio,
    token_mean,
)
from algorithms.terms import require_clip, share, standardised


@dataclass(frozen=True, kw_only=True)
class CISPO(Algorithm):
    """REINFORCE with each token's importance weight clipped and held constant, so that none loses its gradient:

        L = −1/Σ|y_i| Σ_x Σ_i Σ_t sg[clip(ρ, 1−ε_low, 1+ε_high)] Â_i log π_θ(y_it)
        ρ = π_θ/π_behaviour,   Â_i = (R_i − R̄)/std(R)

    where sg stops the gradient. The paper sets no lower bound (ε_low = 1: weights from 0), and tunes ε_high but does
    not say to what; a largest weight of 5 is what TRL recommends, after arXiv 2510.13786.

    Reduces to: on-policy its gradient is DAPO's, without the shaping.

    Pitfalls: the name means other things elsewhere: TRL and ms-swift clip the weight at ε_high itself, so that 0.2
    makes every weight at most 0.2. A floor above 0 can make the KL run away off-policy.
    """

    name: ClassVar[str] = "CISPO"
    family: ClassVar[Family] = "weighted ratio"

    clip_low: float = hyperparameter(1.0, "ε_low; 1 is no lower bound")
    clip_high: float = hyperparameter(4.0, "ε_high: the largest weight is 1 + ε_high", search=LogUniform(0.2, 10.0))

    def __post_init__(self) -> None:
        require_clip("cispo", low=self.clip_low, high=self.clip_high)

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT = batch.mask_GKT
        advantage_GK1 = standardised(batch.rewards_GK, batch.valid_GK)[..., None]
        ratio_GKT, clamped = clamped_ratio(token_log_ratio(policy, batch, "behaviour"), mask_GKT)
        weight_GKT = ratio_GKT.clamp(1 - self.clip_low, 1 + self.clip_high)
        logp_GKT = masked(policy.logp_GKT, mask_GKT)
        return LossOutput(
            loss=-token_mean(stop_gradient(weight_GKT) * advantage_GK1 * logp_GKT, mask_GKT),
            metrics={"clipped_share": share(weight_GKT != ratio_GKT, mask_GKT), "clamped_share": clamped},
        )
