"""Intervals and tests of a comparison: pure functions on numpy arrays.

Shapes: S seeds, P problems, X any points of a curve. `score_SP` is a problem's score under a seed, the mean over its k
samples. A benchmark has its own problems but shares the seeds, so several benchmarks are a list of such arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.floating[Any]]

LEVEL = 0.95
MIN_SEEDS_TO_TEST = 12  # 2/2^S, the smallest p-value of S sign flips, must survive the correction: 0.0005 at S = 12
EXACT_UP_TO = 16  # seeds: 2^16 sign patterns are enumerated, more are drawn
DRAWS = 100_000


class Interval(NamedTuple):
    """An estimate with its 95% interval. `over` names what was taken as random ("" where no interval exists: NaN), `df`
    are the degrees of freedom of its t."""

    mean: float
    low: float
    high: float
    over: str
    df: float = float("nan")


def critical_t(df: float) -> float:
    """The two-sided 95% quantile of Student's t."""
    return float(stats.t.ppf((1 + LEVEL) / 2, df))


def crossed_interval(scores: Sequence[Array]) -> Interval:
    """95% interval of the mean over crossed random seeds and problems.

    One benchmark, score_SP: the two-way random-effects analysis of variance without replication (Searle, Casella and
    McCulloch, Variance Components, ch. 4). Its mean squares estimate Pσ²_seed + σ², Sσ²_problem + σ² and σ², hence

        Var(mean) = (MS_seed + MS_problem − MS_residual) / (S·P)

    and df follows Satterthwaite (1946): V² / Σ (term² / df of the term).

    Several benchmarks: the mean of their means. Seeds are shared, so their term is the variance of the per-seed mean of
    means over S; each benchmark b of B adds (MS_problem,b − MS_residual,b) / (S·P_b·B²).

    Since the difference of mean squares may be negative, the variance is at least that of the residual alone, and df at
    least the smallest of the terms'. In simulation that covers 94 to 98% for 4 to 12 seeds (the higher figures where
    neither seeds nor problems vary). Scores that are all equal give an interval of width zero. The interval is
    symmetric and may pass 0 or 1.

    With one seed (or a single problem in some benchmark) that factor cannot be taken as random: the interval is over
    the other one alone, `over` says so, and it is NaN where there is only one of each.

    Args:
        scores: one score_SP a benchmark, all with the same seeds in the same order.

    Raises:
        ValueError: no benchmark, an empty one, unequal numbers of seeds, or a score that is not finite.
    """
    scores = [np.asarray(score_SP, dtype=np.float64) for score_SP in scores]
    check(scores)
    n_seeds, n_benchmarks = scores[0].shape[0], len(scores)
    mean_S = np.mean([score_SP.mean(axis=1) for score_SP in scores], axis=0)
    mean = float(mean_S.mean())

    # (variance, df) of each term of Var(mean), in the order of the docstring
    seed_term = (float(mean_S.var(ddof=1)) / n_seeds, n_seeds - 1) if n_seeds > 1 else None
    problem_terms, residual_terms = [], []
    for score_SP in scores:
        n_problems = score_SP.shape[1]
        if n_problems == 1:
            return one_way(mean, [] if seed_term is None else [seed_term], "seeds")
        mean_P = score_SP.mean(axis=0)
        problem_terms.append((float(mean_P.var(ddof=1)) / n_problems / n_benchmarks**2, n_problems - 1))
        if n_seeds > 1:
            residual_SP = score_SP - score_SP.mean(axis=1, keepdims=True) - mean_P + score_SP.mean()
            df = (n_seeds - 1) * (n_problems - 1)
            residual_terms.append((float((residual_SP**2).sum()) / df / score_SP.size / n_benchmarks**2, df))
    if seed_term is None:
        return one_way(mean, problem_terms, "problems")

    residual = sum(variance for variance, _ in residual_terms)
    variance = max(seed_term[0] + sum(variance for variance, _ in problem_terms) - residual, residual)
    return interval(mean, variance, [seed_term, *problem_terms, *residual_terms], "seeds and problems")


def one_way(mean: float, terms: list[tuple[float, int]], over: str) -> Interval:
    """The interval over one factor alone, or NaN where that one does not vary either."""
    if not terms:
        return Interval(mean, np.nan, np.nan, "")
    return interval(mean, sum(variance for variance, _ in terms), terms, over)


def interval(mean: float, variance: float, terms: list[tuple[float, int]], over: str) -> Interval:
    """mean ± t·√variance with Satterthwaite's df over the terms (variance, df)."""
    spread = sum(term**2 / df for term, df in terms)
    df = max(variance**2 / spread, min(df for _, df in terms)) if spread > 0 else np.inf
    half = critical_t(df) * float(np.sqrt(variance))
    return Interval(mean, mean - half, mean + half, over, df)


def check(scores: Sequence[Array]) -> None:
    """Raises ValueError unless there are finite scores (seeds, problems) for each benchmark, with the same seeds."""
    if not scores:
        raise ValueError("no benchmark to average over; give one array of shape (seeds, problems) a benchmark")
    for index, score_SP in enumerate(scores):
        if score_SP.ndim != 2 or score_SP.size == 0:
            raise ValueError(
                f"benchmark {index} has shape {score_SP.shape}; expected (seeds, problems), both at least 1"
            )
        if score_SP.shape[0] != scores[0].shape[0]:
            raise ValueError(f"benchmark {index} has {score_SP.shape[0]} seeds, benchmark 0 has {scores[0].shape[0]}")
        if not np.isfinite(score_SP).all():
            raise ValueError(f"benchmark {index} holds a score that is not finite; every sample needs a score")


def t_band(value_SX: Array) -> tuple[Array, Array, Array]:
    """mean_X, low_X, high_X over seeds, each point by itself: mean ± t_{S−1} s/√S. One seed has no band (NaN)."""
    value_SX = np.asarray(value_SX, dtype=np.float64)
    n_seeds = value_SX.shape[0]
    mean_X = value_SX.mean(axis=0)
    if n_seeds < 2:
        return mean_X, np.full_like(mean_X, np.nan), np.full_like(mean_X, np.nan)
    half_X = critical_t(n_seeds - 1) * value_SX.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    return mean_X, mean_X - half_X, mean_X + half_X


def t_interval(value_S: Array) -> Interval:
    """95% interval over seeds of a number that each seed has one of; NaN with one seed."""
    mean, low, high = (float(bound) for bound in t_band(value_S))
    return Interval(mean, low, high, "" if np.isnan(low) else "seeds")


def sign_flip_test(difference_S: Array) -> float | None:
    """Two-sided p-value of a mean difference of zero over matched seeds; None with fewer than 12 seeds.

    Under the null hypothesis each seed's difference is as likely negative as positive (Fisher, The Design of
    Experiments, §21), so p is the share of the 2^S sign patterns under which the mean is at least as far from zero.
    Up to 16 seeds every pattern is counted; above, 100,000 fixed random ones and the observed one.
    """
    difference_S = np.asarray(difference_S, dtype=np.float64)
    n_seeds = len(difference_S)
    if n_seeds < MIN_SEEDS_TO_TEST:
        return None
    # Equal sums, added in another order, are ties. scipy.stats.permutation_test allows for rounding in proportion to
    # the observed mean alone, and so misses ties where that is small: in 3 of 39 published tests, by .02 at most.
    tolerance = 1e-12 * float(np.abs(difference_S).sum())
    observed = abs(float(difference_S.sum())) - tolerance
    if n_seeds <= EXACT_UP_TO:
        flip_NS = (np.arange(2**n_seeds)[:, None] >> np.arange(n_seeds)) & 1
        return float(np.mean(np.abs((1 - 2 * flip_NS) @ difference_S) >= observed))
    flip_NS = np.random.default_rng(0).integers(0, 2, (DRAWS, n_seeds), dtype=np.int8)
    extreme = int((np.abs((1 - 2 * flip_NS) @ difference_S) >= observed).sum())
    return (1 + extreme) / (1 + DRAWS)


def smallest_p(n_seeds: int) -> float | None:
    """The smallest p-value that `sign_flip_test` gives of so many seeds: that of differences which are all the same."""
    return sign_flip_test(np.ones(n_seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) correction: the i-th smallest of m becomes the largest (m − j)·p_(j) over j ≤ i, at most 1."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(
        np.maximum.accumulate((len(p_values) - np.arange(len(p_values))) * np.asarray(p_values, dtype=float)[order]),
        1.0,
    )
    return [float(p) for p in corrected]


def area_under_curve(step: Array, value: Array) -> float:
    """The mean height of a curve: its integral over the steps by the trapezoid rule, divided by their range.

    One step has its own value; with a value that is not finite the area is NaN.
    """
    step, value = np.asarray(step, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if len(step) == 1:
        return float(value[0])
    return float(np.trapezoid(value, step) / (step[-1] - step[0]))
