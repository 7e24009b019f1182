"""Pairless, the example of the README: REINFORCE whose pull fades as a response moves away. No paper, no claim."""

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    group_size,
    hyperparameter,
    require,
    sequence_log_ratio,
)


@dataclass(frozen=True, kw_only=True)
class Pairless(Algorithm):
    """L = −1/|D| Σ_x 1/k(x) Σ_i (R_i − R̄) tanh(ℓ_i/c),   ℓ_i = Σ_t log π_θ(y_i)/π_old(y_i)"""

    name: ClassVar[str] = "Pairless"

    scale: float = hyperparameter(5.0, "c, the log-ratio in nats at which the pull fades", search=LogUniform(1.0, 20.0))

    def __post_init__(self) -> None:
        require(self.scale > 0, f"pairless: scale is {self.scale}; it must be positive")

    @property
    def needs(self) -> Needs:
        """π_old to move away from, and groups to take a mean of."""
        return Needs(anchor="old", coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        """Scalar, from log-probs in nats [G, K, T]: prompts, samples of each, response tokens."""
        advantage_GK = centred(batch.rewards_GK, batch.valid_GK)
        log_ratio_GK = sequence_log_ratio(policy, batch, "old")
        loss_GK = -advantage_GK * (log_ratio_GK / self.scale).tanh()
        return LossOutput(loss=(loss_GK / group_size(batch.valid_GK)).sum(-1).mean())
