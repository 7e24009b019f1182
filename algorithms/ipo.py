"""Identity Preference Optimization on the pairs of a group (IPO, arXiv 2310.12036, eq. 17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
from algorithms.terms import mean_of_pairs, ordered_pairs, response_length


@dataclass(frozen=True, kw_only=True)
class IPO(Algorithm):
    """The margin of each strictly ordered pair regressed to a constant, over the groups that have one:

        L = mean_x mean_{(w,l): R_w > R_l} (ℓ_w − ℓ_l − 1/(2β))²

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i). The paper writes τ for β.

    Reduces to: DPO with a square in place of −log σ, which has a finite optimum for hard labels too.

    Pitfalls: TRL takes the mean of ℓ over tokens (`length_average`), which by its account is also what the paper's
    authors ran; eq. 17 has the sum. Every pair is pulled to the same margin, however far apart its rewards.
    """

    name: ClassVar[str] = "IPO"
    family: ClassVar[Family] = "preference"

    beta: float = hyperparameter(0.1, "β: the margin aimed at is 1/(2β) nats", search=LogUniform(0.03, 3.0))
    anchor: Anchor = hyperparameter("reference", "π' of the log-ratio: 'old', 'behaviour' or 'reference'")
    length_average: bool = hyperparameter(False, "take ℓ's mean over the tokens of a response, not its sum")

    def __post_init__(self) -> None:
        require(self.beta > 0, f"ipo: beta is {self.beta}; it must be positive")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        if self.length_average:
            log_ratio_GK = log_ratio_GK / response_length(batch.mask_GKT)
        margin_GKK = log_ratio_GK[:, :, None] - log_ratio_GK[:, None, :]
        pair_GKK = ordered_pairs(batch)
        return LossOutput(
            loss=mean_of_pairs((margin_GKK - 1 / (2 * self.beta)).square(), pair_GKK),
            metrics={"pair_accuracy": mean_of_pairs((margin_GKK > 0).to(margin_GKK.dtype), pair_GKK)},
        )
