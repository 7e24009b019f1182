"""Tapered Off-Policy REINFORCE (TOPR, arXiv 2503.14286v2, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    clamped_ratio,
    sequence_log_ratio,
    stop_gradient,
    token_log_prob,
)
from algorithms.terms import mean_of_groups, share


@dataclass(frozen=True, kw_only=True)
class TOPR(Algorithm):
    """REINFORCE that weights only what it pushes down, by a ratio of whole responses that is at most 1:

        L = −1/|D| Σ_x 1/k(x) Σ_i sg[w_i] A_i log π_θ(y_i)
        A_i = R_i − R̄;   w_i = 1 where A_i > 0, else min(1, π_θ(y_i)/π_behaviour(y_i))

    where sg stops the gradient: a right answer is learnt whoever found it, a wrong one no longer once it is rare.

    Reduces to: on-policy, REINFORCE against the group's mean.

    Pitfalls: Trinity-RFT takes the ratio per token. The paper's rewards are ±1 without a baseline, and its loss is
    divided by the length; with the group's mean, as here, a group of equal rewards teaches nothing.
    """

    name: ClassVar[str] = "TOPR"
    family: ClassVar[Family] = "weighted ratio"

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        advantage_GK = centred(batch.rewards_GK, valid_GK)
        ratio_GK, clamped = clamped_ratio(sequence_log_ratio(policy, batch, "behaviour"), valid_GK)
        weight_GK = torch.where(advantage_GK > 0, 1.0, ratio_GK.clamp(max=1))
        logp_GK = token_log_prob(policy, batch).sum(-1)
        return LossOutput(
            loss=-mean_of_groups(stop_gradient(weight_GK) * advantage_GK * logp_GK, valid_GK),
            metrics={
                "tapered_share": share(weight_GK < 1, valid_GK),
                "clamped_share": clamped,
            },
        )
