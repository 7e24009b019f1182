"""Rewards and scores: one grader for training and evaluation.

A score is 1 for a correct response and 0 for any other. What a response earns in training is a recipe of its own.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from benchmarks import Verdict


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
    """Of an answer that is not the gold one."""
    no_answer: float = 0.0
    """Of a response with nothing to compare: the part of the format."""
    failure: float = 0.0
    """Of a response that the grader failed on, by time or by error: the metric `grader_failures` counts those."""
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
            value = {"correct": self.correct, "wrong": self.wrong, "no_answer": self.no_answer}.get(
                verdict, self.failure
            )
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
        # A tenth for an answer that can be read, whether right or wrong. Version 1 pays a timeout too.
        RewardRecipe(name="correct-format", version=1, wrong=0.1, failure=0.1),
        RewardRecipe(name="correct-format", version=2, wrong=0.1),
        # DAPO: correctness counts ±1 (eq. 7), and the soft overlong punishment is added (eq. 13).
        RewardRecipe(name="dapo", version=1, wrong=-1.0, no_answer=-1.0, failure=-1.0, overlong=1.0),
    )
}
"""By label."""
