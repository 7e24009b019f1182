"""REINFORCE Leave-One-Out (RLOO, arXiv 2402.14740, section 2.3; the KL in the reward, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Choice,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    hyperparameter,
    require,
    sequence_sum,
    token_log_prob,
)
from algorithms.terms import leave_one_out, mean_of_groups


@dataclass(frozen=True, kw_only=True)
class RLOO(Algorithm):
    """REINFORCE on whole responses, each against the mean of the others of its group:

        L = −1/|D| Σ_x 1/k(x) Σ_i (u_i − 1/(k−1) Σ_{j≠i} u_j) log π_θ(y_i)
        u_i = R_i − β log(π_old(y_i)/π_ref(y_i))

    The penalty is that of the policy that started the iteration, a part of the reward.

    Reduces to: with β = 0, policy gradient with KL without its KL and weight; on-policy it then points, in each group,
    where GVPO, Kimi and Dr.GRPO do.

    Pitfalls: without an importance weight or a clip nothing stops it on reused or stale samples. TRL puts PPO's clip on
    the sequence ratio under the same name, AReaL on each token's. The default β is TRL's; the paper's are 0.03 and 0.1.
    """

    name: ClassVar[str] = "RLOO"
    family: ClassVar[Family] = "policy gradient"

    beta: float = hyperparameter(
        0.05, "β, the penalty on the sequence log-ratio to the reference", search=Choice((0.0, 0.01, 0.05, 0.1))
    )

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"rloo: beta is {self.beta}; it must not be negative")

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.beta > 0, coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        penalised_GK = batch.rewards_GK
        if self.beta > 0:
            drift_GKT = batch.old_logp_GKT - batch.anchor_logp_GKT("reference")
            penalised_GK = penalised_GK - self.beta * sequence_sum(drift_GKT, batch.mask_GKT)
        advantage_GK = leave_one_out(penalised_GK, batch.valid_GK)
        logp_GK = token_log_prob(policy, batch).sum(-1)
        return LossOutput(loss=-mean_of_groups(advantage_GK * logp_GK, batch.valid_GK))
