"""The two protocols of a suite side by side: what tuning gains each algorithm, and how they compare as users take them.

The first tables of a report are of one protocol, tuned where it was run; here is what the other adds. Does not import
torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.record.text import figure_text
from harness.report.columns import (
    NAME,
    SIGNIFICANT,
    Column,
    TextTable,
    interval_column,
    p_texts,
    plain_column,
    score_column,
    text_table,
)
from harness.report.comparison import Scores, columns, difference, display_names, settings
from harness.report.drawing import GREY, Drawing, arms, look, new_figure
from harness.report.recorded_cells import RecordedCell
from harness.statistics.intervals import holm


class ProtocolCell(RecordedCell):
    """A cell of a suite that ran both protocols. Its label carries the default one, so that comparison.py keeps the two
    apart."""

    @property
    def label(self) -> str:
        """Of the suite's entry, or "base"."""
        return super().algorithm

    @property
    def algorithm(self) -> str:
        """The label, with @default where the cell is of that protocol."""
        return self.run_label


def protocol_rows(
    cells: Sequence[ProtocolCell], scores: Scores, table: pd.DataFrame, baseline: str | None
) -> pd.DataFrame:
    """A row per algorithm that has cells of either protocol, in the order of the first table, then the others by label.

    Columns: algorithm, name, family where there are many; under each protocol, `tuned` and `default`, the seeds, avg@k
    with its interval and the status; `gain`, tuned less default, paired on seeds and problems; `default_diff`, to the
    baseline under the default protocol; p-values of both, Holm-corrected together; the default settings.
    """
    names = display_names([RecordedCell(cell.name, cell.manifest, cell.rows) for cell in cells])
    known = [label for label in table["algorithm"] if label != "base"]
    labels = known + sorted({cell.label for cell in cells} - {"base", *known})
    families = dict(zip(table["algorithm"], table["family"], strict=True)) if "family" in table else {}
    rows = []
    for label in labels:
        row: dict[str, Any] = {"algorithm": label, "name": names[label]}
        if families:
            row["family"] = families.get(label, "other")
        for protocol, key in (("tuned", label), ("default", f"{label}@default")):
            finished = list(scores.of(key).values())
            own = [cell for cell in cells if cell.algorithm == key]
            row[f"{protocol}_status"] = "finished" if finished else "failed" if own else "not run"
            row[f"{protocol}_seeds"] = len(finished)
            row |= columns(f"{protocol}_avg_at_k", f"{protocol}_ci", scores.interval(finished, scores.benchmarks))
        row |= _compared("gain", difference(scores, label, f"{label}@default"))
        if baseline is not None and label != baseline:
            row |= _compared("default_diff", difference(scores, f"{label}@default", f"{baseline}@default"))
        if by_default := [cell for cell in cells if cell.algorithm == f"{label}@default"]:
            found = settings(by_default)
            row |= {f"default_{name}": found[name] for name in ("lr", "max_norm", "parameters")}
        rows.append(row)
    both = pd.DataFrame(rows).reindex(columns=[*_COLUMNS[:2], *(["family"] if families else []), *_COLUMNS[2:]])
    p_columns = ["gain_p_value", "default_diff_p_value"]
    p = both[p_columns].to_numpy(dtype=float, copy=True)
    p[~np.isnan(p)] = holm(list(p[~np.isnan(p)]))
    both[["gain_p_holm", "default_diff_p_holm"]] = p
    return both


_COMPARED = ("", "_ci_low", "_ci_high", "_matched_seeds", "_p_value", "_p_holm")
_COLUMNS = [
    *("algorithm", "name"),
    *(
        f"{protocol}_{column}"
        for protocol in ("tuned", "default")
        for column in ("status", "seeds", "avg_at_k", "ci_low", "ci_high")
    ),
    *(f"{value}{column}" for value in ("gain", "default_diff") for column in _COMPARED),
    *("default_lr", "default_max_norm", "default_parameters"),
]


def _compared(name: str, difference: dict[str, Any]) -> dict[str, Any]:
    return {
        (name + key.removeprefix("diff") if key.startswith("diff") else f"{name}_{key}"): value
        for key, value in difference.items()
    }


def protocol_columns(rows: pd.DataFrame, k: str, baseline: str | None, highlight: Collection[str]) -> TextTable:
    """The table of both protocols as text."""
    name = rows.set_index("algorithm")["name"].get(baseline, "")
    to_baseline = f"Δ to {name}, default"

    def scored(protocol: str) -> Column:
        of_rows = (f"{protocol}_avg_at_k", f"{protocol}_ci", f"{protocol}_status")
        return score_column(rows, f"avg@{k}, {protocol}", *of_rows)

    def p_column(heading: str, value: str) -> Column:
        return Column(heading, (f"{value}_p_holm", f"{value}_p_value"), p_texts(rows[value], rows[f"{value}_p_holm"]))

    shown = [
        Column(NAME, ("name",), list(rows["name"])),
        plain_column(rows, "seeds, tuned", "tuned_seeds"),
        plain_column(rows, "seeds, default", "default_seeds"),
        scored("tuned"),
        scored("default"),
        interval_column(rows, "gain of tuning", "gain", "gain_ci", 3, "+"),
        p_column("p of the gain", "gain"),
        interval_column(rows, to_baseline, "default_diff", "default_diff_ci", 3, "+"),
        p_column("p of that Δ", "default_diff"),
    ]
    significant = {
        "gain of tuning": [bool(p < SIGNIFICANT) for p in rows["gain_p_holm"]],
        to_baseline: [bool(p < SIGNIFICANT) for p in rows["default_diff_p_holm"]],
    }
    return text_table(rows, shown, highlight, significant)


def protocol_note(rows: pd.DataFrame, k: str) -> str:
    """What the two protocols are, and how they were compared."""
    tested = int(rows[["gain_p_holm", "default_diff_p_holm"]].notna().to_numpy().sum())
    p = f" p: two-sided sign-flip tests, Holm-corrected over the {tested} tests of that table." if tested else ""
    default = untuned_text(rows["default_lr"], rows["default_max_norm"])
    return (
        "Two protocols, as in AlgoPerf (arXiv 2306.07179). tuned: the suite's settings, of which every table is but "
        f"that of both protocols. default: nothing is tuned; {default}. "
        f"gain of tuning: avg@{k} tuned less by default, paired on the same seeds and problems.{p}"
    )


def untuned_text(lr: pd.Series[float], max_norm: pd.Series[float]) -> str:
    """The settings of the default protocol in a phrase, from those of its rows."""
    found = pd.DataFrame({"lr": lr, "max_norm": max_norm}).dropna().drop_duplicates()
    each = [f"lr {lr:.3g} and max-norm {norm:.3g}" for lr, norm in found.itertuples(index=False)]
    return f"the hyper-parameters are those of each algorithm's class, {' or '.join(each)} the same for all"


def tuned_and_default(rows: pd.DataFrame, k: str) -> Drawing:
    """Each algorithm's score under both protocols, with 95% intervals: default hollow, tuned filled."""
    known = rows[rows["tuned_avg_at_k"].notna() | rows["default_avg_at_k"].notna()].reset_index(drop=True)
    with look():
        figure: Figure = new_figure(6.4, 1.1 + 0.34 * len(known))
        axes = figure.subplots()
        for y, (_, row) in enumerate(known.iterrows()):
            ends = (row["default_avg_at_k"], row["tuned_avg_at_k"])
            axes.plot(ends, (y - 0.14, y + 0.14), color=GREY, linewidth=0.9, zorder=1.5)
            looks = (("default", "white", y - 0.14), ("tuned", "black", y + 0.14))
            for value, (protocol, face, at) in zip(ends, looks, strict=True):
                if pd.notna(value):
                    axes.errorbar(
                        value,
                        at,
                        xerr=arms(row, f"{protocol}_avg_at_k", f"{protocol}_ci"),
                        fmt="s" if protocol == "default" else "o",
                        color="black",
                        markerfacecolor=face,
                        markersize=5.5,
                        elinewidth=1.0,
                        capsize=2.5,
                    )
        axes.set_yticks(range(len(known)), [figure_text(name) for name in known["name"]])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlabel(f"avg@{k}")
        axes.grid(axis="y", visible=False)
        handles = [
            Line2D([], [], color="black", marker=marker, markerfacecolor=face, linestyle="none", label=protocol)
            for protocol, marker, face in (("default", "s", "white"), ("tuned", "o", "black"))
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
    caption = (
        f"avg@{k} of each algorithm by default (hollow squares: its class's hyper-parameters, one learning rate for "
        "all) and tuned (black), with 95% intervals over seeds and problems."
    )
    drawn = [name for name in known if str(name).startswith(("algorithm", "tuned_", "default_avg", "default_ci"))]
    return Drawing("tuned_and_default", caption, figure, known[drawn])
