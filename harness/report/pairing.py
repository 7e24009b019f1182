"""What matched seeds and shared rollouts take from the variance of differences: a row a pair of algorithms.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from harness.report.columns import TextTable, in_brackets, plain
from harness.report.comparison import Scores, columns, matched_seeds
from harness.report.recorded_cells import RecordedCell
from harness.statistics.variances import removed_share, variance_ratio


def pairing_rows(
    scores: Scores,
    labels: Sequence[str],
    points: Sequence[str] = ("all",),
    reference: str | None = None,
    key: Callable[[str, str], str] = lambda point, label: label,
) -> pd.DataFrame:
    """A row a pair of algorithms and point, of the difference of their scores seed by seed.

    Args:
        labels: the algorithms.
        points: of an ablation; a suite is one.
        reference: the point whose variance is compared with.
        key: what cells are called by point and label.

    Columns: point, first, second, matched_seeds, `sd` of the difference, `removed` (by matched seeds, as a share of the
    variance that unmatched ones would have: `removed_share`), `ratio` (its variance over that at the reference point:
    `variance_ratio`), the last two with their 95% intervals.
    """

    def differences(point: str, first: str, second: str) -> dict[int, tuple[float, float]]:
        own, other = (scores.of(key(point, label)) for label in (first, second))
        seeds = matched_seeds(scores, key(point, first), key(point, second))
        if not seeds:
            return {}
        means = [scores.means([cells[seed] for seed in seeds]).mean(axis=1) for cells in (own, other)]
        return dict(zip(seeds, zip(*(mean_S.tolist() for mean_S in means), strict=True), strict=True))

    rows: list[dict[str, Any]] = []
    for first, second in combinations(labels, 2):
        at_reference = differences(reference, first, second) if reference is not None else {}
        for point in points:
            found = differences(point, first, second)
            if len(found) < 2:
                continue
            own_S, other_S = np.array(list(found.values())).T
            row: dict[str, Any] = {"point": point, "first": first, "second": second, "matched_seeds": len(found)}
            row["sd"] = float(np.std(own_S - other_S, ddof=1))
            row |= columns("removed", "removed_ci", removed_share(own_S, other_S))
            if point != reference and (shared := sorted(found.keys() & at_reference.keys())):
                of_point = np.array([found[seed] for seed in shared])
                of_reference = np.array([at_reference[seed] for seed in shared])
                ratio = variance_ratio(*(of[:, 0] - of[:, 1] for of in (of_point, of_reference)))
                row |= columns("ratio", "ratio_ci", ratio)
            rows.append(row)
    known = ["point", "first", "second", "matched_seeds", "sd", "removed", "removed_ci_low", "removed_ci_high"]
    return pd.DataFrame(rows, columns=[*known, "ratio", "ratio_ci_low", "ratio_ci_high"])


def pairing_table(rows: pd.DataFrame, names: Mapping[str, str], reference: str | None = None) -> TextTable:
    """The rows as text: a row a pair, the points side by side."""
    wide = {str(at): own.set_index(["first", "second"]) for at, own in rows.groupby("point", sort=False)}
    pairs = list(dict.fromkeys(zip(rows["first"], rows["second"], strict=True)))

    def texts(point: str, value: str, spec: str, ci: str | None = None) -> list[str]:
        own = wide[point]
        return [in_brackets(own.loc[pair], value, spec, ci) if pair in own.index else "" for pair in pairs]

    shown = {"algorithms": [" − ".join(names.get(label, label) for label in pair) for pair in pairs]}
    for point in wide:
        at = f", {point}" if len(wide) > 1 else ""
        shown[f"sd of Δ{at}"] = texts(point, "sd", ".4f")
        shown[f"removed by pairing{at}"] = texts(point, "removed", ".0%", "removed_ci")
    for point in wide:
        if point != reference and rows.loc[rows["point"] == point, "ratio"].notna().any():
            shown[f"Var Δ, {point} / {reference}"] = texts(point, "ratio", ".3g", "ratio_ci")
    return TextTable(shown)


def pairing_notes(rows: pd.DataFrame, reference: str | None = None) -> list[str]:
    """What the table says, in a sentence a point."""
    notes = [
        "sd of Δ: standard deviation over seeds of the difference of two algorithms' scores. Removed by pairing: the "
        "share of Var x + Var y, which the difference of unmatched seeds would have, that matched seeds (the same "
        "prompts, and whatever else they share) take away; below zero where they add. Intervals: 95%, exact for normal "
        "scores (Pitman 1939, Morgan 1939)."
    ]
    for point, own in rows.groupby("point", sort=False):
        at = f"At {point}, p" if rows["point"].nunique() > 1 else "P"
        median = plain(own["removed"].median(), ".0%").replace("-", "−")
        text = f"{at}airing removes {median} of the variance (median of {len(own)} pairs)"
        known = own["ratio"][own["ratio"] > 0]
        if len(known):
            mean = float(np.exp(np.log(known).mean()))
            below, above = (own["ratio_ci_high"] < 1).sum(), (own["ratio_ci_low"] > 1).sum()
            text += (
                f"; the variance of a difference is {mean:.2g} times that at {reference} (geometric mean; "
                f"{known.min():.2g} to {known.max():.2g}); of {len(known)} pairs it is lower for {below} and higher "
                f"for {above} with 95% confidence"
            )
        notes.append(f"{text}.")
    return notes


def replay_notes(cells: Sequence[RecordedCell], names: Mapping[str, str], where: str = "") -> list[str]:
    """Whose rollouts were replayed, what that says of costs and curves, and for whom the data are off-policy."""
    replayed = [cell for cell in cells if cell.manifest.get("replay")]
    if not replayed:
        return []
    recorder = str(replayed[0].config("train", "replay")).rpartition("/")[2]
    recorder = names.get(recorder, recorder)
    known = {cell.algorithm: bool(cell.manifest["replay"]["off_policy"]) for cell in replayed}
    right, others = (
        ", ".join(names[label] for label, off_policy in known.items() if off_policy == wanted)
        for wanted in (True, False)
    )
    declared = f" {right} declare that they are right whatever policy sampled." if right else ""
    fresh = f" {others} were made for data of their own policy, or weigh them by their ratio to it." if others else ""
    return [
        f"{where}{', '.join(names[label] for label in known)} were trained on the rollouts that "
        f"{recorder} drew at the same seed: off-policy data, which another policy sampled."
        f"{declared}{fresh}",
        f"{where}Those rollouts stand as replayed tokens and are charged to {recorder} alone; what "
        "an algorithm draws beside them is its own. Training reward, length and entropy are of the rollouts, hence the "
        "same for all that replay them.",
    ]
