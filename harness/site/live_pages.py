"""The page of a sweep in progress: its files in memory, made anew as the runs change. Reads the runs, writes nothing.

What only cells that are over have a part in (tables, pairs, problems) is computed when one ends; curves, kept samples
and progress as often as they change, with a rest in between that leaves the machine to the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.errors import BenchError
from harness.record.cell_folder import CellFolder
from harness.record.runs_folder import recorded_cells
from harness.record.standing import Mark, PlannedCell, Stage, Trace, read_plan, stage_of, trace_of
from harness.report.choice import report_of
from harness.report.columns import TextTable, plain
from harness.report.comparison import Scores
from harness.report.page import Publication
from harness.report.recorded_cells import RecordedCell, recorded_suite
from harness.site.site_files import SITE, archive, data_script, folder_of, page_files
from harness.site.site_suite import Compared, compared, pages_of
from harness.site.site_tables import escapes, table_json, texts_of
from harness.suite.cell_config import COEFFICIENTS
from harness.suite.config import Protocol
from harness.suite.protocols import first_protocol, label_beside, protocol_of

REST = 5.0
"""Seconds of rest for each second that making the page took."""

ORDER: tuple[Stage, ...] = ("training", "evaluating", "started", "failed", "waiting", "finished")
"""Of the runs in the table of their progress."""

LIVE = "data/live.js"
"""What the page asks for again and again."""

File = bytes | Callable[[], bytes]
"""The content of a file, or what makes it when it is asked for."""

NOTHING_OVER = "No run is over yet, so nothing is compared. The curves and the progress are those so far."
NOT_YET = "The runs that are over are being compared. The curves and the progress are there already."
UNSTEADY = "a run has changed while it was read"
"""What the page says where it could not be made anew, until that fails again."""


def running_cell(runs: Path, planned: PlannedCell, unmarked: Protocol) -> RecordedCell:
    """A cell that is not over, as its folder shows it, with what would stand in its manifest as far as it is known;
    `unmarked` is the protocol whose runs have the label alone on the page."""
    point, label = planned.cell.rpartition("/")[0], label_beside(planned.algorithm, unmarked)
    manifest = {
        "algorithm": f"{point}/{label}" if point else label,
        "seed": planned.seed,
        "status": stage_of(runs / planned.cell),
        "config": {"train": {"benchmark": planned.benchmark}},
    }
    return RecordedCell(planned.cell, manifest, CellFolder(runs / planned.cell))


class LivePages:
    """The page of a folder of runs, as it was when it was last looked at."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.suite = runs, runs.absolute().name
        self.versions: dict[str, dict[str, File]] = {}
        """The files by their paths, of the last two versions: a reader's page is of the last but one for a moment."""
        self.trouble: str | None = None
        """Why the cells that are over cannot be compared just now, or the page not made."""
        self._always = page_files()
        self._seen: dict[str, Trace] | None = None
        self._over: dict[str, Mark] | None = None
        self._compared: Compared = compared(nothing_over(self.suite, NOT_YET))
        self._scripts: dict[str, bytes] = {}
        """Of the data that stay until another cell is over."""
        self._progress: dict[str, tuple[Mark, int, float | None]] = {}
        self._live: dict[str, Any] = {}
        """What the page says of itself, of the last version."""
        self._not_before = 0.0
        self._made, self._begun = 0, int(time.time())

    def find(self, path: str, version: str) -> bytes | None:
        """A file of a version, or of the last one where that is no more; None where there is none."""
        latest = next(reversed(self.versions.values()), {})
        content = self.versions.get(version, latest).get(path or "index.html")
        return content() if callable(content) else content

    def refresh(self) -> bool:
        """Makes the files anew where the runs have changed and there was a rest; returns whether it did. The first time
        nothing is compared yet, so that there is a page soon."""
        started = time.monotonic()
        if started < self._not_before:
            return False
        first, trouble, plan, seen = not self.versions, self.trouble, list[PlannedCell](), dict[str, Trace]()
        try:
            plan = self._plan()
            seen = {cell.cell: trace_of(self.runs / cell.cell) for cell in plan}
            if seen == self._seen and trouble is None:
                return False
            if not first:
                self._compare({name: trace.end for name, trace in seen.items() if trace.end is not None})
            self.trouble = None
        except (BenchError, OSError) as error:  # files come and go while they are read: the next time may be better
            self.trouble, self._over = str(error), None
        if seen == self._seen and self.trouble == trouble:
            return False
        try:
            self._publish(plan, seen)
        except (BenchError, OSError) as error:  # as of a cell that starts over: what it has left is gone by then
            self.trouble = UNSTEADY if trouble is None else str(error)
            self._tell()
            made = False
        else:
            self._seen, made = None if first else seen, True
        if not first:
            self._not_before = time.monotonic() + REST * (time.monotonic() - started)
        return made

    def _tell(self) -> None:
        """Says on the page as it is what the trouble is; on an empty one where there is none."""
        if not self.versions:
            self._publish([], {})
        self._live |= {"trouble": self.trouble}
        next(reversed(self.versions.values()))[LIVE] = data_script("live", self._live)

    def _plan(self) -> list[PlannedCell]:
        """The cells of the last sweep, and others that are recorded here."""
        planned = {cell.cell: cell for cell in read_plan(self.runs)}
        for folder in recorded_cells(self.runs):
            name = folder.path.relative_to(self.runs).as_posix()
            if name not in planned and folder.path.name != COEFFICIENTS:
                label, _, seed = folder.path.name.rpartition("-s")
                trained = bool(label) and seed.isdecimal()
                whose, own = (label, int(seed)) if trained else (folder.path.name, None)
                planned[name] = PlannedCell(name, whose, own, steps=0, benchmark="")
        return list(planned.values())

    def _compare(self, over: dict[str, Mark]) -> None:
        """Compares the cells that are over, where others were when it was last done."""
        if over != self._over:
            self._compared = compared(self._publication() if over else nothing_over(self.suite, NOTHING_OVER))
            self._scripts, self._over = {}, over

    def _publication(self) -> Publication:
        return report_of(recorded_suite(self.runs)).publication

    def _publish(self, plan: list[PlannedCell], seen: Mapping[str, Trace]) -> None:
        self._made += 1
        version, folder = f"{self._begun}-{self._made}", folder_of(self.suite)
        progress = {cell.cell: self._progress_of(cell.cell, seen[cell.cell]) for cell in plan}
        known = {cell.name: cell for cell in self._compared.publication.cells}
        begun = [cell for cell in plan if cell.cell not in known and progress[cell.cell][0] > 0]
        protocols = {cell.protocol for cell in known.values() if cell.manifest["seed"] is not None}
        unmarked = first_protocol(protocols or {protocol_of(cell.algorithm) for cell in begun})
        running = [running_cell(self.runs, cell, unmarked) for cell in begun]
        pages = pages_of(self._compared, running)
        stage = {cell.cell: stage_of(self.runs / cell.cell) for cell in plan}
        plan = sorted(plan, key=lambda cell: ORDER.index(stage[cell.cell]))
        stages = list(stage.values())
        live = {
            "version": version,
            "counts": {stage: stages.count(stage) for stage in ORDER if stage in stages},
            "runs": len(plan) if read_plan(self.runs) else None,
            "at": _clock(time.time_ns()),
            "trouble": self.trouble,
        }
        files: dict[str, File] = dict(self._always)
        files[LIVE] = data_script("live", live)
        suites = [{**pages.summary, "folder": folder}]
        files[SITE] = data_script("site", {"suites": suites, "live": live})
        for name in self._compared.data:
            if name not in self._scripts:
                self._scripts[name] = data_script(f"{folder}/{name}", pages.data[name])
        own = {name: data for name, data in pages.data.items() if name not in self._scripts}
        table = table_json("progress", progress_table(plan, stage, progress, seen))
        own["progress"] = table | {"escaped": escapes(texts_of(table))}
        scripts = self._scripts | {name: data_script(f"{folder}/{name}", data) for name, data in own.items()}
        files |= {f"data/{folder}/{name}.js": script for name, script in scripts.items()}
        files[f"data/{folder}/all.zip"] = lambda: archive(pages.files())
        for old in list(self.versions)[:-1]:
            del self.versions[old]
        self.versions[version], self._live = files, live

    def _progress_of(self, name: str, trace: Trace) -> tuple[int, float | None]:
        """How many steps a cell has been trained, and the last one's reward."""
        if trace.rows is None:
            return 0, None
        if name not in self._progress or self._progress[name][0] != trace.rows:
            try:
                rows = CellFolder(self.runs / name).metrics()
            except (BenchError, OSError):  # as in `refresh`
                rows = []
            self._progress[name] = trace.rows, len(rows), rows[-1].get("reward") if rows else None
        return self._progress[name][1:]


def progress_table(
    plan: Sequence[PlannedCell],
    stage: Mapping[str, Stage],
    progress: Mapping[str, tuple[int, float | None]],
    seen: Mapping[str, Trace],
) -> TextTable:
    """A row a cell: what it is at, how many steps it has been trained, the last reward, the time of the last change."""
    found = [progress[cell.cell] for cell in plan]
    latest = [seen[cell.cell].latest for cell in plan]
    columns: dict[str, list[str]] = {
        "run": [cell.cell for cell in plan],
        "algorithm": [cell.algorithm for cell in plan],
        "seed": [plain(cell.seed, "d") for cell in plan],
        "stage": [stage[cell.cell] for cell in plan],
        "step": [str(steps) if steps else "" for steps, _ in found],
        "of": [str(cell.steps) if cell.steps else "" for cell in plan],
        "reward": [plain(reward, ".3f") for _, reward in found],
        "last change": [_clock(ns) if ns else "" for ns in latest],
    }
    return TextTable({name: texts for name, texts in columns.items() if any(texts)})


def nothing_over(suite: str, why: str) -> Publication:
    """What is published of a suite of which nothing is compared."""
    return Publication(
        suite=suite,
        cells=[],
        scores=Scores([], [], []),
        names={"base": "base"},
        csv={"table": pd.DataFrame({"algorithm": []})},
        shown={},
        notes=[why],
        draw=list,
    )


def _clock(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")
