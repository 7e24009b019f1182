"""The recorded cells of a suite, read and never changed. Does not import torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from benchmarks.errors import BenchError
from harness.record.cell_folder import SAMPLE_COLUMNS, CellFolder
from harness.record.cell_state import look
from harness.record.files import RecordError
from harness.record.kept_samples import KeptSamples
from harness.record.runs_folder import cell_folders, folders_in
from harness.record.text import last_line
from harness.report.trials import read_trials, trials_of_suite
from harness.suite.cell_config import COEFFICIENTS
from harness.suite.protocols import first_protocol, run_label

CELL_FOLDER = re.compile(r"base|.+-s\d+")


MOST_NAMED = 3
"""Cells, or folders, that a message names."""


class ReportError(BenchError, ValueError):
    """The runs cannot be compared. The message names the cells and says what to do."""


class Rows(Protocol):
    """Where the rows of a cell are read from: its folder (`CellFolder`), or the raw rows of a published suite."""

    @property
    def path(self) -> Path:
        """Where that lies, for messages."""

    @property
    def kept(self) -> KeptSamples:
        """The responses that training drew, at the steps that are kept."""

    def samples(self, columns: Sequence[str]) -> pd.DataFrame:
        """A row per evaluated sample."""

    def metrics(self) -> list[dict[str, Any]]:
        """A row per training step, in order."""

    def traceback(self) -> str | None:
        """Why the cell failed; None where that is not recorded."""


@dataclass(frozen=True)
class RecordedCell:
    """One recorded run: an algorithm under a seed, or the base."""

    name: str
    """Of the cell's folder; within an ablation, after that of its point."""
    manifest: dict[str, Any]
    rows: Rows

    @property
    def algorithm(self) -> str:
        """The label of the suite's entry, or "base"."""
        return str(self.manifest["algorithm"])

    @property
    def protocol(self) -> str:
        """Under which of a suite's protocols it ran: of the base, and where none is recorded, "tuned"."""
        return str(self.config("protocol") or "tuned")

    @property
    def run_label(self) -> str:
        """As in the cell's name: see `protocols.run_label`."""
        return run_label(str(self.manifest["algorithm"]), self.protocol)

    @property
    def finished(self) -> bool:
        """Whether the cell came to its end without failing."""
        return bool(self.manifest["status"] == "finished")

    def config(self, *keys: str) -> Any:
        """A value of the resolved config, None where some part of the path is absent or null."""
        value: Any = self.manifest["config"]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def samples(self) -> pd.DataFrame:
        """A row per evaluated sample, without the responses."""
        return self.rows.samples([name for name in SAMPLE_COLUMNS if name != "response"])

    def metrics(self) -> pd.DataFrame:
        """A row per training step, in order."""
        rows = self.rows.metrics()
        if not rows:
            raise RecordError(
                f"{self.rows.path}: cell {self.name} has no metrics of its training. Remove its folder to run it again"
            )
        return pd.DataFrame(rows)

    def error(self) -> str:
        """The last line of a failed cell's traceback."""
        return last_line(self.rows.traceback())


@dataclass(frozen=True)
class RecordedSuite:
    """All that a report reads of a suite, wherever it is recorded."""

    name: str
    path: Path
    """Where it lies, for messages."""
    cells: Sequence[RecordedCell]
    unfinished: Sequence[str] = ()
    """Cells that have begun and not ended."""
    coefficients: pd.DataFrame | None = None
    """The gradient coefficients of its algorithms, None where they were not to be had."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why there are none, by the labels of the algorithms that are left out, or by "all"."""
    trials: pd.DataFrame | None = None
    """Those behind its hyper-parameters (trials.py), where they are recorded."""
    baseline: str | None = None
    """The label that differences are taken from, where it is another than the cells recorded."""
    highlight: Sequence[str] = ()
    """Labels whose rows and lines stand out."""

    @property
    def is_ablation(self) -> bool:
        """Whether its cells belong to points."""
        return any("/" in cell.name for cell in self.cells)


def recorded_suite(runs: Path) -> RecordedSuite:
    """The suite, or the ablation, whose cells lie in a folder of runs.

    Raises RecordError where something does not fit its checksums, ReportError where there is no cell, the cells of a
    table are not of one suite, or cells lie beside points.
    """
    if points := points_in(runs):
        cells: list[RecordedCell] = []
        unfinished: list[str] = []
        for point in points:
            found, missing = load_cells(point)
            cells += [replace(cell, name=f"{point.name}/{cell.name}") for cell in found]
            unfinished += [f"{point.name}/{name}" for name in missing]
        return RecordedSuite(runs.name, runs, cells, unfinished)
    cells, unfinished = load_cells(runs)
    coefficients, left_out = load_coefficients(runs, cells)
    tried = trials_of_suite(runs)
    trials = read_trials(tried) if tried.exists() else None
    return RecordedSuite(str(cells[0].manifest["suite"]), runs, cells, unfinished, coefficients, left_out, trials)


def points_in(runs: Path) -> list[Path]:
    """The folders of an ablation's points in which a cell has ended; none where a suite's cells lie in `runs` itself.

    Raises ReportError where cells lie in both.
    """
    own = [cell.path for cell in cell_folders(runs)]
    points = [folder for folder in folders_in(runs) if folder not in own and cell_folders(folder)]
    if own and points:
        raise ReportError(
            f"{runs} holds cells of its own ({_few([cell.name for cell in own])}) beside folders of cells "
            f"({_few([point.name for point in points])}): move those that do not belong to this suite elsewhere"
        )
    return points


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")


def load_cells(runs: Path) -> tuple[list[RecordedCell], list[str]]:
    """The recorded cells of one suite, by name, and the folders of cells that have no manifest yet.

    Raises RecordError where one does not fit its checksums, ReportError where they are not of one suite.
    """
    if not runs.is_dir():
        raise ReportError(f"{runs} is not a folder; give the one that holds the cells, such as my-results/runs/<suite>")
    cells, unfinished = [], []
    found = {folder: look(folder) for folder in folders_in(runs)}
    damaged = [f"{folder.name}: {', '.join(there.faults)}" for folder, there in found.items() if there.faults]
    if damaged:
        few = "; ".join(damaged[:MOST_NAMED]) + ("; …" if len(damaged) > MOST_NAMED else "")
        raise RecordError(
            f"{runs}: {len(damaged)} cells do not hold what was recorded ({few}). The sweep of this suite sets them "
            f"aside and runs them again: give it once more as it was. gvpo-bench verify {runs} names them all"
        )
    for folder, there in found.items():
        manifest = there.manifest
        if folder.name == COEFFICIENTS:
            continue
        if manifest is not None:
            cells.append(RecordedCell(folder.name, manifest, CellFolder(folder)))
        elif CELL_FOLDER.fullmatch(folder.name):
            unfinished.append(folder.name)
    if not cells:
        raise ReportError(f"{runs} holds no cell with a manifest.json; run the sweep of this suite first")
    require_one_suite(cells, runs)
    return cells, unfinished


def require_one_suite(cells: Sequence[RecordedCell], path: Path) -> None:
    """Raises ReportError where these cells do not belong into one table; `path` says where they lie."""
    for cell in cells:
        if cell.manifest["status"] not in ("finished", "failed"):
            raise ReportError(
                f"{cell.rows.path}: cell {cell.name} has status {cell.manifest['status']!r}; expected 'finished' or "
                "'failed'. Delete its folder and run the sweep again"
            )
    by_hash: dict[str, list[str]] = {}
    for cell in cells:
        by_hash.setdefault(str(cell.manifest["suite_hash"]), []).append(cell.name)
    if len(by_hash) > 1:
        mixed = "; ".join(f"{suite_hash}: {', '.join(names)}" for suite_hash, names in by_hash.items())
        raise ReportError(
            f"{path} mixes cells of different suites, which cannot be compared ({mixed}). If some were evaluated with "
            "other [evaluation] settings, run the sweep again: it evaluates their checkpoints and trains nothing. If "
            "not, move the cells of all but one suite_hash elsewhere, or run the changed suite with another --out"
        )


NOT_COMPARED = "a sweep in one process compares them after its report, once the baseline has finished at seed 0"
OUTDATED = "those recorded are of other trainings than the cells here ({}); the sweep of this suite compares them anew"


def load_coefficients(runs: Path, cells: Sequence[RecordedCell]) -> tuple[pd.DataFrame | None, dict[str, str]]:
    """The gradient coefficients of a suite's algorithms (see `harness.training.coefficients`), None where they were not
    to be had, or are of other cells than those at seed 0; and why, by the labels of the algorithms that are left out,
    or by "all"."""
    job = CellFolder(runs / COEFFICIENTS)
    manifest = job.manifest()
    if manifest is None:
        return None, {"all": NOT_COMPARED}
    if manifest["status"] != "finished":
        return None, {"all": job.error()}
    here = {(cell.algorithm, cell.manifest["hash"]) for cell in cells if cell.manifest["seed"] == 0}
    compared = manifest.get("config", {}).get("algorithm", {}).get("parameters", {})  # labels, and hashes of trainings
    if others := [label for label, training in compared.items() if (label, training) not in here]:
        return None, {"all": OUTDATED.format(_few(others))}
    return job.coefficients(), manifest["left_out"]


def agreed(cells: Sequence[RecordedCell], *keys: str) -> Any:
    """The one value that all these cells have in their config."""
    values = {json.dumps(cell.config(*keys), sort_keys=True): cell.name for cell in cells}
    if len(values) > 1:
        found = "; ".join(f"{name}: {value}" for value, name in values.items())
        raise ReportError(
            f"the cells disagree on {'.'.join(keys)} ({found}). Run those of one side again, or report them apart"
        )
    return json.loads(next(iter(values)))


def of_first_protocol(cells: Sequence[RecordedCell]) -> list[RecordedCell]:
    """The base, and of all others those of the protocol whose scores a table gives first."""
    protocol = first_protocol({cell.protocol for cell in cells if cell.algorithm != "base"})
    return [cell for cell in cells if cell.algorithm == "base" or cell.protocol == protocol]


def require_labels(labels: Sequence[str], known: Sequence[str], path: Path) -> None:
    """Raises ReportError where a label to be highlighted is not among the known ones."""
    for label in labels:
        if label not in known:
            raise ReportError(f"highlight {label!r} has no cell in {path}; choose from: {', '.join(known)}")


def newest(cells: Sequence[RecordedCell]) -> RecordedCell:
    """The cell that was run last: a suite's report settings may change without a cell being run again."""
    return max(cells, key=lambda cell: str(cell.manifest.get("date", "")))
