"""From the recorded cells of a suite to its numbers: a row per finished cell, a row per algorithm.

The cells are read, never changed. Does not import torch.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.record.ledger import Tokens
from harness.record.text import visible
from harness.report.recorded_cells import RecordedCell, ReportError, agreed
from harness.statistics.intervals import (
    MIN_SEEDS_TO_TEST,
    Interval,
    area_under_curve,
    crossed_interval,
    holm,
    sign_flip_test,
    t_interval,
)
from harness.statistics.power import (
    detectable_by_interval,
    detectable_by_sign_flips,
    interquartile_mean,
    probability_of_improvement,
)
from harness.statistics.scores import OUTCOMES, problem_scores
from harness.statistics.variances import removed_share

TIMED = ("rollout", "train", "evaluation")  # unlike the wall time, these count what ran before an interruption
CURVES = ("step", "generated_tokens", "trained_tokens", "seconds", "reward", "length", "sampled_entropy")
"""The metrics that are drawn against each other."""
COEFFICIENT_CURVES = (
    *("coefficient_positive", "coefficient_negative", "coefficient_zero"),
    *("coefficient_low", "coefficient_median", "coefficient_high"),
)
"""Metrics of the gradient coefficients, which cells of earlier versions lack."""
EVIDENCE = (
    "detectable",
    "better",
    "better_ci_low",
    "better_ci_high",
    "pairing_removes",
    "pairing_ci_low",
    "pairing_ci_high",
)
"""Columns of a comparison with the baseline: see `evidence`."""
REPLAYED = "replayed_tokens"
"""The column of tokens that others drew; no table has it where nothing was replayed."""
WHO = ["algorithm", "name", "family"]
"""Columns that say whose a row is; the last where there are many."""


class Scores:
    """The evaluated samples of the finished cells, as one row per cell, benchmark and problem.

    Raises ReportError where cells differ in problems or in samples a problem, or a benchmark is missing.
    """

    def __init__(self, cells: Sequence[RecordedCell], benchmarks: list[str], hard_benchmarks: list[str]) -> None:
        self.benchmarks = benchmarks
        self.hard_benchmarks = hard_benchmarks
        self.cells = [cell for cell in cells if cell.finished]
        self.problems: dict[str, int] = {}
        self.chances: list[str] = []
        """The columns of pass@j and maj@k that the samples allow."""
        self._parts: dict[tuple[str, str], pd.DataFrame] = {}
        self._by_cell = {cell.name: self._problems(cell) for cell in self.cells}
        reference: tuple[str, pd.Series[Any]] | None = None
        for name, problems in self._by_cell.items():
            counts = problems["samples"]
            if reference is None:
                reference = (name, counts)
                self.chances = [name for name in map(str, problems) if name.startswith(("pass_at_", "maj_at_"))]
                self.problems = {str(name): int(n) for name, n in counts.groupby(level="benchmark").size().items()}
            elif not counts.equals(reference[1]):
                raise ReportError(
                    f"cells {reference[0]} and {name} were not evaluated on the same problems and samples; "
                    "delete the folder of the wrong one and run the sweep again"
                )

    def only(self, cells: Sequence[RecordedCell]) -> Scores:
        """The scores of some of these cells."""
        picked = copy.copy(self)
        picked.cells = [cell for cell in cells if cell.finished]
        return picked

    def _problems(self, cell: RecordedCell) -> pd.DataFrame:
        samples = cell.samples()
        missing = {*self.benchmarks, *self.hard_benchmarks} - set(samples["benchmark"])
        if missing:
            raise ReportError(f"{cell.rows.path}: cell {cell.name} has no sample of {', '.join(sorted(missing))}")
        if samples["score"].isna().any():
            raise ReportError(f"{cell.rows.path}: cell {cell.name} has samples without a score; grade them again")
        samples["kl"] = samples["kl"].astype(float)
        if cell.algorithm == "base":
            samples["kl"] = samples["kl"].fillna(0.0)  # its distance from itself
        return problem_scores(samples).sort_index()

    def _of(self, cell: RecordedCell, benchmark: str) -> pd.DataFrame:
        key = (cell.name, benchmark)
        if key not in self._parts:
            self._parts[key] = self._by_cell[cell.name].loc[[benchmark]]
        return self._parts[key]

    def mean(self, cell: RecordedCell, column: str, benchmarks: Sequence[str]) -> float:
        """The mean over benchmarks of the mean over their problems; NaN without benchmarks."""
        if not benchmarks:
            return np.nan
        return float(np.mean([self._of(cell, name)[column].mean() for name in benchmarks]))

    def matrices(
        self, cells: Sequence[RecordedCell], benchmarks: Sequence[str], column: str = "score"
    ) -> list[np.ndarray]:
        """One score_SP a benchmark: these cells × the benchmark's problems."""
        return [np.array([self._of(cell, name)[column].to_numpy(dtype=float) for cell in cells]) for name in benchmarks]

    def interval(self, cells: Sequence[RecordedCell], benchmarks: Sequence[str], column: str = "score") -> Interval:
        """NaN without cells or benchmarks, or where the cells did not record what the column is made of."""
        matrices = self.matrices(cells, benchmarks, column) if cells else []
        if not matrices or any(np.isnan(score_SP).any() for score_SP in matrices):
            return Interval(np.nan, np.nan, np.nan, "")
        return crossed_interval(matrices)

    def means(self, cells: Sequence[RecordedCell]) -> np.ndarray:
        """score_SB: the mean over problems of these cells on each benchmark."""
        return np.stack([score_SP.mean(axis=1) for score_SP in self.matrices(cells, self.benchmarks)], axis=1)

    def of(self, algorithm: str) -> dict[int, RecordedCell]:
        """The finished cells of an algorithm by seed."""
        return {int(cell.manifest["seed"] or 0): cell for cell in self.cells if cell.algorithm == algorithm}


def seed_rows(scores: Scores) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per finished cell, and the training curves of all of them as a row per step."""
    base = scores.of("base").get(0)
    base_score = None if base is None else scores.mean(base, "score", scores.benchmarks)
    rows, curves = [], []
    for cell in scores.cells:
        score = scores.mean(cell, "score", scores.benchmarks)
        row = {
            "algorithm": cell.algorithm,
            "seed": cell.manifest["seed"],
            "avg_at_k": score,
            "hard_avg_at_k": scores.mean(cell, "score", scores.hard_benchmarks),
            "kl": scores.mean(cell, "kl", scores.benchmarks),
            "mean_length": scores.mean(cell, "tokens", scores.benchmarks),
            "auc": np.nan,
            "collapsed": None if base_score is None or cell is base else score < base_score,
            "seconds": sum(cell.manifest["seconds"][part] for part in TIMED),
            **token_columns(cell.manifest["tokens"]),
        }
        if cell is not base:
            metrics = cell.metrics()
            # Of an algorithm that is trained on given responses, nothing was drawn that has a reward or a length.
            curve = metrics.reindex(columns=[*CURVES, *COEFFICIENT_CURVES])
            row["auc"] = area_under_curve(curve["step"].to_numpy(), curve["reward"].to_numpy())
            curves.append(curve.assign(algorithm=cell.algorithm, seed=cell.manifest["seed"]))
        rows.append(row)
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()


def token_columns(tokens: dict[str, int]) -> dict[str, float]:
    """A cell's ledger of tokens as the columns of table.csv."""
    return {
        "generated_tokens": tokens["generated"],
        "replayed_tokens": tokens.get("replayed", 0),
        "trained_tokens": tokens["trained"],
        "extra_tokens": Tokens(**tokens).extra,
    }


def columns(value: str, ci: str, interval: Interval) -> dict[str, float]:
    """An interval as the three columns of table.csv."""
    return {value: interval.mean, f"{ci}_low": interval.low, f"{ci}_high": interval.high}


def algorithm_rows(
    cells: Sequence[RecordedCell],
    scores: Scores,
    seeds: pd.DataFrame,
    baseline: str | None,
    families: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The table: the base, then the algorithms from the highest score to the lowest, then those without a score.

    With `families`, of each label and in order (`families_of`), each has its `family` and is sorted within it.
    """
    names = display_names(cells)
    labels = sorted({cell.algorithm for cell in cells} - {"base"})
    tests = (
        0
        if baseline is None
        else sum(
            len(matched_seeds(scores, label, baseline)) >= MIN_SEEDS_TO_TEST for label in labels if label != baseline
        )
    )
    rows = []
    for label in ["base", *labels]:
        recorded = [cell for cell in cells if cell.algorithm == label]
        finished = [cell for cell in recorded if cell.finished]
        failed = len(recorded) - len(finished)
        status = "finished" if finished else "failed" if failed else "missing"
        row: dict[str, Any] = {"algorithm": label, "name": names.get(label, "base"), "status": status}
        row |= {"n_seeds": len(finished), "failed": failed}
        row |= columns("avg_at_k", "ci", scores.interval(finished, scores.benchmarks))
        row |= columns("hard_avg_at_k", "hard_ci", scores.interval(finished, scores.hard_benchmarks))
        if len(scores.benchmarks) > 1 and finished:
            row |= columns("iqm", "iqm_ci", interquartile_mean(scores.means(finished)))
        if len(scores.benchmarks) > 1:
            for name in scores.benchmarks:
                row |= columns(f"avg_at_k_{name}", f"{name}_ci", scores.interval(finished, [name]))
        own = seeds[seeds["algorithm"] == label] if finished else seeds.iloc[:0]
        for column, ci in (("kl", "kl_ci"), ("mean_length", "length_ci"), ("auc", "auc_ci")):
            if finished:
                row |= columns(column, ci, t_interval(own[column].to_numpy(dtype=float)))
        for column in ("seconds", "generated_tokens", REPLAYED, "trained_tokens", "extra_tokens"):
            row[column] = own[column].mean() if finished else np.nan
        if label != "base":
            if finished and own["collapsed"].notna().all():
                row["collapsed"] = int(own["collapsed"].sum())
            row |= settings(recorded)
            if baseline is not None and label != baseline:
                row |= difference(scores, label, baseline)
                row |= evidence(scores, label, baseline, tests)
        rows.append(row)

    table = pd.DataFrame(rows).reindex(columns=column_order(scores.benchmarks))
    if families:
        table.insert(2, "family", [families.get(label, "") for label in table["algorithm"]])
    if not table[REPLAYED].any():
        table = table.drop(columns=REPLAYED)
    tested = table["p_value"].notna()
    table.loc[tested, "p_holm"] = holm(list(table.loc[tested, "p_value"]))
    for column in ("n_seeds", "failed", "collapsed", "matched_seeds", "tuning_trials"):
        table[column] = table[column].astype("Int64")
    for column in ("p_value", "p_holm", "diff", "diff_ci_low", "diff_ci_high", *EVIDENCE):
        table[column] = table[column].astype(float)
    base, rest = table[table["algorithm"] == "base"], table[table["algorithm"] != "base"]
    rest = rest.sort_values(["avg_at_k", "algorithm"], ascending=[False, True], na_position="last")
    if families:
        rest = rest.sort_values("family", key=lambda family: family.map(list(families.values()).index), kind="stable")
    return pd.concat([base, rest], ignore_index=True)


def benchmark_rows(scores: Scores, table: pd.DataFrame) -> pd.DataFrame:
    """A row per benchmark and algorithm, in the table's order: avg@k, pass@j and maj@k, each with its 95% interval, and
    the shares of what was not correct."""
    rows = []
    for benchmark in (*scores.benchmarks, *scores.hard_benchmarks):
        for _, algorithm in table.iterrows():
            label = algorithm["algorithm"]
            cells = list(scores.of(label).values())
            if not cells:
                continue
            row = {"benchmark": benchmark, **algorithm[algorithm.index.intersection(WHO)], "n_seeds": len(cells)}
            row["k"] = int(scores.mean(cells[0], "samples", [benchmark]))
            row |= columns("avg_at_k", "ci", scores.interval(cells, [benchmark]))
            for column in scores.chances:
                row |= columns(column, f"{column}_ci", scores.interval(cells, [benchmark], column))
            row |= {name: np.mean([scores.mean(cell, name, [benchmark]) for cell in cells]) for name in OUTCOMES}
            rows.append(row)
    return pd.DataFrame(rows)


def column_order(benchmarks: Sequence[str]) -> list[str]:
    """The columns of table.csv in their order."""
    each = [f"avg_at_k_{name}" for name in benchmarks] if len(benchmarks) > 1 else []
    triples = [
        ("avg_at_k", "ci"),
        ("hard_avg_at_k", "hard_ci"),
        *([("iqm", "iqm_ci")] if each else []),
        *((column, f"{column.removeprefix('avg_at_k_')}_ci") for column in each),
        ("kl", "kl_ci"),
        ("auc", "auc_ci"),
        ("mean_length", "length_ci"),
        ("diff", "diff_ci"),
    ]
    numbers = [column for value, ci in triples for column in (value, f"{ci}_low", f"{ci}_high")]
    return [
        *("algorithm", "name", "status", "n_seeds", "failed", "collapsed"),
        *numbers,
        *("matched_seeds", "p_value", "p_holm", *EVIDENCE),
        *("seconds", "generated_tokens", REPLAYED, "trained_tokens", "extra_tokens"),
        *("tuning_trials", "lr", "max_norm", "parameters"),
    ]


def display_names(cells: Sequence[RecordedCell]) -> dict[str, str]:
    """What the table calls each label: the algorithm's name, with the label where two entries share that name."""
    display = {
        cell.algorithm: visible(str(cell.manifest["display"]))
        for cell in sorted(cells, key=lambda cell: cell.finished)  # a cell that failed early may not know its name
    }
    shared = list(display.values())
    return {label: name if shared.count(name) == 1 else f"{name} ({label})" for label, name in display.items()}


def settings(cells: Sequence[RecordedCell]) -> dict[str, Any]:
    """The hyper-parameters of one algorithm; its seeds must agree on them, and on the file of one that is a user's."""
    agreed(cells, "algorithm", "source_sha256")
    optimizer = agreed(cells, "algorithm", "optimizer") or {}
    trials = trials_of(cells)
    return {
        "tuning_trials": trials[0] if len(trials) == 1 else None,
        "lr": optimizer.get("lr"),
        "max_norm": optimizer.get("max_norm"),
        "parameters": visible(json.dumps(agreed(cells, "algorithm", "parameters") or {}, ensure_ascii=False)),
    }


def trials_of(cells: Sequence[RecordedCell]) -> list[int | None]:
    """The numbers of tuning trials that these cells record: more than one where they were run at different times."""
    return sorted({cell.config("tuning", "trials") for cell in cells}, key=lambda trials: trials or 0)


def matched_seeds(scores: Scores, label: str, baseline: str) -> list[int]:
    """The seeds that both have finished."""
    return sorted(scores.of(label).keys() & scores.of(baseline).keys())


def paired(scores: Scores, label: str, baseline: str) -> list[np.ndarray]:
    """One difference_SP a benchmark, over the matched seeds and the problems."""
    matched = matched_seeds(scores, label, baseline)
    own, other = scores.of(label), scores.of(baseline)
    return [
        own_SP - other_SP
        for own_SP, other_SP in zip(
            scores.matrices([own[seed] for seed in matched], scores.benchmarks),
            scores.matrices([other[seed] for seed in matched], scores.benchmarks),
            strict=True,
        )
    ]


def difference(scores: Scores, label: str, baseline: str) -> dict[str, Any]:
    """Paired over the seeds that both finished and over problems."""
    matched = matched_seeds(scores, label, baseline)
    if not matched:
        return {"matched_seeds": 0}
    difference_SP = paired(scores, label, baseline)
    difference_S = np.mean([of_benchmark_SP.mean(axis=1) for of_benchmark_SP in difference_SP], axis=0)
    return {
        "matched_seeds": len(matched),
        **columns("diff", "diff_ci", crossed_interval(difference_SP)),
        "p_value": sign_flip_test(difference_S),
    }


def evidence(scores: Scores, label: str, baseline: str, tests: int) -> dict[str, float]:
    """How far the design could tell these two apart, as one of so many tests: what stands beside a difference.

    `detectable` is the smallest difference found with 80% power, by the test where there is one and else by the
    interval; `better` the probability that a run beats one of the baseline; `pairing_removes` the share of the
    difference's variance that shared seeds take away.
    """
    own, other, matched = scores.of(label), scores.of(baseline), matched_seeds(scores, label, baseline)
    if not matched:
        return {}
    own_S = scores.means([own[seed] for seed in matched]).mean(axis=1)
    other_S = scores.means([other[seed] for seed in matched]).mean(axis=1)
    tested = len(matched) >= MIN_SEEDS_TO_TEST
    better = probability_of_improvement(scores.means(list(own.values())), scores.means(list(other.values())))
    return {
        "detectable": detectable_by_sign_flips(own_S - other_S, tests)
        if tested
        else detectable_by_interval(crossed_interval(paired(scores, label, baseline))),
        **columns("better", "better_ci", better),
        **columns("pairing_removes", "pairing_ci", removed_share(own_S, other_S)),
    }
