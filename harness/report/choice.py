"""The report of what was recorded, be it a suite or an ablation. Does not import torch."""

from __future__ import annotations

from harness.report.ablation import AblationReport, ablation_report
from harness.report.recorded_cells import RecordedSuite
from harness.report.suite_report import Report, suite_report


def report_of(
    suite: RecordedSuite, *, baseline: str | None = None, highlight: tuple[str, ...] = ()
) -> Report | AblationReport:
    """The report of a suite or an ablation: the one way from recorded cells to tables and figures, whether they lie in
    a folder of runs or are raw rows."""
    make = ablation_report if suite.is_ablation else suite_report
    return make(suite, baseline=baseline, highlight=highlight)
