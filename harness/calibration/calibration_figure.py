"""The figure of a calibration: what was measured against what was promised."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from harness.record.text import figure_text
from harness.report.drawing import GREY, MARKERS, Drawing, look, new_figure
from harness.statistics.power import POWER

PANELS = (
    ("coverage of a score", 0.95, "coverage of 95% intervals\nof a score"),
    ("coverage of a difference", 0.95, "coverage of 95% intervals\nof a difference"),
    ("family-wise error", 0.05, "family-wise error of\nHolm-corrected tests"),
    ("power", POWER, "power at the difference\ncalled detectable"),
)
"""What stands in each panel, where the line of the promise is, and the name of its axis."""


def draw(table: pd.DataFrame) -> Drawing:
    """A panel for each kind of promise: measured shares with two standard errors, by seeds and algorithms."""
    palette = sns.color_palette("colorblind", 10)
    with look():
        figure = new_figure(10.5, 3.6)
        axes = figure.subplots(1, len(PANELS))
        for panel, (what, line, label) in zip(axes, PANELS, strict=True):
            rows = table[table["what"] == what]
            ticks = list(rows[["seeds", "algorithms"]].drop_duplicates().itertuples(index=False))
            panel.axhline(line, color=GREY, linestyle="--", linewidth=1)
            sources = list(rows["source"].unique())
            for index, source in enumerate(sources):
                own = rows[rows["source"] == source]
                place = {tick: at for at, tick in enumerate(ticks)}
                x = [place[tick] for tick in own[["seeds", "algorithms"]].itertuples(index=False)]
                panel.errorbar(
                    [at + (index - (len(sources) - 1) / 2) * 0.18 for at in x],
                    own["measured"],
                    yerr=2 * own["standard_error"],
                    linestyle="none",
                    marker=MARKERS[index],
                    color=palette[index],
                    capsize=2,
                    label=figure_text(source),
                )
            panel.set_xticks(range(len(ticks)), [f"{tick.seeds}\n{tick.algorithms}" for tick in ticks])
            panel.set_xlabel("seeds (above), algorithms (below)")
            panel.set_ylabel(label)
            panel.margins(x=0.2)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    caption = (
        "What was measured on synthetic suites, with two standard errors, against what is promised (dashed): 95%, 5% "
        "and 80%."
    )
    return Drawing("calibration", caption, figure, table)
