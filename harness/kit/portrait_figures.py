"""Portraits as figures: one algorithm, or all of them as small multiples on a sheet that fits a slide."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.kit.portraits import REACH, SAMPLES, curves, shares
from harness.report.drawing import GREY, look

LIMIT = 2.4
"""Of the vertical axis; what goes beyond is marked with a triangle at the edge."""
COLUMNS = 8
SLIDE = (13.333, 7.5)

RIGHT, WRONG, _ = sns.color_palette("colorblind", 3)
WRONG = sns.color_palette("colorblind", 4)[3]

X_LABEL = "log-ratio ℓ of the response, nats"
Y_LABEL = "coefficient C (1: the largest on-policy)"
SHARE_LABEL = "share of the group that is right"


class Picture(NamedTuple):
    """A portrait with what stands above it."""

    title: str
    note: str
    family: str
    rows: pd.DataFrame
    """`portraits.portrait`'s."""


class Line(NamedTuple):
    """How one kind of response is drawn."""

    label: str
    color: Any
    dashes: Any
    width: float


LINES = {
    "right": Line("a right response", RIGHT, "-", 1.9),
    "wrong": Line("a wrong response", WRONG, (0, (3.2, 1.4)), 1.6),
    "tied": Line("a response of a group that is wrong throughout", GREY, (0, (1, 1.2)), 1.4),
}


def _frame(axes: Any) -> None:
    axes.axhline(0, color="0.3", linewidth=0.6, zorder=1)
    axes.set_ylim(-LIMIT, LIMIT)
    axes.set_yticks([-2, -1, 0, 1, 2])
    axes.grid(False)
    axes.tick_params(length=2, width=0.6, pad=1.5)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)


def _over_log_ratio(axes: Any, rows: pd.DataFrame, scale: float) -> None:
    axes.axvline(0, color="0.8", linewidth=0.6, zorder=0)
    for kind, part in reversed(curves(rows).items()):
        line = LINES[kind]
        x, y = part["log_ratio"].to_numpy(), part["coefficient"].to_numpy()
        axes.plot(x, y, color=line.color, linestyle=line.dashes, linewidth=line.width * scale, zorder=3)
        if kind != "tied":
            at = part.loc[part["log_ratio"] == 0, "coefficient"]
            axes.plot(0, at.iloc[0], "o", color=line.color, markersize=3.6 * scale, zorder=4)
    axes.set_xlim(-REACH, REACH)
    axes.set_xticks([-4, -2, 0, 2, 4])
    _frame(axes)


def _over_share(axes: Any, rows: pd.DataFrame, scale: float) -> None:
    for kind, part in shares(rows).items():
        line = LINES[kind]
        axes.plot(
            part["right"] / SAMPLES,
            part["coefficient"],
            color=line.color,
            linestyle=line.dashes,
            linewidth=0.7 * line.width * scale,
        )
    axes.set_xlim(-0.08, 1.08)
    axes.set_xticks([0, 1])
    _frame(axes)
    axes.tick_params(labelleft=False)


def one(picture: Picture) -> Figure:
    """The portrait of one algorithm."""
    with look():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        both = bool(shares(picture.rows))
        panels = figure.subplots(1, 2 if both else 1, sharey=True, width_ratios=[2.6, 1] if both else None, squeeze=False)
        _over_log_ratio(panels[0, 0], picture.rows, 1.2)
        panels[0, 0].set(xlabel=X_LABEL, ylabel=Y_LABEL)
        if both:
            _over_share(panels[0, 1], picture.rows, 1.4)
            panels[0, 1].set(xlabel=SHARE_LABEL)
        figure.suptitle(f"{picture.title}: {picture.note}", x=0.02, ha="left", fontsize="medium")
        figure.legend(handles=_handles(picture), loc="outside lower left", ncols=2, fontsize="small")
    return figure


def _handles(*pictures: Picture) -> list[Line2D]:
    kinds = [kind for kind in LINES if any(kind in curves(picture.rows) for picture in pictures)]
    return [
        Line2D([], [], color=LINES[kind].color, linestyle=LINES[kind].dashes, linewidth=1.8, label=LINES[kind].label)
        for kind in kinds
    ]


def sheet(pictures: Sequence[Picture], caption: str) -> Figure:
    """All portraits on one slide, in the order given, which keeps families together."""
    count = len(pictures)
    rows = -(-count // COLUMNS)
    with look():
        figure = Figure(figsize=SLIDE)
        left, right, top, bottom = 0.045, 0.992, 0.885, 0.085
        width, height = (right - left) / COLUMNS, (top - bottom) / rows
        for index, picture in enumerate(pictures):
            row, column = divmod(index, COLUMNS)
            x, y = left + column * width, top - (row + 1) * height
            inner = height * 0.60
            main = figure.add_axes((x, y + 0.12 * height, width * 0.62, inner))
            _over_log_ratio(main, picture.rows, 0.8)
            main.tick_params(labelsize=6, labelleft=column == 0, labelbottom=row == rows - 1 or index + COLUMNS >= count)
            if shares(picture.rows):
                side = figure.add_axes((x + width * 0.67, y + 0.12 * height, width * 0.22, inner))
                _over_share(side, picture.rows, 0.8)
                side.tick_params(labelsize=6, labelbottom=row == rows - 1 or index + COLUMNS >= count)
            figure.text(x, y + 0.825 * height, picture.title, fontsize=8.5, fontweight="bold", va="bottom")
            figure.text(x, y + 0.745 * height, picture.note, fontsize=6, color="0.3", va="bottom")
        for row in range(rows):
            line = list(enumerate(pictures[row * COLUMNS : (row + 1) * COLUMNS]))
            for family, members in groupby(line, key=lambda item: item[1].family):
                columns = [column for column, _ in members]
                x0, x1 = left + columns[0] * width, left + (columns[-1] + 1) * width - 0.11 * width
                y = top - row * height - 0.02 * height
                figure.add_artist(Line2D([x0, x1], [y, y], color="0.2", linewidth=1.2))
                figure.text(x0, y + 0.004, family.upper(), fontsize=6.5, color="0.2", va="bottom")
        figure.text(left, 0.975, "Who clips, who weights, who pulls back, who ignores what", fontsize=14, fontweight="bold", va="top")
        figure.text(left, 0.94, caption, fontsize=7.5, color="0.2", va="top")
        figure.legend(handles=_handles(*pictures), loc="lower right", bbox_to_anchor=(right, 0.0), ncols=3, fontsize=8)
        figure.text(left, 0.018, f"wide panels: {X_LABEL}; narrow panels: {SHARE_LABEL}", fontsize=7.5)
        figure.text(0.006, (top + bottom) / 2, Y_LABEL, fontsize=7.5, rotation=90, va="center")
    return figure
