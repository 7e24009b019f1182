"""How variances of paired values compare: pure functions on numpy arrays of a value a seed, [S]."""

from __future__ import annotations

import math

import numpy as np

from harness.statistics.intervals import Array, Interval, critical_t


def variance_ratio(own_S: Array, other_S: Array) -> Interval:
    """Var(x)/Var(y) of values paired by seed, with its 95% interval.

    With w the ratio, r the correlation and t Student's quantile for S − 2 degrees of freedom the interval is

        w (K ± √(K² − 1)),   K = 1 + 2 t² (1 − r²)/(S − 2)

    (Pitman 1939, Morgan 1939: x/√θ + y and x/√θ − y are uncorrelated where θ is the true ratio), exact where x and y
    are normal, and symmetric on the log scale. NaN bounds with fewer than three seeds, or where one does not vary; NaN
    with fewer than two, or where y does not.
    """
    own_S, other_S = np.asarray(own_S, dtype=np.float64), np.asarray(other_S, dtype=np.float64)
    n_seeds = len(own_S)
    if n_seeds < 2 or np.ptp(other_S) == 0:
        return Interval(math.nan, math.nan, math.nan, "")
    ratio = float(own_S.var(ddof=1) / other_S.var(ddof=1))
    if n_seeds < 3 or np.ptp(own_S) == 0:
        return Interval(ratio, math.nan, math.nan, "")
    free = max(0.0, 1 - float(np.corrcoef(own_S, other_S)[0, 1]) ** 2)
    k = 1 + 2 * critical_t(n_seeds - 2) ** 2 * free / (n_seeds - 2)
    wide = k + math.sqrt(k * k - 1)
    return Interval(ratio, ratio / wide, ratio * wide, "seeds", n_seeds - 2)


def removed_share(own_S: Array, other_S: Array) -> Interval:
    """The share of a difference's variance that matched seeds remove, 1 − Var(x − y)/(Var x + Var y), with its 95%
    interval.

    That is 0 for independent runs, 1 where both move together, and negative where a seed that helps one hurts the
    other. Since Var(x + y) + Var(x − y) = 2 (Var x + Var y) it is (θ − 1)/(θ + 1) with θ = Var(x + y)/Var(x − y), and
    its bounds are those of `variance_ratio`: NaN where that has none. NaN with fewer than two seeds, or where nothing
    varies.
    """
    own_S, other_S = np.asarray(own_S, dtype=np.float64), np.asarray(other_S, dtype=np.float64)
    if len(own_S) > 1 and np.ptp(own_S - other_S) == 0 and np.ptp(own_S) > 0:
        return Interval(1.0, math.nan, math.nan, "")
    ratio = variance_ratio(own_S + other_S, own_S - other_S)
    mean, low, high = ((theta - 1) / (theta + 1) for theta in ratio[:3])
    return ratio._replace(mean=mean, low=low, high=high)
