"""Losses that the article argues against, or that isolate one difference: here to be measured, not to train with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms import Algorithm, Batch, LossOutput, PolicyOutput
from algorithms.base import Anchor, group_size, hyperparameter, masked, sequence_log_ratio
from algorithms.kimi import Kimi


@dataclass(frozen=True, kw_only=True)
class Naive(Algorithm):
    """The squared error without a partition function, Σ (β log π_θ/π' − R)² (the seed article, section on DPO):

    L = 1/|D| Σ_x 1/k(x) Σ_i (βℓ_i − R_i)²
    """

    name: ClassVar[str] = "naive"

    beta: float = hyperparameter(0.1, "β")
    anchor: Anchor = hyperparameter("reference", "π' of the log-ratio")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        error_GK = masked(self.beta * sequence_log_ratio(policy, batch, self.anchor) - batch.rewards_GK, batch.valid_GK)
        return LossOutput(loss=(error_GK.square() / group_size(batch.valid_GK)).sum(-1).mean())


@dataclass(frozen=True, kw_only=True)
class CentredKimi(Kimi):
    """Kimi's loss on log-ratios less their group mean, for one-token responses: GVPO with 1/k(x) for 1/(k(x)−1).

    L = 1/|D| Σ_x 1/k(x) Σ_i [(R_i − R̄) − β(ℓ_i − ℓ̄)]²
    """

    name: ClassVar[str] = "Kimi, ℓ centred"

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        mean_G1 = log_ratio_GK.sum(-1, keepdim=True) / group_size(batch.valid_GK)
        return super().loss(PolicyOutput(logp_GKT=policy.logp_GKT - mean_G1[..., None]), batch)
