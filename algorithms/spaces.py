"""The spaces that a hyper-parameter is tuned over."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A search space of a few values. Raises ValueError for what is no tuple, or an empty one."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple) or not self.values:
            raise ValueError(f"Choice({self.values!r}) is no search space; give a tuple of the values to try")

    def at(self, u: float) -> float:
        """The point at u in [0, 1)."""
        return self.values[int(u * len(self.values))]


@dataclass(frozen=True)
class LogUniform:
    """A search space that is uniform in the logarithm between low and high.

    Raises ValueError unless they are finite numbers and 0 < low < high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        numbers = isinstance(self.low, int | float) and isinstance(self.high, int | float)
        if not numbers or not 0 < self.low < self.high < math.inf:
            raise ValueError(
                f"LogUniform({self.low!r}, {self.high!r}) is no search space; give finite numbers, 0 < low < high"
            )

    def at(self, u: float) -> float:
        """The point at u in [0, 1)."""
        return self.low * (self.high / self.low) ** u


def require_space(space: object) -> None:
    """Raises TypeError for what hyper-parameters cannot be tuned over."""
    if not (space is None or type(space) in (Choice, LogUniform)):
        raise TypeError(
            f"search is {space!r}, no search space; use Choice((…)), LogUniform(low, high), or None for no tuning"
        )
