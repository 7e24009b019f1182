"""Rows of the table of measurements, and how much of everything a run takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

Holds = Literal["yes", "no", "n.a."]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run. FULL is what is published, SMALL what the tests repeat."""

    problems: int
    """Random problems per cell of (n, rewards, β)."""
    starts: int
    """Starting points per problem."""
    draws: int
    """Groups per Monte Carlo estimate."""
    updates: int
    """Updates of training on samples."""
    seeds: int
    """Repetitions of training on samples."""
    steps: int
    """Exact updates where training is followed for long."""
    settling: int
    """Steps in which each algorithm is followed to its end."""
    largest_n: int
    """Responses of the largest problem."""
    largest_sum: int
    """Ordered groups of the largest exact expectation."""


FULL = Size(
    problems=4, starts=8, draws=200_000, updates=400, seeds=12, steps=600, settling=150, largest_n=64, largest_sum=4096
)
SMALL = Size(
    problems=1, starts=3, draws=4_000, updates=60, seeds=4, steps=150, settling=60, largest_n=8, largest_sum=300
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. `holds` is about `expected`, which is what `equation` says: of the article, or derived here."""

    claim: str
    equation: str
    setting: str
    quantity: str
    measured: float
    expected: str
    tolerance: float | None
    holds: Holds
    samples: str
    seconds: float
    """CPU seconds, which neighbours on the machine change less than wall seconds."""


@dataclass
class Record:
    """Collects the rows and figure data of one part of one claim; the time of a row is that since the row before."""

    claim: str
    samples: str = "exact"
    """Default for rows: how the numbers were drawn."""
    rows: list[Row] = field(default_factory=list)
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    """What the figures show, by name."""
    _since: float = field(default_factory=time.process_time)

    def near(
        self,
        equation: str,
        setting: str,
        quantity: str,
        measured: float,
        expected: float = 0.0,
        *,
        tolerance: float,
        samples: str | None = None,
    ) -> None:
        """Holds if |measured − expected| ≤ tolerance; a NaN does not."""
        holds = abs(measured - expected) <= tolerance
        self._add(equation, setting, quantity, measured, f"{expected:.6g}", tolerance, holds, samples)

    def above(
        self, equation: str, setting: str, quantity: str, measured: float, bound: float, *, samples: str | None = None
    ) -> None:
        """Holds if measured > bound: negative controls, and things that run away."""
        self._add(equation, setting, quantity, measured, f"> {bound:.6g}", None, measured > bound, samples)

    def report(
        self, equation: str, setting: str, quantity: str, measured: float, *, samples: str | None = None
    ) -> None:
        """A number of which nothing was claimed."""
        self._add(equation, setting, quantity, measured, "", None, None, samples)

    def _add(
        self,
        equation: str,
        setting: str,
        quantity: str,
        measured: float,
        expected: str,
        tolerance: float | None,
        holds: bool | None,
        samples: str | None,
    ) -> None:
        now = time.process_time()
        self.rows.append(
            Row(
                claim=self.claim,
                equation=equation,
                setting=setting,
                quantity=quantity,
                measured=float(measured),
                expected=expected,
                tolerance=tolerance,
                holds="n.a." if holds is None else "yes" if holds else "no",
                samples=self.samples if samples is None else samples,
                seconds=now - self._since,
            )
        )
        self._since = now
