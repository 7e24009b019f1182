"""From a complete suite to its published folder: raw rows, tables, figures, page, card, checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.publish.completeness import incomplete
from harness.publish.raw_rows import RAW, SUITE, PublishError, opened, read_raw, write_raw
from harness.publish.results_card import CARD, results_card
from harness.record.files import new_folder, write
from harness.record.sums import write_own_sums
from harness.report.choice import report_of
from harness.report.page import publish
from harness.report.recorded_cells import RecordedSuite
from harness.report.trials import read_trials, trials_of_suite
from harness.suite.load import load_suite, suite_files
from harness.suite.plan import Cell, plan


def publish_suite(
    runs: Path,
    results: Path,
    *,
    file: Path | None = None,
    baseline: str | None = None,
    highlight: Sequence[str] = (),
) -> Path:
    """Publishes a complete suite as `results`/<suite>, in place of what was published of it. Returns that folder.

    Args:
        runs: the folder of its runs, or raw rows joined by `merged`.
        results: the folder that published suites lie in, and below tuning/ the trials behind settings, of which none
            need lie beside the runs.
        file: of the suite, which says what cells there are; by default the one that comes with gvpo-bench, if there is
            one of that name.
        baseline: the label that differences are taken from; by default the suite's own.
        highlight: labels whose rows and lines stand out.

    Raises:
        PublishError: everything that keeps it from being published, a line each.
        RecordError: something does not fit its checksums.
    """
    suite = opened(runs)
    if suite.trials is None and (tried := trials_of_suite(results / "runs" / suite.name)).exists():
        suite = replace(suite, trials=read_trials(tried))
    suite = replace(suite, baseline=baseline or suite.baseline, highlight=list(highlight) or suite.highlight)
    if wrong := incomplete(suite, planned_cells(suite.name, file)):
        listed = "".join(f"\n  {line}" for line in wrong)
        raise PublishError(f"{runs} cannot be published as suite {suite.name}:{listed}\nNothing was written.")
    return freeze(results / suite.name, suite)


def planned_cells(name: str, file: Path | None) -> list[Cell] | None:
    """The cells that a suite's file asks for; None where there is no file."""
    if file is None and name not in suite_files():
        return None
    return plan(load_suite(str(file or name)))


def freeze(target: Path, suite: RecordedSuite) -> Path:
    """Writes the published folder of a suite, in place of an earlier one.

    What it shows is made from the raw rows as they were written, by which it can be made again.

    Raises PublishError where something else lies there.
    """
    if target.exists() and not any((target / name).is_file() for name in (f"{RAW}/{SUITE}", "table.csv")):
        raise PublishError(f"{target} exists and is no published suite; give another folder, or move it away")
    with new_folder(target) as scratch:
        write_raw(scratch / RAW, suite)
        written = read_raw(scratch / RAW)
        publication = report_of(written).publication
        publish(scratch, publication)
        write(scratch / CARD, results_card(publication, written))
        write_own_sums(scratch)
    return target
