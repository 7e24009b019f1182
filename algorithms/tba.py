"""Trajectory Balance with Asynchrony (TBA, arXiv 2503.18929; bbartoldson/TBA: src/tba_trainer_gsm8k.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Anchor,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    group_size,
    hyperparameter,
    require,
    require_anchor,
    sequence_log_ratio,
    stop_gradient,
)
from algorithms.terms import mean_of_groups


@dataclass(frozen=True, kw_only=True)
class TBA(Algorithm):
    """Trajectory balance in its VarGrad form, with the partition function estimated by the group:

        L = 1/|D| Σ_x 1/k(x) Σ_i (log Ẑ + ℓ_i − R_i/β)²,   log Ẑ = sg[1/k Σ_j (R_j/β − ℓ_j)]

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i), where sg stops the gradient. The optimum is π' exp(R/β)/Z for every sampling
    policy with its support.

    Reduces to: GVPO with the same anchor: its gradient is GVPO's times (k−1)/(k β²). They differ in scale and in the
    anchor by default.

    Pitfalls: 1/β² makes its scale depend on β far more than its direction. The default β is GVPO's; the authors' code
    lowers it from 0.012 to 0.004 on GSM8K.
    """

    name: ClassVar[str] = "TBA"
    family: ClassVar[Family] = "regression"

    beta: float = hyperparameter(
        0.1, "β, the pull towards the anchor; the optimum is π' exp(R/β)/Z", search=LogUniform(0.03, 3.0)
    )
    anchor: Anchor = hyperparameter("reference", "π' of the log-ratio: 'old', 'behaviour' or 'reference'")

    def __post_init__(self) -> None:
        require(self.beta > 0, f"tba: beta is {self.beta}; it must be positive")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        # R̄/β in log Ẑ and in R_i/β cancel: left out of both, equal rewards are exactly zero.
        scaled_GK = centred(batch.rewards_GK, valid_GK) / self.beta
        centred_log_z_G1 = stop_gradient((scaled_GK - log_ratio_GK).sum(-1, keepdim=True) / group_size(valid_GK))
        residual_GK = centred_log_z_G1 + log_ratio_GK - scaled_GK
        log_z = centred_log_z_G1.mean() + mean_of_groups(batch.rewards_GK, valid_GK) / self.beta
        return LossOutput(loss=mean_of_groups(residual_GK.square(), valid_GK), metrics={"log_z": log_z})
