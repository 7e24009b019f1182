"""How figures look: an algorithm has one colour, marker and line style in all of them, so they can be read side by side
and in greyscale. Does not import torch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.statistics.intervals import t_band

DPI = 200
NO_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
GREY = "0.45"
MUTED = "0.78"
LIGHT = 0.35  # alpha of single seeds
BAND = 0.15  # alpha of intervals drawn as areas

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)))
FIRST = ("gvpo", "grpo", "ppo", "dpo", "kimi", "pg")  # these look the same in the figures of every suite


class Style(NamedTuple):
    """How an algorithm is drawn, the same in every figure."""

    color: Any
    marker: str
    dashes: Any
    muted: bool = False
    """Where others are highlighted."""

    @property
    def order(self) -> float:
        """What is muted is drawn below the rest."""
        return 1.5 if self.muted else 2.5


class Drawing(NamedTuple):
    """A figure with the name of its file, its caption, and what it draws, in full precision."""

    name: str
    caption: str
    figure: Figure
    data: pd.DataFrame


def place(label: str) -> tuple[int, str]:
    """Sorts labels: those of FIRST in its order, then the others by name."""
    return (FIRST.index(label) if label in FIRST else len(FIRST), label)


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """By label. Eleven markers, ten colours and seven line styles: no two of the first 770 look the same."""
    palette = sns.color_palette("colorblind", 10)
    ordered = sorted(set(labels), key=place)
    position = {label: FIRST.index(label) for label in ordered if label in FIRST}
    others = [label for label in ordered if label not in FIRST]
    position |= {label: len(FIRST) + index for index, label in enumerate(others)}
    return {
        label: Style(palette[i % 10], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for label, i in position.items()
    }


def among_greys(i: int) -> Style:
    """The i-th of the styles of a panel whose background is grey curves: no two of the first 693 look the same."""
    bright, dark = sns.color_palette("colorblind", 10), sns.color_palette("dark", 10)
    palette = [*bright[:6], dark[0], dark[2], bright[9]]  # none is grey, or so light that it fades among greys
    return Style(palette[i % 9], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


@contextmanager
def look() -> Iterator[None]:
    """The common style, and an SVG writer that gives the same file for the same figure."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper", font_scale=1.1),
        "axes.grid": True,
        "grid.color": "0.92",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "svg.hashsalt": "gvpo-bench",
    }
    with matplotlib.rc_context(settings):
        yield


def encode(figure: Figure, kind: str) -> bytes:
    """The figure as an "svg", "png" or "pdf" file: the same bytes for the same figure, without date or version."""
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=NO_METADATA[kind])
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure with constrained layout; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def handles_of(order: list[str], names: dict[str, str], style: dict[str, Style], *, lines: bool) -> list[Line2D]:
    """What a legend shows of each algorithm."""
    return [
        Line2D(
            [],
            [],
            color=style[label].color,
            marker=style[label].marker,
            linestyle=style[label].dashes if lines else "none",
            label=names[label],
        )
        for label in order
    ]


def band(axes: Any, x: Any, value_SX: Any, style: Style, index: int, count: int) -> None:
    """A curve's mean and interval; markers are staggered so that those of several curves do not hide each other."""
    mean_X, low_X, high_X = t_band(value_SX)
    stride = max(1, len(x) // 6)
    axes.plot(
        x,
        mean_X,
        color=style.color,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.5,
        markevery=(index * stride // max(1, count), stride),
    )
    axes.fill_between(x, low_X, high_X, color=style.color, alpha=BAND, linewidth=0)


def grey_curve(axes: Any, x: Any, value_SX: Any) -> None:
    """A curve's mean behind those that a panel is about."""
    axes.plot(x, np.nanmean(value_SX, axis=0), color=MUTED, linewidth=0.8, zorder=1.5)


def light_points(axes: Any, x: Any, y: Any, style: Style) -> None:
    """Single seeds."""
    axes.plot(
        x,
        y,
        linestyle="none",
        marker=style.marker,
        markersize=3.5,
        color=style.color,
        alpha=LIGHT,
        markeredgewidth=0,
    )


def log_axis(axes: Any, text: Callable[[float], str]) -> None:
    """A logarithmic x with labels, as `text` has them, at 1 and 3 of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: text(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def arms(rows: pd.DataFrame | pd.Series[Any], column: str, ci: str) -> np.ndarray:
    """The lengths of error bars below and above, [2, rows]; a single row is a Series. Of scores they end at 0 and 1,
    beyond which no score lies: the interval of the table is symmetric and may pass them."""
    low, high = rows[f"{ci}_low"], rows[f"{ci}_high"]
    if "avg_at_k" in column:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return np.array([np.atleast_1d(length) for length in (rows[column] - low, high - rows[column])])
