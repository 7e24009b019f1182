"""The figures of curves over training, a panel of them or several. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.cast import Cast
from harness.report.drawing import band, grey_curve
from harness.statistics.intervals import t_band

GRID_POINTS = 200  # of an axis that no two seeds share

Curve = tuple[np.ndarray, np.ndarray]
"""x, and a value a seed and x, [S, X]."""


class Axis(NamedTuple):
    """What a curve is drawn against: a column of the metrics, and how its label and its unit read."""

    column: str
    label: str
    unit: str = ""


STEPS = Axis("step", "training step")
GENERATED = Axis("generated_tokens", "generated tokens")
TRAINED = Axis("trained_tokens", "trained tokens")
WALL_CLOCK = Axis("seconds", "wall-clock of rollouts and training", "s")


def over(curves: pd.DataFrame, axis: Axis, column: str, ylabel: str, cast: Cast) -> tuple[Figure, pd.DataFrame]:
    """A metric over steps, tokens or seconds: each algorithm's mean over its seeds, with its interval.

    Off the steps, each seed is interpolated onto one grid, as far as all seeds of an algorithm went. Returns what is
    drawn, too: a row an algorithm and point, with `x` in tokens or seconds.
    """
    cast = cast.with_values(curves, column)
    if axis is not STEPS:
        cast = cast.only(overlapping(curves, axis.column))
    shown = {label for panel in cast.panels for label in (*panel.strong, *panel.behind)}
    curves = curves[curves["algorithm"].isin(shown)]
    largest = float(curves[axis.column].max())
    size, unit = (1.0, f" ({axis.unit})" if axis.unit else "") if axis.unit or axis is STEPS else token_unit(largest)
    grid_X = np.linspace(curves[axis.column].min(), largest, GRID_POINTS)

    def curve(label: str) -> Curve:
        own = curves[curves["algorithm"] == label]
        if axis is STEPS:
            value = own.pivot(index="seed", columns="step", values=column)
            return value.columns.to_numpy(), value.to_numpy()
        runs = [run.sort_values("step") for _, run in own.groupby("seed")]
        first = max(run[axis.column].iloc[0] for run in runs)
        last = min(run[axis.column].iloc[-1] for run in runs)
        reached_X = grid_X[(grid_X >= first) & (grid_X <= last)]
        return reached_X / size, np.array([np.interp(reached_X, run[axis.column], run[column]) for run in runs])

    figure, all_axes = _draw(cast, curve, f"{axis.label}{unit}", ylabel)
    if axis is STEPS:
        for axes in all_axes:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, pd.concat([_points(label, *curve(label), size) for label in sorted(shown)], ignore_index=True)


def overlapping(curves: pd.DataFrame, column: str) -> set[str]:
    """The labels whose seeds share a range of x, without which there is no mean over seeds."""
    runs = curves.groupby(["algorithm", "seed"])[column].agg(["min", "max"])
    ends = runs.groupby(level="algorithm").agg({"min": "max", "max": "min"})
    return set(ends.index[ends["min"] < ends["max"]])


def _points(label: str, x_X: np.ndarray, value_SX: np.ndarray, size: float) -> pd.DataFrame:
    mean_X, low_X, high_X = t_band(value_SX)
    return pd.DataFrame({"algorithm": label, "x": x_X * size, "mean": mean_X, "low": low_X, "high": high_X})


def _draw(cast: Cast, curve: Callable[[str], Curve], xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    figure, all_axes = cast.draw_panels(xlabel, ylabel, lines=True)
    for axes, panel in zip(all_axes, cast.panels, strict=True):
        for label in panel.behind:
            grey_curve(axes, *curve(label))
        for index, label in enumerate(panel.strong):
            band(axes, *curve(label), cast.style[label], index, len(panel.strong))
    return figure, all_axes


def token_unit(largest: float) -> tuple[float, str]:
    """The divisor of a token axis and what its label says of it."""
    for size, unit in ((1e9, " (billions)"), (1e6, " (millions)"), (1e3, " (thousands)")):
        if largest >= size:
            return size, unit
    return 1.0, ""
