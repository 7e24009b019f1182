"""Geometric-Mean Policy Optimization (arXiv 2507.20673v3, eq. 4 and algorithm 1)."""

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
    clamped_ratio,
    hyperparameter,
    require,
    token_log_ratio,
)
from algorithms.terms import mean_of_groups, response_mean, share, standardised


@dataclass(frozen=True, kw_only=True)
class GMPO(Algorithm):
    """The geometric mean of token ratios, each clipped on the side to which its advantage pushes:

        L = −1/|D| Σ_x 1/k(x) Σ_i Â_i exp(1/|y_i| Σ_t s_i min(s_i log ρ_t, ε))
        s_i = sign(Â_i),   ρ = π_θ/π_behaviour,   Â_i = (R_i − R̄)/std(R)

    Reduces to: GSPO, where neither clips: GMPO's clip is at each token and in log space. On-policy it is GRPO.

    Pitfalls: ε is a log-ratio: 0.4 allows ratios up to e^0.4 = 1.49, and down to 0.67 where they are pushed down.
    """

    name: ClassVar[str] = "GMPO"
    family: ClassVar[Family] = "clipped ratio"

    clip: float = hyperparameter(0.4, "ε, the largest log-ratio of a token, in nats", search=LogUniform(0.1, 2.0))

    def __post_init__(self) -> None:
        require(self.clip > 0, f"gmpo: clip is {self.clip}; it must be positive")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT, valid_GK = batch.mask_GKT, batch.valid_GK
        advantage_GK = standardised(batch.rewards_GK, valid_GK)
        sign_GK1 = advantage_GK.sign()[..., None]
        towards_GKT = sign_GK1 * token_log_ratio(policy, batch, "behaviour")
        log_ratio_GK = response_mean(sign_GK1 * towards_GKT.clamp(max=self.clip), mask_GKT)
        ratio_GK, clamped = clamped_ratio(log_ratio_GK, valid_GK)
        return LossOutput(
            loss=-mean_of_groups(ratio_GK * advantage_GK, valid_GK),
            metrics={"clipped_share": share(towards_GKT > self.clip, mask_GKT), "clamped_share": clamped},
        )
