"""The figures of a report: what each shows. Each is a matplotlib Figure of its own (no pyplot state), drawn from data
frames alone; how all of them look stands in drawing.py. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.record.text import figure_text, file_name
from harness.report.cast import Cast, cast_of, name_places, places
from harness.report.coefficient_curves import over_training
from harness.report.coefficient_figure import gradient_coefficients
from harness.report.cost_figure import cost_per_point
from harness.report.curves import GENERATED, STEPS, TRAINED, WALL_CLOCK, over, overlapping
from harness.report.drawing import BAND, GREY, MUTED, Drawing, Style, arms, light_points, look, new_figure
from harness.report.sample_figures import COSTS, pass_at_k, score_against_cost
from harness.report.sample_figures import profiles as performance_profiles
from harness.statistics.intervals import Array


def draw(
    *,
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    curves: pd.DataFrame,
    by_benchmark: pd.DataFrame,
    coefficients: pd.DataFrame | None,
    profiles: Mapping[str, Array],
    k: str,
    baseline: str | None,
    highlight: Sequence[str] = (),
) -> list[Drawing]:
    """All figures that the data allow, in the order of the page.

    Args:
        table: a row per algorithm, the base among them (`comparison.algorithm_rows`).
        seeds: a row per finished cell: algorithm, seed, avg_at_k, hard_avg_at_k, kl.
        curves: a row per finished cell and step: algorithm, seed, and `comparison.CURVES` and COEFFICIENT_CURVES.
        by_benchmark: a row per benchmark and algorithm (`comparison.benchmark_rows`).
        profiles: score_SB by label, where there are several benchmarks.
        coefficients: a row per token of one batch and algorithm: algorithm, prompt, sample, token, reward, log_ratio,
            coefficient; or None.
        k: samples a problem, for the axis labels; "k" where benchmarks differ in it.
        baseline: the label that the differences are taken from, if any.
        highlight: labels that stand out from the others.
    """
    scored = table[table["avg_at_k"].notna()]
    trained = scored[scored["algorithm"] != "base"]
    names = dict(zip(table["algorithm"], table["name"], strict=True))
    if coefficients is not None:
        known = coefficients.drop_duplicates("algorithm")
        names |= {
            label: name for label, name in zip(known["algorithm"], known["display"], strict=True) if label not in names
        }
    trained_names = {label: name for label, name in names.items() if label != "base"}
    families: dict[str, str] = {}
    if "family" in table:
        families = dict.fromkeys(trained_names, "other") | dict(zip(table["algorithm"], table["family"], strict=True))
    order = list(trained["algorithm"])
    cast = cast_of(trained_names, order, families, baseline, highlight)
    with look():
        drawings = [*of_scores(scored, seeds, curves, by_benchmark, cast, k, baseline)] if order else []
        if len(profiles) > 1:
            text = (
                "Performance profiles over all benchmarks: the share of runs × benchmarks that score above τ, with 95% "
                "bands of the bootstrap over runs."
            )
            drawings.append(Drawing("performance_profiles", text, *performance_profiles(profiles, cast)))
        if coefficients is not None and len(coefficients):
            text = (
                "Gradient coefficient C = −∂L/∂log π of each response (mean over its tokens) on one and the same "
                "batch, each algorithm in units of its largest; the marker says where the response's reward lies in "
                "its group."
            )
            drawings.append(Drawing("gradient_coefficients", text, *gradient_coefficients(coefficients, cast)))
        drawings += over_training(curves, cast)
    return drawings


CURVES = (
    # name of the file, axis, metric, its label, caption
    ("learning_curves_steps", STEPS, "reward", "mean training reward", "Training reward against steps"),
    ("learning_curves_tokens", GENERATED, "reward", "mean training reward", "Training reward against generated tokens"),
    ("learning_curves_trained", TRAINED, "reward", "mean training reward", "Training reward against trained tokens"),
    ("learning_curves_seconds", WALL_CLOCK, "reward", "mean training reward", "Training reward against wall-clock"),
    (
        *("length", STEPS, "length", "mean response length (tokens)"),
        "Mean length of the training responses against steps",
    ),
    (
        *("entropy", STEPS, "sampled_entropy", "entropy of a token (nats)"),
        "Mean entropy of the policy at the sampled tokens, against steps",
    ),
)
INTERPOLATED = (
    "each seed interpolated onto one grid, as far as all seeds of an algorithm went; without those whose seeds have no "
    "range in common"
)


def of_scores(
    scored: pd.DataFrame,
    seeds: pd.DataFrame,
    curves: pd.DataFrame,
    by_benchmark: pd.DataFrame,
    cast: Cast,
    k: str,
    baseline: str | None,
) -> Iterator[Drawing]:
    """The figures of scores and of the curves that led to them."""
    for name, axis, column, ylabel, caption in CURVES:
        known = curves[curves[column].notna()]
        if len(known) and (axis is STEPS or overlapping(known, axis.column)):
            text = f"{caption}: mean over seeds, 95% t interval{'' if axis is STEPS else f'; {INTERPOLATED}'}."
            yield Drawing(name, text, *over(curves, axis, column, ylabel, cast))
    yield Drawing(
        "final_scores",
        f"avg@{k} of the last checkpoint, its paired difference to the baseline, and the hard split: mean and 95% "
        "interval, single seeds light below it, the base as a dashed line with its interval (over problems).",
        final_scores(scored, seeds, cast, k, baseline),
        scored[[name for name in SCORES if name in scored]],
    )
    for benchmark in dict.fromkeys(by_benchmark["benchmark"]):
        if any(str(name).startswith("pass_at_") for name in by_benchmark):
            text = (
                f"pass@j on {benchmark}, with 95% intervals over seeds and problems; pass@1 is avg@k, dotted the base."
            )
            yield Drawing(f"pass_at_k_{file_name(benchmark)}", text, *pass_at_k(by_benchmark, benchmark, cast))
    if scored.loc[scored["algorithm"] != "base", "kl"].notna().any():
        many = len(cast.panels) > 1
        yield Drawing(
            "score_against_kl",
            f"avg@{k} against the KL from the base, both with 95% intervals; single seeds are light. "
            + ("One panel a family, the others grey." if many else BOX_CAPTION),
            kl_by_family(scored, cast, k) if many else score_against_kl(scored, seeds, cast, k),
            scored[[name for name in ("algorithm", *SCORES[1:4], "kl", "kl_ci_low", "kl_ci_high") if name in scored]],
        )
    for cost in COSTS:
        if scored.loc[scored["algorithm"] != "base", cost].notna().any():
            text = f"avg@{k} against {COSTS[cost][0]}, means over seeds."
            yield Drawing(f"score_against_{cost}", text, *score_against_cost(scored, cost, cast, k))
    if (found := cost_per_point(seeds, scored, cast)) is not None:
        text = (
            f"What a point of avg@{k} above the base costs: mean cost over mean gain, with the 95% interval of the "
            "bootstrap over seeds; single seeds light below it. Without a mark: no gain, or no such cost."
        )
        yield Drawing("cost_per_point", text, *found)


SCORES = (
    *("algorithm", "avg_at_k", "ci_low", "ci_high", "diff", "diff_ci_low", "diff_ci_high"),
    *("hard_avg_at_k", "hard_ci_low", "hard_ci_high"),
)
"""The columns of a table that the figure of scores draws."""


def final_scores(
    scored: pd.DataFrame,
    seeds: pd.DataFrame,
    cast: Cast,
    k: str,
    baseline: str | None,
) -> Figure:
    """Each algorithm's final score with its interval and its seeds."""
    rows = scored[scored["algorithm"] != "base"].reset_index(drop=True)
    base = scored[scored["algorithm"] == "base"]
    panels = [("avg_at_k", "ci", f"avg@{k}")]
    if baseline is not None and rows["diff"].notna().any():
        panels.append(("diff", "diff_ci", f"Δ avg@{k} to {cast.names[baseline]}"))
    if rows["hard_avg_at_k"].notna().any():
        panels.append(("hard_avg_at_k", "hard_ci", f"hard avg@{k}"))
    y_of, ticks = places(rows, cast)
    grouped = len(ticks) > len(rows)
    figure = new_figure(1.2 + 2.7 * len(panels), 1.1 + (0.21 if grouped else 0.42) * len(ticks))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (column, ci, xlabel) in zip(all_axes, panels, strict=True):
        if column == "diff":
            axes.axvline(0, color="0.3", linewidth=0.9)
        elif len(base):
            axes.axvspan(base[f"{ci}_low"].iloc[0], base[f"{ci}_high"].iloc[0], color=GREY, alpha=BAND, linewidth=0)
            axes.axvline(base[column].iloc[0], color=GREY, linestyle="--", linewidth=1.2)
        for y, (_, row) in zip(y_of, rows.iterrows(), strict=True):
            own = cast.style[row["algorithm"]]
            if column in seeds:
                value_S = seeds.loc[seeds["algorithm"] == row["algorithm"], column]
                light_points(axes, value_S, np.full(len(value_S), y + 0.26), own)
            axes.errorbar(
                row[column],
                y,
                xerr=arms(row, column, ci),
                fmt=own.marker,
                color=own.color,
                markersize=4.5 if grouped else 5.5,
                capsize=2.0 if grouped else 3.5,
            )
            if column == "diff" and row["algorithm"] == baseline:
                axes.annotate("baseline", (0, y), xytext=(5, 0), textcoords="offset points", va="center", color=GREY)
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", left=axes is all_axes[0])
    name_places(all_axes[0], ticks)
    if len(base):
        handle = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="base")
        figure.legend(handles=[handle], loc="outside upper right")
    return figure


BOX_CAPTION = (
    "The right panel is the box of the left one, around the intervals of the algorithms without a collapsed seed."
)


def kl_by_family(scored: pd.DataFrame, cast: Cast, k: str) -> Figure:
    """A panel a family, the others grey behind it."""
    rows = {row["algorithm"]: row for _, row in scored[scored["kl"].notna()].iterrows()}
    figure, all_axes = cast.draw_panels("KL from the base (nats per response)", f"avg@{k}", lines=False)
    for axes, panel in zip(all_axes, cast.panels, strict=True):
        for label in (*panel.behind, *panel.strong):
            if label in rows:
                own = Style(MUTED, "o", "-", muted=True) if label in panel.behind else cast.style[label]
                score_and_kl(axes, rows[label], own, size=3.5 if own.muted else 6)
        if (base := rows.get("base")) is not None:
            axes.errorbar(0, base["avg_at_k"], yerr=arms(base, "avg_at_k", "ci"), fmt="x", color=GREY, capsize=2)
    return figure


def score_and_kl(axes: Axes, row: pd.Series[Any], own: Style, size: float) -> None:
    """An algorithm's mean score and KL, with both intervals."""
    axes.errorbar(
        row["kl"],
        row["avg_at_k"],
        xerr=arms(row, "kl", "kl_ci"),
        yerr=arms(row, "avg_at_k", "ci"),
        fmt=own.marker,
        color=own.color,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=1.2,
        capsize=2,
        zorder=1.5 if own.muted else 3,
    )


def score_against_kl(scored: pd.DataFrame, seeds: pd.DataFrame, cast: Cast, k: str) -> Figure:
    """Everything on the left; on the right the box around the intervals of the algorithms without a collapsed seed."""
    rows = scored[(scored["algorithm"] != "base") & scored["kl"].notna()]
    base = scored[scored["algorithm"] == "base"]
    steady = rows[rows["collapsed"].fillna(0) == 0]
    figure = new_figure(9.2, 3.8)
    everything, zoom = figure.subplots(1, 2)
    for axes in (everything, zoom):
        shown = rows if axes is everything or steady.empty else steady
        for label in shown["algorithm"]:
            single = seeds[seeds["algorithm"] == label]
            light_points(axes, single["kl"], single["avg_at_k"], cast.style[label])
        for _, row in shown.iterrows():
            score_and_kl(axes, row, cast.style[row["algorithm"]], size=7)
        axes.set_xlabel("KL from the base (nats per response)")
    for _, row in base.iterrows():
        everything.errorbar(
            0, row["avg_at_k"], yerr=arms(row, "avg_at_k", "ci"), fmt="x", color=GREY, markersize=6, capsize=2
        )
        everything.annotate(
            "base", (0, row["avg_at_k"]), xytext=(7, 0), textcoords="offset points", va="center", color=GREY
        )
    limits = steady if len(steady) else rows
    for set_limits, value, ci in ((zoom.set_xlim, "kl", "kl_ci"), (zoom.set_ylim, "avg_at_k", "ci")):
        low = float(np.nanmin(limits[[value, f"{ci}_low"]]))
        high = float(np.nanmax(limits[[value, f"{ci}_high"]]))
        margin = 0.12 * (high - low) or 0.01
        set_limits(low - margin, high + margin)
    # Set as they are: drawing the box would widen them.
    everything.set(xlim=everything.get_xlim(), ylim=everything.get_ylim())
    left, right = np.clip(zoom.get_xlim(), *everything.get_xlim())
    bottom, top = np.clip(zoom.get_ylim(), *everything.get_ylim())
    everything.indicate_inset((left, bottom, right - left, top - bottom), edgecolor="0.3", linewidth=0.8)
    everything.set(ylabel=f"avg@{k}", title="all")
    zoom.set_title(
        "the box" if len(steady) == len(rows) or steady.empty else "the box: algorithms without a collapsed seed"
    )
    cast.outer_legend(figure, lines=False)
    return figure


def score_against_quantity(
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    names: dict[str, str],
    *,
    points: list[str],
    quantity: str,
    axis: str,
    k: str,
    highlight: Sequence[str] = (),
) -> Drawing:
    """The score over the ablated quantity, a line an algorithm.

    Args:
        table: a row per point and algorithm: point, label, avg_at_k with its interval; the base has no point.
        seeds: a row per finished cell: point, label, avg_at_k.
        names: the algorithms by label, in the order of the legend.
        highlight: labels that stand out from the others.
        points: labels of the points, in order; on a "log" or "linear" `axis` they are read as numbers.
    """
    numeric = axis != "categories"
    at = {point: float(point) if numeric else float(index) for index, point in enumerate(points)}
    cast = cast_of(names, list(names), {}, None, highlight)
    style = cast.style
    with look():
        figure = new_figure(6.4, 3.6)
        axes = figure.subplots()
        if axis == "log":
            axes.set_xscale("log")
        for index, label in enumerate(names):
            own = table[(table["label"] == label) & table["avg_at_k"].notna()]
            own = own.assign(x=own["point"].map(at)).sort_values("x")
            # Side by side, so that the intervals of two algorithms do not hide each other.
            shift = index - (len(names) - 1) / 2
            step = 0.012 * (max(at.values()) - min(at.values()))
            x = own["x"] * 1.025**shift if axis == "log" else own["x"] + step * shift
            single = seeds[seeds["label"] == label]
            single_x = single["point"].map(dict(zip(own["point"], x, strict=True)))
            light_points(axes, single_x, single["avg_at_k"], style[label])
            axes.errorbar(
                x,
                own["avg_at_k"],
                yerr=arms(own, "avg_at_k", "ci"),
                color=style[label].color,
                marker=style[label].marker,
                linestyle=style[label].dashes if numeric else "none",
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.5,
                capsize=3,
            )
        for _, base in table[table["label"] == "base"].iterrows():
            axes.axhline(base["avg_at_k"], color=GREY, linestyle=(0, (1, 3)), linewidth=1.2)
            axes.annotate(
                "base", (1, base["avg_at_k"]), xycoords=("axes fraction", "data"), xytext=(5, 0),
                textcoords="offset points", va="center", color=GREY,
            )  # fmt: skip
        axes.set_xticks(list(at.values()), list(map(figure_text, points)))
        axes.minorticks_off()
        axes.set(xlabel=figure_text(quantity), ylabel=f"avg@{k}")
        cast.outer_legend(figure, lines=numeric)
    caption = (
        f"avg@{k} of the last checkpoint against {quantity}: mean and 95% interval over seeds and problems; single "
        "seeds are light, the base is the dotted line."
    )
    return Drawing("ablation", caption, figure, table[["point", "label", "avg_at_k", "ci_low", "ci_high"]])
