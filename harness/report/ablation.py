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

from harness.record.runs_folder import cell_folders, folders_in
from harness.report import figures
from harness.report.columns import (
    NAME,
    SIGNIFICANT,
    TOO_FEW,
    TextTable,
    cost_columns,
    interval_texts,
    k_text,
    p_texts,
    plain,
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
from harness.report.page import Publication, publish
from harness.report.recorded_cells import RecordedCell, ReportError, agreed, load_cells, newest, require_labels
from harness.statistics.intervals import holm
from harness.suite.points import Ablation


class PointCell(RecordedCell):
    """A cell of one point. Its name and label carry the point, so that comparison.py keeps the points apart."""

    @property
    def point(self) -> str:
        """The point of the ablation, by its folder."""
        return self.folder.parent.name

    @property
    def label(self) -> str:
        """Of the suite's entry."""
        return super().algorithm

    @property
    def name(self) -> str:
        """Of the cell's folder, inside that of its point."""
        return f"{self.point}/{self.folder.name}"

    @property
    def algorithm(self) -> str:
        """The row of the table: point and label, or the base."""
        return self.label if self.label == "base" else f"{self.point}/{self.label}"


@dataclass(frozen=True)
class AblationReport:
    """An ablation compared. `table` has a row per point and algorithm, the base first, and table.csv's columns."""

    suite: str
    table: pd.DataFrame
    path: Path
    """The page."""
    failed: list[str]
    """Cells that failed."""
    unfinished: list[str]
    """Folders of cells without a manifest, and points without a cell."""
    shown: TextTable = field(repr=False)
    publication: Publication | None = field(default=None, repr=False)
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


def is_ablation(runs: Path) -> bool:
    """Whether a folder of runs holds points with cells instead of cells."""
    return not cell_folders(runs) and bool(points_in(runs))


def points_in(runs: Path) -> list[Path]:
    """The folders of points, by name, in which a cell has ended."""
    return [folder for folder in folders_in(runs) if cell_folders(folder)]


def write_ablation(
    runs: Path,
    out: Path | None,
    *,
    baseline: str | None = None,
    ablation: Ablation | None = None,
    highlight: Sequence[str] = (),
) -> AblationReport:
    """Writes table.md, table.csv, table.tex, seeds.csv, README.md and figures/ into `out` from the points in `runs`;
    without `out` it compares them, draws nothing and writes nothing.

    Args:
        runs: the folder that holds the points: results/runs/<suite>.
        out: the folder of the suite's published results: results/<suite>.
        baseline: the label that algorithms are compared with at each point; by default the suite's own.
        ablation: the points and how they are shown; by default as the newest cell recorded them.
        highlight: labels whose rows and lines stand out from the others.

    Raises:
        ReportError: no cell, points that were evaluated differently, or a baseline or highlighted label not among the
            algorithms.
    """
    folders = points_in(runs)
    if not folders:
        raise ReportError(f"{runs} holds no point with a finished cell; run the sweep of this suite first")
    recorded: list[PointCell] = []
    unfinished: list[str] = []
    for folder in folders:
        found, missing = load_cells(folder)
        recorded += [PointCell(cell.folder, cell.manifest) for cell in found]
        unfinished += [f"{folder.name}/{name}" for name in missing]
    last = newest(recorded)
    if ablation is None:
        ablation = Ablation.model_validate(last.config("ablation"))
    points = [point.label for point in ablation.points]
    cells = [cell for cell in recorded if cell.point in points]
    unfinished += sorted(set(points) - {cell.point for cell in cells})
    for key in sorted({key for cell in cells for key in cell.config("model") or {}} - {"lora"}):  # a point may set that
        agreed(cells, "model", key)
    evaluation = agreed(cells, "evaluation")
    labels = sorted({cell.label for cell in cells} - {"base"}, key=place)
    baseline = baseline or str(last.config("report", "baseline"))
    if baseline not in labels:
        raise ReportError(f"baseline {baseline!r} has no cell in {runs}; choose one of: {', '.join(labels)}")
    require_labels(highlight, labels, runs)

    scores = Scores(cells, evaluation["benchmarks"], evaluation["hard_benchmarks"])
    seeds, _ = seed_rows(scores)
    table = point_rows(cells, scores, seeds, ablation, labels, baseline)
    own = seeds.pop("algorithm").str.rpartition("/")
    seeds.insert(0, "point", own[0])
    seeds.insert(1, "label", own[2])
    names = dict(zip(table["label"], table["name"], strict=True))
    names = {label: names[label] for label in labels}
    k = k_text(evaluation)

    suite = runs.name
    headings = {
        "point": f"Δ to {ablation.reference}",
        "algorithm": f"Δ to {names[baseline]}",
    }
    where = {ablation.quantity: ["base", *table["point"][1:]], "algorithm": ["", *table["name"][1:]]}
    filled = {name: texts for name, texts in point_columns(table, k, headings).items() if any(texts)}
    significant = {
        heading: [bool(p < SIGNIFICANT) for p in table[f"{question}_p_holm"]] for question, heading in headings.items()
    }
    cost = {name: texts for name, texts in cost_columns(table).items() if any(texts) and name != NAME}
    highlighted = [label in highlight for label in table["label"]] if highlight else ()
    scored = TextTable(where | filled, significant, highlighted=highlighted)
    shown = {"scores": scored, "cost and settings": TextTable(where | cost, highlighted=highlighted)}
    report = AblationReport(
        suite=suite,
        table=table,
        path=(out or Path()) / "README.md",
        failed=[cell.name for cell in cells if not cell.finished],
        unfinished=unfinished,
        shown=scored,
    )
    publication = Publication(
        suite=suite,
        cells=cells,
        scores=scores,
        names={cell.algorithm: f"{cell.point} {names[cell.label]}" for cell in cells if cell.label != "base"}
        | {"base": "base"},
        csv={"table": table, "seeds": seeds},
        shown=shown,
        notes=ablation_notes(cells, scores, report, ablation, headings, names, highlight),
    )
    if out is not None:
        drawing = figures.score_against_quantity(
            table, seeds, names, points=points, quantity=ablation.quantity, axis=ablation.axis, k=k, highlight=highlight
        )
        publish(out, publication, [drawing])
    return replace(report, publication=publication)


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
    names = display_names([RecordedCell(cell.folder, cell.manifest) for cell in cells])
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


def point_columns(table: pd.DataFrame, k: str, headings: Mapping[str, str]) -> dict[str, list[str]]:
    """The columns of the first table as text."""
    scores = interval_texts(table, "avg_at_k", "ci", 3)
    shown = {
        "seeds": [plain(n, "d") for n in table["n_seeds"]],
        f"avg@{k}": [score or status for score, status in zip(scores, table["status"], strict=True)],
    }
    for question, heading in headings.items():
        shown[heading] = interval_texts(table, f"{question}_diff", f"{question}_diff_ci", 3, "+")
        shown[heading.replace("Δ", "p", 1)] = p_texts(table[f"{question}_diff"], table[f"{question}_p_holm"])
    return shown | {
        f"hard avg@{k}": interval_texts(table, "hard_avg_at_k", "hard_ci", 3),
        "KL (nats)": interval_texts(table, "kl", "kl_ci", 2),
        "length (tokens)": interval_texts(table, "mean_length", "length_ci", 1),
        "collapsed": [plain(n, "d") for n in table["collapsed"]],
        "failed": [plain(n, "d") for n in table["failed"]],
    }


def ablation_notes(
    cells: Sequence[PointCell],
    scores: Scores,
    report: AblationReport,
    ablation: Ablation,
    headings: Mapping[str, str],
    names: Mapping[str, str],
    highlight: Sequence[str],
) -> list[str]:
    """The lines below the table: what was varied, seeds, failures and how numbers were made."""
    table = report.table
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
    notes += [" ".join(compared), *row_notes(cells, table), *unfinished_notes(report.unfinished)]
    trained = [cell for cell in cells if cell.label != "base"]
    run_seeds = sorted({cell.manifest["seed"] for cell in trained})
    shared = {key: value for key, value in trained[0].config("train").items() if same(trained, "train", key)}
    notes += [
        f"Seeds {', '.join(map(str, run_seeds))}: each is one RL run from the same base. Shared by all points: "
        f"{settings_text(shared)}.",
        tuning_note([RecordedCell(cell.folder, cell.manifest) for cell in trained], dict(names)),
        COST_NOTE,
    ]
    return notes


def same(cells: Sequence[RecordedCell], *keys: str) -> bool:
    """Whether all cells have one value there."""
    return len({json.dumps(cell.config(*keys), sort_keys=True) for cell in cells}) == 1
