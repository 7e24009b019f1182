"""REINFORCE++ (arXiv 2501.03262v9, eq. 1, 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Choice,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    hyperparameter,
    require,
    token_mean,
)
from algorithms.terms import clipped_surrogate, per_token, whitened


@dataclass(frozen=True, kw_only=True)
class ReinforcePP(Algorithm):
    """PPO's clipped surrogate without a critic: returns with a KL penalty at each token, whitened over the batch:

        L = −1/Σ|y_i| Σ_x Σ_i Σ_t min[ρ Â_it, clip(ρ, 1−ε, 1+ε) Â_it]
        A_it = R_i − β Σ_{s≥t} log(π_old(y_is)/π_ref(y_is)),   ρ = π_θ/π_behaviour

    Â is A whitened over the tokens of the rollout batch. One response a prompt is enough.

    Reduces to: PPO with γ = λ = 1, a critic that says 0 and no value loss.

    Pitfalls: the baseline is the whole batch's, so easy prompts are pushed up and hard ones down. What some code calls
    REINFORCE++ is GRPO. Eq. 1 takes a mean per response; the authors' OpenRLHF takes the one over tokens, as here.
    """

    name: ClassVar[str] = "REINFORCE++"
    family: ClassVar[Family] = "policy gradient"

    clip: float = hyperparameter(0.2, "ε of the clipped importance ratio", search=LogUniform(0.05, 0.8))
    beta: float = hyperparameter(
        0.01, "β, the penalty on each token's log-ratio to the reference", search=Choice((0.0, 0.001, 0.01, 0.03))
    )

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, f"reinforce_pp: clip is {self.clip}; it must lie between 0 and 1")
        require(self.beta >= 0, f"reinforce_pp: beta is {self.beta}; it must not be negative")

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.beta > 0, coupling="sequence")

    def prepare(self, batch: Batch) -> Batch:
        """Adds `advantage_GKT`."""
        return_GKT = per_token(batch.rewards_GK, batch.mask_GKT)
        if self.beta > 0:
            k1_GKT = batch.old_logp_GKT - batch.anchor_logp_GKT("reference")
            return_GKT = return_GKT - self.beta * k1_GKT.flip(-1).cumsum(-1).flip(-1)
        return batch.with_extras(advantage_GKT=whitened(return_GKT, batch.mask_GKT))

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        advantage_GKT = batch.extra("advantage_GKT")
        objective_GKT, metrics = clipped_surrogate(policy, batch, advantage_GKT, low=self.clip, high=self.clip)
        return LossOutput(loss=-token_mean(objective_GKT, batch.mask_GKT), metrics=metrics)
