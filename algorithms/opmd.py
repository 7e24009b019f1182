"""Online Policy Mirror Descent (OPMD; Trinity-RFT, arXiv 2505.17826, appendix A, its simplified form)."""

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
    centred,
    hyperparameter,
    masked,
    require,
    token_log_prob,
    token_mean,
)
from algorithms.terms import log_mean_exp


@dataclass(frozen=True, kw_only=True)
class OPMD(Algorithm):
    """REINFORCE against the group's soft maximum of the rewards, averaged over tokens:

        L = −1/(1+τ) · 1/Σ|y_i| Σ_x Σ_i Σ_t (R_i − b) log π_θ(y_it),   b = τ log 1/k Σ_j exp(R_j/τ)

    b is the value of mirror descent with step 1/τ; as τ grows it becomes the group's mean, which is the default
    elsewhere, as τ falls the best reward.

    Reduces to: GPG without α, times 1/(1+τ), as τ → ∞.

    Pitfalls: the coefficients of a group sum to less than zero, the more so the smaller τ: probability flows out of
    what was sampled.
    """

    name: ClassVar[str] = "OPMD"
    family: ClassVar[Family] = "policy gradient"

    tau: float = hyperparameter(1.0, "τ, the temperature of the baseline", search=LogUniform(0.1, 10.0))

    def __post_init__(self) -> None:
        require(self.tau > 0, f"opmd: tau is {self.tau}; it must be positive")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        # R_i − b = (R_i − R̄) − τ log mean exp((R_j − R̄)/τ), exact where all rewards are equal.
        deviation_GK = centred(batch.rewards_GK, valid_GK)
        advantage_GK = masked(deviation_GK - self.tau * log_mean_exp(deviation_GK / self.tau, valid_GK), valid_GK)
        surrogate = token_mean(advantage_GK[..., None] * token_log_prob(policy, batch), batch.mask_GKT)
        return LossOutput(loss=-surrogate / (1 + self.tau))
