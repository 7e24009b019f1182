"""The responses that training problems give, where an algorithm asks for them, and how many a group has."""

from __future__ import annotations

from algorithms.base import Needs
from benchmarks import Problem
from harness.suite.config import Train

GIVEN: dict[str, tuple[tuple[str, float], ...]] = {
    "demonstrations": (("solution", 1.0),),
    "pairs": (("solution", 1.0), ("mistake", 0.0)),
}
"""By `needs.data`: which fields of a problem are the responses of its group, and their rewards, whatever the recipe."""


def given_texts(problem: Problem, needs: Needs) -> list[str]:
    """The group that the problem gives. Raises ValueError where it lacks one of the responses (`plan` refuses it)."""
    texts = [getattr(problem, field) for field, _ in GIVEN[needs.data]]
    if None in texts:
        raise ValueError(f"problem {problem.id!r} gives no {needs.data}")
    return texts


def group_size(needs: Needs, train: Train) -> int:
    """Responses of each prompt: as many as are given, or else as are drawn."""
    return len(GIVEN[needs.data]) if needs.data in GIVEN else train.samples
