"""Online Policy Mirror Descent (OPMD, arXiv 2505.17826; Trinity-RFT: trinity/algorithm/{advantage,policy_loss}_fn)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    """REINFORCE against the group's mean or its soft maximum of the rewards, averaged over tokens:

        L = −1/(1+τ) · 1/Σ|y_i| Σ_x Σ_i Σ_t (R_i − b) log π_θ(y_it),   b = R̄ or τ log 1/k Σ_j exp(R_j/τ)

    The soft maximum is the value of mirror descent with step 1/τ; as τ grows it becomes R̄, as τ falls the best reward.

    Reduces to: GPG without α, times 1/(1+τ), with b = R̄.

    Pitfalls: with b = R̄, the default as in Trinity-RFT, τ is but a scale. With the soft maximum the coefficients of a
    group sum to less than zero, the more so the smaller τ: probability flows out of what was sampled.
    """

    name: ClassVar[str] = "OPMD"
    family: ClassVar[Family] = "policy gradient"

    tau: float = hyperparameter(1.0, "τ, the temperature of the baseline and the scale", search=LogUniform(0.1, 10.0))
    baseline: Literal["mean", "log_mean_exp"] = hyperparameter("mean", "b, the mean or the soft maximum of the rewards")

    def __post_init__(self) -> None:
        require(self.tau > 0, f"opmd: tau is {self.tau}; it must be positive")
        require(
            self.baseline in ("mean", "log_mean_exp"),
            f"opmd: baseline is {self.baseline!r}; use 'mean' or 'log_mean_exp'",
        )

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        advantage_GK = centred(batch.rewards_GK, valid_GK)
        if self.baseline == "log_mean_exp":
            # R_i − b = (R_i − R̄) − τ log mean exp((R_j − R̄)/τ), exact where all rewards are equal.
            shift_G1 = self.tau * log_mean_exp(advantage_GK / self.tau, valid_GK)
            advantage_GK = masked(advantage_GK - shift_G1, valid_GK)
        surrogate = token_mean(advantage_GK[..., None] * token_log_prob(policy, batch), batch.mask_GKT)
        return LossOutput(loss=-surrogate / (1 + self.tau))
