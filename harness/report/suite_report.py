"""The tables, figures and page of a suite, from its recorded cells.

    runs/<suite>/<cell>/ → comparison.py: seeds and table → here: <suite>/table.*, figures/, README.md

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import rich.table

from harness.report import figures
from harness.report.coefficient_curves import unrecorded_notes
from harness.report.columns import (
    TOO_FEW,
    cost_columns,
    evidence_columns,
    k_text,
    plain,
    published_columns,
    sample_columns,
    score_columns,
    text_table,
)
from harness.report.comparison import Scores, algorithm_rows, benchmark_rows, seed_rows
from harness.report.drawing import Drawing
from harness.report.families import MANY, families_of
from harness.report.formats import collapsed_note, terminal_table
from harness.report.notes import (
    COST_NOTE,
    PUBLISHED_NOTE,
    STOPPED_NOTE,
    difference_note,
    evidence_notes,
    highlight_note,
    row_notes,
    score_notes,
    seed_notes,
    tuning_note,
    unfinished_notes,
)
from harness.report.page import Publication, origin_note, publish, with_origin
from harness.report.pairing import pairing_notes, pairing_rows, pairing_table, replay_notes
from harness.report.protocol_rows import (
    ProtocolCell,
    protocol_columns,
    protocol_note,
    protocol_rows,
    tuned_and_default,
    untuned_text,
)
from harness.report.recorded_cells import (
    RecordedCell,
    RecordedSuite,
    ReportError,
    agreed,
    newest,
    of_first_protocol,
    recorded_suite,
    require_labels,
)
from harness.report.tuning_figures import tuning_drawings
from harness.suite.protocols import first_protocol
from harness.suite.report_settings import Published


@dataclass(frozen=True)
class Report:
    """What a suite came to. `table` has a row per algorithm, the base first, and table.csv's columns."""

    suite: str
    protocol: str
    """Of the first tables."""
    table: pd.DataFrame
    by_benchmark: pd.DataFrame
    """A row per benchmark and algorithm: benchmarks.csv."""
    path: Path
    """The page; before it is written, where the cells lie."""
    failed: list[str]
    """Cells that failed."""
    unfinished: list[str]
    """Folders of cells without a manifest."""
    k: str = field(repr=False)
    baseline: str | None = field(repr=False)
    k_of: Mapping[str, str] = field(repr=False)
    """k of avg@k on each benchmark of the main score."""
    highlight: Sequence[str] = field(repr=False)
    """Labels whose rows and lines stand out."""
    publication: Publication = field(repr=False)
    """What is published of it."""

    def render(self) -> rich.table.Table:
        """The main columns, for a terminal 80 characters wide; what else must be known is in the caption."""
        caption = []
        left_out = {"collapsed", "failed", "reward AUC", "length (tokens)"}
        if self.baseline is not None and self.table["p_value"].isna().all():
            left_out.add("p (Holm)")
            caption.append(f"Δ: {TOO_FEW}")
        if "family" in self.table:  # whose names need the room
            left_out.add("seeds")
            seeds = self.table.loc[self.table["algorithm"] != "base", "n_seeds"]
            caption.append(f"seeds: {seeds.min()}" + (f" to {seeds.max()}" if seeds.min() < seeds.max() else ""))
        caption += collapsed_note(self.table, "name")
        if self.failed:
            caption.append(f"failed: {', '.join(self.failed)}")
        for column, name in (("truncated", "truncated"), ("no_answer", "no answer"), ("grader_failures", "ungraded")):
            if len(self.by_benchmark) and (share := self.by_benchmark[column]).max() > 0:
                caption.append(f"{name}: {share.min():.1%} to {share.max():.1%} of the samples")
        shown = score_columns(self.table, self.k, self.baseline, self.k_of, self.highlight).without(left_out)
        for name, value, spec in (
            ("KL (nats)", "kl", ".2f"),
            (f"hard avg@{self.k}", "hard_avg_at_k", ".3f"),
            (f"avg@{self.k} by default", "default_avg_at_k", ".3f"),
        ):
            if name in shown.columns:
                shown.columns[name] = [plain(number, spec) for number in self.table[value]]
        return terminal_table(self.suite, shown, caption, unbroken=("a", "Δ"))


def write_report(
    runs: Path,
    out: Path,
    *,
    baseline: str | None = None,
    published: Sequence[Published] | None = None,
    highlight: Sequence[str] = (),
    seeds: Collection[int] | None = None,
) -> Report:
    """Writes what `suite_report` makes of the cells in `runs` (my-results/runs/<suite>) into `out`."""
    suite = recorded_suite(runs)
    report = suite_report(suite, baseline=baseline, published=published, highlight=highlight, seeds=seeds)
    return replace(report, path=publish(out, report.publication))


def suite_report(
    suite: RecordedSuite,
    *,
    baseline: str | None = None,
    published: Sequence[Published] | None = None,
    highlight: Sequence[str] = (),
    seeds: Collection[int] | None = None,
) -> Report:
    """The tables and the figures of a suite.

    Args:
        suite: its cells.
        baseline: the label that differences are taken from; by default the suite's own.
        published: reference rows; by default those that the newest cell recorded.
        highlight: labels whose rows and lines stand out from the others; by default the suite's own.
        seeds: those that are compared, of a sweep that was stopped; by default all that have a cell.

    Raises:
        ReportError: a baseline or a highlighted label that has no cell, or samples that do not match.
    """
    recorded, unfinished = list(suite.cells), list(suite.unfinished)
    baseline, highlight = baseline or suite.baseline, highlight or suite.highlight
    if seeds is not None:
        recorded = [cell for cell in recorded if cell.algorithm == "base" or cell.manifest["seed"] in seeds]
        unfinished = []
    protocols = {cell.protocol for cell in recorded if cell.algorithm != "base"}
    protocol = first_protocol(protocols)
    by_protocol = [ProtocolCell(cell.name, cell.manifest, cell.rows) for cell in recorded] if len(protocols) > 1 else []
    if by_protocol:
        recorded = [*by_protocol]
    cells = of_first_protocol(recorded)
    evaluation = agreed(cells, "evaluation")
    labels = sorted({cell.algorithm for cell in cells} - {"base"})
    if baseline is None:
        own = suite_baseline(recorded)
        baseline = own if own in labels else None
    elif baseline not in labels:
        raise ReportError(f"baseline {baseline!r} has no cell in {suite.path}; choose one of: {', '.join(labels)}")
    require_labels(highlight, labels, suite.path)

    of_all = Scores(recorded, evaluation["benchmarks"], evaluation["hard_benchmarks"])
    scores = of_all.only(cells)
    by_seed, curves = seed_rows(scores)
    families = families_of(cells) if len(labels) > MANY else None
    table = algorithm_rows(cells, scores, by_seed, baseline, families)
    by_benchmark = benchmark_rows(scores, table)
    both = protocol_rows(by_protocol, of_all, table, baseline) if by_protocol else pd.DataFrame()
    if len(both):
        default = ["default_avg_at_k", "default_ci_low", "default_ci_high"]
        table = table.merge(both[["algorithm", *default]], on="algorithm", how="left")
    k = k_text(evaluation)
    names = dict(zip(table["algorithm"], table["name"], strict=True))

    def draw() -> list[Drawing]:
        several = len(scores.benchmarks) > 1
        drawings = figures.draw(
            table=table,
            seeds=by_seed,
            curves=curves,
            by_benchmark=by_benchmark,
            coefficients=suite.coefficients,
            profiles={label: scores.means(list(scores.of(label).values())) for label in labels if scores.of(label)}
            if several
            else {},
            k=k,
            baseline=baseline,
            highlight=highlight,
        )
        if len(both):
            drawings.append(tuned_and_default(both, k))
        if protocol == "tuned" and suite.trials is not None:
            drawings += tuning_drawings(suite.trials, names, baseline)
        return drawings

    if published is None:
        rows = newest(recorded).config("report", "published") or []
        published = [Published.model_validate(row) for row in rows]
    csv = {
        "table": with_origin(table, list(table["algorithm"]), cells),
        "benchmarks": by_benchmark,
        "seeds": by_seed,
    }
    k_of = {name: k_text(evaluation, name) for name in scores.benchmarks}
    notes = suite_notes(cells, scores, table, baseline, highlight, unfinished, recorded)
    told_apart = text_table(table, evidence_columns(table, baseline), highlight)
    shown = {
        "scores": score_columns(table, k, baseline, k_of, highlight),
        **({"what could be told apart": told_apart} if table["detectable"].notna().any() else {}),
        **({"both protocols": protocol_columns(both, k, baseline, highlight)} if len(both) else {}),
        **({"published": published_columns(published, scores.benchmarks)} if published else {}),
        **({"samples": sample_columns(by_benchmark, highlight)} if len(by_benchmark) else {}),
        "cost and settings": text_table(table, cost_columns(table), highlight),
    }
    if len(both):
        notes.append(protocol_note(both, k))
    if seeds is not None:
        notes.append(STOPPED_NOTE)
    if published:
        notes.insert(0, PUBLISHED_NOTE)
    notes += [
        f"Not in the figure of gradient coefficients: {name} ({reason})." for name, reason in suite.left_out.items()
    ]
    notes += unrecorded_notes(curves, names)
    if len(both):
        ran = both[both["default_status"] != "not run"]
        names |= {f"{row['algorithm']}@default": f"{row['name']} by default" for _, row in ran.iterrows()}
        csv |= {"protocols": both, "seeds": seed_rows(of_all)[0]}
    if replayed := replay_notes(cells, names):
        notes += replayed
        pairs = pairing_rows(scores, [label for label in names if label != "base"])
        if len(pairs):
            csv["pairing"], shown["pairing"] = pairs, pairing_table(pairs, names)
            notes += pairing_notes(pairs)
    notes.append(origin_note(recorded))
    publication = Publication(
        suite=suite.name,
        cells=recorded,
        scores=of_all,
        names=names,
        csv=csv,
        shown=shown,
        notes=notes,
        draw=draw,
    )
    return Report(
        suite=suite.name,
        protocol=protocol,
        table=table,
        by_benchmark=by_benchmark,
        path=suite.path,
        failed=[cell.name for cell in recorded if not cell.finished],
        unfinished=unfinished,
        k=k,
        baseline=baseline,
        k_of=k_of,
        highlight=highlight,
        publication=publication,
    )


def suite_baseline(cells: Sequence[RecordedCell]) -> str | None:
    """The baseline that the suite named last, whether it has a cell or not."""
    baseline: str | None = newest(cells).config("report", "baseline")
    return baseline


def suite_notes(
    cells: Sequence[RecordedCell],
    scores: Scores,
    table: pd.DataFrame,
    baseline: str | None,
    highlight: Sequence[str],
    unfinished: Sequence[str],
    recorded: Sequence[RecordedCell],
) -> list[str]:
    """What a reader needs to judge the numbers, each note from the manifests: `cells` are those of the report's
    protocol, among all that are `recorded`."""
    names = table.set_index("algorithm")["name"]
    notes = score_notes(cells, scores)
    if "family" in table:
        notes.append("Algorithms stand by family, and within it from the highest score to the lowest.")
    if highlight:
        notes.append(highlight_note(names[label] for label in highlight))
    trained = table[(table["algorithm"] != "base") & (table["n_seeds"] > 0)]
    single = [names[label] for label in trained.loc[trained["n_seeds"] == 1, "algorithm"]]
    if single:
        notes.append(f"One seed only, hence over problems only: {', '.join(single)}.")
    if baseline is not None:
        tested = int(table["p_value"].notna().sum())
        corrected = (
            "of the seeds' mean differences on these problems, Holm-corrected over "
            f"{tested} {'test' if tested == 1 else 'tests'}"
        )
        paired = f"Δ to {names[baseline]}: paired on the same seeds and problems."
        notes.append(f"{paired} {difference_note(tested, corrected)}")
        notes += evidence_notes(names[baseline], tested)
    else:
        own = suite_baseline(recorded)
        notes.append(
            f"No differences: the suite's baseline, {own}, has no cell." if own else "No differences: no baseline."
        )
    notes += [
        "Reward AUC: the mean height of the curve of mean training reward over steps (trapezoid rule over the range of "
        "steps).",
        *row_notes(recorded, table),
    ]
    notes += [*unfinished_notes(unfinished), *seed_notes(cells)]
    if first_protocol({cell.protocol for cell in cells if cell.algorithm != "base"}) == "default":
        notes.append(f"Protocol: default. Nothing is tuned; {untuned_text(table['lr'], table['max_norm'])}.")
    else:
        notes.append(tuning_note(cells, {label: names[label] for label in table["algorithm"] if label != "base"}))
    notes.append(COST_NOTE)
    return notes
