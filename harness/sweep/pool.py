"""Runs the cells of a suite side by side, and goes on where an earlier sweep stopped.

An executor says where: `LocalPool` in one-thread processes on this machine, `harness.sweep.ray_sweep.RayCluster` on a
cluster. Two one-thread processes beat one of two threads on models as small as the embedded default, and a process that
dies takes one cell with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from harness.model.ranks import visible_gpus
from harness.record.cell_folder import CellFolder
from harness.suite.config import ConfigError, Resources
from harness.sweep.cell import Cell, bury_cell, run_cell
from harness.sweep.launch import launch_cell

EVALUATION_STEPS = 4
"""An evaluation counts as this many training steps in the estimate of the time left."""

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


def run_cells(
    cells: Sequence[Cell], runs: Path, *, executor: Executor, command: list[str], console: Console
) -> Outcome:
    """Runs every cell that isn't finished. A cell that fails does not stop the others.

    Raises RecordError where a cell was finished with other settings, and ConfigError where it would have no GPU for a
    model that must be on one, or under torchrun, whose processes would all do it, before anything starts.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("only `gvpo-bench sweep` runs under torchrun, its cells one after another on all ranks")
    if any(cell.config.model.device == "cuda" and cell.resources.gpus == 0 for cell in cells):
        raise ConfigError(
            "model.device = 'cuda' with resources.gpus = 0: a cell would see no GPU; set resources.gpus = "
            f"{most(cells).ranks}"
        )
    outcome, waiting = _unfinished(cells, runs, console)
    if not waiting:
        return outcome
    with _Display(waiting, console) as display, contextlib.closing(executor.run(waiting, runs, command)) as events:
        for event in events:
            display.show(event)
            if isinstance(event, CellEnd) and event.status == "finished":
                outcome.finished.append(event.cell.name)
            elif isinstance(event, CellEnd):
                outcome.failed[event.cell.name] = str(runs / event.cell.name / "traceback.txt")
    return outcome


def run_cells_on_ranks(cells: Sequence[Cell], runs: Path, *, command: list[str], console: Console) -> Outcome:
    """Runs every cell that isn't finished, one after another, each on all ranks of the process group.

    Every rank must call it. A cell that fails is recorded and ends the sweep by its exception, since it must end every
    rank.

    Raises RecordError where a cell was finished with other settings, before anything starts.
    """
    outcome, waiting = _unfinished(cells, runs, console)
    with _Display(waiting, console) as display:
        for cell in waiting:

            def on_progress(stage: str, done: int, total: int, reward: float | None, cell: Cell = cell) -> None:
                display.show(CellProgress(cell, stage, done, total, reward))

            started = time.monotonic()
            status = run_cell(cell, runs, command, on_progress)
            display.show(CellEnd(cell, status, time.monotonic() - started))
            outcome.finished.append(cell.name)
    return outcome


def _unfinished(cells: Sequence[Cell], runs: Path, console: Console) -> tuple[Outcome, list[Cell]]:
    """The outcome so far, and the cells still to run."""
    outcome = Outcome()
    waiting: list[Cell] = []
    for cell in cells:
        if CellFolder(runs / cell.name).is_finished(cell.config.hash()):
            outcome.reused.append(cell.name)
        else:
            waiting.append(cell)
    if outcome.reused:
        console.print(f"{len(outcome.reused)} of {len(cells)} cells were finished before")
    return outcome, waiting


class _Display:
    """One bar for the sweep and one for each running cell."""

    def __init__(self, cells: Sequence[Cell], console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            Remaining(elapsed_when_finished=True),
            console=console,
        )
        self.sizes = {cell.name: _size(cell) for cell in cells}
        self.done = dict.fromkeys(self.sizes, 0.0)
        self.all = self.progress.add_task("sweep", total=sum(self.sizes.values()), note=f"{len(cells)} cells")
        self.tasks: dict[str, TaskID] = {}
        self.over = 0
        self.started = time.monotonic()

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: CellEvent) -> None:
        name = event.cell.name
        match event:
            case CellProgress():
                self._update(name, event)
            case CellNote():
                self.console.print(f"{name}: {event.text}", markup=False, highlight=False, soft_wrap=True)
            case CellEnd():
                self._finish(name, event)

    def _update(self, name: str, event: CellProgress) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=event.total, note="")
        note = event.stage if event.reward is None else f"{event.stage}, reward {event.reward:.2f}"
        self.progress.update(self.tasks[name], completed=event.done, total=event.total, note=note)
        if event.stage == "train":
            self._set(name, float(event.done))

    def _finish(self, name: str, event: CellEnd) -> None:
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))
        self._set(name, self.sizes[name])
        self.over += 1
        left = ""
        if not self.console.is_terminal and 0 < sum(self.done.values()) < sum(self.sizes.values()):
            share = sum(self.done.values()) / sum(self.sizes.values())
            left = f", about {(time.monotonic() - self.started) * (1 / share - 1):.0f} s left"
        colour = "green" if event.status == "finished" else "red"
        self.console.print(
            f"[{colour}]{event.status}[/] {name} in {event.seconds:.1f} s ({self.over} of {len(self.sizes)}{left})",
            highlight=False,
        )

    def _set(self, name: str, done: float) -> None:
        self.done[name] = max(self.done[name], done)
        self.progress.update(self.all, completed=sum(self.done.values()))


def _size(cell: Cell) -> float:
    return EVALUATION_STEPS + (0 if cell.is_base else cell.config.train.steps)


@dataclass(frozen=True)
class LocalPool:
    """One-thread processes on this machine; where cells take GPUs, as many cells at most as the GPUs allow."""

    workers: int

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' if self.workers > 1 else ''}"

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        shares = gpu_shares(most(cells).gpus, min(self.workers, len(cells)))
        with _Pool(shares, runs, command) as pool:
            yield from pool.run(cells)


def most(cells: Sequence[Cell]) -> Resources:
    """What is enough for each of the cells."""
    each = [cell.resources for cell in cells]
    return Resources(ranks=max(r.ranks for r in each), gpus=max(r.gpus for r in each), cpus=max(r.cpus for r in each))


def gpu_shares(gpus: int, workers: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker: as many GPUs of its own as a cell takes.

    Raises ConfigError where this machine has fewer.
    """
    if gpus == 0:
        return [""] * workers
    found = visible_gpus()
    if len(found) < gpus:
        raise ConfigError(f"resources.gpus = {gpus}: torch finds {len(found) or 'no'} CUDA devices on this machine")
    return [",".join(found[i * gpus : (i + 1) * gpus]) for i in range(min(workers, len(found) // gpus))]


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
