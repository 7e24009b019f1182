"""Policy gradient with KL: the baseline that GVPO generalises (the seed article, eq. 3, 14 and 15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from algorithms.base import (
    Algorithm,
    Anchor,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    clamped_ratio,
    group_size,
    hyperparameter,
    require,
    require_anchor,
    sequence_log_ratio,
    stop_gradient,
    token_log_prob,
)
from algorithms.terms import leave_one_out


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Algorithm):
    """REINFORCE on u = R − βℓ with a leave-one-out baseline and a sequence importance weight (the seed, eq. 14):

        L = −1/|D| Σ_x 1/k(x) Σ_i sg[ρ_i (u_i − 1/(k−1) Σ_{j≠i} u_j)] log π_θ(y_i)
        ρ_i = π_θ(y_i)/π_behaviour(y_i),   ℓ_i = log π_θ(y_i)/π'(y_i)

    where sg stops the gradient.

    Reduces to: with ρ_i = 1, GVPO's gradient divided by 2β, sample by sample, off-policy too.

    Pitfalls: sequence weights have a large variance off-policy: the metric effective_sample_share says how large.
    """

    name: ClassVar[str] = "PG + KL"
    family: ClassVar[Family] = "policy gradient"

    beta: float = hyperparameter(0.1, "β, the strength of the KL penalty in the reward", search=LogUniform(0.03, 3.0))
    anchor: Anchor = hyperparameter("old", "π' of the KL term: 'old', 'behaviour' or 'reference'")
    importance_weight: bool = hyperparameter(True, "weight each sample by π_θ/π_behaviour; False makes it GVPO/(2β)")

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"pg: beta is {self.beta}; it must not be negative")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=not self.importance_weight)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        k_G1 = group_size(batch.valid_GK)
        logp_GK = token_log_prob(policy, batch).sum(-1)
        penalised_GK = batch.rewards_GK - self.beta * sequence_log_ratio(policy, batch, self.anchor)
        advantage_GK = leave_one_out(penalised_GK, batch.valid_GK)
        weight_GK, clamped = clamped_ratio(sequence_log_ratio(policy, batch, "behaviour"), batch.valid_GK)
        if not self.importance_weight:
            weight_GK = torch.ones_like(weight_GK)
        weight_GK = weight_GK * batch.valid_GK
        effective_sample_size = weight_GK.sum() ** 2 / weight_GK.square().sum().clamp(min=1e-30)

        loss_G = -(stop_gradient(weight_GK * advantage_GK) * logp_GK / k_G1).sum(-1)
        return LossOutput(
            loss=loss_G.mean(),
            metrics={
                "effective_sample_share": effective_sample_size / batch.valid_GK.sum().clamp(min=1),
                "clamped_share": clamped,
            },
        )
