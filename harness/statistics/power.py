"""What a comparison could have told apart, and how often one algorithm beats another: pure functions on numpy arrays.

Shapes: S seeds, B benchmarks. Scores `score_SB` are a benchmark's mean over problems under a seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special, stats

from harness.statistics.intervals import EXACT_UP_TO, LEVEL, MIN_SEEDS_TO_TEST, Array, Interval, critical_t

POWER = 0.8
RESAMPLES = 2000
"""Of a bootstrap; its seed is fixed, so that a table made anew is the same."""


def power_of(difference: float, standard_error: float, df: float, alpha: float) -> float:
    """The probability that a two-sided t-test at level alpha rejects when the true difference is this one.

    With T = (Z + δ) / √(W/df), Z standard normal, W chi-squared with df degrees of freedom, δ the difference in
    standard errors and t the quantile of Student's t at 1 − α/2, it is

        P(|T| > t) = E_W[ Φ(δ − t √(W/df)) + Φ(−δ − t √(W/df)) ]

    (the noncentral t: Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions, ch. 31), an average over
    4000 quantiles of W, which stands where scipy's closed form overflows.
    """
    shift, root_W = difference / standard_error, chi_quantiles(df)
    critical = float(stats.t.ppf(1 - alpha / 2, df))
    return float(np.mean(special.ndtr(shift - critical * root_W) + special.ndtr(-shift - critical * root_W)))


@functools.lru_cache(maxsize=64)
def chi_quantiles(df: float) -> Array:
    """Of √(W/df)."""
    if math.isinf(df):
        return np.ones(1)
    quantiles: Array = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, df) / df)
    return quantiles


def detectable(standard_error: float, df: float, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a two-sided t-test at level alpha finds with this probability.

    In the units of the standard error: 0 where that is 0, NaN where it is not known.
    """
    if math.isnan(df) or math.isnan(standard_error):
        return math.nan
    if standard_error == 0:
        return 0.0
    return standard_error * shift_of(df, alpha, power)


@functools.lru_cache(maxsize=1024)
def shift_of(df: float, alpha: float, power: float) -> float:
    """The difference in standard errors that `power_of` gives this power."""
    highest = float(stats.t.ppf(1 - alpha / 2, df)) * 100
    return float(optimize.brentq(lambda x: power_of(x, 1.0, df, alpha) - power, 0.0, highest, xtol=1e-9))


def detectable_by_interval(difference: Interval) -> float:
    """The smallest true difference whose 95% interval would leave out zero with probability 80%."""
    return detectable((difference.high - difference.low) / 2 / critical_t(difference.df), difference.df)


def detectable_by_sign_flips(difference_S: Array, tests: int) -> float:
    """The smallest true mean difference that `sign_flip_test` would find with probability 80%, as one of m tests.

    At Holm's first and hardest step, α/m; up to 16 seeds p is a multiple of 2/2^S, so the level is the largest multiple
    that is not above. The power of sign flips is that of the t-test on seeds (Lehmann and Romano, Testing Statistical
    Hypotheses, §15.2: asymptotically the same); `gvpo-bench calibrate` measures how well that holds.

    NaN with fewer than 12 seeds, where there is no test, or where no p-value is small enough.
    """
    n_seeds = len(difference_S)
    alpha = (1 - LEVEL) / tests
    if n_seeds <= EXACT_UP_TO:
        alpha = math.floor(alpha * 2 ** (n_seeds - 1) + 1e-9) / 2 ** (n_seeds - 1)
    if n_seeds < MIN_SEEDS_TO_TEST or alpha <= 0:
        return math.nan
    standard_error = float(np.std(difference_S, ddof=1)) / math.sqrt(n_seeds)
    return detectable(standard_error, n_seeds - 1, alpha)


def probability_of_improvement(own_SB: Array, other_SB: Array) -> Interval:
    """The probability that a run of one algorithm scores above a run of another, ties counting one half.

    P(X > Y) = 1/B Σ_b 1/(S S') Σ_i Σ_j [x_ib > y_jb] + ½ [x_ib = y_jb]

    (Agarwal et al. 2021, arXiv 2108.13264, §4.3). Runs are independent here, whatever their seeds share: the question
    is that of somebody who will run one of them. The interval is the percentile bootstrap's over the runs of each.
    NaN bounds where one of them has a single run.
    """
    win_BST = (own_SB.T[:, :, None] > other_SB.T[:, None, :]) + 0.5 * (own_SB.T[:, :, None] == other_SB.T[:, None, :])
    win_ST = win_BST.mean(axis=0)
    n_own, n_other = win_ST.shape
    mean = float(win_ST.mean())
    if min(n_own, n_other) < 2:
        return Interval(mean, math.nan, math.nan, "")
    rng = np.random.default_rng(0)
    weight_NS = rng.multinomial(n_own, np.full(n_own, 1 / n_own), RESAMPLES) / n_own
    weight_NT = rng.multinomial(n_other, np.full(n_other, 1 / n_other), RESAMPLES) / n_other
    return percentiles(mean, np.einsum("ns,st,nt->n", weight_NS, win_ST, weight_NT))


def interquartile_mean(score_SB: Array) -> Interval:
    """The mean of the middle half of all scores, S runs × B benchmarks (Agarwal et al. 2021, §4.2).

    Of n scores the ⌊n/4⌋ lowest and the ⌊n/4⌋ highest are left out. A run's benchmarks are scores of one trained model,
    so the bootstrap of the interval draws runs, each with all of its benchmarks. NaN bounds with a single run.
    """
    return of_runs(score_SB, lambda score_NSB: trimmed(score_NSB.reshape(len(score_NSB), -1)))


def trimmed(score_NX: Array) -> Array:
    """The mean of the middle half of each row."""
    cut = score_NX.shape[1] // 4
    return np.sort(score_NX, axis=1)[:, cut : score_NX.shape[1] - cut].mean(axis=1)


def of_runs(score_SB: Array, statistic: Callable[[Array], Array]) -> Interval:
    """A statistic of all runs with the interval of the bootstrap over runs."""
    n_seeds = len(score_SB)
    mean = float(statistic(score_SB[None])[0])
    if n_seeds < 2:
        return Interval(mean, math.nan, math.nan, "")
    draw_NS = np.random.default_rng(0).integers(0, n_seeds, (RESAMPLES, n_seeds))
    return percentiles(mean, statistic(score_SB[draw_NS]))


def percentiles(mean: float, value_N: Array) -> Interval:
    """The percentile interval of a bootstrap's values."""
    low, high = np.quantile(value_N, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), "seeds")


def performance_profile(score_SB: Array, threshold_X: Array) -> tuple[Array, Array, Array]:
    """share_X, low_X, high_X: the share of runs × benchmarks that score above each threshold (Agarwal et al. 2021,
    §4.2), with the bands of the bootstrap over runs, each point by itself."""

    def share(score_NSB: Array, threshold: float) -> Array:
        return (score_NSB > threshold).mean(axis=(1, 2))

    bands = [of_runs(score_SB, lambda x, at=threshold: share(x, at)) for threshold in threshold_X]  # type: ignore[misc]
    return np.array([b.mean for b in bands]), np.array([b.low for b in bands]), np.array([b.high for b in bands])
