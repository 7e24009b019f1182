"""ReMax (arXiv 2310.10505; liziniu/ReMax: step3_rlhf_finetuning/remax_trainer.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    masked,
    token_log_prob,
)
from algorithms.terms import mean_of_groups


@dataclass(frozen=True, kw_only=True)
class ReMax(Algorithm):
    """REINFORCE on whole responses, against the reward of the greedy response to the same prompt:

        L = −1/|D| Σ_x 1/k(x) Σ_i (R_i − R(y_greedy)) log π_θ(y_i)

    Reduces to: RLOO with β = 0, another baseline in place of its own.

    Pitfalls: the greedy response costs a rollout a prompt. Where it is right, no right sample teaches anything, and
    where all are right, nothing does. The authors' code also takes a KL from the reward at each token, and its mean
    over tokens.
    """

    name: ClassVar[str] = "ReMax"
    family: ClassVar[Family] = "policy gradient"

    @property
    def needs(self) -> Needs:
        return Needs(extras=("greedy_reward_G",), coupling="sequence")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        advantage_GK = masked(batch.rewards_GK - batch.extra("greedy_reward_G")[:, None], batch.valid_GK)
        logp_GK = token_log_prob(policy, batch).sum(-1)
        return LossOutput(loss=-mean_of_groups(advantage_GK * logp_GK, batch.valid_GK))
