"""The figures of gradient coefficients over training, a panel an algorithm. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.report.cast import Cast
from harness.report.drawing import BAND, GREY, Drawing, new_figure
from harness.report.families import MANY
from harness.statistics.intervals import t_band

UP, DOWN = "#0072b2", "#d55e00"
"""As in the figure of one batch: what is pushed up, and what down."""


class Drawn(NamedTuple):
    """A curve of a panel."""

    column: str
    color: str
    dashes: str
    text: str
    scaled: bool = True
    """In units of the panel's largest value; else as it is."""


SUMS = (
    Drawn("coefficient_positive", UP, "-", "sum pushed up"),
    Drawn("coefficient_negative", DOWN, "--", "sum pushed down"),
    Drawn("coefficient_zero", "black", ":", "share of exact zeros", scaled=False),
)
QUANTILES = (
    Drawn("coefficient_high", UP, "-", "95% quantile"),
    Drawn("coefficient_median", "black", ":", "median"),
    Drawn("coefficient_low", DOWN, "--", "5% quantile"),
)


CAPTION = (
    "{} of each step's updates: mean over seeds, 95% t interval, in units of the largest of each algorithm, since "
    "losses differ in scale."
)


def over_training(curves: pd.DataFrame, cast: Cast) -> Iterator[Drawing]:
    """The figures, where cells have recorded what they draw."""
    if not recorded(curves):
        return
    text = CAPTION.format(
        "Gradient coefficients C = −∂L/∂log π over training: their sums over the tokens that are pushed up and down, "
        "and the share of tokens with exactly 0,"
    )
    yield Drawing("coefficient_sums", text, *coefficients_over_training(curves, SUMS, "share of the largest sum", cast))
    text = CAPTION.format("Quantiles of the gradient coefficients over the tokens")
    figure = coefficients_over_training(curves, QUANTILES, "share of the largest quantile", cast)
    yield Drawing("coefficient_quantiles", text, *figure)


def recorded(curves: pd.DataFrame) -> list[str]:
    """The algorithms whose every cell has recorded coefficients, by label."""
    if "coefficient_zero" not in curves:
        return []
    known = curves["coefficient_zero"].notna().groupby(curves["algorithm"]).all()
    return [str(label) for label in known.index[known]]


def unrecorded_notes(curves: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """Whose coefficients over training are in no figure; nothing where all are."""
    lacking = [] if curves.empty else sorted(set(curves["algorithm"]) - set(recorded(curves)))
    if not lacking:
        return []
    who = ", ".join(names[label] for label in lacking) if recorded(curves) else "all algorithms"
    return [f"Not in a figure of gradient coefficients over training: {who}, whose cells were recorded without them."]


def coefficients_over_training(
    curves: pd.DataFrame, drawn: Sequence[Drawn], ylabel: str, cast: Cast
) -> tuple[Figure, pd.DataFrame]:
    """Each algorithm's mean over seeds against steps, with 95% t intervals; sums and quantiles in units of the largest
    of its panel, which the title states, since losses differ in scale.

    Returns what is drawn, too: a row an algorithm, metric and step, as recorded.
    """
    found = recorded(curves)
    labels = [label for label in cast.style if label in found]
    many = len(labels) > MANY
    columns = 5 if many else min(3, len(labels))
    rows = -(-len(labels) // columns)
    width, height = (1.75, 1.6) if many else (2.6, 2.2)
    figure = new_figure(width * columns + 0.6, height * rows + 0.8)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    frames = []
    for axes, label in zip(grid.flat, labels, strict=False):
        own = curves[curves["algorithm"] == label]
        bands = {of: _band(own, of.column) for of in drawn}
        scale = max(float(np.abs(bands[of]["mean"]).max()) for of in drawn if of.scaled) or 1.0
        for of, points in bands.items():
            _draw(axes, points, of, scale if of.scaled else 1.0)
            frames.append(points.assign(algorithm=label, metric=of.column))
        _finish(axes, cast, label, scale, many)
    for axes in list(grid.flat)[len(labels) :]:
        axes.set_axis_off()
    figure.supxlabel("training step", fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    handles: list[Line2D | Patch] = [Line2D([], [], color=of.color, linestyle=of.dashes, label=of.text) for of in drawn]
    figure.legend(handles=handles, loc="outside upper center", ncols=1 if len(labels) < 3 else 3)
    data = pd.concat(frames, ignore_index=True)
    return figure, data[["algorithm", "metric", "step", "mean", "low", "high"]]


def _band(own: pd.DataFrame, column: str) -> pd.DataFrame:
    value = own.pivot(index="seed", columns="step", values=column)
    mean_X, low_X, high_X = t_band(value.to_numpy())
    return pd.DataFrame({"step": value.columns.to_numpy(), "mean": mean_X, "low": low_X, "high": high_X})


def _draw(axes: Axes, points: pd.DataFrame, of: Drawn, scale: float) -> None:
    axes.plot(points["step"], points["mean"] / scale, color=of.color, linestyle=of.dashes, linewidth=1.2)
    bounds = (-1.1, 1.1) if of.scaled else (0.0, 1.0)  # beyond which lies the margin, or no share
    low, high = (np.clip(points[end] / scale, *bounds) for end in ("low", "high"))
    axes.fill_between(points["step"], low, high, color=of.color, alpha=BAND, linewidth=0)


def _finish(axes: Axes, cast: Cast, label: str, scale: float, many: bool) -> None:
    axes.axhline(0, color="0.3", linewidth=0.9, zorder=1)
    axes.set_ylim(-1.12, 1.12)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    muted = cast.style[label].muted
    where = f"{cast.families[label]}, " if many and label in cast.families else ""
    title = f"{cast.names[label]}\n{where}1 ≙ {scale:.2g}" if many else f"{cast.names[label]}   (1 ≙ {scale:.2g})"
    axes.set_title(title, fontsize="small" if many else "medium", color=GREY if muted else "black")
    if muted:
        for drawn in (*axes.lines, *axes.collections):
            drawn.set_alpha(0.3)
