"""Kimi k1.5's policy optimisation (arXiv 2501.12599, eq. 3; the seed article, section on Kimi K1.5)."""

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
    centred,
    group_size,
    hyperparameter,
    masked,
    require,
    require_anchor,
    sequence_log_ratio,
)


@dataclass(frozen=True, kw_only=True)
class Kimi(Algorithm):
    """The mean squared error of the implicit reward, with β log Z estimated by the group's mean reward:

        L = 1/|D| Σ_x 1/k(x) Σ_i (R_i − R̄ − β ℓ_i)²

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i), squared per response, not per token. GVPO's weight is
    (R_i − R̄) − β(ℓ_i − ℓ̄): centring ℓ is the only difference. The paper writes τ for β.

    Reduces to: GVPO's direction where ℓ̄ = 0; on-policy it points where RLOO does.

    Pitfalls: R̄ stands for β log Z, which it is only as β → ∞, so the optimum is not π' exp(R/β)/Z. A square per token
    in place of one per response is another loss.
    """

    name: ClassVar[str] = "Kimi k1.5"
    family: ClassVar[Family] = "regression"

    beta: float = hyperparameter(
        0.1, "β (the paper's τ), the strength of the pull towards the anchor", search=LogUniform(0.03, 3.0)
    )
    anchor: Anchor = hyperparameter("old", "π' of the log-ratio: 'old', 'behaviour' or 'reference'")

    def __post_init__(self) -> None:
        require(self.beta > 0, f"kimi: beta is {self.beta}; it must be positive")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="sequence", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        residual_GK = masked(centred(batch.rewards_GK, batch.valid_GK) - self.beta * log_ratio_GK, batch.valid_GK)
        loss_G = (residual_GK.square() / group_size(batch.valid_GK)).sum(-1)
        mean_log_ratio = log_ratio_GK.sum() / batch.valid_GK.sum().clamp(min=1)
        return LossOutput(loss=loss_G.mean(), metrics={"log_ratio": mean_log_ratio})
