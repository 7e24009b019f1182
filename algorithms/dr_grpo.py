"""Dr.GRPO, GRPO done right (arXiv 2503.20783v2, section 3.2, figure 1 and listing 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    hyperparameter,
    require,
    sequence_sum,
)
from algorithms.terms import clipped_surrogate, mean_of_groups


@dataclass(frozen=True, kw_only=True)
class DrGRPO(Algorithm):
    """GRPO's clipped surrogate without its two biases, the standard deviation and 1/|y_i|:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1/M Σ_t min[ρ Â_i, clip(ρ, 1−ε, 1+ε) Â_i]
        Â_i = R_i − R̄,   ρ = π_θ/π_behaviour

    with M the limit of a response in tokens, the same for all: a sum over tokens, scaled.

    Reduces to: GRPO with Â/std and 1/|y_i| in place of 1/M; on-policy it points where RLOO does.

    Pitfalls: its scale is 1/M of GRPO's, so that a learning rate means another thing; Adam forgets it, a clipped norm
    does not. The paper's figure has no 1/M, its code has.
    """

    name: ClassVar[str] = "Dr.GRPO"
    family: ClassVar[Family] = "clipped ratio"

    clip: float = hyperparameter(0.2, "ε of the clipped importance ratio", search=LogUniform(0.05, 0.8))

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, f"dr_grpo: clip is {self.clip}; it must lie between 0 and 1")

    @property
    def needs(self) -> Needs:
        return Needs(extras=("length_limit_G",), coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        advantage_GK1 = centred(batch.rewards_GK, batch.valid_GK)[..., None]
        objective_GKT, metrics = clipped_surrogate(policy, batch, advantage_GK1, low=self.clip, high=self.clip)
        scaled_GK = sequence_sum(objective_GKT, batch.mask_GKT) / batch.extra("length_limit_G")[:, None]
        return LossOutput(loss=-mean_of_groups(scaled_GK, batch.valid_GK), metrics=metrics)
