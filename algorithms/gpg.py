"""Group Policy Gradient (GPG, arXiv 2504.02546; AMAP-ML/GPG: open-r1/src/open_r1/gpg_trainer.py)."""

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
    hyperparameter,
    token_log_prob,
    token_mean,
)


@dataclass(frozen=True, kw_only=True)
class GPG(Algorithm):
    """REINFORCE against the group's mean, without ratio, clip or KL, scaled up for the groups that teach nothing:

        L = −1/Σ|y_i| Σ_x Σ_i Σ_t α (R_i − R̄) log π_θ(y_it),   α = |D| / #{x: rewards differ}

    α is that of the rollout batch.

    Reduces to: on-policy Dr.GRPO, but for the scale, where all groups have the same size: GPG counts tokens, Dr.GRPO
    prompts.

    Pitfalls: α makes the step larger as fewer groups teach. Nothing stops it on reused or stale samples. The paper also
    draws further groups until 0.6 of them teach, which this does not. The authors' VisualThinker takes a mean per
    response. verl's α counts responses whose reward is not 0.
    """

    name: ClassVar[str] = "GPG"
    family: ClassVar[Family] = "policy gradient"

    rescale: bool = hyperparameter(True, "multiply by α; False leaves it at 1")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def prepare(self, batch: Batch) -> Batch:
        """Adds `advantage_GK`."""
        advantage_GK = centred(batch.rewards_GK, batch.valid_GK)
        if self.rescale:
            with_signal = (advantage_GK != 0).any(-1).sum().clamp(min=1)
            advantage_GK = advantage_GK * len(advantage_GK) / with_signal
        return batch.with_extras(advantage_GK=advantage_GK)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        advantage_GK1 = batch.extra("advantage_GK")[..., None]
        return LossOutput(loss=-token_mean(advantage_GK1 * token_log_prob(policy, batch), batch.mask_GKT))
