"""The figures of curves over training, a panel of them or several. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.cast import Cast
from harness.report.drawing import band, grey_curve

GRID_POINTS = 200  # of the common token grid

Curve = tuple[np.ndarray, np.ndarray]
"""x, and a value a seed and x, [S, X]."""


def over_steps(curves: pd.DataFrame, column: str, ylabel: str, cast: Cast) -> Figure:
    """A metric over training steps: each algorithm's mean over its seeds, with its interval."""

    cast = cast.with_values(curves, column)

    def curve(label: str) -> Curve:
        value = curves[curves["algorithm"] == label].pivot(index="seed", columns="step", values=column)
        return value.columns.to_numpy(), value.to_numpy()

    figure, all_axes = _draw(cast, curve, "training step", ylabel)
    for axes in all_axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def over_tokens(curves: pd.DataFrame, cast: Cast) -> Figure:
    """The mean training reward over generated tokens, as far as all of an algorithm's seeds went, with its interval."""
    cast = cast.with_values(curves, "reward")
    shown = curves[
        curves["algorithm"].isin([label for panel in cast.panels for label in (*panel.strong, *panel.behind)])
    ]
    tokens = shown["generated_tokens"]
    grid_X = np.linspace(tokens.min(), tokens.max(), GRID_POINTS)
    size, unit = token_unit(tokens.max())

    def curve(label: str) -> Curve:
        runs = [run.sort_values("step") for _, run in shown[shown["algorithm"] == label].groupby("seed")]
        first = max(run["generated_tokens"].iloc[0] for run in runs)
        last = min(run["generated_tokens"].iloc[-1] for run in runs)
        reached_X = grid_X[(grid_X >= first) & (grid_X <= last)]
        return reached_X / size, np.array(
            [np.interp(reached_X, run["generated_tokens"], run["reward"]) for run in runs]
        )

    figure, _ = _draw(cast, curve, f"generated tokens{unit}", "mean training reward")
    return figure


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
