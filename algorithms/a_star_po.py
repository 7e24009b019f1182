"""A*-PO, optimal advantage regression (arXiv 2505.20686; ZhaolinGao/A-PO: verl/trainer/apo/core_algos.py)."""

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
    hyperparameter,
    require,
    sequence_log_ratio,
)
from algorithms.terms import log_mean_exp, mean_of_groups


@dataclass(frozen=True, kw_only=True)
class AStarPO(Algorithm):
    """Regression of the scaled log-ratio to the optimal advantage, whose value comes from samples of the reference:

        L = 1/|D| Σ_x 1/k(x) Σ_i (β₂ ℓ_i − (R_i − V*))²,   V* = β₁ log 1/N Σ_n exp(R(y_n)/β₁),   y_n from π_ref

    with ℓ_i = Σ_t log π_θ(y_i)/π_ref(y_i). One response a prompt is enough. With β₁ = β₂ and exact V* the optimum is
    π_ref exp(R/β₂)/Z.

    Reduces to: Kimi with V* in place of the group's mean reward, anchored on the reference.

    Pitfalls: N samples of the reference a prompt cost tokens. Where none of them is right, V* is too low, and every
    right answer is pushed for ever: TRL drops such prompts by default, the authors' code can.
    """

    name: ClassVar[str] = "A*-PO"
    family: ClassVar[Family] = "regression"

    value_beta: float = hyperparameter(0.5, "β₁, the temperature of V*", search=LogUniform(0.1, 2.0))
    beta: float = hyperparameter(1e-3, "β₂, the pull towards the reference", search=LogUniform(1e-3, 1.0))
    reference_samples: int = hyperparameter(8, "N, samples of the reference to each prompt")

    def __post_init__(self) -> None:
        require(self.value_beta > 0, f"a_star_po: value_beta is {self.value_beta}; it must be positive")
        require(self.beta > 0, f"a_star_po: beta is {self.beta}; it must be positive")
        require(self.reference_samples >= 1, f"a_star_po: reference_samples is {self.reference_samples}; at least 1")

    @property
    def needs(self) -> Needs:
        return Needs(
            anchor="reference",
            extras=("reference_reward_GN",),
            reference_samples=self.reference_samples,
            coupling="sequence",
            off_policy=True,
        )

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        reward_GN = batch.extra("reference_reward_GN")
        all_GN = torch.ones_like(reward_GN, dtype=torch.bool)
        value_G1 = self.value_beta * log_mean_exp(reward_GN / self.value_beta, all_GN)
        log_ratio_GK = sequence_log_ratio(policy, batch, "reference")
        residual_GK = self.beta * log_ratio_GK - (batch.rewards_GK - value_G1)
        return LossOutput(
            loss=mean_of_groups(residual_GK.square(), batch.valid_GK), metrics={"optimal_value": value_G1.mean()}
        )
