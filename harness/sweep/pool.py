"""Runs the cells of a suite side by side, and goes on where an earlier sweep stopped.

An executor says where: `LocalPool` in one-thread processes on this machine, `harness.sweep.ray_sweep.RayCluster` on a
cluster. Two one-thread processes beat one of two threads on models as small as the embedded default, and a process that
dies takes one cell with it.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.model.ranks import visible_gpus
from harness.suite.config import ConfigError, Resources
from harness.suite.plan import Cell
from harness.sweep.cell import bury_cell
from harness.sweep.events import CellEnd, CellEvent, CellProgress
from harness.sweep.launch import launch_cell

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc would give every large tensor's memory back to the kernel and fault it in anew: half of a scoring pass.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""Of every worker process."""


@dataclass(frozen=True)
class LocalPool:
    """One-thread processes on this machine; where cells take GPUs, as many cells at most as the GPUs allow."""

    workers: int

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' if self.workers > 1 else ''}"

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        """See `Executor`."""
        shares = gpu_shares(most(cells), min(self.workers, len(cells)))
        with _Pool(shares, runs, command) as pool:
            yield from pool.run(cells)


def most(cells: Sequence[Cell]) -> Resources:
    """What is enough for each of the cells."""
    each = [cell.config.resources for cell in cells]
    return Resources(ranks=max(r.ranks for r in each), gpus=max(r.gpus for r in each), cpus=max(r.cpus for r in each))


def gpu_shares(resources: Resources, workers: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker: as many GPUs of its own as a cell takes, or one that it shares with others.

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


class _Pool:
    """Worker processes that take one cell at a time; `shares` are the GPUs of each."""

    def __init__(self, shares: Sequence[str], runs: Path, command: list[str]) -> None:
        self.runs, self.command = runs, command
        self.context = multiprocessing.get_context("spawn")
        self.workers: dict[Connection, BaseProcess] = {}
        self.shares: dict[Connection, str] = {}
        self.busy: dict[Connection, tuple[Cell, float]] = {}
        for share in shares:
            self._start(share)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self.workers.items():
            connection.close()
            if connection in self.busy:
                process.terminate()
        for process in self.workers.values():
            process.join(10)

    def _start(self, share: str) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.runs, self.command))
        # All of it is read when the process or its libraries start, before the worker's own code runs.
        with _environment({**WORKER_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": share}):
            process.start()
        theirs.close()
        self.workers[ours], self.shares[ours] = process, share

    def run(self, cells: Sequence[Cell]) -> Iterator[CellEvent]:
        waiting = list(cells)
        while waiting or self.busy:
            for connection in self.workers:
                if connection not in self.busy and waiting:
                    cell = waiting.pop(0)
                    connection.send(cell)
                    self.busy[connection] = (cell, time.monotonic())
            for ready in wait(list(self.busy)):
                assert isinstance(ready, Connection)
                cell, started = self.busy[ready]
                try:
                    kind, *message = ready.recv()
                except (EOFError, OSError):  # it died, before it took the cell or after
                    kind, message = "done", [self._bury(ready, cell, time.monotonic() - started)]
                if kind == "progress":
                    yield CellProgress(cell, *message)
                    continue
                self.busy.pop(ready, None)
                (status,) = message
                yield CellEnd(cell, status, time.monotonic() - started)

    def _bury(self, connection: Connection, cell: Cell, seconds: float) -> str:
        """A worker died without a word, killed from outside or by a crash: another one takes its place.

        Returns what became of its cell.
        """
        process = self.workers.pop(connection)
        del self.busy[connection]
        process.join()
        code = process.exitcode or 0
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        text = f"The process that ran {cell.name} died: {reason} (SIGKILL often means out of memory).\n"
        self._start(self.shares.pop(connection))
        return bury_cell(cell, self.runs, self.command, text, seconds)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block, and as they were after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, runs: Path, command: list[str]) -> None:
    """A worker: takes cells until the sweep closes the connection."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep decides what Ctrl-C means
    torch.set_num_threads(1)

    def on_progress(stage: str, done: int, total: int, reward: float | None) -> None:
        try:
            connection.send(("progress", stage, done, total, reward))
        except OSError:
            os._exit(1)  # the sweep is gone: leave the cell for the next one

    while True:
        try:
            cell: Cell = connection.recv()
        except EOFError:
            return
        connection.send(("done", launch_cell(cell, runs, command, on_progress)))
