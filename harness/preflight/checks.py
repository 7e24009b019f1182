"""One finding of the doctor, and what all of its checks look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks import Benchmark, load_benchmark
from harness.suite.config import Suite
from harness.suite.load import points_of

Status = Literal["ok", "warn", "fail"]


Say = Callable[[str], None]
"""Called with what is looked at next."""


def quiet(_: str) -> None:
    """A `Say` that says nothing."""


COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do, where it isn't ok."""


def suites_of(suite: Suite) -> list[Suite]:
    """The points of an ablation, or the suite itself."""
    return list(points_of(suite).values()) or [suite]


def evaluated(suite: Suite) -> list[Benchmark]:
    """The benchmarks of a suite's evaluation, the hard ones last."""
    return [load_benchmark(name) for name in (*suite.evaluation.benchmarks, *suite.evaluation.hard_benchmarks)]
