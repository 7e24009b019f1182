"""The trackers, each with the same three methods. Their packages are imported when one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.record.files import hash_of, remove

Rows = Sequence[Mapping[str, Any]]
"""Of metrics.jsonl, from the first step on."""


@dataclass(frozen=True)
class TrackedRun:
    """One training."""

    suite: str
    cell: str
    """Its name, which the run has too."""
    folder: Path
    """The cell's."""
    training_hash: str
    config: Mapping[str, Any]
    """What the cell is told, as JSON."""

    @property
    def key(self) -> str:
        """The same when it goes on, another when the cell is run with other settings."""
        return hash_of([self.suite, self.cell, self.training_hash])


class Tracker(Protocol):
    """Is told the rows of runs."""

    def tell(self, run: TrackedRun, rows: Rows, told: int) -> None:
        """All rows so far, of which the first `told` are known, perhaps from an earlier process."""

    def end(self, run: TrackedRun, *, failed: bool) -> None:
        """There will be no further row of this run. Called for those that `tell` was called for."""

    def close(self) -> None:
        """There will be no further row. Runs that did not end may go on in another process."""


class TensorBoard:
    """A folder a cell. Of a run that goes on, the files are written anew, which is how they hold each step once."""

    def __init__(self, folder: Path, project: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.make = folder / "tensorboard", SummaryWriter
        self.writers: dict[str, Any] = {}

    def tell(self, run: TrackedRun, rows: Rows, told: int) -> None:
        """See `Tracker`."""
        if run.key not in self.writers:
            target, told = self.folder / run.cell, 0
            remove(target)
            self.writers[run.key] = self.make(str(target))
        for row in rows[told:]:
            for name, value in metrics_of(row).items():
                self.writers[run.key].add_scalar(name, value, row["step"])
        self.writers[run.key].flush()

    def end(self, run: TrackedRun, *, failed: bool) -> None:
        """See `Tracker`."""
        self.writers.pop(run.key).close()

    def close(self) -> None:
        """See `Tracker`."""
        for writer in self.writers.values():
            writer.close()


class WeightsAndBiases:
    """A run a cell, in the suite's group."""

    def __init__(self, folder: Path, project: str) -> None:
        import wandb

        self.project, self.runs = project, dict[str, Any]()
        settings = wandb.Settings(console="off", silent=True)
        self.flush = wandb.teardown  # `finish` returns before the last rows are on the disk
        self.open: Callable[..., Any] = partial(wandb.init, resume="allow", reinit="create_new", settings=settings)

    def tell(self, run: TrackedRun, rows: Rows, told: int) -> None:
        """See `Tracker`."""
        if run.key not in self.runs:
            about = {"project": self.project, "group": run.suite, "name": run.cell, "id": run.key}
            self.runs[run.key] = self.open(config=dict(run.config), **about)
        for row in rows[told:]:
            self.runs[run.key].log(metrics_of(row), step=row["step"])

    def end(self, run: TrackedRun, *, failed: bool) -> None:
        """See `Tracker`."""
        self.runs.pop(run.key).finish(exit_code=int(failed))

    def close(self) -> None:
        """See `Tracker`."""
        for run in self.runs.values():
            run.finish()
        self.flush()


class Trackio:
    """A run a cell, in the suite's group."""

    def __init__(self, folder: Path, project: str) -> None:
        import trackio

        self.project, self.runs = project, dict[str, Any]()
        self.open: Callable[..., Any] = trackio.init
        self.quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}

    def tell(self, run: TrackedRun, rows: Rows, told: int) -> None:
        """See `Tracker`."""
        if run.key not in self.runs:
            about = {"project": self.project, "group": run.suite, "name": run.cell, "config": dict(run.config)}
            # By its name: a run with other settings is another one, which trackio names apart.
            self.runs[run.key] = self.open(resume="allow" if told else "never", **about, **self.quiet)
        for row in rows[told:]:
            self.runs[run.key].log(metrics_of(row), step=row["step"])

    def end(self, run: TrackedRun, *, failed: bool) -> None:
        """See `Tracker`."""
        self.runs.pop(run.key).finish()

    def close(self) -> None:
        """See `Tracker`."""
        for run in self.runs.values():
            run.finish()


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What a row says of its step."""
    return {name: value for name, value in row.items() if name != "step"}


MAKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
"""By the keys of [tracking]."""
