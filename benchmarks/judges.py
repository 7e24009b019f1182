"""Who judges the responses to a benchmark's problems, in training and evaluation alike, by its grading."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks import Benchmark, Problem, Verdict, arithmetic, word_arithmetic
from benchmarks.grader import TRAINING_SECONDS, Grader


class Judge(Protocol):
    """Grades the responses to a benchmark's problems."""

    def __call__(
        self, problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]
    ) -> list[Verdict]:
        """A verdict on each response; `truncated` is where the limit of tokens cut one off."""
        ...


@dataclass(frozen=True)
class Grading:
    """One way of grading."""

    judge: Callable[[int, bool], contextlib.AbstractContextManager[Judge]]
    """Opens a judge with so many worker processes, where it needs any, for training or for scores."""
    cases: tuple[tuple[str, str, Verdict], ...]
    """Gold answer, response that ended by itself, and the verdict on it: what the doctor asks the judge before a sweep
    trusts it."""


@contextlib.contextmanager
def judge_for(
    benchmarks: Sequence[Benchmark], *, workers: int = 1, training: bool = False
) -> Iterator[dict[str, Judge]]:
    """A judge for each benchmark by name; those of one grading share it, and its worker processes.

    training: what takes long is given up sooner. A policy may learn to write what takes long.
    """
    with contextlib.ExitStack() as stack:
        judges = {
            grading: stack.enter_context(GRADINGS[grading].judge(workers, training))
            for grading in dict.fromkeys(benchmark.grading for benchmark in benchmarks)
        }
        yield {benchmark.name: judges[benchmark.grading] for benchmark in benchmarks}


def _exact(grade: Callable[..., Verdict]) -> Callable[[int, bool], contextlib.AbstractContextManager[Judge]]:
    """A judge by exact comparison, in this process."""

    def judge(problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        return [
            grade(problem.answer, response, truncated=cut)
            for problem, response, cut in zip(problems, responses, truncated, strict=True)
        ]

    return lambda workers, training: contextlib.nullcontext(judge)


@contextlib.contextmanager
def _math(workers: int, training: bool) -> Iterator[Judge]:
    limits = {"seconds": TRAINING_SECONDS, "give_up": True} if training else {}
    with Grader(workers=workers, **limits) as grader:  # type: ignore[arg-type]

        def judge(problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
            # A truncated response is graded as it stands: where it already gave its answer, the answer counts.
            return grader.grade([(p.answer, r) for p, r in zip(problems, responses, strict=True)])

        yield judge


GRADINGS = {
    "exact": Grading(
        _exact(arithmetic.grade), (("3", ":0,4=3", "correct"), ("3", "=4", "wrong"), ("3", "3", "no_answer"))
    ),
    "number": Grading(
        _exact(word_arithmetic.grade),
        (("13", " 8 + 5 = 13.", "correct"), ("13", " 12", "wrong"), ("13", " Ben has many", "no_answer")),
    ),
    "math": Grading(
        _math,
        (
            (r"\frac{1}{2}", r"Half of it, so the answer is \boxed{\frac{1}{2}}.", "correct"),
            (r"\frac{1}{2}", r"That makes \boxed{0.5}.", "correct"),
            ("18", r"She makes \boxed{17}.", "wrong"),
            (r"(-\infty, 3]", r"Hence \boxed{(-\infty, 3]}.", "correct"),
            ("42", "I do not know.", "no_answer"),
        ),
    ),
}
"""By `Benchmark.grading`."""
