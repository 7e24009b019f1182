"""Supervised fine-tuning on given answers (DeepSeekMath, arXiv 2402.03300, eq. 6 and table 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    token_log_prob,
)
from algorithms.terms import mean_of_groups, response_mean


@dataclass(frozen=True, kw_only=True)
class SFT(Algorithm):
    """The negative log-likelihood of the answers that the training problems give:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1/|y_i| Σ_t log π_θ(y_it)

    Every coefficient is 1: the first line of the unified paradigm. Nothing is sampled, no reward is read.

    Reduces to: RFT where the given answers are right samples of the base.

    Pitfalls: it learns the given style, whether or not the model would reason in it. TRL takes the mean over all tokens
    of a batch, in which long answers weigh more.
    """

    name: ClassVar[str] = "SFT"
    family: ClassVar[Family] = "supervised"

    @property
    def needs(self) -> Needs:
        return Needs(data="demonstrations", coupling="sequence")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        logp_GK = response_mean(token_log_prob(policy, batch), batch.mask_GKT)
        return LossOutput(loss=-mean_of_groups(logp_GK, batch.valid_GK))
