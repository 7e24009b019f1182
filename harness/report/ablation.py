"""The report of an ablation: one table of point × algorithm, and one figure over the ablated quantity.

    runs/<suite>/<point>/<cell>/ → comparison.py: seeds and rows → here: <suite>/table.*, figures/ablation.*, README.md

Does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rich.table

from harness.report import figures
from harness.report.columns import (
    NAME,
    SIGNIFICANT,
    TOO_FEW,
    Column,
    TextTable,
    cost_columns,
    interval_column,
    k_text,
    p_texts,
    plain_column,
    score_column,
    text_table,
)
from harness.report.comparison import Scores, algorithm_rows, difference, display_names, seed_rows
from harness.report.drawing import place
from harness.report.formats import collapsed_note, terminal_table
from harness.report.notes import (
    COST_NOTE,
    difference_note,
    highlight_note,
    row_notes,
    score_notes,
    settings_text,
    tuning_note,
    unfinished_notes,
)
from harness.report.page import Publication, origin_note, publish, with_origin
from harness.report.pairing import pairing_notes, pairing_rows, pairing_table, replay_notes
from harness.report.recorded_cells import (
    RecordedCell,
    RecordedSuite,
    ReportError,
    agreed,
    newest,
    recorded_suite,
    require_labels,
)
from harness.statistics.intervals import holm
from harness.suite.cell_config import OWN
from harness.suite.points import Ablation


class PointCell(RecordedCell):
    """A cell of one point. Its algorithm carries the point, so that comparison.py keeps the points apart."""

    @property
    def point(self) -> str:
        """The point of the ablation, by its folder."""
        return self.name.partition("/")[0]

    @property
    def label(self) -> str:
        """Of the suite's entry."""
        return super().algorithm

    @property
    def algorithm(self) -> str:
        """The row of the table: point and label, or the base."""
        return self.label if self.label == "base" else f"{self.point}/{self.label}"

    def by_label(self) -> RecordedCell:
        """The same cell, as one of its suite's entry."""
        return RecordedCell(self.name, self.manifest, self.rows)


@dataclass(frozen=True)
class AblationReport:
    """What an ablation came to. `table` has a row per point and algorithm, the base first, and table.csv's columns."""

    suite: str
    table: pd.DataFrame
    path: Path
    """The page; before it is written, where the cells lie."""
    failed: list[str]
    """Cells that failed."""
    unfinished: list[str]
    """Folders of cells without a manifest, and points without a cell."""
    shown: TextTable = field(repr=False)
    publication: Publication = field(repr=False)
    """What is published of it."""

    def render(self) -> rich.table.Table:
        """The main columns, for a terminal 80 characters wide; what else must be known is in the caption."""
        notes = [f"failed: {', '.join(self.failed)}"] if self.failed else []
        notes += collapsed_note(self.table, "point", "name")
        left_out = {"KL (nats)", "length (tokens)", "collapsed", "failed"}
        left_out |= {name for name in self.shown.columns if name.startswith("p ")}  # bold says as much
        untested = {name for name, texts in self.shown.columns.items() if TOO_FEW in texts}
        notes.append(f"Δ: {TOO_FEW}" if untested else "bold: p < .05, Holm-corrected")
        shown = self.shown.without(left_out | untested)
        return terminal_table(self.suite, shown, notes, unbroken=(*list(shown.columns)[:2], "avg", "Δ"))


def write_ablation(
    runs: Path,
    out: Path,
    *,
    baseline: str | None = None,
    ablation: Ablation | None = None,
    highlight: Sequence[str] = (),
) -> AblationReport:
    """Writes what `ablation_report` makes of the points in `runs` (my-results/runs/<suite>) into `out`."""
    report = ablation_report(recorded_suite(runs), baseline=baseline, ablation=ablation, highlight=highlight)
    return replace(report, path=publish(out, report.publication))


def ablation_report(
    suite: RecordedSuite,
    *,
    baseline: str | None = None,
    ablation: Ablation | None = None,
    highlight: Sequence[str] = (),
) -> AblationReport:
    """The table and the figure of an ablation.

    Args:
        suite: its cells, of all points.
        baseline: the label that algorithms are compared with at each point; by default the suite's own.
        ablation: the points and how they are shown; by default as the newest cell recorded them.
        highlight: labels whose rows and lines stand out from the others; by default the suite's own.

    Raises:
        ReportError: no cell of a point, cells of no ablation, points that were evaluated differently, or a baseline or
            highlighted label not among the algorithms.
    """
    if not suite.is_ablation:
        raise ReportError(f"{suite.path} holds no point with a finished cell; run the sweep of this suite first")
    recorded = [PointCell(cell.name, cell.manifest, cell.rows) for cell in suite.cells]
    last = newest(recorded)
    if ablation is None:
        if last.config("ablation") is None:
            folder = recorded[0].point
            raise ReportError(
                f"{suite.path} holds folders of cells that are no points of an ablation ({folder}); give the folder of "
                f"one suite, such as {suite.path / folder}"
            )
        ablation = Ablation.model_validate(last.config("ablation"))
    points = [point.label for point in ablation.points]
    cells = [cell for cell in recorded if cell.point in points]
    unfinished = [*suite.unfinished, *sorted(set(points) - {cell.point for cell in cells})]
    may_differ = {"lora", *OWN}  # a point may set the first
    for key in sorted({key for cell in cells for key in cell.config("model") or {}} - may_differ):
        agreed(cells, "model", key)
    evaluation = agreed(cells, "evaluation")
    labels = sorted({cell.label for cell in cells} - {"base"}, key=place)
    baseline = baseline or suite.baseline or str(last.config("report", "baseline"))
    highlight = highlight or suite.highlight
    if baseline not in labels:
        raise ReportError(f"baseline {baseline!r} has no cell in {suite.path}; choose one of: {', '.join(labels)}")
    require_labels(highlight, labels, suite.path)

    scores = Scores(cells, evaluation["benchmarks"], evaluation["hard_benchmarks"])
    seeds, _ = seed_rows(scores)
    table = point_rows(cells, scores, seeds, ablation, labels, baseline)
    own = seeds.pop("algorithm").str.rpartition("/")
    seeds.insert(0, "point", own[0])
    seeds.insert(1, "label", own[2])
    names = dict(zip(table["label"], table["name"], strict=True))
    names = {label: names[label] for label in labels}
    k = k_text(evaluation)
    headings = {
        "point": f"Δ to {ablation.reference}",
        "algorithm": f"Δ to {names[baseline]}",
    }
    where = [
        Column(ablation.quantity, ("point",), ["base", *table["point"][1:]]),
        Column(NAME, ("label", "name"), ["", *table["name"][1:]]),
    ]
    significant = {
        heading: [bool(p < SIGNIFICANT) for p in table[f"{question}_p_holm"]] for question, heading in headings.items()
    }
    rows = table.assign(algorithm=table["label"])
    scored = text_table(rows, [*where, *point_columns(table, k, headings)], highlight, significant)
    cost = [column for column in cost_columns(table) if column.heading != NAME]
    algorithms = [f"{row['point']}/{row['label']}".removeprefix("/") for _, row in table.iterrows()]
    csv = {"table": with_origin(table, algorithms, cells), "seeds": seeds}
    shown = {"scores": scored, "cost and settings": text_table(rows, [*where, *cost], highlight)}
    notes = ablation_notes(cells, scores, table, unfinished, ablation, headings, names, highlight)
    if replayed := point_replays(cells, points, names):
        notes += replayed
        pairs = pairing_rows(scores, labels, points, ablation.reference, "{}/{}".format)
        if len(pairs):
            csv["pairing"], shown["pairing"] = pairs, pairing_table(pairs, names, ablation.reference)
            notes += pairing_notes(pairs, ablation.reference)
    publication = Publication(
        suite=suite.name,
        cells=cells,
        scores=scores,
        names={cell.algorithm: f"{cell.point} {names[cell.label]}" for cell in cells if cell.label != "base"}
        | {"base": "base"},
        csv=csv,
        shown=shown,
        notes=[*notes, origin_note(cells)],
        draw=lambda: [
            figures.score_against_quantity(
                table,
                seeds,
                names,
                points=points,
                quantity=ablation.quantity,
                axis=ablation.axis,
                k=k,
                highlight=highlight,
            )
        ],
    )
    return AblationReport(
        suite=suite.name,
        table=table,
        path=suite.path,
        failed=[cell.name for cell in cells if not cell.finished],
        unfinished=unfinished,
        shown=scored,
        publication=publication,
    )


def point_rows(
    cells: Sequence[PointCell],
    scores: Scores,
    seeds: pd.DataFrame,
    ablation: Ablation,
    labels: Sequence[str],
    baseline: str,
) -> pd.DataFrame:
    """The base, then point by point the algorithms, with two differences each: `point_diff` to the same algorithm at
    the reference point, `algorithm_diff` to the baseline algorithm at the same point. Both are paired on seeds and
    problems, and their tests are Holm-corrected together."""
    names = display_names([cell.by_label() for cell in cells])
    table = algorithm_rows(cells, scores, seeds, None)
    own = table["algorithm"].str.rpartition("/")
    table.insert(0, "point", own[0])
    table.insert(1, "label", own[2])
    table["name"] = [names.get(label, label) for label in table["label"]]
    order = [("", "base"), *((point.label, label) for point in ablation.points for label in labels)]
    places = [order.index(key) for key in zip(table["point"], table["label"], strict=True)]
    table = table.iloc[np.argsort(places)].reset_index(drop=True)

    others: dict[str, Callable[[str, str], tuple[str, str]]] = {
        "point": lambda point, label: (ablation.reference, label),
        "algorithm": lambda point, label: (point, baseline),
    }
    for question, other in others.items():
        found: list[dict[str, Any]] = []
        for point, label in zip(table["point"], table["label"], strict=True):
            compared = label != "base" and other(point, label) != (point, label)
            found.append(difference(scores, f"{point}/{label}", "/".join(other(point, label))) if compared else {})
        known = ["matched_seeds", "diff", "diff_ci_low", "diff_ci_high", "p_value"]
        part = pd.DataFrame(found, columns=known).astype(float).add_prefix(f"{question}_")
        table = pd.concat([table, part], axis=1)
    p_columns = ["point_p_value", "algorithm_p_value"]
    p = table[p_columns].to_numpy(dtype=float)
    p[~np.isnan(p)] = holm(list(p[~np.isnan(p)]))
    table[["point_p_holm", "algorithm_p_holm"]] = p
    return table.drop(
        columns=["algorithm", "diff", "diff_ci_low", "diff_ci_high", "matched_seeds", "p_value", "p_holm"]
    )


def point_columns(table: pd.DataFrame, k: str, headings: Mapping[str, str]) -> list[Column]:
    """The columns of the first table as text."""
    shown = [plain_column(table, "seeds", "n_seeds"), score_column(table, f"avg@{k}")]
    for question, heading in headings.items():
        difference, p = f"{question}_diff", f"{question}_p_holm"
        shown += [
            interval_column(table, heading, difference, f"{difference}_ci", 3, "+"),
            Column(heading.replace("Δ", "p", 1), (p, f"{question}_p_value"), p_texts(table[difference], table[p])),
        ]
    return [
        *shown,
        interval_column(table, f"hard avg@{k}", "hard_avg_at_k", "hard_ci", 3),
        interval_column(table, "KL (nats)", "kl", "kl_ci", 2),
        interval_column(table, "length (tokens)", "mean_length", "length_ci", 1),
        plain_column(table, "collapsed", "collapsed"),
        plain_column(table, "failed", "failed"),
    ]


def ablation_notes(
    cells: Sequence[PointCell],
    scores: Scores,
    table: pd.DataFrame,
    unfinished: Sequence[str],
    ablation: Ablation,
    headings: Mapping[str, str],
    names: Mapping[str, str],
    highlight: Sequence[str],
) -> list[str]:
    """The lines below the table: what was varied, seeds, failures and how numbers were made."""
    tested = int(table[["point_p_value", "algorithm_p_value"]].notna().to_numpy().sum())
    points = "; ".join(f"{point.label}: {', '.join(point.set) or 'as the suite'}" for point in ablation.points)
    notes = [f"{ablation.quantity}: {points}. All else is the same at every point."]
    if ablation.note:
        notes.append(ablation.note)
    if highlight:
        notes.append(highlight_note(names[label] for label in highlight))
    notes += score_notes(cells, scores)
    compared = [f"{headings['point']}: the same algorithm at the point {ablation.reference}."]
    if table["algorithm_diff"].notna().any():
        compared.append(f"{headings['algorithm']}: at the same point.")
    compared.append("Paired on the same seeds and problems.")
    compared.append(difference_note(tested, f"over seeds, Holm-corrected over the {tested} tests of this table"))
    notes += [" ".join(compared), *row_notes(cells, table), *unfinished_notes(unfinished)]
    trained = [cell for cell in cells if cell.label != "base"]
    run_seeds = sorted({cell.manifest["seed"] for cell in trained})
    shared = {key: value for key, value in trained[0].config("train").items() if same(trained, "train", key)}
    notes += [
        f"Seeds {', '.join(map(str, run_seeds))}: each is one RL run from the same base. Shared by all points: "
        f"{settings_text(shared)}.",
        tuning_note([cell.by_label() for cell in trained], dict(names)),
        COST_NOTE,
    ]
    return notes


def point_replays(cells: Sequence[PointCell], points: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Whose rollouts were replayed at which point; nothing where each algorithm draws its own at all of them."""
    own = {point: [cell.by_label() for cell in cells if cell.point == point] for point in points}
    return [note for point in points for note in replay_notes(own[point], names, f"{point}: ")]


def same(cells: Sequence[RecordedCell], *keys: str) -> bool:
    """Whether all cells have one value there."""
    return len({json.dumps(cell.config(*keys), sort_keys=True) for cell in cells}) == 1
