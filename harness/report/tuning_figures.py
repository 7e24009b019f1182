"""The figures of a search for hyper-parameters: a small panel for each algorithm, the baseline grey behind it.

In black and grey alone. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from harness.record.text import figure_text
from harness.report.drawing import BAND, GREY, MUTED, Drawing, log_axis, look, new_figure
from harness.report.trials import PARAMETER
from harness.statistics.best_of import best_after

COLUMNS = 6
"""Panels side by side, where there are so many."""
SCORE = "score on the tuning problems"


def tuning_drawings(trials: pd.DataFrame, names: Mapping[str, str], baseline: str | None) -> list[Drawing]:
    """The figures of a suite's trials (`trials.read_trials`), of the algorithms that are named, in that order."""
    trials = trials[trials["algorithm"].isin(names)]
    order = [label for label in names if label in set(trials["algorithm"])]
    if not order:
        return []
    names = {label: figure_text(names[label]) for label in order}
    shown = baseline if baseline in names else None
    with look():
        drawings = [best_after_trials(trials, names, shown), score_against_lr(trials, names, shown)]
        if any(searched(trials, label) for label in order):
            drawings.append(score_against_parameters(trials, names))
    return drawings


def best_after_trials(trials: pd.DataFrame, names: Mapping[str, str], baseline: str | None) -> Drawing:
    """The expected best score after n trials, with the interval over orders."""
    curves = []
    for label in names:
        score_B = trials.loc[trials["algorithm"] == label, "score"].to_numpy(dtype=float)
        mean_N, low_N, high_N = best_after(list(score_B))
        n = np.arange(1, len(score_B) + 1)
        curves.append(pd.DataFrame({"algorithm": label, "trials": n, "best": mean_N, "low": low_N, "high": high_N}))
    data = pd.concat(curves, ignore_index=True)
    of = dict(iter(data.groupby("algorithm", sort=False)))
    figure, grid = _panels(list(names.values()), "trials", f"best {SCORE}", shared=True)
    for axes, label in zip(grid, names, strict=True):
        own = of[label]
        if baseline is not None and label != baseline:
            axes.plot(of[baseline]["trials"], of[baseline]["best"], color=GREY, linestyle="--", linewidth=1.1)
        axes.fill_between(own["trials"], own["low"], own["high"], color="black", alpha=BAND, linewidth=0)
        axes.plot(own["trials"], own["best"], color="black", marker="o", markersize=3)
    _legend(
        figure,
        Line2D([], [], color="black", marker="o", markersize=3, label="expected best"),
        Patch(color="black", alpha=BAND, label="95% of the orders"),
        *_of_baseline(names, baseline, linestyle="--"),
    )
    caption = (
        "Best score on the tuning problems after n of the trials: the expected maximum over all orders of the trials "
        "(Dodge et al. 2019, without replacement), and what 95% of the orders give. The best of a search on few seeds "
        "is also the luckiest: the tables of other seeds and problems say what it is worth."
    )
    return Drawing("best_after_trials", caption, figure, data)


def score_against_lr(trials: pd.DataFrame, names: Mapping[str, str], baseline: str | None) -> Drawing:
    """Every trial's score at its learning rate."""
    figure, grid = _panels(list(names.values()), "learning rate", SCORE, shared=True)
    for axes, label in zip(grid, names, strict=True):
        log_axis(axes, _setting)
        if baseline is not None and label != baseline:
            other = trials[trials["algorithm"] == baseline]
            axes.plot(other["lr"], other["score"], linestyle="none", marker="o", markersize=4, color=MUTED)
        own = trials[trials["algorithm"] == label]
        _points(axes, own["lr"], own, {})
    _legend(figure, *_kinds(trials), *_of_baseline(names, baseline, color=MUTED, linestyle="none", marker="o"))
    caption = "Score of every trial on the tuning problems against its learning rate; the best trial is filled."
    order = {label: place for place, label in enumerate(names)}
    data = trials[["algorithm", "trial", "lr", "max_norm", "score", "failed"]]
    return Drawing(
        "score_against_lr",
        caption,
        figure,
        data.sort_values("algorithm", key=lambda column: column.map(order), kind="stable"),
    )


def score_against_parameters(trials: pd.DataFrame, names: Mapping[str, str]) -> Drawing:
    """Every trial's score at its value of each hyper-parameter of the algorithm's own that was searched."""
    parts = []
    for label in names:
        own = trials[trials["algorithm"] == label]
        for column in searched(trials, label):
            part = own[["algorithm", "trial", "score", "failed"]].assign(value=own[column].astype(float))
            part.insert(1, "parameter", column.removeprefix(PARAMETER))
            parts.append(part)
    figure, grid = _panels([names[part["algorithm"].iloc[0]] for part in parts], "", SCORE, shared=False)
    grey = _greys(trials["lr"])
    for axes, part in zip(grid, parts, strict=True):
        axes.set_xlabel(figure_text(part["parameter"].iloc[0]), fontsize="x-small", labelpad=1)
        values = sorted(part["value"].unique())
        if values[0] > 0:
            log_axis(axes, _setting)
            _points(axes, part["value"], part, grey)
        else:  # a choice among a few, zero with them
            _points(axes, part["value"].map(values.index), part, grey)
            axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
            axes.set_xlim(-0.5, len(values) - 0.5)
            axes.xaxis.set_minor_locator(NullLocator())
    _legend(
        figure,
        _mark(label="low learning rate", markerfacecolor="white"),
        _mark(label="high", markerfacecolor="black"),
        _mark(label="the best", marker="D", markerfacecolor="white"),
        *_kinds(trials)[2:],
    )
    caption = (
        "Score of every trial on the tuning problems against each hyper-parameter of the algorithm's own that was "
        "searched. The darker a trial, the higher its learning rate, which varies too; the best one is a diamond."
    )
    return Drawing("score_against_parameters", caption, figure, pd.concat(parts, ignore_index=True))


def searched(trials: pd.DataFrame, label: str) -> list[str]:
    """The columns of an algorithm's own hyper-parameters that are numbers and vary."""
    own = trials[trials["algorithm"] == label]
    names = [str(name) for name in trials if str(name).startswith(PARAMETER)]
    numbers = {name: pd.to_numeric(own[name], errors="coerce") for name in names}
    return [name for name, values in numbers.items() if values.notna().all() and values.nunique() > 1]


def _panels(titles: Sequence[str], xlabel: str, ylabel: str, *, shared: bool) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    figure = new_figure(max(4.0, 1.75 * columns + 0.6), (1.3 if shared else 1.5) * rows + 0.9)
    grid = list(figure.subplots(rows, columns, sharex=shared, sharey=True, squeeze=False).flat)
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title, fontsize="small", loc="left")
        axes.tick_params(labelsize="x-small")
    for axes in grid[len(titles) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(titles) - columns) : len(titles)]:
        axes.tick_params(labelbottom=True)
    if xlabel:
        figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    return figure, grid[: len(titles)]


def _setting(x: float) -> str:
    """A hyper-parameter on an axis: 0.3, 3e-5."""
    return f"{x:g}" if x >= 0.01 else f"{x:.0e}".replace("-0", "-")


def _greys(value: pd.Series[float]) -> dict[Any, str]:
    """By row, a grey from white for the lowest value to black for the highest, in the logarithm."""
    log = np.log(value)
    share = (log - log.min()) / ((log.max() - log.min()) or 1.0)
    return {index: f"{1 - x:.3f}" for index, x in share.items()}


def _points(axes: Axes, x: pd.Series[Any], own: pd.DataFrame, grey: Mapping[Any, str]) -> None:
    """The trials of an algorithm: filled with their grey, and the best a diamond; or hollow, and the best filled."""
    best = own["score"].idxmax()
    for index in own.index:
        axes.plot(
            x.loc[index],
            own.loc[index, "score"],
            linestyle="none",
            marker="x" if own.loc[index, "failed"] > 0 else "D" if grey and index == best else "o",
            markersize=5.5 if grey and index == best else 4.5,
            color="black",
            markerfacecolor=grey.get(index, "black" if index == best else "white"),
            zorder=3 if index == best else 2.5,
        )


def _kinds(trials: pd.DataFrame) -> list[Line2D]:
    """What the marks of `_points` mean."""
    shown = [_mark(label="a trial", markerfacecolor="white"), _mark(label="the best", markerfacecolor="black")]
    return [*shown, _mark(label="a run of it failed", marker="x")] if (trials["failed"] > 0).any() else shown


def _mark(**look: Any) -> Line2D:
    return Line2D([], [], **{"color": "black", "linestyle": "none", "marker": "o", "markersize": 4.5, **look})


def _of_baseline(names: Mapping[str, str], baseline: str | None, **look: Any) -> list[Line2D]:
    return (
        [] if baseline is None else [Line2D([], [], label=names[baseline], **{"color": GREY, "markersize": 4, **look})]
    )


def _legend(figure: Figure, *handles: Line2D | Patch) -> None:
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize="small")
