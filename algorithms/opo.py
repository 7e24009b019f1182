"""On-Policy RL with Optimal reward baseline (OPO, arXiv 2505.23585; microsoft/LMOps: opo/verl/trainer/ppo)."""

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
    centred,
    masked,
    token_log_prob,
)
from algorithms.terms import mean_of_groups


@dataclass(frozen=True, kw_only=True)
class OPO(Algorithm):
    """REINFORCE on whole responses, against the baseline of least variance where a gradient's size is its length:

        L = −1/|D| Σ_x 1/k(x) Σ_i (R_i − b) log π_θ(y_i),   b = Σ_j |y_j| R_j / Σ_j |y_j|

    Reduces to: RLOO with β = 0, up to (k−1)/k, where all responses have the same length.

    Pitfalls: meant for exact on-policy training, one update a batch. Coefficients of a group do not sum to zero; those
    of its tokens do. verl takes the mean over tokens.
    """

    name: ClassVar[str] = "OPO"
    family: ClassVar[Family] = "policy gradient"

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        length_GK = batch.mask_GKT.sum(-1)
        # Σ|y|(R − R̄)/Σ|y| + R̄ is the same baseline, and exact where all rewards are equal.
        deviation_GK = centred(batch.rewards_GK, batch.valid_GK)
        shift_G1 = (length_GK * deviation_GK).sum(-1, keepdim=True) / length_GK.sum(-1, keepdim=True).clamp(min=1)
        advantage_GK = masked(deviation_GK - shift_G1, batch.valid_GK)
        logp_GK = token_log_prob(policy, batch).sum(-1)
        return LossOutput(loss=-mean_of_groups(advantage_GK * logp_GK, batch.valid_GK))
