"""Who judges the responses to a benchmark's problems, in training and evaluation alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from benchmarks import Benchmark, Problem, Verdict
from benchmarks.arithmetic import Arithmetic
from benchmarks.grader import Grader


class Judge(Protocol):
    """Grades the responses to a benchmark's problems."""

    def __call__(
        self, problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]
    ) -> list[Verdict]:
        """A verdict on each response; `truncated` is where the limit of tokens cut one off."""
        ...


@contextlib.contextmanager
def judge_for(benchmarks: Sequence[Benchmark], *, workers: int = 1) -> Iterator[dict[str, Judge]]:
    """A judge for each benchmark by name; those that need math-verify share its worker processes."""
    with contextlib.ExitStack() as stack:
        needs_grader = any(not isinstance(benchmark, Arithmetic) for benchmark in benchmarks)
        grader = stack.enter_context(Grader(workers=workers)) if needs_grader else None
        judges: dict[str, Judge] = {}
        for benchmark in benchmarks:
            if isinstance(benchmark, Arithmetic):
                judges[benchmark.name] = _exact(benchmark)
            else:
                assert grader is not None
                judges[benchmark.name] = _math(grader)
        yield judges


def _exact(benchmark: Arithmetic) -> Judge:
    def judge(problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        return [
            benchmark.grade(problem.answer, response, truncated=cut)
            for problem, response, cut in zip(problems, responses, truncated, strict=True)
        ]

    return judge


def _math(grader: Grader) -> Judge:
    def judge(problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        # A truncated response is graded as it stands: where it already gave its answer, the answer counts.
        return grader.grade([(p.answer, r) for p, r in zip(problems, responses, strict=True)])

    return judge
