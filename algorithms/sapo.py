"""Soft Adaptive Policy Optimization (SAPO, arXiv 2511.20347; as in verl: verl/trainer/ppo/core_algos.py)."""

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
    require,
    token_log_ratio,
)
from algorithms.terms import mean_of_groups, response_mean, standardised


@dataclass(frozen=True, kw_only=True)
class SAPO(Algorithm):
    """The clip of GRPO's surrogate made soft: a sigmoid gate that fades as a token's ratio leaves 1:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1/|y_i| Σ_t 4/τ_i σ(τ_i (ρ − 1)) Â_i
        τ_i = τ_pos where Â_i > 0, else τ_neg;   ρ = π_θ/π_behaviour,   Â_i = (R_i − R̄)/std(R)

    Its slope at ρ = 1 is 1, whatever τ.

    Reduces to: on-policy its gradient is GRPO's.

    Pitfalls: τ_neg > τ_pos makes wrong answers fade faster. AReaL takes the mean over all tokens of the batch.
    """

    name: ClassVar[str] = "SAPO"
    family: ClassVar[Family] = "weighted ratio"

    tau_pos: float = hyperparameter(1.0, "τ where the advantage is positive", search=LogUniform(0.3, 10.0))
    tau_neg: float = hyperparameter(1.05, "τ where it is not", search=LogUniform(0.3, 10.0))

    def __post_init__(self) -> None:
        require(self.tau_pos > 0, f"sapo: tau_pos is {self.tau_pos}; it must be positive")
        require(self.tau_neg > 0, f"sapo: tau_neg is {self.tau_neg}; it must be positive")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT = batch.mask_GKT
        advantage_GK1 = standardised(batch.rewards_GK, batch.valid_GK)[..., None]
        tau_GK1 = torch.full_like(advantage_GK1, self.tau_neg).masked_fill(advantage_GK1 > 0, self.tau_pos)
        ratio_GKT, clamped = clamped_ratio(token_log_ratio(policy, batch, "behaviour"), mask_GKT)
        gate_GKT = 4 / tau_GK1 * (tau_GK1 * (ratio_GKT - 1)).sigmoid()
        return LossOutput(
            loss=-mean_of_groups(response_mean(gate_GKT * advantage_GK1, mask_GKT), batch.valid_GK),
            metrics={"clamped_share": clamped},
        )
