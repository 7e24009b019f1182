"""Variational Sequence-Level Soft Policy Optimization (VESPO, arXiv 2602.10693v3, eq. 20)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

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
    require,
    sequence_log_ratio,
    stop_gradient,
    token_mean,
)
from algorithms.terms import per_token, standardised


@dataclass(frozen=True, kw_only=True)
class VESPO(Algorithm):
    """REINFORCE with a gamma-shaped weight on the whole response's ratio, held constant:

        L = −1/Σ|y_i| Σ_x Σ_i sg[W_i^κ e^{λ (1 − W_i)}] Â_i Σ_t log π_θ(y_it)
        W_i = π_θ(y_i)/π_behaviour(y_i),   Â_i = (R_i − R̄)/std(R)

    where sg stops the gradient; κ and λ are those of the advantage's sign. The weight is 1 on-policy, and goes to zero
    on both sides of κ/λ.

    Reduces to: on-policy its gradient is DAPO's, without the shaping.

    Pitfalls: W is a product over tokens, without 1/|y|, so a long response leaves the bell soon. Eq. 20 has R − R̄ and
    a sum over tokens; the std and the mean over tokens are the authors' code's (FloyedShen/VESPO: recipe/vespo) and
    TRL's.
    """

    name: ClassVar[str] = "VESPO"
    family: ClassVar[Family] = "weighted ratio"

    power_pos: float = hyperparameter(2.0, "κ where the advantage is not negative", search=LogUniform(0.5, 4.0))
    rate_pos: float = hyperparameter(3.0, "λ where the advantage is not negative")
    power_neg: float = hyperparameter(3.0, "κ where it is negative", search=LogUniform(0.5, 4.0))
    rate_neg: float = hyperparameter(2.0, "λ where it is negative")

    def __post_init__(self) -> None:
        for name in ("power_pos", "rate_pos", "power_neg", "rate_neg"):
            value = getattr(self, name)
            require(value > 0, f"vespo: {name} is {value}; it must be positive")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT, valid_GK = batch.mask_GKT, batch.valid_GK
        advantage_GK = standardised(batch.rewards_GK, valid_GK)
        ratio_GK, clamped = clamped_ratio(sequence_log_ratio(policy, batch, "behaviour"), valid_GK)
        right_GK = advantage_GK >= 0
        power_GK = torch.full_like(ratio_GK, self.power_neg).masked_fill(right_GK, self.power_pos)
        rate_GK = torch.full_like(ratio_GK, self.rate_neg).masked_fill(right_GK, self.rate_pos)
        weight_GK = (power_GK * ratio_GK.log() + rate_GK * (1 - ratio_GK)).exp()
        weighted_GKT = per_token(stop_gradient(weight_GK) * advantage_GK, mask_GKT) * masked(policy.logp_GKT, mask_GKT)
        return LossOutput(
            loss=-token_mean(weighted_GKT, mask_GKT),
            metrics={
                "weight": masked(weight_GK, valid_GK).sum() / valid_GK.sum().clamp(min=1),
                "clamped_share": clamped,
            },
        )
