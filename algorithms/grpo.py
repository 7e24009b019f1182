"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300, eq. 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from algorithms.base import (
    Algorithm,
    Batch,
    Choice,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    clamped_ratio,
    covariance,
    group_size,
    hyperparameter,
    require,
    sequence_sum,
    token_log_ratio,
    token_mean,
)

STD_EPSILON = 1e-6
"""Added to the standard deviation, as in verl: a group of equal rewards, exactly zero once centred, stays zero."""


@dataclass(frozen=True, kw_only=True)
class GRPO(Algorithm):
    """Clipped surrogate on rewards standardised within the group, averaged per response, with an optional k3 KL:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1/|y_i| Σ_t {min[ρ Â_i, clip(ρ, 1−ε, 1+ε) Â_i] − β k3}
        Â_i = (R_i − R̄)/std(R),   ρ = π_θ/π_behaviour,   k3 = π_ref/π_θ − log(π_ref/π_θ) − 1

    with the sample standard deviation (1/(k−1)), as in verl and TRL; the paper leaves it open.
    """

    name: ClassVar[str] = "GRPO"
    family: ClassVar[Family] = "clipped ratio"

    clip: float = hyperparameter(0.2, "ε of the clipped importance ratio")
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
        std_G = covariance(batch.rewards_GK, batch.rewards_GK, valid_GK).sqrt()
        advantage_GK1 = (centred(batch.rewards_GK, valid_GK) / (std_G[:, None] + STD_EPSILON))[..., None]

        ratio_GKT, clamped = clamped_ratio(token_log_ratio(policy, batch, "behaviour"), mask_GKT)
        clipped_GKT = ratio_GKT.clamp(1 - self.clip, 1 + self.clip)
        objective_GKT = torch.minimum(ratio_GKT * advantage_GK1, clipped_GKT * advantage_GK1)
        metrics = {
            "clipped_share": token_mean((objective_GKT < ratio_GKT * advantage_GK1).to(ratio_GKT.dtype), mask_GKT),
            "clamped_share": clamped,
            "no_signal_share": (std_G < STD_EPSILON).to(std_G.dtype).mean(),
        }
        if self.beta > 0:
            # The clamped ratio in both terms: the log alone would push π_θ away from a π_ref that is far above it.
            ref_ratio_GKT, _ = clamped_ratio(-token_log_ratio(policy, batch, "reference"), mask_GKT)
            k3_GKT = ref_ratio_GKT - ref_ratio_GKT.log() - 1
            objective_GKT = objective_GKT - self.beta * k3_GKT
            metrics["k3"] = token_mean(k3_GKT, mask_GKT)

        length_GK = mask_GKT.sum(-1).clamp(min=1)
        loss_G = -(sequence_sum(objective_GKT, mask_GKT) / length_GK / group_size(valid_GK)).sum(-1)
        return LossOutput(loss=loss_G.mean(), metrics=metrics)
