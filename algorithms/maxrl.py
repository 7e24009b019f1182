"""Maximum Likelihood RL (MaxRL, arXiv 2602.02710, algorithm 1; tajwarfahim/maxrl: verl/trainer/ppo/core_algos.py)."""

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
    group_size,
    masked,
    token_log_prob,
)
from algorithms.terms import mean_of_groups


@dataclass(frozen=True, kw_only=True)
class MaxRL(Algorithm):
    """REINFORCE whose advantage is over the group's rate of success p, an estimate of the gradient of log p:

        L = −1/|D| Σ_x 1/k(x) Σ_i (R_i − R̄)/R̄ log π_θ(y_i)

    A group without a success (R̄ ≤ 0) contributes zero. For rewards of 0 and 1 it is on average the gradient of the
    first k−1 terms of log p = −Σ_t (1−p)^t/t.

    Reduces to: REINFORCE against the group's mean, each prompt weighted by 1/R̄: hard prompts count most.

    Pitfalls: made for rewards of 0 and 1. With rewards that may be negative R̄ is no rate of success. The authors' code
    adds 1e-6 to R̄, and stands within verl's clip and mean over tokens.
    """

    name: ClassVar[str] = "MaxRL"
    family: ClassVar[Family] = "policy gradient"

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        mean_G1 = batch.rewards_GK.sum(-1, keepdim=True) / group_size(valid_GK)
        success_G1 = mean_G1 > 0
        advantage_GK = masked(centred(batch.rewards_GK, valid_GK) / torch.where(success_G1, mean_G1, 1.0), success_G1)
        logp_GK = token_log_prob(policy, batch).sum(-1)
        return LossOutput(
            loss=-mean_of_groups(advantage_GK * logp_GK, valid_GK),
            metrics={"no_success_share": 1 - success_G1.to(mean_G1.dtype).mean()},
        )
