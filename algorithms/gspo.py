"""Group Sequence Policy Optimization (arXiv 2507.18071v2, eq. 5 to 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    clamped_ratio,
    hyperparameter,
    token_log_ratio,
)
from algorithms.terms import mean_of_groups, require_clip, response_mean, share, standardised


@dataclass(frozen=True, kw_only=True)
class GSPO(Algorithm):
    """The clipped surrogate on one ratio a response, the geometric mean of its tokens':

        L = −1/|D| Σ_x 1/k(x) Σ_i min[s_i Â_i, clip(s_i, 1−ε_low, 1+ε_high) Â_i]
        s_i = (π_θ(y_i)/π_behaviour(y_i))^(1/|y_i|),   Â_i = (R_i − R̄)/std(R)

    Reduces to: on-policy GRPO. For responses of one token it is GRPO with other ε.

    Pitfalls: ε is hundreds of times smaller than GRPO's, since a mean of log-ratios hardly moves; a clipped response is
    dropped whole, with every token. verl by default takes the mean over tokens, so that long responses weigh more.
    """

    name: ClassVar[str] = "GSPO"
    family: ClassVar[Family] = "clipped ratio"

    clip_low: float = hyperparameter(3e-4, "ε_low, how far s may fall", search=LogUniform(3e-4, 0.3))
    clip_high: float = hyperparameter(4e-4, "ε_high, how far s may rise", search=LogUniform(4e-4, 0.4))

    def __post_init__(self) -> None:
        require_clip("gspo", low=self.clip_low, high=self.clip_high)

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        advantage_GK = standardised(batch.rewards_GK, valid_GK)
        log_ratio_GK = response_mean(token_log_ratio(policy, batch, "behaviour"), batch.mask_GKT)
        ratio_GK, clamped = clamped_ratio(log_ratio_GK, valid_GK)
        clipped_GK = ratio_GK.clamp(1 - self.clip_low, 1 + self.clip_high)
        objective_GK = torch.minimum(ratio_GK * advantage_GK, clipped_GK * advantage_GK)
        return LossOutput(
            loss=-mean_of_groups(objective_GK, valid_GK),
            metrics={
                "clipped_share": share(objective_GK < ratio_GK * advantage_GK, valid_GK),
                "clamped_share": clamped,
            },
        )
