"""What a step is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks import Problem
from harness.training.batch import Sample


@dataclass(kw_only=True)
class Rollouts:
    """The responses of one step, before history joins them."""

    problems: Sequence[Problem]
    """Of each group."""
    groups: list[list[Sample]]
    """What is trained on."""
    first: list[list[Sample]]
    """What was drawn for the step's own prompts, which refilling may replace: the training reward is theirs. Empty
    where nothing was drawn."""
    asked: Sequence[Problem] = ()
    """The step's own prompts, of each of `first`."""
    drawn: int = 0
    """Tokens that were drawn for the groups, those that refilling threw away included."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """Those that are drawn."""
    metrics: dict[str, float] = field(default_factory=dict)
