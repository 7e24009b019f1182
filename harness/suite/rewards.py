"""Rewards and scores: one grader for training and evaluation.

A score is 1 for a correct response and 0 for any other. What a response earns in training is a recipe of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks import Benchmark, Problem, Verdict
from benchmarks.arithmetic import Arithmetic
from benchmarks.grader import Grader


def score_of(verdict: Verdict) -> float:
    """1 for a correct response, else 0."""
    return float(verdict == "correct")


@dataclass(frozen=True, kw_only=True)
class RewardRecipe:
    """What a response earns in training: the value of its verdict, plus `overlong` times the soft overlong punishment.

    A recipe that changes gets a new version. `train.reward` names it with its version, so that both stand in the
    manifest and in the settings' hash.

    Raises ValueError where a value is not finite, or `overlong_cache` is not in (0, 1].
    """

    name: str
    version: int
    correct: float = 1.0
    wrong: float = 0.0
    """Of an answer that is not the gold one, and of a response that the grader failed on: the metric
    `grader_failures` counts those."""
    no_answer: float = 0.0
    """Of a response with nothing to compare: the part of the format."""
    truncated: float | None = None
    """Of a response that hit the length limit, whatever it says; None takes the verdict's value."""
    overlong: float = 0.0
    """Weight of the soft overlong punishment."""
    overlong_cache: float = 0.2
    """L_cache as a share of L_max. DAPO punishes the last 4,096 of 20,480 tokens."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"reward {self.label}: {field.name} is {value}; every part of a reward is finite")
        if not 0 < self.overlong_cache <= 1:
            raise ValueError(f"reward {self.label}: overlong_cache is {self.overlong_cache}; it must be in (0, 1]")

    @property
    def label(self) -> str:
        """Name and version, as suites and manifests have them: `correct-v1`."""
        return f"{self.name}-v{self.version}"

    def reward(self, verdict: Verdict, *, tokens: int, truncated: bool, max_new_tokens: int) -> float:
        """Of a response of `tokens` tokens where at most `max_new_tokens` were allowed."""
        if truncated and self.truncated is not None:
            value = self.truncated
        else:
            value = {"correct": self.correct, "no_answer": self.no_answer}.get(verdict, self.wrong)
        return value + self.overlong * soft_overlong_punishment(tokens, max_new_tokens, self.overlong_cache)


def soft_overlong_punishment(tokens: int, max_new_tokens: int, cache: float) -> float:
    """Yu et al. 2025 (DAPO, arXiv 2503.14476), eq. 13, with L_max = `max_new_tokens` and L_cache = cache · L_max:

    0                                      where |y| ≤ L_max − L_cache
    ((L_max − L_cache) − |y|) / L_cache    where L_max − L_cache < |y| ≤ L_max
    −1                                     where L_max < |y|
    """
    punished = cache * max_new_tokens
    return min(0.0, max(-1.0, (max_new_tokens - punished - tokens) / punished))


REWARDS: dict[str, RewardRecipe] = {
    recipe.label: recipe
    for recipe in (
        RewardRecipe(name="correct", version=1),
        # A truncated response earns nothing, even where it already gave the right answer.
        RewardRecipe(name="correct-untruncated", version=1, truncated=0.0),
        # A tenth for an answer that can be read, whether right or wrong.
        RewardRecipe(name="correct-format", version=1, wrong=0.1),
        # DAPO: correctness counts ±1 (eq. 7), and the soft overlong punishment is added (eq. 13).
        RewardRecipe(name="dapo", version=1, wrong=-1.0, no_answer=-1.0, overlong=1.0),
    )
}
"""By label."""


class Judge(Protocol):
    def __call__(
        self, problems: Sequence[Problem], responses: Sequence[str], truncated: Sequence[bool]
    ) -> list[Verdict]: ...


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
