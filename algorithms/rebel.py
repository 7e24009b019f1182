"""REBEL, regression to relative rewards (arXiv 2404.16767; ZhaolinGao/REBEL: src/tldr/rebel.py)."""

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
    hyperparameter,
    masked,
    require,
    require_anchor,
    sequence_log_ratio,
)


@dataclass(frozen=True, kw_only=True)
class REBEL(Algorithm):
    """The difference of two log-ratios regressed on the difference of the rewards, over all pairs of a group:

        L = 1/|D| Σ_x mean_{i<j} ((ℓ_i − ℓ_j) − η (R_i − R_j))²

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i) and π' the policy that sampled. The paper draws two responses a prompt.

    Reduces to: GVPO with β = 1/η: the mean over all pairs of a squared difference is twice the variance, so the loss is
    GVPO's times 2η², and the gradient with it.

    Pitfalls: for a group of k it is GVPO under another name, and no table should list both at one anchor.
    """

    name: ClassVar[str] = "REBEL"
    family: ClassVar[Family] = "regression"

    eta: float = hyperparameter(1.0, "η, the step towards the rewards: 1/β", search=LogUniform(0.3, 30.0))
    anchor: Anchor = hyperparameter("behaviour", "π' of the log-ratio: 'old', 'behaviour' or 'reference'")

    def __post_init__(self) -> None:
        require(self.eta > 0, f"rebel: eta is {self.eta}; it must be positive")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        # Centred rewards have the same differences, exactly zero where all are equal.
        residual_GK = sequence_log_ratio(policy, batch, self.anchor) - self.eta * centred(batch.rewards_GK, valid_GK)
        difference_GKK = residual_GK[:, :, None] - residual_GK[:, None, :]
        pair_GKK = valid_GK[:, :, None] & valid_GK[:, None, :]
        ordered_pairs_G = valid_GK.sum(-1) * (valid_GK.sum(-1) - 1)
        loss_G = masked(difference_GKK.square(), pair_GKK).sum((1, 2)) / ordered_pairs_G.clamp(min=1)
        return LossOutput(loss=loss_G.mean())
