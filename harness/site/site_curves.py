"""The training curves as the page reads them: every metric of every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.report.recorded_cells import RecordedCell

AXES = {
    "step": "training step",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "seconds": "wall-clock of the run (s)",
}
"""What a curve can be drawn against, where it was recorded."""
FIRST = ("reward", "length", "sampled_entropy", "correct", "truncated", "grad_norm", "loss")
"""The metrics that are offered first."""


def curve_frame(cells: Sequence[RecordedCell]) -> pd.DataFrame:
    """A row a cell and step, with all that was recorded."""
    frames = [
        cell.metrics().assign(algorithm=cell.algorithm, seed=cell.manifest["seed"], place=place)
        for place, cell in enumerate(cells)
        if cell.algorithm != "base"
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"place": []})


def metrics_of(curves: pd.DataFrame) -> list[str]:
    """The numbers that can be drawn, the usual ones first; without those that are NaN everywhere."""
    found = [
        str(name)
        for name in curves.select_dtypes("number")
        if name not in (*AXES, "seed", "place") and curves[name].notna().any()
    ]
    return [name for name in FIRST if name in found] + sorted(set(found) - set(FIRST))


def series(curves: pd.DataFrame, metric: str) -> list[list[Any]]:
    """[place of the cell, [a value a step]] of each cell that has the metric, in six digits, null where it has none."""
    places, values = curves["place"].to_numpy(dtype=int), curves[metric].to_numpy(dtype=float)
    starts = np.flatnonzero(np.diff(places, prepend=-1))  # a cell's rows follow each other
    return [
        [place, [None if math.isnan(value) else float(f"{value:.6g}") for value in own]]
        for place, own in zip(places[starts].tolist(), np.split(values, starts[1:]), strict=True)
        if not np.isnan(own).all()
    ]
