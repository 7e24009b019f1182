"""Online Direct Preference Optimization on the pairs of a group (arXiv 2305.18290, eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from algorithms.base import (
    Algorithm,
    Anchor,
    Batch,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    hyperparameter,
    require,
    require_anchor,
    sequence_log_ratio,
)
from algorithms.terms import mean_of_pairs, ordered_pairs


@dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """The mean over all strictly ordered pairs of a group, then over the groups that have one:

        L = mean_x mean_{(w,l): R_w > R_l} −log σ(β(ℓ_w − ℓ_l))

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i).

    Reduces to: offline DPO on given pairs; IPO with a square in place of −log σ.

    Pitfalls: hard labels have no finite optimum: the margin grows for ever. It sees who wins, not by how much.
    """

    name: ClassVar[str] = "DPO"
    family: ClassVar[Family] = "preference"

    beta: float = hyperparameter(0.1, "β, the scale of the implicit reward βℓ", search=LogUniform(0.03, 3.0))
    anchor: Anchor = hyperparameter("reference", "π' of the log-ratio: 'old', 'behaviour' or 'reference'")

    def __post_init__(self) -> None:
        require(self.beta > 0, f"dpo: beta is {self.beta}; it must be positive")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        margin_GKK = self.beta * (log_ratio_GK[:, :, None] - log_ratio_GK[:, None, :])
        pair_GKK = ordered_pairs(batch)
        return LossOutput(
            loss=mean_of_pairs(-logsigmoid(margin_GKK), pair_GKK),
            metrics={
                "groups_with_pairs": pair_GKK.any(-1).any(-1).to(margin_GKK.dtype).mean(),
                "pair_accuracy": mean_of_pairs((margin_GKK > 0).to(margin_GKK.dtype), pair_GKK),
            },
        )
