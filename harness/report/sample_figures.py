"""Figures of what samples and runs were worth: pass@k, cost, performance profiles. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from harness.record.text import figure_text
from harness.report.cast import Cast
from harness.report.curves import token_unit
from harness.report.drawing import BAND, GREY, MUTED, arms
from harness.statistics.intervals import Array
from harness.statistics.power import performance_profile

THRESHOLDS_X = np.linspace(0, 1, 101)


def pass_at_k(by_benchmark: pd.DataFrame, benchmark: str, cast: Cast) -> tuple[Figure, pd.DataFrame]:
    """pass@j against j on one benchmark, with 95% intervals over seeds and problems; pass@1 is avg@k."""
    rows = by_benchmark[by_benchmark["benchmark"] == benchmark]
    columns = {1: ("avg_at_k", "ci")}
    columns |= {
        int(name.removeprefix("pass_at_")): (name, f"{name}_ci")
        for name in map(str, rows)
        if name.startswith("pass_at_") and name.removeprefix("pass_at_").isdigit()
    }
    data = pd.DataFrame(
        [
            (row["algorithm"], j, row[name], row[f"{ci}_low"], row[f"{ci}_high"])
            for _, row in rows.iterrows()
            for j, (name, ci) in sorted(columns.items())
        ],
        columns=["algorithm", "j", "pass_at_j", "low", "high"],
    )
    figure, all_axes = cast.draw_panels("samples a problem, j", f"pass@j on {figure_text(benchmark)}", lines=True)
    own = dict(iter(data.groupby("algorithm", sort=False)))
    for axes, panel in zip(all_axes, cast.panels, strict=True):
        axes.set_xscale("log", base=2)
        for label in panel.behind:
            if label in own:
                axes.plot(own[label]["j"], own[label]["pass_at_j"], color=MUTED, linewidth=0.8, zorder=1.5)
        for label in panel.strong:
            if label not in own:
                continue
            style, of = cast.style[label], own[label]
            axes.plot(
                of["j"], of["pass_at_j"], color=style.color, linestyle=style.dashes, marker=style.marker, markersize=5
            )
            axes.fill_between(
                of["j"], of["low"].clip(0, 1), of["high"].clip(0, 1), color=style.color, alpha=BAND, linewidth=0
            )
        if "base" in own:
            axes.plot(own["base"]["j"], own["base"]["pass_at_j"], color=GREY, linestyle=":", linewidth=1.2)
        axes.set_xticks(sorted(columns), [str(j) for j in sorted(columns)])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    return figure, data


COSTS = {
    "seconds": ("seconds a run", False),
    "generated_tokens": ("generated tokens a run", True),
    "trained_tokens": ("trained tokens a run", True),
}


def score_against_cost(scored: pd.DataFrame, cost: str, cast: Cast, k: str) -> tuple[Figure, pd.DataFrame]:
    """The final score against what a run cost."""
    heading, counted = COSTS[cost]
    rows = scored[(scored["algorithm"] != "base") & scored[cost].notna()]
    data = rows[["algorithm", cost, "avg_at_k", "ci_low", "ci_high"]]
    size, unit = token_unit(float(rows[cost].max())) if counted else (1.0, "")
    figure, all_axes = cast.draw_panels(f"{heading}{unit}", f"avg@{k}", lines=False)
    by_label = {row["algorithm"]: row for _, row in rows.iterrows()}
    for axes, panel in zip(all_axes, cast.panels, strict=True):
        for label in (*panel.behind, *panel.strong):
            if label not in by_label:
                continue
            row, behind = by_label[label], label in panel.behind
            axes.errorbar(
                row[cost] / size,
                row["avg_at_k"],
                yerr=arms(row, "avg_at_k", "ci"),
                fmt="o" if behind else cast.style[label].marker,
                color=MUTED if behind else cast.style[label].color,
                markersize=3.5 if behind else 6,
                capsize=2,
                zorder=1.5 if behind else 3,
            )
    return figure, data


def profiles(scores: Mapping[str, Array], cast: Cast) -> tuple[Figure, pd.DataFrame]:
    """Performance profiles: the share of runs × benchmarks above each score, with 95% bands of the bootstrap over runs
    (Agarwal et al. 2021, §4.2). `scores` holds score_SB by label."""
    found = {label: performance_profile(score_SB, THRESHOLDS_X) for label, score_SB in scores.items()}
    figure, all_axes = cast.draw_panels("score τ", "share of runs × benchmarks above τ", lines=True)
    for axes, panel in zip(all_axes, cast.panels, strict=True):
        for label in panel.behind:
            axes.plot(THRESHOLDS_X, found[label][0], color=MUTED, linewidth=0.8, zorder=1.5)
        for label in panel.strong:
            share_X, low_X, high_X = found[label]
            style = cast.style[label]
            axes.plot(THRESHOLDS_X, share_X, color=style.color, linestyle=style.dashes)
            axes.fill_between(THRESHOLDS_X, low_X, high_X, color=style.color, alpha=BAND, linewidth=0)
    return figure, pd.concat([_profile_rows(label, *of) for label, of in found.items()], ignore_index=True)


def _profile_rows(label: str, share_X: Array, low_X: Array, high_X: Array) -> pd.DataFrame:
    return pd.DataFrame({"algorithm": label, "score": THRESHOLDS_X, "share": share_X, "low": low_X, "high": high_X})
