"""The figures of a report: what each shows. Each is a matplotlib Figure of its own (no pyplot state), drawn from data
frames alone; how all of them look stands in drawing.py. Does not import torch.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.report.drawing import (
    BAND,
    GREY,
    Drawing,
    Style,
    arms,
    band,
    legend,
    light_points,
    look,
    new_figure,
    styles,
)

GRID_POINTS = 200  # of the common token grid


def draw(
    *,
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    curves: pd.DataFrame,
    coefficients: pd.DataFrame | None,
    k: str,
    baseline: str | None,
) -> list[Drawing]:
    """All figures that the data allow, in the order of the page.

    Args:
        table: a row per algorithm, the base among them (`comparison.algorithm_rows`).
        seeds: a row per finished cell: algorithm, seed, avg_at_k, hard_avg_at_k, kl.
        curves: a row per finished cell and step: algorithm, seed, step, generated_tokens, reward, length.
        coefficients: a row per token of one batch and algorithm: algorithm, prompt, sample, token, reward, log_ratio,
            coefficient; or None.
        k: samples a problem, for the axis labels; "k" where benchmarks differ in it.
        baseline: the label that the differences are taken from, if any.
    """
    scored = table[table["avg_at_k"].notna()]
    trained = scored[scored["algorithm"] != "base"]
    names = dict(zip(table["algorithm"], table["name"], strict=True))
    if coefficients is not None:
        known = coefficients.drop_duplicates("algorithm")
        names = dict(zip(known["algorithm"], known["display"], strict=True)) | names
    style = styles(label for label in names if label != "base")
    order = list(trained["algorithm"])
    drawings = []
    with look():
        if order:
            drawings = [
                Drawing(
                    "learning_curves_steps",
                    "Training reward against steps: mean over seeds, 95% t interval.",
                    over_steps(curves, "reward", "mean training reward", order, names, style),
                ),
                Drawing(
                    "learning_curves_tokens",
                    "Training reward against generated training tokens: each seed interpolated onto one grid, mean and "
                    "95% t interval over seeds; a curve spans the tokens that all its seeds reached.",
                    over_tokens(curves, order, names, style),
                ),
                Drawing(
                    "final_scores",
                    f"avg@{k} of the last checkpoint, its paired difference to the baseline, and the hard split: mean "
                    "and 95% interval, single seeds light below it, the base as a dashed line with its interval (over "
                    "problems).",
                    final_scores(scored, seeds, names, style, k, baseline),
                ),
            ]
            if trained["kl"].notna().any():
                drawings.append(
                    Drawing(
                        "score_against_kl",
                        f"avg@{k} against the KL from the base, both with 95% intervals; single seeds are light. The "
                        "right panel is the box of the left one, around the intervals of the algorithms without a "
                        "collapsed seed.",
                        score_against_kl(scored, seeds, names, style, k),
                    )
                )
            drawings.append(
                Drawing(
                    "length",
                    "Mean length of the training responses against steps: mean over seeds, 95% t interval.",
                    over_steps(curves, "length", "mean response length (tokens)", order, names, style),
                )
            )
        if coefficients is not None and len(coefficients):
            drawings.append(
                Drawing(
                    "gradient_coefficients",
                    "Gradient coefficient C = −∂L/∂log π of each response (mean over its tokens) on one and the same "
                    "batch, each algorithm in units of its largest; the marker says where the response's reward lies "
                    "in its group.",
                    gradient_coefficients(coefficients, names),
                )
            )
    return drawings


def over_steps(
    curves: pd.DataFrame,
    column: str,
    ylabel: str,
    order: list[str],
    names: dict[str, str],
    style: dict[str, Style],
) -> Figure:
    """A metric over training steps: each algorithm's mean over its seeds, with its interval."""
    figure = new_figure(7.0, 3.6)
    axes = figure.subplots()
    order = with_values(curves, column, order)
    for index, label in enumerate(order):
        value = curves[curves["algorithm"] == label].pivot(index="seed", columns="step", values=column)
        band(axes, value.columns.to_numpy(), value.to_numpy(), style[label], index, len(order))
    axes.set(xlabel="training step", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, order, names, style, lines=True)
    return figure


def with_values(curves: pd.DataFrame, column: str, order: list[str]) -> list[str]:
    """Those of the algorithms whose curves have values: what is trained on given responses draws none."""
    known = curves[column].notna().groupby(curves["algorithm"]).any()
    return [label for label in order if known[label]]


def over_tokens(curves: pd.DataFrame, order: list[str], names: dict[str, str], style: dict[str, Style]) -> Figure:
    """The mean training reward over generated tokens, as far as all of an algorithm's seeds went, with its interval."""
    figure = new_figure(7.0, 3.6)
    axes = figure.subplots()
    order = with_values(curves, "reward", order)
    shown = curves[curves["algorithm"].isin(order)]
    tokens = shown["generated_tokens"]
    grid_X = np.linspace(tokens.min(), tokens.max(), GRID_POINTS)
    for index, label in enumerate(order):
        runs = [run.sort_values("step") for _, run in shown[shown["algorithm"] == label].groupby("seed")]
        first = max(run["generated_tokens"].iloc[0] for run in runs)
        last = min(run["generated_tokens"].iloc[-1] for run in runs)
        reached_X = grid_X[(grid_X >= first) & (grid_X <= last)]
        value_SX = np.array([np.interp(reached_X, run["generated_tokens"], run["reward"]) for run in runs])
        band(axes, reached_X / token_unit(tokens.max())[0], value_SX, style[label], index, len(order))
    unit = token_unit(tokens.max())[1]
    axes.set(xlabel=f"generated tokens{unit}", ylabel="mean training reward")
    legend(figure, order, names, style, lines=True)
    return figure


def token_unit(largest: float) -> tuple[float, str]:
    """The divisor of a token axis and what its label says of it."""
    for size, unit in ((1e9, " (billions)"), (1e6, " (millions)"), (1e3, " (thousands)")):
        if largest >= size:
            return size, unit
    return 1.0, ""


def final_scores(
    scored: pd.DataFrame,
    seeds: pd.DataFrame,
    names: dict[str, str],
    style: dict[str, Style],
    k: str,
    baseline: str | None,
) -> Figure:
    """Each algorithm's final score with its interval and its seeds."""
    rows = scored[scored["algorithm"] != "base"].reset_index(drop=True)
    base = scored[scored["algorithm"] == "base"]
    panels = [("avg_at_k", "ci", f"avg@{k}")]
    if baseline is not None and rows["diff"].notna().any():
        panels.append(("diff", "diff_ci", f"Δ avg@{k} to {names[baseline]}"))
    if rows["hard_avg_at_k"].notna().any():
        panels.append(("hard_avg_at_k", "hard_ci", f"hard avg@{k}"))
    figure = new_figure(1.2 + 2.7 * len(panels), 1.1 + 0.42 * len(rows))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (column, ci, xlabel) in zip(all_axes, panels, strict=True):
        if column == "diff":
            axes.axvline(0, color="0.3", linewidth=0.9)
        elif len(base):
            axes.axvspan(base[f"{ci}_low"].iloc[0], base[f"{ci}_high"].iloc[0], color=GREY, alpha=BAND, linewidth=0)
            axes.axvline(base[column].iloc[0], color=GREY, linestyle="--", linewidth=1.2)
        for y, (_, row) in enumerate(rows.iterrows()):
            own = style[row["algorithm"]]
            if column in seeds:
                value_S = seeds.loc[seeds["algorithm"] == row["algorithm"], column]
                light_points(axes, value_S, np.full(len(value_S), y + 0.26), own)
            axes.errorbar(
                row[column],
                y,
                xerr=arms(row, column, ci),
                fmt=own.marker,
                color=own.color,
                markersize=5.5,
                capsize=3.5,
            )
            if column == "diff" and row["algorithm"] == baseline:
                axes.annotate("baseline", (0, y), xytext=(5, 0), textcoords="offset points", va="center", color=GREY)
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", left=axes is all_axes[0])
    all_axes[0].set_yticks(range(len(rows)), [names[label] for label in rows["algorithm"]])
    all_axes[0].set_ylim(len(rows) - 0.4, -0.6)
    if len(base):
        handle = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="base")
        figure.legend(handles=[handle], loc="outside upper right")
    return figure


def score_against_kl(
    scored: pd.DataFrame, seeds: pd.DataFrame, names: dict[str, str], style: dict[str, Style], k: str
) -> Figure:
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
            light_points(axes, single["kl"], single["avg_at_k"], style[label])
        for _, row in shown.iterrows():
            own = style[row["algorithm"]]
            axes.errorbar(
                row["kl"],
                row["avg_at_k"],
                xerr=arms(row, "kl", "kl_ci"),
                yerr=arms(row, "avg_at_k", "ci"),
                fmt=own.marker,
                color=own.color,
                markersize=7,
                markeredgecolor="white",
                markeredgewidth=0.6,
                elinewidth=1.2,
                capsize=2,
                zorder=3,
            )
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
    legend(figure, list(rows["algorithm"]), names, style, lines=False)
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
) -> Drawing:
    """The score over the ablated quantity, a line an algorithm.

    Args:
        table: a row per point and algorithm: point, label, avg_at_k with its interval; the base has no point.
        seeds: a row per finished cell: point, label, avg_at_k.
        names: the algorithms by label, in the order of the legend.
        points: labels of the points, in order; on a "log" or "linear" `axis` they are read as numbers.
    """
    numeric = axis != "categories"
    at = {point: float(point) if numeric else float(index) for index, point in enumerate(points)}
    style = styles(names)
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
        axes.set_xticks(list(at.values()), points)
        axes.minorticks_off()
        axes.set(xlabel=quantity, ylabel=f"avg@{k}")
        legend(figure, list(names), names, style, lines=numeric)
    caption = (
        f"avg@{k} of the last checkpoint against {quantity}: mean and 95% interval over seeds and problems; single "
        "seeds are light, the base is the dotted line."
    )
    return Drawing("ablation", caption, figure)


REWARD_MARKS = (
    # sign of the reward's distance from its group's mean, marker, face, what the legend says
    (1, "^", "#0072b2", "reward above its group's mean"),
    (0, "o", "none", "equal to it"),
    (-1, "v", "#d55e00", "below it"),
)


def gradient_coefficients(coefficients: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Small multiples, a panel per algorithm: a point is a response.

    x is its log-ratio ℓ against the anchor less the group's mean (or, where policy and anchor are still the same and
    all ℓ are zero, its reward less the group's mean); y is the mean of C over its tokens, as a share of the largest |y|
    of that panel, which the title states.
    """
    response = coefficients.groupby(["algorithm", "prompt", "sample"], as_index=False).agg(
        reward=("reward", "first"), log_ratio=("log_ratio", "first"), coefficient=("coefficient", "mean")
    )
    group = response.groupby(["algorithm", "prompt"])
    for column in ("reward", "log_ratio"):
        response[column] -= group[column].transform("mean")
    response["side"] = np.sign(response["reward"].where(response["reward"].abs() > 1e-9, 0.0))
    moved = bool((response["log_ratio"].abs() > 1e-6).any())
    x = "log_ratio" if moved else "reward"

    labels = list(styles(response["algorithm"]))
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    figure = new_figure(2.6 * columns + 0.6, 2.2 * rows + 0.8)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, label in zip(grid.flat, labels, strict=False):
        points = response[response["algorithm"] == label]
        scale = float(points["coefficient"].abs().max())
        axes.axhline(0, color="0.3", linewidth=0.9)
        for side, marker, face, _ in REWARD_MARKS:
            chosen = points[points["side"] == side]
            axes.scatter(
                chosen[x],
                chosen["coefficient"] / (scale or 1.0),
                s=16,
                marker=marker,
                facecolor=face,
                edgecolor="0.35" if face == "none" else "white",
                linewidth=0.8 if face == "none" else 0.3,
                alpha=0.8,
            )
        axes.set_title(f"{names.get(label, label)}   (1 ≙ {scale:.2g})", fontsize="medium")
        axes.set_ylim(-1.12, 1.12)
    for axes in list(grid.flat)[len(labels) :]:
        axes.set_axis_off()
    figure.supxlabel(
        "log-ratio ℓ to the anchor, less its group's mean (nats)" if moved else "reward, less its group's mean",
        fontsize="medium",
    )
    figure.supylabel("gradient coefficient (share of the largest)", fontsize="medium")
    handles = [
        Line2D([], [], linestyle="none", marker=marker, markerfacecolor=face, markeredgecolor="0.35", label=text)
        for side, marker, face, text in REWARD_MARKS
        if (response["side"] == side).any()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
