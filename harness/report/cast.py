"""The algorithms of a suite's figures: under which names, how each is drawn, and which stand out in which panel.

Up to MANY of them share one panel. Of more, each family has a panel, in which the others are thin and grey; and where
labels are highlighted, there is one panel in which they and the baseline stand out. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.record.text import figure_text
from harness.report.drawing import GREY, MUTED, Style, among_greys, handles_of, new_figure, styles

BASELINE = Style("black", "o", "-")


class Panel(NamedTuple):
    """A part of a figure."""

    title: str
    strong: list[str]
    """Labels that it is about, in the order of its legend."""
    behind: list[str]
    """The other labels."""


@dataclass(frozen=True)
class Cast:
    """The algorithms of a figure."""

    names: Mapping[str, str]
    style: Mapping[str, Style]
    panels: Sequence[Panel]
    families: Mapping[str, str]
    """By label, where there are many."""

    def with_values(self, curves: pd.DataFrame, column: str) -> Cast:
        """Those whose curves have values: what is trained on given responses draws none."""
        known = curves[column].notna().groupby(curves["algorithm"]).any()
        return self.only(set(known.index[known]))

    def only(self, known: Collection[str]) -> Cast:
        """These labels alone; a panel whose family has none is left out."""
        panels = [
            Panel(title, [label for label in strong if label in known], [label for label in behind if label in known])
            for title, strong, behind in self.panels
        ]
        own = [panel for panel in panels if not panel.title or panel.title in map(self.families.get, panel.strong)]
        return replace(self, panels=own)

    def draw_panels(self, xlabel: str, ylabel: str, *, lines: bool) -> tuple[Figure, list[Axes]]:
        """A figure with axes for each panel on one scale, and the legends: beside the figure where there is one panel,
        else beside each, in two columns of panels."""
        if len(self.panels) == 1:
            figure = new_figure(7.0, 3.6)
            axes = figure.subplots()
            axes.set(xlabel=xlabel, ylabel=ylabel)
            self.outer_legend(figure, lines=lines)
            return figure, [axes]
        columns = 2
        rows = -(-len(self.panels) // columns)
        figure = new_figure(4.3 * columns, 1.85 * rows + 0.4)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        shown = list(grid.flat)
        for axes, panel in zip(shown, self.panels, strict=False):
            axes.set_title(panel.title, fontsize="medium", loc="left", fontweight="bold")
            axes.legend(
                handles=self._handles(panel, lines),
                loc="upper left",
                bbox_to_anchor=(1.0, 1.06),
                fontsize="small",
                handlelength=3.2 if lines else 1.0,
                borderaxespad=0.2,
            )
        for axes in shown[len(self.panels) :]:
            axes.set_axis_off()
        for axes in shown[max(0, len(self.panels) - columns) : len(self.panels)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(xlabel, fontsize="medium")
        figure.supylabel(ylabel, fontsize="medium")
        return figure, shown[: len(self.panels)]

    def outer_legend(self, figure: Figure, *, lines: bool) -> None:
        """The legend of the first panel, to the right of the figure."""
        handles = self._handles(self.panels[0], lines)
        figure.legend(handles=handles, loc="outside right upper", handlelength=3.2 if lines else 1.0)

    def _handles(self, panel: Panel, lines: bool) -> list[Line2D]:
        handles = handles_of(panel.strong, dict(self.names), dict(self.style), lines=lines)
        if len(self.panels) == 1 and panel.behind:
            look: dict[str, Any] = {"linewidth": 0.8} if lines else {"linestyle": "none", "marker": "o"}
            handles.append(Line2D([], [], color=MUTED, label="the others", **look))
        return handles


def cast_of(
    names: Mapping[str, str],
    order: Sequence[str],
    families: Mapping[str, str],
    baseline: str | None,
    highlight: Sequence[str],
) -> Cast:
    """How the algorithms of a suite are drawn.

    Args:
        names: by label; every label of any figure.
        order: the labels that have a score, in the order of the table.
        families: by label, where there are many.
        baseline: the label that stands out wherever not all do.
        highlight: labels that stand out, with it.
    """
    names = {label: figure_text(name) for label, name in names.items()}
    families = {label: figure_text(family) for label, family in families.items()}
    if not (families or highlight):
        return Cast(names, styles(names), [Panel("", list(order), [])], {})
    look = styles(names) if not families else {}
    for labels in _by_family(list(names), families) if families else ():
        look |= _told_apart(labels, baseline)
    if highlight:
        chosen = [label for label in order if label in highlight or label == baseline]
        muted = {label: Style(MUTED, "o", "-", muted=True) for label in look}
        strong = _told_apart(chosen, baseline) if families else {label: look[label] for label in chosen}
        behind = [label for label in order if label not in chosen]
        return Cast(names, muted | strong, [Panel("", chosen, behind)], families)
    panels = []
    for labels in _by_family(order, families):
        strong_labels = labels if baseline in labels or baseline not in order else [*labels, str(baseline)]
        behind = [label for label in order if label not in strong_labels]
        panels.append(Panel(families[labels[0]], strong_labels, behind))
    return Cast(names, look, panels, families)


def _told_apart(labels: Sequence[str], baseline: str | None) -> dict[str, Style]:
    """Styles that differ among these labels alone, since there are no thirty that do; the baseline is black."""
    colourful = [label for label in labels if label != baseline]
    return {label: among_greys(colourful.index(label)) if label in colourful else BASELINE for label in labels}


def _by_family(labels: Sequence[str], families: Mapping[str, str]) -> Iterator[list[str]]:
    order = list(dict.fromkeys(families.values()))
    placed = sorted(labels, key=lambda label: order.index(families[label]))
    for _, group in groupby(placed, key=families.__getitem__):
        yield list(group)


def places(rows: pd.DataFrame, cast: Cast) -> tuple[list[int], list[tuple[str, dict[str, str]]]]:
    """Where each row stands, and the text and font of every place: rows, and above each family its name."""
    y_of: list[int] = []
    ticks: list[tuple[str, dict[str, str]]] = []
    family = ""
    for _, row in rows.iterrows():
        if "family" in rows and row["family"] != family:
            family = str(row["family"])
            ticks.append((figure_text(family), {"fontweight": "bold"}))
        y_of.append(len(ticks))
        ticks.append((cast.names[row["algorithm"]], {"color": GREY} if cast.style[row["algorithm"]].muted else {}))
    return y_of, ticks


def name_places(axes: Axes, ticks: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Writes the texts of `places` beside them, the first on top; a family's name has no tick."""
    axes.set_yticks(range(len(ticks)), [text for text, _ in ticks])
    for tick, (_, font) in zip(axes.yaxis.get_major_ticks(), ticks, strict=True):
        tick.label1.set(**font)
        tick.tick1line.set_visible("fontweight" not in font)
    axes.set_ylim(len(ticks) - 0.4, -0.6)
