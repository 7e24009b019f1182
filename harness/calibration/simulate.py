"""Synthetic suites, judged by the report's own intervals and tests. Pure functions; no file is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.statistics.intervals import (
    MIN_SEEDS_TO_TEST,
    Array,
    crossed_interval,
    holm,
    sign_flip_test,
)
from harness.statistics.power import detectable_by_interval, detectable_by_sign_flips
from harness.statistics.synthetic import Components, before_clip, draw_suite, moments, shifted

LEVEL = 0.05
"""Of the family-wise error."""


class Rate(NamedTuple):
    """A share of suites, or the mean of such a share, with its standard error over suites."""

    value: float
    error: float


class Null(NamedTuple):
    """What happens where no algorithm differs from another."""

    score_coverage: Rate
    """Intervals of a score that hold the true one."""
    difference_coverage: Rate
    """Intervals of a difference to the baseline that hold zero."""
    family_wise: Rate | None
    """Suites in which at least one Holm-corrected test rejects; None with too few seeds to test."""


class Power(NamedTuple):
    """What happens where one algorithm differs by `difference`."""

    difference: float
    """What reports call detectable with 80%."""
    found: Rate
    """Suites in which its Holm-corrected test rejects, or with too few seeds its interval leaves out zero."""


def rate(hit_N: Sequence[float | np.floating[Any]]) -> Rate:
    """The mean over suites and its standard error."""
    share_N = np.array(hit_N, dtype=np.float64)
    return Rate(float(share_N.mean()), float(share_N.std(ddof=1) / np.sqrt(len(share_N))))


def under_no_difference(components: Components, algorithms: int, seeds: int, suites: int, seed: int) -> Null:
    """Coverage and family-wise error over suites in which all algorithms have the same expected score.

    The problems are drawn anew for each suite, and algorithms differ on single ones (taste): what is tested is "no
    difference on problems like these", more than the sign-flip test claims.
    """
    drawn, rng = before_clip(components), np.random.default_rng(seed)
    truth = moments(drawn.mean, drawn.spread)[0]
    score_N, difference_N, error_N = [], [], []
    for _ in range(suites):
        score_ASP = draw_suite(drawn, np.full(algorithms, drawn.mean), seeds, rng)
        own = [crossed_interval([score_SP]) for score_SP in score_ASP]
        apart = [crossed_interval([score_SP - score_ASP[0]]) for score_SP in score_ASP[1:]]
        score_N.append(np.mean([x.low <= truth <= x.high for x in own]))
        difference_N.append(np.mean([x.low <= 0 <= x.high for x in apart]))
        if seeds >= MIN_SEEDS_TO_TEST:
            error_N.append(float(min(p_values(score_ASP)) < LEVEL))
    return Null(rate(score_N), rate(difference_N), rate(error_N) if error_N else None)


def p_values(score_ASP: Array) -> list[float]:
    """Holm-corrected p-values of the differences to the first algorithm, as a report has them."""
    found = [sign_flip_test((score_SP - score_ASP[0]).mean(axis=1)) for score_SP in score_ASP[1:]]
    return holm([p for p in found if p is not None])


def under_a_difference(components: Components, algorithms: int, seeds: int, suites: int, seed: int) -> Power:
    """The share of suites that find an algorithm which is better by what they are said to find with 80%, or worse where
    no score is so high.

    That difference is the median of what as many reports state, each from its own seeds.
    """
    drawn, rng = before_clip(components), np.random.default_rng(seed)
    stated_N = [
        stated_difference(draw_suite(drawn, np.full(2, drawn.mean), seeds, rng), algorithms - 1) for _ in range(suites)
    ]
    difference = float(np.median(stated_N))
    mean_A = np.full(algorithms, drawn.mean)
    mean_A[1] = shifted(drawn, difference if components.mean + difference < 0.99 else -difference)
    found_N = []
    for _ in range(suites):
        score_ASP = draw_suite(drawn, mean_A, seeds, rng)
        if seeds >= MIN_SEEDS_TO_TEST:
            found_N.append(float(p_values(score_ASP)[0] < LEVEL))
        else:
            interval = crossed_interval([score_ASP[1] - score_ASP[0]])
            found_N.append(float(not interval.low <= 0 <= interval.high))
    return Power(difference, rate(found_N))


def stated_difference(score_ASP: Array, tests: int) -> float:
    """What a report says of the first two algorithms: the smallest difference found with 80%."""
    difference_SP = score_ASP[1] - score_ASP[0]
    if len(difference_SP) >= MIN_SEEDS_TO_TEST:
        return detectable_by_sign_flips(difference_SP.mean(axis=1), tests)
    return detectable_by_interval(crossed_interval([difference_SP]))


def split_in_two(score_SP: Array, splits: int, seed: int) -> tuple[Rate, Rate]:
    """One algorithm's recorded seeds, split in two halves at random and compared as if they were two algorithms.

    Returns the share of splits that the sign-flip test (of one comparison) rejects at 5%, and the share whose interval
    holds zero. Splits share runs: the standard errors, as if they did not, are too small.
    """
    rng = np.random.default_rng(seed)
    rejected_N, covered_N = [], []
    half = len(score_SP) // 2
    for _ in range(splits):
        order = rng.permutation(len(score_SP))
        difference_SP = score_SP[order[:half]] - score_SP[order[half : 2 * half]]
        interval = crossed_interval([difference_SP])
        covered_N.append(float(interval.low <= 0 <= interval.high))
        if (p := sign_flip_test(difference_SP.mean(axis=1))) is not None:
            rejected_N.append(float(p < LEVEL))
    return rate(rejected_N) if rejected_N else Rate(float("nan"), float("nan")), rate(covered_N)
