"""REINFORCE++-baseline (arXiv 2501.03262v9, eq. 6 to 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Choice,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    hyperparameter,
    require,
    token_log_ratio,
    token_mean,
)
from algorithms.terms import clipped_surrogate, per_token, whitened


@dataclass(frozen=True, kw_only=True)
class ReinforcePPBaseline(Algorithm):
    """REINFORCE++ on rewards less the group's mean, with the KL in the loss:

        L = −1/Σ|y_i| Σ_x Σ_i Σ_t {min[ρ Â_i, clip(ρ, 1−ε, 1+ε) Â_i] − β k2}
        A_i = R_i − R̄,   k2 = ½ (log π_θ/π_ref)²,   ρ = π_θ/π_behaviour

    Â is A whitened over the tokens of the rollout batch: the group gives the mean, the batch the scale.

    Reduces to: GRPO with one standard deviation for the whole batch, a mean over tokens, and k2 in place of k3, where
    all responses have the same length: else the mean of A over tokens is not zero, and whitening takes it away.

    Pitfalls: a batch in which few groups have a signal has a small standard deviation, and large advantages. The
    authors' OpenRLHF has k2 as an option: its default takes k1 from the reward.
    """

    name: ClassVar[str] = "REINFORCE++ baseline"
    family: ClassVar[Family] = "policy gradient"

    clip: float = hyperparameter(0.2, "ε of the clipped importance ratio", search=LogUniform(0.05, 0.8))
    beta: float = hyperparameter(
        0.01, "β, coefficient of the k2 estimate of KL(π_θ‖π_ref)", search=Choice((0.0, 0.001, 0.01, 0.04))
    )

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, f"reinforce_pp_baseline: clip is {self.clip}; it must lie between 0 and 1")
        require(self.beta >= 0, f"reinforce_pp_baseline: beta is {self.beta}; it must not be negative")

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.beta > 0, coupling="sequence", min_group_size=2)

    def prepare(self, batch: Batch) -> Batch:
        """Adds `advantage_GKT`."""
        advantage_GKT = per_token(centred(batch.rewards_GK, batch.valid_GK), batch.mask_GKT)
        return batch.with_extras(advantage_GKT=whitened(advantage_GKT, batch.mask_GKT))

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        advantage_GKT = batch.extra("advantage_GKT")
        objective_GKT, metrics = clipped_surrogate(policy, batch, advantage_GKT, low=self.clip, high=self.clip)
        if self.beta > 0:
            k2_GKT = token_log_ratio(policy, batch, "reference").square() / 2
            objective_GKT = objective_GKT - self.beta * k2_GKT
            metrics["k2"] = token_mean(k2_GKT, batch.mask_GKT)
        return LossOutput(loss=-token_mean(objective_GKT, batch.mask_GKT), metrics=metrics)
