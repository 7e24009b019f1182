"""What the parts of the campaign have in common."""

from __future__ import annotations

import contextlib
import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from stage import Stage
from verdicts import Outcome


class Part(ABC):
    """Numbered trials of one kind. Each depends on the seed, its number and the stage alone."""

    name: ClassVar[str]
    about: ClassVar[str]
    """A sentence for the page."""
    in_main_thread: ClassVar[bool] = False
    """Whether trials are too short to be worth a thread, or need the main one."""

    def __init__(self, stage: Stage, seed: int) -> None:
        """The same trials for the same seed."""
        self.stage, self.seed = stage, seed
        self.alone: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        """Held for a trial: a lock where no two of them may run at the same time."""

    @property
    @abstractmethod
    def whole(self) -> int:
        """How many trials there are."""

    @abstractmethod
    def describe(self, number: int) -> str:
        """What a trial does, in a phrase."""

    @abstractmethod
    def run(self, number: int, folder: Path) -> Outcome:
        """Runs a trial in an empty folder of its own."""

    def lacks(self) -> str | None:
        """Why the part cannot run here, and what it needs; None where it can."""
        return None

    def chosen(self, share: float) -> list[int]:
        """The numbers of the trials that make a share of all, of each part one at least; those of a smaller share are
        among those of a larger."""
        order = random.Random(f"{self.seed} {self.name}").sample(range(self.whole), self.whole)
        return order[: max(1, round(share * self.whole))]

    def rng(self, number: int) -> random.Random:
        """Of a trial."""
        return random.Random(f"{self.seed} {self.name} {number}")
