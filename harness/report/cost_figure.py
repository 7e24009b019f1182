"""The figure of what a point costs. Does not import torch."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.cast import Cast, name_places, places
from harness.report.drawing import light_points, log_axis, new_figure
from harness.report.sample_figures import COSTS
from harness.statistics.intervals import Array, Interval
from harness.statistics.power import of_runs

WIDE = 5.0
"""The largest cost over the smallest, above which an axis is logarithmic."""


def in_thousands(x: float) -> str:
    """A round number in few signs: 0.3, 30, 3 k, 3 M."""
    size, unit = next(((size, unit) for size, unit in ((1e6, " M"), (1e3, " k")) if x >= size), (1.0, ""))
    return f"{x / size:g}{unit}"


def cost_of_point(cost_S: Array, gain_S: Array) -> Interval:
    """Mean cost over mean gain, in units of cost per percentage point, with the 95% interval of the bootstrap over
    seeds. `gain_S` are shares. Infinite where there is no gain; 0 without bounds where there is no cost."""
    if not cost_S.any():
        return Interval(0.0, math.nan, math.nan, "")

    def bought(pair_NS2: Array) -> Array:
        """Points that a unit of cost buys: finite, unlike their price, in every draw."""
        cost_N, gain_N = pair_NS2.mean(axis=1).T
        points_N: Array = 100 * gain_N / cost_N
        return points_N

    points = of_runs(np.stack([cost_S, gain_S], axis=1), bought)
    mean, low, high = (1 / x if x > 0 else math.nan if math.isnan(x) else math.inf for x in points[:3])
    return Interval(mean, high, low, points.over) if mean < math.inf else Interval(mean, math.nan, math.nan, "")


def cost_per_point(seeds: pd.DataFrame, scored: pd.DataFrame, cast: Cast) -> tuple[Figure, pd.DataFrame] | None:
    """A panel a cost, a row an algorithm; None where nobody gained, or there is no base to gain on.

    Args:
        seeds: a row per finished cell: algorithm, avg_at_k, and the costs.
        scored: the table's rows with a score, in its order.
    """
    base = scored.loc[scored["algorithm"] == "base", "avg_at_k"]
    rows = scored[scored["algorithm"] != "base"].reset_index(drop=True)
    if base.empty:
        return None
    own = {
        label: part.assign(gain=part["avg_at_k"] - float(base.iloc[0])) for label, part in seeds.groupby("algorithm")
    }
    data = pd.DataFrame(
        [
            (label, cost, *cost_of_point(*(own[label][name].to_numpy(dtype=float) for name in (cost, "gain")))[:3])
            for label in rows["algorithm"]
            for cost in COSTS
        ],
        columns=["algorithm", "cost", "per_point", "low", "high"],
    )
    shown = data[np.isfinite(data["per_point"]) & (data["per_point"] > 0)]
    costs = [cost for cost in COSTS if cost in set(shown["cost"])]
    if not costs:
        return None
    y_of, ticks = places(rows, cast)
    grouped = len(ticks) > len(rows)
    figure = new_figure(1.2 + 2.7 * len(costs), 1.1 + (0.21 if grouped else 0.42) * len(ticks))
    all_axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(all_axes, costs, strict=True):
        of_cost = shown[shown["cost"] == cost].set_index("algorithm")
        _draw(
            axes,
            of_cost,
            {label: own[label] for label in of_cost.index},
            cost,
            dict(zip(rows["algorithm"], y_of, strict=True)),
            cast,
        )
        axes.set_xlabel(f"{COSTS[cost][0].removesuffix(' a run')} a point")
        axes.tick_params(axis="y", left=axes is all_axes[0])
    name_places(all_axes[0], ticks)
    return figure, data


def _draw(
    axes: Axes, of_cost: pd.DataFrame, own: dict[str, pd.DataFrame], cost: str, y_of: dict[str, int], cast: Cast
) -> None:
    for label, row in zip(map(str, of_cost.index), of_cost.to_dict("records"), strict=True):
        style, y = cast.style[label], y_of[label]
        gained = own[label][own[label]["gain"] > 0]
        light_points(axes, gained[cost] / (100 * gained["gain"]), np.full(len(gained), y + 0.26), style)
        low, high = (row[end] if math.isfinite(row[end]) else row["per_point"] for end in ("low", "high"))
        arms = [[row["per_point"] - low], [high - row["per_point"]]]
        axes.errorbar(row["per_point"], y, xerr=arms, fmt=style.marker, color=style.color, markersize=4.5, capsize=2.0)
    axes.grid(axis="y", visible=False)
    low, high = axes.dataLim.intervalx
    if high > WIDE * low:
        log_axis(axes, in_thousands)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
