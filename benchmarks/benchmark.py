"""What a benchmark is: problems with a gold answer, and the name of the grader that judges responses to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from benchmarks.errors import BenchError

Verdict = Literal["correct", "wrong", "no_answer", "timeout", "error"]
"""What a grader says of one response. `no_answer`: the response holds nothing to compare. `timeout` and `error` are
the grader's own failures; they are counted apart and never silently become `wrong`."""

GRADER_FAILURES: frozenset[Verdict] = frozenset({"timeout", "error"})


class DataError(BenchError):
    """The problems of a benchmark are not to be had, or are not the ones that were asked for."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question with its gold answer."""

    id: str
    """Unique within the benchmark."""
    prompt: str
    """The question, before any template."""
    answer: str
    """The gold answer."""
    solution: str | None = None
    """A right response, for algorithms that are shown one; None where the benchmark has none."""
    gold_as_text: bool = False
    """The gold answer cannot be read as what it states, and only a response that repeats it is right."""
    mistake: str | None = None
    """A wrong response of the same kind, for algorithms that are given pairs."""


class Benchmark(Protocol):
    """A named set of problems."""

    @property
    def name(self) -> str:
        """What suites and tables call it."""
        ...

    @property
    def grading(self) -> str:
        """Which judge the responses get: a key of `benchmarks.judges.GRADINGS`."""
        ...

    def problems(self) -> list[Problem]:
        """Load and verify the problems, in their fixed order. From the second call on it takes no time.

        Raises DataError where they are not to be had or differ from the ones expected.
        """
        ...

    def answer_of(self, response: str) -> str:
        """The answer that a response gives, in a normal form: what it votes for in maj@k. Empty where it has none."""
        ...
