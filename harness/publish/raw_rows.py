"""The raw rows of a suite: all that its report reads of every cell, in a few compressed files that a repository holds.

    raw/suite.json             the suite's name, how its report is shown, what is not there and why
    raw/cells.parquet          a row a cell: its manifest, and the traceback of one that failed
    raw/samples.parquet        a row an evaluated sample of every cell
    raw/metrics.parquet        a row a training step of every cell
    raw/coefficients.parquet   the gradient coefficients, where they were compared
    raw/trials.parquet         the trials behind its hyper-parameters, where they are recorded
    raw/sums.json              the SHA-256 of each of these

A suite that is read from here (`read_raw`) has the very numbers that the folders of its cells have.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from benchmarks.errors import BenchError, ExitCode
from harness.record.cell_folder import SAMPLE_COLUMNS
from harness.record.files import RecordError, write_json
from harness.record.kept_samples import KeptSamples
from harness.record.runs_folder import folders_in
from harness.record.sums import OWN_SUMS, SUMS, own_faults, read_record, unfit, write_own_sums
from harness.report.page import shorten
from harness.report.recorded_cells import RecordedCell, RecordedSuite, recorded_suite, require_one_suite

RAW = "raw"
"""The folder of the raw rows, in that of the published suite."""
FORMAT = 1
"""Of the files; read_raw refuses any other."""
SUITE, CELLS, SAMPLES, METRICS = "suite.json", "cells.parquet", "samples.parquet", "metrics.parquet"
COEFFICIENTS, TRIALS = "coefficients.parquet", "trials.parquet"

MOST_TEXT = 64_000_000
"""Characters of responses beyond which a suite is published without them."""
LEVEL = 19
"""Of zstd: slow to write, and as fast to read as any."""

KINDS: dict[str, pa.DataType] = {
    **dict.fromkeys(("cell", *SAMPLE_COLUMNS), pa.string()),
    **dict.fromkeys(("sample", "tokens"), pa.int64()),
    **dict.fromkeys(("score", "kl", "logp"), pa.float64()),
}
"""Of the columns of the samples."""
SAMPLE_SCHEMA = pa.schema([(name, KINDS[name]) for name in ("cell", *SAMPLE_COLUMNS)])
TEXTS = [name for name, kind in KINDS.items() if kind == pa.string()]
DICTIONARY = [name for name in KINDS if name not in ("kl", "logp")]
"""Columns of few values. Those of KL and log-prob are as many as responses: zstd finds the repeated ones by itself."""
MAY_BE_MISSING = ("response", "answer", "logp")
"""Columns of the samples that a cell may not have."""


class PublishError(BenchError, ValueError):
    """What cannot be published, joined or cut as asked. The message lists everything that is wrong."""

    exit_code = ExitCode.REFUSED


def is_published(folder: Path) -> bool:
    """Whether a folder has one for raw rows, whatever is left in it. One with folders is a point of an ablation."""
    return (folder / RAW).is_dir() and not folders_in(folder / RAW)


def require_unpublished(folder: Path) -> None:
    """Raises PublishError where raw rows lie in a folder, whose tables a report of runs would replace."""
    if is_published(folder):
        raise PublishError(f"{folder}: this is published, and stays as it is; give another --out")


def opened(folder: Path) -> RecordedSuite:
    """The suite of a published folder, or of a folder of runs.

    Raises RecordError where something does not fit its checksums, those of the published folder among them, ReportError
    where there is nothing to compare.
    """
    if not is_published(folder):
        return recorded_suite(folder)
    suite = read_raw(folder / RAW)
    record, faults = read_record(folder / OWN_SUMS)
    if record is not None:
        own = {name: value for name, value in record.get(SUMS, {}).items() if name.startswith(f"{RAW}/")}
        faults = unfit(folder, own, [RAW])
    _refuse(folder, faults)
    return suite


def write_raw(folder: Path, suite: RecordedSuite) -> None:
    """Writes the raw rows of a suite into a folder that is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = {cell.name: cell.rows.samples(SAMPLE_COLUMNS) for cell in suite.cells if cell.finished}
    with_responses = sum(_characters(frame) for frame in frames.values()) <= MOST_TEXT
    about = {
        "format": FORMAT,
        "suite": suite.name,
        "baseline": suite.baseline,
        "highlight": list(suite.highlight),
        "unfinished": list(suite.unfinished),
        "left_out": dict(suite.left_out),
        "responses": with_responses,
    }
    write_json(folder / SUITE, about)
    rows = [
        {"cell": cell.name, "manifest": json.dumps(manifest_of(cell)), "traceback": cell.rows.traceback()}
        for cell in suite.cells
    ]
    _write(folder / CELLS, pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]])))
    samples = [_sample_table(name, frame, with_responses) for name, frame in frames.items()]
    _write(folder / SAMPLES, pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *samples]), dictionary=DICTIONARY)
    _write(folder / METRICS, _metric_table(suite.cells))
    for name, frame in ((COEFFICIENTS, suite.coefficients), (TRIALS, suite.trials)):
        if frame is not None:
            _write(folder / name, pa.Table.from_pandas(frame, preserve_index=False))
    write_own_sums(folder)


def manifest_of(cell: RecordedCell) -> dict[str, Any]:
    """The manifest, its command without one machine's folders."""
    return cell.manifest | {"command": shorten(cell.manifest["command"])}


def _characters(frame: pd.DataFrame) -> int:
    return int(frame["response"].str.len().sum()) if "response" in frame else 0


def _sample_table(name: str, frame: pd.DataFrame, with_responses: bool) -> pa.Table:
    columns = {"cell": [name] * len(frame), **{column: frame[column] for column in SAMPLE_COLUMNS if column in frame}}
    if not with_responses:
        columns.pop("response", None)
    arrays = [
        pa.array(columns[field.name], field.type, from_pandas=True)
        if field.name in columns
        else pa.nulls(len(frame), field.type)
        for field in SAMPLE_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SAMPLE_SCHEMA)


def _metric_table(cells: Sequence[RecordedCell]) -> pa.Table:
    rows = [{"cell": cell.name, **row} for cell in cells for row in cell.rows.metrics()]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names or ["cell"]})


def _write(path: Path, table: pa.Table, dictionary: bool | Sequence[str] = True) -> None:
    pa.parquet.write_table(table, path, compression="zstd", compression_level=LEVEL, use_dictionary=dictionary)


@dataclass(frozen=True)
class RawRows:
    """The rows of one cell, among those of all."""

    path: Path
    """The folder of the raw rows."""
    sample_table: pa.Table
    metric_table: pa.Table
    reason: str | None
    """The traceback."""

    @property
    def kept(self) -> KeptSamples:
        """None: what training drew is not published."""
        return KeptSamples(self.path)

    def samples(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `report.recorded_cells.Rows`."""
        missing = [name for name in MAY_BE_MISSING if self.sample_table[name].null_count == len(self.sample_table)]
        chosen = self.sample_table.select([name for name in columns if name not in missing])
        return chosen.cast(pa.schema([(name, KINDS[name]) for name in chosen.column_names])).to_pandas()

    def metrics(self) -> list[dict[str, Any]]:
        """See `report.recorded_cells.Rows`."""
        rows = self.metric_table.to_pylist()
        return [{name: x for name, x in row.items() if x is not None and name != "cell"} for row in rows]

    def traceback(self) -> str | None:
        """See `report.recorded_cells.Rows`."""
        return self.reason


def read_raw(folder: Path) -> RecordedSuite:
    """The suite whose raw rows lie in a folder.

    Raises RecordError where they do not fit their checksums, ReportError where the cells are not of one suite.
    """
    _refuse(folder, own_faults(folder))
    about = json.loads((folder / SUITE).read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
        raise RecordError(
            f"{folder}/{SUITE} has format {about['format']}, and this gvpo-bench reads {FORMAT}: use the version that "
            "published it, which its manifests name"
        )
    samples = _by_cell(pa.parquet.read_table(folder / SAMPLES, read_dictionary=TEXTS))
    metrics = _by_cell(pa.parquet.read_table(folder / METRICS))
    cells = [
        RecordedCell(
            row["cell"],
            json.loads(row["manifest"]),
            RawRows(folder, samples[row["cell"]], metrics[row["cell"]], row["traceback"]),
        )
        for row in pa.parquet.read_table(folder / CELLS).to_pylist()
    ]
    suite = RecordedSuite(
        name=about["suite"],
        path=folder,
        cells=cells,
        unfinished=about["unfinished"],
        coefficients=_read(folder / COEFFICIENTS),
        left_out=about["left_out"],
        trials=_read(folder / TRIALS),
        baseline=about["baseline"],
        highlight=about["highlight"],
    )
    for point in points_of(suite).values():
        require_one_suite(point, folder)
    return suite


def _refuse(folder: Path, faults: Sequence[str]) -> None:
    if faults:
        raise RecordError(
            f"{folder}: {'; '.join(faults)}. Restore what was published (git checkout), or publish it anew"
        )


def _read(path: Path) -> pd.DataFrame | None:
    return pd.read_parquet(path) if path.is_file() else None


def points_of(suite: RecordedSuite) -> dict[str, list[RecordedCell]]:
    """The cells that stand in one table: of an ablation, those of each point by its name; else all of them."""
    found: dict[str, list[RecordedCell]] = {}
    for cell in suite.cells:
        found.setdefault(cell.name.rpartition("/")[0], []).append(cell)
    return found


def _by_cell(table: pa.Table) -> defaultdict[str, pa.Table]:
    """The rows of each cell by its name; none of a cell that has none."""
    return defaultdict(lambda: table.slice(0, 0), _runs(table))


def _runs(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each cell, which follow each other."""
    names = table["cell"].cast(pa.string()).to_pandas()
    starts = [*names.index[names.ne(names.shift())], len(names)]
    for start, end in pairwise(starts):
        yield names[start], table.slice(start, end - start)
