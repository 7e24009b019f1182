"""Rejection-sampling fine-tuning (RFT; DeepSeekMath, arXiv 2402.03300, eq. 8 and table 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    hyperparameter,
    masked,
    require,
    token_log_prob,
)
from algorithms.terms import mean_of_groups, response_mean, share


@dataclass(frozen=True, kw_only=True)
class RFT(Algorithm):
    """The negative log-likelihood of those samples of the base that are right:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1[R_i > r] 1/|y_i| Σ_t log π_θ(y_it),   y_i from π_ref

    Reduces to: online RFT with samples of the policy; SFT where every sample is right.

    Pitfalls: wrong answers are ignored, not pushed down, and what the base never solves is never learnt.
    """

    name: ClassVar[str] = "RFT"
    family: ClassVar[Family] = "supervised"

    threshold: float = hyperparameter(0.5, "r, above which a reward counts as right")

    def __post_init__(self) -> None:
        require(math.isfinite(self.threshold), f"rft: threshold is {self.threshold}; it must be finite")

    @property
    def needs(self) -> Needs:
        return Needs(data="base", coupling="sequence")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        right_GK = batch.valid_GK & (batch.rewards_GK > self.threshold)
        logp_GK = response_mean(token_log_prob(policy, batch), batch.mask_GKT)
        return LossOutput(
            loss=-mean_of_groups(masked(logp_GK, right_GK), batch.valid_GK),
            metrics={"right_share": share(right_GK, batch.valid_GK)},
        )
