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
    masked,
    require,
    require_anchor,
    sequence_log_ratio,
)


@dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """The mean over all strictly ordered pairs of a group, then over the groups that have one:

        L = mean_x mean_{(w,l): R_w > R_l} −log σ(β(ℓ_w − ℓ_l))

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i).
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
        pair_GKK = (
            (batch.rewards_GK[:, :, None] > batch.rewards_GK[:, None, :])
            & batch.valid_GK[:, :, None]
            & batch.valid_GK[:, None, :]
        )
        pairs_G = pair_GKK.sum((1, 2))
        groups = (pairs_G > 0).sum().clamp(min=1)
        loss_G = masked(-logsigmoid(margin_GKK), pair_GKK).sum((1, 2)) / pairs_G.clamp(min=1)
        correct_G = masked((margin_GKK > 0).to(loss_G.dtype), pair_GKK).sum((1, 2)) / pairs_G.clamp(min=1)
        return LossOutput(
            loss=loss_G.sum() / groups,
            metrics={
                "groups_with_pairs": (pairs_G > 0).to(loss_G.dtype).mean(),
                "pair_accuracy": correct_G.sum() / groups,
            },
        )
