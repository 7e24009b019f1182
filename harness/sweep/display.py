"""The progress of a sweep on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from harness.record.text import say
from harness.suite.plan import Cell
from harness.sweep.events import CellEnd, CellEvent, CellNote, CellProgress

EVALUATION_STEPS = 4
"""An evaluation counts as this many training steps in the estimate of the time left."""


class _Display:
    """One bar for the sweep and one for each running cell."""

    def __init__(self, cells: Sequence[Cell], console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
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
                say(self.console, f"{name}: {event.text}")
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
        about = f" {name} in {event.seconds:.1f} s ({self.over} of {len(self.sizes)}{left})"
        say(self.console, (event.status, colour), about)

    def _set(self, name: str, done: float) -> None:
        self.done[name] = max(self.done[name], done)
        self.progress.update(self.all, completed=sum(self.done.values()))


def _size(cell: Cell) -> float:
    return EVALUATION_STEPS + (cell.config.train.steps if cell.is_trained else 0)
