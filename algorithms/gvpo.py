"""Group Variance Policy Optimization (arXiv 2504.19599; the seed article, eq. 9 to 18)."""

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
    covariance,
    hyperparameter,
    require,
    require_anchor,
    sequence_log_ratio,
    sequence_sum,
)


@dataclass(frozen=True, kw_only=True)
class GVPO(Algorithm):
    """The sample variance, within each group, of the implicit minus the given reward (the seed, eq. 16):

        L = 1/|D| Σ_x 1/(k(x)−1) Σ_i [(R_θ,i − R̄_θ) − (R_i − R̄)]²,   R_θ,i = β ℓ_i

    with ℓ_i = Σ_t log π_θ(y_i)/π'(y_i). The coefficients of a group sum to zero, so the partition function Z(x) cancels
    (eq. 8). 1/(k−1) makes the estimate unbiased for every k(x); a prompt with one sample contributes zero and stays
    in |D|. The authors' code has a further factor ½.

    Reduces to: Kimi without the centring of ℓ; policy gradient with KL, times 2β, without its importance weight; TBA
    and REBEL at the same anchor, up to scale. On-policy it points where RLOO does.

    Pitfalls: with one update a batch and the anchor "old", ℓ = 0 and no term but the reward's acts. Groups of equal
    rewards still pull log-ratios together, so they are never dropped.

    The ablations leave out one term of the decomposition (eq. 13, β kept; equal up to a constant in θ)

        L = −2β Cov(R, log π_θ) − 2β² Cov(log π_θ, log π') + β² Var(log π_θ).
    """

    name: ClassVar[str] = "GVPO"
    family: ClassVar[Family] = "regression"

    beta: float = hyperparameter(
        0.1,
        "β, the pull towards the anchor; the optimum is π' exp(R/β)/Z",
        search=LogUniform(0.03, 3.0),
    )
    anchor: Anchor = hyperparameter("old", "π' of the log-ratio: 'old', 'behaviour' or 'reference'")
    variance_term: bool = hyperparameter(True, "keep Var(log π_θ), which raises the entropy; False is an ablation")
    covariance_term: bool = hyperparameter(
        True, "keep Cov(log π_θ, log π'), which pulls towards the anchor; False is an ablation"
    )

    def __post_init__(self) -> None:
        require(self.beta > 0, f"gvpo: beta is {self.beta}; it must be positive")
        require_anchor(self.anchor)

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        residual_GK = self.beta * log_ratio_GK - batch.rewards_GK
        loss_G = covariance(residual_GK, residual_GK, valid_GK)

        if not (self.variance_term and self.covariance_term):
            logp_GK = sequence_sum(policy.logp_GKT, batch.mask_GKT)
            anchor_GK = sequence_sum(batch.anchor_logp_GKT(self.anchor), batch.mask_GKT)
            if not self.variance_term:
                loss_G = loss_G - self.beta**2 * covariance(logp_GK, logp_GK, valid_GK)
            if not self.covariance_term:
                loss_G = loss_G + 2 * self.beta**2 * covariance(logp_GK, anchor_GK, valid_GK)

        return LossOutput(
            loss=loss_G.mean(),
            metrics={"log_ratio_variance": covariance(log_ratio_GK, log_ratio_GK, valid_GK).mean()},
        )
