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
from harness.kit.traits import Traits
from harness.record.text import figure_text
from harness.report.drawing import GREY, look

LIMIT = 2.4
"""Of the vertical axis; a line may leave it."""
ROWS, COLUMNS = 4, 8
"""Of the sheet: more columns where the algorithms are more."""
SLIDE = (13.333, 7.5)

X_LABEL = "log-ratio ℓ of the response, nats"
Y_LABEL = "coefficient C, 1 = the largest on-policy"
SHARE_LABEL = "share of the group right"
SHORTER = {"behaviour": "beh.", "reference": "ref."}

TITLE = "What each algorithm does with a response: who clips, who weights, who pulls back, who ignores what"
CAPTION = (
    "The gradient coefficient C = −∂L/∂log π of one response (8 tokens), drawn from each class at its defaults. Wide "
    "panels: against its log-ratio; the policy has moved on this response alone, evenly over its tokens, and the\n"
    "behaviour, old and reference policies stay where the dots are (on-policy, ℓ = 0); 8 responses a group, half of "
    "them right. Narrow panels: on-policy, against the share of the group that is right. C is divided by the largest\n"
    "on-policy coefficient of the half-right group, the same for all. Under each name: what it does; whether the ratio "
    "is taken by token or by response; whose log-probs it reads; 1/|y| where long responses weigh no more than short."
)


class Picture(NamedTuple):
    """A portrait with what stands above it."""

    label: str
    family: str
    traits: Traits
    rows: pd.DataFrame
    """`portraits.portrait`'s."""


class Line(NamedTuple):
    """How one kind of response is drawn."""

    label: str
    color: Any
    dashes: Any
    width: float


_PALETTE = sns.color_palette("colorblind", 4)
LINES = {
    "right": Line("a right response", _PALETTE[0], "-", 1.9),
    "wrong": Line("a wrong response", _PALETTE[3], (0, (3.2, 1.4)), 1.6),
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
        figure = Figure(figsize=(7.2, 3.7), layout="constrained")
        both = bool(shares(picture.rows))
        panels = figure.subplots(1, 1 + both, sharey=True, width_ratios=[2.4, 1] if both else None, squeeze=False)
        _over_log_ratio(panels[0, 0], picture.rows, 1.2)
        panels[0, 0].set_xlabel(X_LABEL, fontsize="small")
        panels[0, 0].set_ylabel(Y_LABEL, fontsize="small")
        if both:
            _over_share(panels[0, 1], picture.rows, 1.4)
            panels[0, 1].set_xlabel(SHARE_LABEL, fontsize="small")
        panels[0, 0].set_title(
            f"{figure_text(picture.label)}: {', '.join(picture.traits.does)} ({picture.traits.compared})",
            loc="left",
            fontsize=9.5,
        )
        figure.legend(handles=_handles(picture), loc="outside lower left", ncols=3, fontsize="small", handlelength=2.6)
    return figure


def _handles(*pictures: Picture) -> list[Line2D]:
    kinds = [kind for kind in LINES if any(kind in curves(picture.rows) for picture in pictures)]
    return [
        Line2D([], [], color=LINES[kind].color, linestyle=LINES[kind].dashes, linewidth=1.8, label=LINES[kind].label)
        for kind in kinds
    ]


def sheet(pictures: Sequence[Picture]) -> Figure:
    """All portraits on one slide, in the order given, which keeps families together."""
    columns = max(COLUMNS, -(-len(pictures) // ROWS))
    rows = -(-len(pictures) // columns)
    left, right, top, bottom = 0.042, 0.998, 0.852, 0.068
    width, height = (right - left) / columns, (top - bottom) / rows
    with look():
        figure = Figure(figsize=SLIDE)
        for index, picture in enumerate(pictures):
            row, column = divmod(index, columns)
            lowest = index + columns >= len(pictures)
            x, y = left + column * width, top - (row + 1) * height
            main = figure.add_axes((x, y + 0.11 * height, 0.6 * width, 0.56 * height))
            _over_log_ratio(main, picture.rows, 0.85)
            main.tick_params(labelsize=7, labelleft=column == 0, labelbottom=lowest)
            if shares(picture.rows):
                side = figure.add_axes((x + 0.66 * width, y + 0.11 * height, 0.22 * width, 0.56 * height))
                _over_share(side, picture.rows, 0.85)
                side.tick_params(labelsize=7, labelbottom=lowest)
            size = min(9.0, 150 / len(picture.label))  # a long label must fit into its column
            figure.text(
                x, y + 0.845 * height, figure_text(picture.label), fontsize=size, fontweight="bold", va="baseline"
            )
            compared = picture.traits.compared
            for word, shorter in SHORTER.items():
                compared = compared.replace(word, shorter)
            for line, text in enumerate((", ".join(picture.traits.does), compared)):
                color = ("0.0", "0.35")[line]
                figure.text(x, y + (0.77 - 0.07 * line) * height, text, fontsize=6.6, color=color, va="baseline")
        for row in range(rows):
            line_of = list(enumerate(pictures[row * columns : (row + 1) * columns]))
            for family, members in groupby(line_of, key=lambda item: item[1].family):
                places = [column for column, _ in members]
                ends = [left + places[0] * width, left + (places[-1] + 0.9) * width]
                y = top - (row + 0.04) * height
                figure.add_artist(Line2D(ends, [y, y], color="0.2", linewidth=1.2))
                figure.text(ends[0], y + 0.004, figure_text(family.upper()), fontsize=7, color="0.2", va="bottom")
        figure.text(left, 0.985, TITLE, fontsize=13, fontweight="bold", va="top")
        figure.text(left, 0.947, CAPTION, fontsize=7.4, color="0.15", va="top", linespacing=1.35)
        figure.legend(handles=_handles(*pictures), loc="lower right", bbox_to_anchor=(right, 0.0), ncols=3, fontsize=9)
        figure.text(left, 0.022, f"wide: {X_LABEL}    narrow: {SHARE_LABEL}", fontsize=8)
        figure.text(0.006, (top + bottom) / 2, Y_LABEL, fontsize=8, rotation=90, va="center")
    return figure
