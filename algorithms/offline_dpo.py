"""Direct Preference Optimization on given pairs (arXiv 2305.18290, eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from algorithms.base import (
    Needs,
)
from algorithms.dpo import DPO


@dataclass(frozen=True, kw_only=True)
class OfflineDPO(DPO):
    """DPO's loss on pairs that the training problems give, a better response and a worse one:

        L = mean_x −log σ(β(ℓ_w − ℓ_l))

    with ℓ_i = Σ_t log π_θ(y_i)/π_ref(y_i). Nothing is sampled.

    Reduces to: online DPO where the pairs of a group of samples take the given ones' place.

    Pitfalls: the pairs are nobody's samples of now, and both responses may become less likely while the margin grows.
    DeepSeekMath's DPO (arXiv 2402.03300, eq. 12) takes the mean of ℓ over tokens.
    """

    name: ClassVar[str] = "DPO (offline)"

    @property
    def needs(self) -> Needs:
        return replace(super().needs, data="pairs")
