"""Online rejection-sampling fine-tuning (DeepSeekMath, arXiv 2402.03300, eq. 10 and 11, table 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Needs,
)
from algorithms.rft import RFT


@dataclass(frozen=True, kw_only=True)
class OnlineRFT(RFT):
    """The negative log-likelihood of those samples of the policy itself that are right:

        L = −1/|D| Σ_x 1/k(x) Σ_i 1[R_i > r] 1/|y_i| Σ_t log π_θ(y_it),   y_i from the sampling policy

    Reduces to: RFT with samples of the base; for rewards of 0 and 1, REINFORCE on R without a baseline, averaged per
    response.

    Pitfalls: wrong answers are ignored, not pushed down: GRPO's are the same samples with a baseline.
    """

    name: ClassVar[str] = "Online RFT"

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence")
