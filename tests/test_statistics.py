"""Worked examples of the intervals and tests, their coverage in simulation, and agreement with scipy."""

from __future__ import annotations

import itertools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics.intervals import (
    area_under_curve,
    crossed_interval,
    holm,
    sign_flip_test,
    smallest_p,
    t_band,
    t_interval,
)


def test_crossed_interval_equals_the_analysis_of_variance_by_hand() -> None:
    # rows: 2 seeds; columns: 3 problems; grand mean 3.5
    score_SP = np.array([[1.0, 3.0, 2.0], [4.0, 5.0, 6.0]])
    # seed means 2, 5:              SS = 3·(1.5² + 1.5²)                = 13.5, df 1, MS 13.5
    # problem means 2.5, 4, 4:      SS = 2·(1² + .5² + .5²)             =  3.0, df 2, MS  1.5
    # residuals 0, .5, −.5 and −:   SS = 2·(.5² + .5²)                  =  1.0, df 2, MS  0.5
    # V = (13.5 + 1.5 − 0.5)/6 = 14.5/6; df = 14.5²/(13.5²/1 + 1.5²/2 + 0.5²/2) = 210.25/183.5
    half = stats.t.ppf(0.975, 210.25 / 183.5) * np.sqrt(14.5 / 6)

    interval = crossed_interval([score_SP])

    assert interval.over == "seeds and problems"
    assert interval.mean == pytest.approx(3.5)
    assert (interval.low, interval.high) == pytest.approx((3.5 - half, 3.5 + half), rel=1e-12)


def test_variance_is_never_below_that_of_the_residual() -> None:
    # Every row and column mean is 0.5, so both mean squares are 0 and their sum minus the residual's would be negative.
    score_SP = np.array([[0.0, 1.0], [1.0, 0.0]])
    # residual SS = 4·.5² = 1, df 1, MS 1; V = 1/4; df = .25²/.25² = 1
    interval = crossed_interval([score_SP])
    assert interval.high - interval.mean == pytest.approx(stats.t.ppf(0.975, 1) * 0.5)


def test_one_seed_gives_students_interval_over_problems() -> None:
    score_P = np.array([0.0, 0.5, 1.0, 0.25, 0.75, 0.125])
    reference = stats.ttest_1samp(score_P, 0).confidence_interval(0.95)
    interval = crossed_interval([score_P[None]])
    assert interval.over == "problems"
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))


def test_one_problem_gives_students_interval_over_seeds() -> None:
    score_S = np.array([0.2, 0.5, 0.9])
    reference = stats.ttest_1samp(score_S, 0).confidence_interval(0.95)
    interval = crossed_interval([score_S[:, None]])
    assert interval.over == "seeds"
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))


def test_one_seed_on_one_problem_has_no_interval() -> None:
    interval = crossed_interval([np.array([[0.5]])])
    assert interval.mean == 0.5
    assert interval.over == ""
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)


def test_equal_scores_have_an_interval_of_width_zero() -> None:
    interval = crossed_interval([np.zeros((4, 5))])
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_several_benchmarks_weigh_the_same_however_many_problems_they_have() -> None:
    # Benchmark means 0.5 (of 2 problems) and 0.9 (of 6): 0.7, not the 0.8 of all eight problems.
    two = np.array([[0.4, 0.6], [0.5, 0.5]])
    six = np.full((2, 6), 0.9)
    # per-seed mean of means .7 and .7: seed term 0
    # problem term of `two`: means .45, .55, variance .005, /2 problems /2² benchmarks = .000625, df 1; of `six`: 0
    # residual of `two`: ±.05, SS .01, df 1, MS .01, /4 scores /2² benchmarks = .000625, df 1
    # V = max(.000625 − .000625, .000625) = .000625; df = max(V²/(2·V²/1), 1) = 1
    interval = crossed_interval([two, six])
    assert interval.mean == pytest.approx(0.7)
    assert interval.high - interval.mean == pytest.approx(stats.t.ppf(0.975, 1) * 0.025)


def test_one_seed_on_several_benchmarks_is_welchs_interval() -> None:
    first, second = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.5, 0.6, 0.9])
    # Welch's t for a difference has the variance and df of the sum; the mean of means halves its width.
    welch = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    interval = crossed_interval([first[None], second[None]])
    assert (interval.low, interval.high) == pytest.approx((welch.low / 2, welch.high / 2))


@pytest.mark.parametrize("n_seeds", [4, 6, 12])
@pytest.mark.parametrize(
    ("sd_seed", "sd_problem", "sd_residual"), [(0.05, 0.4, 0.2), (0.3, 0.05, 0.3), (0.02, 0.1, 0.3)]
)
def test_crossed_interval_covers_the_truth_95_times_in_100(
    n_seeds: int, sd_seed: float, sd_problem: float, sd_residual: float
) -> None:
    random = np.random.default_rng(n_seeds)
    n_problems, repetitions, covered = 40, 1000, 0
    for _ in range(repetitions):
        score_SP = (
            random.normal(0, sd_seed, (n_seeds, 1))
            + random.normal(0, sd_problem, n_problems)
            + random.normal(0, sd_residual, (n_seeds, n_problems))
        )
        interval = crossed_interval([score_SP])
        covered += interval.low < 0 < interval.high
    # standard error of a share of .95 in 1000: .007
    assert 0.93 <= covered / repetitions <= 0.975


def test_interval_over_seeds_alone_would_cover_far_too_little_where_problems_differ() -> None:
    """The reason for crossing: problems are a sample too."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        score_SP = random.normal(0, 0.05, (4, 1)) + random.normal(0, 0.4, 40) + random.normal(0, 0.2, (4, 40))
        interval = t_interval(score_SP.mean(axis=1))
        covered += interval.low < 0 < interval.high
    assert covered / 500 < 0.85


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
    st.floats(-3, 3),
    st.floats(0.1, 10),
)
def test_crossed_interval_moves_and_scales_with_the_scores(
    n_seeds: int, n_problems: int, seed: int, shift: float, scale: float
) -> None:
    score_SP = np.random.default_rng(seed).random((n_seeds, n_problems))
    interval, moved = crossed_interval([score_SP]), crossed_interval([shift + scale * score_SP])
    expected = [shift + scale * bound for bound in interval[:3]]
    assert moved[:3] == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "no benchmark"),
        ([np.zeros(3)], r"shape \(3,\)"),
        ([np.zeros((2, 3)), np.zeros((3, 3))], "benchmark 1 has 3 seeds, benchmark 0 has 2"),
        ([np.array([[0.0, np.nan]])], "not finite"),
    ],
)
def test_bad_scores_are_refused(scores: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_interval(scores)


def test_t_interval_equals_scipys() -> None:
    value_S = np.array([1.0, 2.0, 4.0, 7.0])
    reference = stats.ttest_1samp(value_S, 0).confidence_interval(0.95)
    interval = t_interval(value_S)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((3.5, reference.low, reference.high))
    assert interval.over == "seeds"


def test_t_band_is_the_t_interval_of_every_point() -> None:
    value_SX = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 8.0]])
    mean_X, low_X, high_X = t_band(value_SX)
    for point in range(2):
        assert (mean_X[point], low_X[point], high_X[point]) == pytest.approx(t_interval(value_SX[:, point])[:3])


def test_one_seed_has_a_mean_and_no_interval() -> None:
    interval = t_interval(np.array([2.0]))
    assert interval.mean == 2.0
    assert interval.over == ""
    assert np.isnan(interval.low)


def test_sign_flips_need_twelve_seeds() -> None:
    assert sign_flip_test(np.ones(11)) is None
    # all twelve of one sign: only +…+ and −…− are as extreme, 2 of 2^12
    assert sign_flip_test(np.ones(12)) == 2 / 2**12


def test_sign_flip_counts_the_patterns_that_are_as_extreme() -> None:
    # Eleven differences of 1 and one of −2: |sum| = 9. With m of the eleven flipped, and ε the sign of the last:
    # |11 − 2m + 2ε| ≥ 9 for  ε=+1: m = 0 (13), 1 (11), 2 (9), 11 (|−9|)           → 1 + 11 + 55 + 1 = 68
    #                         ε=−1: m = 0 (9), 9 (|−9|), 10 (|−11|), 11 (|−13|)     → 1 + 55 + 11 + 1 = 68
    difference_S = np.array([1.0] * 11 + [-2.0])
    assert sign_flip_test(difference_S) == 136 / 2**12


@pytest.mark.parametrize(("n_seeds", "least"), [(11, None), (12, 2 / 2**12), (16, 2 / 2**16), (24, 1 / 100_001)])
def test_the_smallest_p_is_of_two_patterns_where_all_are_counted_and_of_the_observed_one_else(n_seeds, least) -> None:
    assert smallest_p(n_seeds) == least


def test_sign_flip_agrees_with_scipys_exact_permutation_test() -> None:
    difference_S = np.random.default_rng(3).normal(0.3, 1, 12)
    reference = stats.permutation_test(
        (difference_S,), np.mean, permutation_type="samples", vectorized=False, n_resamples=np.inf
    )
    assert sign_flip_test(difference_S) == pytest.approx(reference.pvalue)


def test_sign_flip_by_drawing_agrees_with_the_normal_limit() -> None:
    difference_S = np.random.default_rng(5).normal(0.3, 1, 40)
    # Σ ε_s d_s has mean 0 and variance Σ d²
    normal = 2 * stats.norm.sf(abs(difference_S.sum()) / np.sqrt((difference_S**2).sum()))
    p_value = sign_flip_test(difference_S)
    assert p_value == pytest.approx(normal, abs=0.02)
    assert p_value == sign_flip_test(difference_S)


def test_no_difference_at_all_is_never_significant() -> None:
    assert sign_flip_test(np.zeros(12)) == 1.0


def test_sign_flip_holds_its_level() -> None:
    random = np.random.default_rng(1)
    rejections = sum((sign_flip_test(random.normal(0, 1, 12)) or 0) < 0.05 for _ in range(1000))
    assert 30 <= rejections <= 70  # 50 ± 3 standard errors of 7


@given(st.lists(st.integers(-40, 40), min_size=12, max_size=12))
@settings(max_examples=20, deadline=None)
def test_sums_that_tie_in_exact_arithmetic_are_ties_of_the_sign_flip_test(wins: list[int]) -> None:
    """Differences of scores are multiples of one over the number of samples, so many of the 4,096 sums are equal."""
    patterns = itertools.product((1, -1), repeat=12)
    extreme = sum(abs(sum(map(operator.mul, signs, wins))) >= abs(sum(wins)) for signs in patterns)
    assert sign_flip_test(np.array(wins) / 1536) == extreme / 4096


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04; running maximum .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_bonferronis_p_value(p_values: list[float]) -> None:
    for raw, corrected in zip(p_values, holm(p_values), strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) + 1e-12


def test_area_is_the_mean_height_of_the_curve() -> None:
    # trapezoids: (0 + 1)/2·1 + (1 + 2)/2·2 = 3.5 over a range of 3
    assert area_under_curve(np.array([1, 2, 4]), np.array([0.0, 1.0, 2.0])) == pytest.approx(3.5 / 3)
    assert area_under_curve(np.array([1]), np.array([0.25])) == 0.25
    assert np.isnan(area_under_curve(np.array([1, 2]), np.array([0.0, np.nan])))
