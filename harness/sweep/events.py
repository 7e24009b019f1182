"""What is told of the cells that run, and who runs them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.suite.plan import Cell


@dataclass(frozen=True)
class CellProgress:
    """A running cell has got further."""

    cell: Cell
    stage: str
    done: int
    total: int
    reward: float | None


@dataclass(frozen=True)
class CellNote:
    """What else is worth telling of a cell: where it starts, that its machine died."""

    cell: Cell
    text: str


@dataclass(frozen=True)
class CellEnd:
    """A cell is over."""

    cell: Cell
    status: str
    """"finished" or "failed"."""
    seconds: float


CellEvent = CellProgress | CellNote | CellEnd


class Executor(Protocol):
    """Where cells run; `str()` of it says so in a few words."""

    @property
    def workers(self) -> int:
        """How many cells may run side by side."""
        ...

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        """Runs the cells, and tells of each how it gets on and how it ends. A cell that fails does not stop the others.

        Closing the generator stops what still runs. Raises ConfigError where the cells cannot run here at all.
        """
        ...


@dataclass
class Outcome:
    """What became of the cells of a sweep, by name."""

    finished: list[str] = field(default_factory=list)
    """In this sweep."""
    reused: list[str] = field(default_factory=list)
    """Finished before."""
    failed: dict[str, str] = field(default_factory=dict)
    """With the place of the traceback, or the reason."""
