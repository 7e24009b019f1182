"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300, eq. 3 and 4)."""

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
    hyperparameter,
    require,
    token_mean,
)
from algorithms.terms import STD_EPSILON, clipped_surrogate, group_std, k3, mean_of_groups, response_mean, standardised


@dataclass(frozen=True, kw_only=True)
class GRPO(Algorithm):
    """Clipped surrogate on rewards standardised within the group, averaged per response, with an optional k3 KL:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1/|y_i| Σ_t {min[ρ Â_i, clip(ρ, 1−ε, 1+ε) Â_i] − β k3}
        Â_i = (R_i − R̄)/std(R),   ρ = π_θ/π_behaviour,   k3 = π_ref/π_θ − log(π_ref/π_θ) − 1

    with the sample standard deviation (1/(k−1)), as in verl and TRL; the paper leaves it open.

    Reduces to: Dr.GRPO without std and 1/|y|; DAPO with one ε, a mean per response, and no refilling or shaping.

    Pitfalls: 1/|y| makes long wrong answers cheap, and the std weighs easy and hard prompts up (Dr.GRPO). A group of
    equal rewards teaches nothing. On stale samples it stops where the clip stops it.
    """

    name: ClassVar[str] = "GRPO"
    family: ClassVar[Family] = "clipped ratio"

    clip: float = hyperparameter(0.2, "ε of the clipped importance ratio", search=LogUniform(0.05, 0.8))
    beta: float = hyperparameter(
        0.0, "coefficient of the k3 estimate of KL(π_θ‖π_ref); 0 leaves it out", search=Choice((0.0, 0.001, 0.01, 0.04))
    )

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, f"grpo: clip is {self.clip}; it must lie between 0 and 1")
        require(self.beta >= 0, f"grpo: beta is {self.beta}; it must not be negative")

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.beta > 0, coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT, valid_GK = batch.mask_GKT, batch.valid_GK
        advantage_GK1 = standardised(batch.rewards_GK, valid_GK)[..., None]
        objective_GKT, metrics = clipped_surrogate(policy, batch, advantage_GK1, low=self.clip, high=self.clip)
        std_G = group_std(batch.rewards_GK, valid_GK)
        metrics["no_signal_share"] = (std_G < STD_EPSILON).to(std_G.dtype).mean()
        if self.beta > 0:
            k3_GKT = k3(policy, batch)
            objective_GKT = objective_GKT - self.beta * k3_GKT
            metrics["k3"] = token_mean(k3_GKT, mask_GKT)
        return LossOutput(loss=-mean_of_groups(response_mean(objective_GKT, mask_GKT), valid_GK), metrics=metrics)
