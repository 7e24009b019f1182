"""How far the cells of a sweep have got, as a reader sees it while they run. Locks nothing and writes no cell.

`<runs>/sweep.json` names the cells that the last sweep was asked for, since one that has not begun leaves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.record.cell_state import HASH, MANIFEST, METRICS, TRACEBACK, TRAINING
from harness.record.files import write_json
from harness.record.kept_samples import KEPT
from harness.record.metrics_file import read_rows
from harness.record.sums import read_record

PLAN = "sweep.json"

Stage = Literal["waiting", "started", "training", "evaluating", "finished", "failed"]
"""What a cell is at, or was when its sweep was stopped."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell that a sweep was asked for."""

    cell: str
    """Its name: of its folder, below that of the runs."""
    algorithm: str
    """What its runs are called, as in its name (`protocols.run_label`): the label of the suite's entry, with @default
    under that protocol; or "base"."""
    seed: int | None
    """None for the base."""
    steps: int
    """Of its training; 0 for the base."""
    benchmark: str
    """Whose problems it is trained on."""


def write_plan(runs: Path, cells: Sequence[PlannedCell]) -> None:
    """Says which cells a sweep is asked for, where that is not said yet."""
    if read_plan(runs) != list(cells):
        write_json(runs / PLAN, {"cells": [asdict(cell) for cell in cells]})


def read_plan(runs: Path) -> list[PlannedCell]:
    """What `write_plan` said last; nothing where it is not to be read, since only progress hangs on it."""
    record, _ = read_record(runs / PLAN)
    with contextlib.suppress(TypeError, KeyError):
        return [PlannedCell(**cell) for cell in (record or {"cells": []})["cells"]]
    return []


def stage_of(folder: Path) -> Stage:
    """What the cell of a folder is at."""
    manifest, _ = read_record(folder / MANIFEST)
    if manifest is not None:
        return "finished" if manifest.get("status") == "finished" else "failed"
    if (folder / TRACEBACK).is_file():
        return "failed"
    if (folder / TRAINING).is_file():
        return "evaluating"
    if (folder / METRICS).is_file():
        return "training"
    return "started" if (folder / HASH).is_file() else "waiting"


def rows_of(folder: Path, training_hash: str) -> list[dict[str, Any]]:
    """The rows so far of a cell's training with these settings: none where the folder still holds those of others.

    Raises RecordError as `metrics_file.read_rows`.
    """
    found = folder / HASH
    known = found.read_text(errors="replace") if found.is_file() else None
    return read_rows(folder / METRICS) if known == training_hash else []


Mark = tuple[int, int]
"""Size of a file and the time of its last change, in ns since the epoch."""


@dataclass(frozen=True)
class Trace:
    """What has changed in a cell's folder, as far as it can be seen without reading."""

    end: Mark | None
    """Of the manifest, with which a cell is over."""
    rows: Mark | None
    """Of the rows of its training."""
    others: tuple[Mark | None, ...]

    @property
    def latest(self) -> int:
        """When something has changed last, in ns since the epoch; 0 where nothing is there."""
        return max((mark[1] for mark in (self.end, self.rows, *self.others) if mark is not None), default=0)


def trace_of(folder: Path) -> Trace:
    """Of the folder of a cell."""
    end, rows, *others = (_mark(folder / name) for name in (MANIFEST, METRICS, TRACEBACK, TRAINING, KEPT, HASH))
    return Trace(end, rows, tuple(others))


def _mark(path: Path) -> Mark | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
