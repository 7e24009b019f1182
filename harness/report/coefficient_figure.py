"""The figure of gradient coefficients. Does not import torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.cast import Cast
from harness.report.drawing import GREY, new_figure
from harness.report.families import MANY

REWARD_MARKS = (
    # sign of the reward's distance from its group's mean, marker, face, what the legend says
    (1, "^", "#0072b2", "reward above its group's mean"),
    (0, "o", "none", "equal to it"),
    (-1, "v", "#d55e00", "below it"),
)


def gradient_coefficients(coefficients: pd.DataFrame, cast: Cast) -> tuple[Figure, pd.DataFrame]:
    """Small multiples, a panel per algorithm: a point is a response.

    x is its log-ratio ℓ against the anchor less the group's mean (or, where policy and anchor are still the same and
    all ℓ are zero, its reward less the group's mean); y is the mean of C over its tokens, as a share of the largest |y|
    of that panel, which the title states. Returns the responses that are drawn, too: reward and log-ratio less their
    group's means, and the mean of C.
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

    found = set(response["algorithm"])
    labels = [label for label in cast.style if label in found]
    many = len(labels) > MANY
    columns = 5 if many else min(3, len(labels))
    rows = -(-len(labels) // columns)
    figure = (
        new_figure(1.75 * columns + 0.6, 1.6 * rows + 0.8)
        if many
        else new_figure(2.6 * columns + 0.6, 2.2 * rows + 0.8)
    )
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
                s=7 if many else 16,
                marker=marker,
                facecolor=face,
                edgecolor="0.35" if face == "none" else "white",
                linewidth=0.8 if face == "none" else 0.3,
                alpha=0.8,
            )
        muted = cast.style[label].muted
        if many:
            where = f"{cast.families[label]}, " if label in cast.families else ""
            axes.set_title(
                f"{cast.names[label]}\n{where}1 ≙ {scale:.2g}", fontsize="small", color=GREY if muted else "black"
            )
        else:
            axes.set_title(f"{cast.names[label]}   (1 ≙ {scale:.2g})", fontsize="medium")
        if muted:
            for points_of_side in axes.collections:
                points_of_side.set_alpha(0.25)
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
    return figure, response.drop(columns="side")
