"""Runs the cells of a suite in parallel one-thread processes, and goes on where an earlier sweep stopped.

Two one-thread processes beat one of two threads on models this small, and a process that dies takes one cell with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from harness.cells import Cell, bury_cell, run_cell
from harness.record import CellFolder

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


@dataclass
class Outcome:
    """What became of the cells of a sweep, by name."""

    finished: list[str] = field(default_factory=list)
    """In this sweep."""
    reused: list[str] = field(default_factory=list)
    """Finished before."""
    failed: dict[str, str] = field(default_factory=dict)
    """With the place of the traceback, or the reason."""


def run_cells(cells: Sequence[Cell], runs: Path, *, workers: int, command: list[str], console: Console) -> Outcome:
    """Runs every cell that isn't finished. A cell that fails does not stop the others.

    Raises RecordError where a cell was finished with other settings, before anything starts.
    """
    outcome = Outcome()
    waiting: list[Cell] = []
    for cell in cells:
        if CellFolder(runs / cell.name).is_finished(cell.config.hash()):
            outcome.reused.append(cell.name)
        else:
            waiting.append(cell)
    if outcome.reused:
        console.print(f"{len(outcome.reused)} of {len(cells)} cells were finished before")
    if waiting:
        with _Pool(min(workers, len(waiting)), runs, command) as pool, _Display(waiting, console) as display:
            pool.run(waiting, outcome, display)
    return outcome


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

    def update(self, name: str, stage: str, done: int, total: int, reward: float | None) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note="")
        note = stage if reward is None else f"{stage}, reward {reward:.2f}"
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)
        if stage == "train":
            self._set(name, float(done))

    def finish(self, name: str, status: str, seconds: float) -> None:
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))
        self._set(name, self.sizes[name])
        self.over += 1
        left = ""
        if not self.console.is_terminal and 0 < sum(self.done.values()) < sum(self.sizes.values()):
            share = sum(self.done.values()) / sum(self.sizes.values())
            left = f", about {(time.monotonic() - self.started) * (1 / share - 1):.0f} s left"
        colour = "green" if status == "finished" else "red"
        self.console.print(
            f"[{colour}]{status}[/] {name} in {seconds:.1f} s ({self.over} of {len(self.sizes)}{left})", highlight=False
        )

    def _set(self, name: str, done: float) -> None:
        self.done[name] = max(self.done[name], done)
        self.progress.update(self.all, completed=sum(self.done.values()))


def _size(cell: Cell) -> float:
    return EVALUATION_STEPS + (0 if cell.is_base else cell.config.train.steps)


class _Pool:
    """Worker processes that take one cell at a time."""

    def __init__(self, workers: int, runs: Path, command: list[str]) -> None:
        self.runs, self.command = runs, command
        self.context = multiprocessing.get_context("spawn")
        self.workers: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, tuple[Cell, float]] = {}
        for _ in range(workers):
            self._start()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self.workers.items():
            connection.close()
            if connection in self.busy:
                process.terminate()
        for process in self.workers.values():
            process.join(10)

    def _start(self) -> None:
        ours, theirs = self.context.Pipe()
        # All of it is read when the process or its libraries start, before the worker's own code runs.
        before = {key: os.environ.get(key) for key in WORKER_ENVIRONMENT}
        os.environ.update(WORKER_ENVIRONMENT)
        process = self.context.Process(target=_serve, args=(theirs, self.runs, self.command))
        process.start()
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
        theirs.close()
        self.workers[ours] = process

    def run(self, cells: Sequence[Cell], outcome: Outcome, display: _Display) -> None:
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
                    display.update(cell.name, *message)
                    continue
                self.busy.pop(ready, None)
                (status,) = message
                display.finish(cell.name, status, time.monotonic() - started)
                if status == "finished":
                    outcome.finished.append(cell.name)
                else:
                    outcome.failed[cell.name] = str(self.runs / cell.name / "traceback.txt")

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
        self._start()
        return bury_cell(cell, self.runs, self.command, text, seconds)


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
        connection.send(("done", run_cell(cell, runs, command, on_progress)))
