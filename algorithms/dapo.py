"""Decoupled Clip and Dynamic Sampling Policy Optimization (DAPO, arXiv 2503.14476v2, eq. 8, 11 and 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

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
    token_mean,
)
from algorithms.terms import clipped_surrogate, require_clip, standardised


def has_signal(rewards_K: Tensor) -> bool:
    """Whether the rewards of a group differ: DAPO's dynamic sampling keeps no other group."""
    return bool(rewards_K.min() < rewards_K.max())


@dataclass(frozen=True, kw_only=True)
class DAPO(Algorithm):
    """GRPO's surrogate with a higher upper clip, averaged over tokens, on groups with a signal, on shaped rewards:

        L = −1/Σ|y_i| Σ_x Σ_i Σ_t min[ρ Â_i, clip(ρ, 1−ε_low, 1+ε_high) Â_i]
        Â_i = (R'_i − R̄')/std(R'),   R'_i = R_i − min(1, max(0, (|y_i| − (1−s) M)/(s M))),   ρ = π_θ/π_behaviour

    M is the limit of a response in tokens; beyond (1−s) M its reward falls, by 1 at M. Groups whose rewards are all
    equal are drawn anew, from further prompts.

    Reduces to: GRPO with ε_low = ε_high, a mean per response, s = 0 and no refilling.

    Pitfalls: the refilled groups cost tokens, which the ledger counts; a mean over the tokens of the mini-batch (and
    never of a micro-batch) gives long responses more weight. The paper's rewards are ±1: on 0 and 1 the penalty for
    length weighs twice as much.
    """

    name: ClassVar[str] = "DAPO"
    family: ClassVar[Family] = "clipped ratio"

    clip_low: float = hyperparameter(0.2, "ε_low, how far the ratio may fall")
    clip_high: float = hyperparameter(0.28, "ε_high, how far the ratio may rise", search=LogUniform(0.1, 2.0))
    overlong: float = hyperparameter(
        0.2, "s, the last share of the length limit, in which rewards fall; 0 leaves it out"
    )
    dynamic_sampling: bool = hyperparameter(True, "draw further prompts in place of groups of equal rewards")

    def __post_init__(self) -> None:
        require_clip("dapo", low=self.clip_low, high=self.clip_high)
        require(0 <= self.overlong <= 1, f"dapo: overlong is {self.overlong}; it must lie in [0, 1]")

    @property
    def needs(self) -> Needs:
        refill = has_signal if self.dynamic_sampling else None
        return Needs(extras=("length_limit_G",), refill=refill, coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        rewards_GK = batch.rewards_GK
        if self.overlong > 0:
            buffer_G1 = self.overlong * batch.extra("length_limit_G")[:, None]
            excess_GK = batch.mask_GKT.sum(-1) - batch.extra("length_limit_G")[:, None] + buffer_G1
            rewards_GK = rewards_GK - (excess_GK / buffer_G1).clamp(0, 1)
        advantage_GK1 = standardised(rewards_GK, batch.valid_GK)[..., None]
        objective_GKT, metrics = clipped_surrogate(policy, batch, advantage_GK1, low=self.clip_low, high=self.clip_high)
        return LossOutput(loss=-token_mean(objective_GKT, batch.mask_GKT), metrics=metrics)
