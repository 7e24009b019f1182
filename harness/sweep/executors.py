"""Which executor a command line asks for, and until when."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.record.environment import cores
from harness.suite.config import ConfigError, Suite
from harness.suite.plan import Cell
from harness.sweep.events import CellEvent, Executor
from harness.sweep.pool import LocalPool


@contextlib.contextmanager
def open_executor(ray: str | None, workers: int | None, suite: Suite) -> Iterator[Executor]:
    """The local pool, or a connection to the Ray cluster at the address `ray` for as long as the block lasts.

    Raises ConfigError where Ray is not installed or not to be had, or `workers` are asked of it.
    """
    if ray is None:
        yield LocalPool(workers or room_for(suite))
        return
    if workers is not None:
        raise ConfigError("--workers is for this machine alone; with --ray, [resources] says what a cell takes")
    if not find_spec("ray"):
        raise ConfigError("--ray needs the package ray: pip install 'gvpo-bench[ray]', on every node")
    if ray == "local":
        # A cluster that no other machine can join, on loopback alone, for nothing in it asks who is there. Ray reads it
        # when it is imported, and knows it by the systems on which it is the default.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from harness.sweep.ray_sweep import connect

    with connect(ray) as cluster:
        yield cluster


@dataclass(frozen=True)
class Until:
    """An executor that stops what still runs when it is told of a cell and the time is up. Another sweep goes on from
    there: from the last checkpoints."""

    executor: Executor
    end: float
    """Of `time.monotonic`, in seconds."""

    @property
    def workers(self) -> int:
        """See `Executor`."""
        return self.executor.workers

    def __str__(self) -> str:
        return f"{self.executor} for {max(0.0, self.end - time.monotonic()) / 60:.3g} minutes"

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        """See `Executor`."""
        with contextlib.closing(self.executor.run(cells, runs, command)) as events:
            while time.monotonic() < self.end and (event := next(events, None)) is not None:
                yield event


def room_for(suite: Suite) -> int:
    """How many cells this machine's cores have room for."""
    return max(1, cores() // suite.resources.cpus)
