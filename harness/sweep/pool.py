"""Runs the cells of a suite side by side, and goes on where an earlier sweep stopped.

An executor says where: `LocalPool` on this machine, `harness.sweep.ray_sweep.RayCluster` on a cluster. Each cell has
processes of its own (launch.py). Two one-thread processes beat one of two threads on models as small as the embedded
default, and whatever becomes of one, or is done in it, is one cell's alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from harness.model.ranks import visible_gpus
from harness.suite.config import ConfigError, Resources
from harness.suite.plan import Cell
from harness.sweep.events import CellEnd, CellEvent
from harness.sweep.launch import RunningCell, stop


@dataclass(frozen=True)
class LocalPool:
    """Processes on this machine; where cells take GPUs, as many cells at most as the GPUs allow."""

    workers: int
    """How many cells run side by side."""

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' if self.workers > 1 else ''}"

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        """See `Executor`."""
        waiting, running = list(cells), dict[RunningCell, str]()
        free = gpu_shares(most(cells), min(self.workers, len(cells)))
        try:
            while waiting or running:
                while waiting and free:
                    gpus = free.pop(0)
                    running[RunningCell(waiting.pop(0), runs, command, gpus=gpus)] = gpus
                signs = [sign for cell in running for sign in cell.signs]
                wait(signs, min((cell.patience for cell in running if cell.patience is not None), default=None))
                for cell in list(running):
                    yield from cell.news()
                    if cell.status is not None:
                        free.append(running.pop(cell))
                        yield CellEnd(cell.cell, cell.status, time.monotonic() - cell.started)
        finally:
            stop(running)


def most(cells: Sequence[Cell]) -> Resources:
    """What is enough for each of the cells."""
    each = [cell.config.resources for cell in cells]
    return Resources(ranks=max(r.ranks for r in each), gpus=max(r.gpus for r in each), cpus=max(r.cpus for r in each))


def gpu_shares(resources: Resources, workers: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of so many cells: each has as many GPUs of its own as it takes, or one that it shares.

    Raises ConfigError where this machine has fewer.
    """
    if resources.gpus == 0:
        return [""] * workers
    found, each = visible_gpus(), math.ceil(resources.gpus)
    if len(found) < each:
        raise ConfigError(
            f"resources.gpus = {resources.gpus}: torch finds {len(found) or 'no'} CUDA devices on this machine"
        )
    sets = [",".join(found[i * each : (i + 1) * each]) for i in range(len(found) // each)]
    return (sets * resources.cells_on_gpu)[:workers]
