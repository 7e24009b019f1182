"""Ratios of variances of paired values, and what pairing removes: by hand, by inverting the test, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from harness.statistics.variances import removed_share, variance_ratio


def test_the_interval_holds_the_ratios_that_the_test_of_pitman_and_morgan_does_not_reject() -> None:
    random = np.random.default_rng(3)
    y_S = random.normal(0, 1, 12)
    x_S = 0.6 * y_S + random.normal(0, 1.2, 12)
    found = variance_ratio(x_S, y_S)
    assert found.mean == pytest.approx(np.var(x_S, ddof=1) / np.var(y_S, ddof=1))

    def p_value(theta: float) -> float:
        return float(stats.pearsonr(x_S / np.sqrt(theta) + y_S, x_S / np.sqrt(theta) - y_S).pvalue)

    low = optimize.brentq(lambda theta: p_value(theta) - 0.05, found.mean / 100, found.mean)
    high = optimize.brentq(lambda theta: p_value(theta) - 0.05, found.mean, found.mean * 100)
    assert [found.low, found.high] == pytest.approx([low, high], rel=1e-6)


def test_the_interval_covers_the_true_ratio_of_correlated_normal_values() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        x_S, z_S = random.normal(size=(2, 12))
        found = variance_ratio(2 * x_S, 0.7 * x_S + np.sqrt(1 - 0.49) * z_S)  # true ratio 4, correlation 0.7
        covered += found.low < 4 < found.high
    assert covered / 1000 == pytest.approx(0.95, abs=0.021)  # three standard errors


def test_pairing_removes_what_seeds_share() -> None:
    x_S = np.array([0.0, 1.0, 2.0, 3.0])
    assert removed_share(x_S, x_S + 0.5).mean == pytest.approx(1.0)
    # y = −x: Var(x − y) = 4 Var x against 2 Var x: −1
    assert removed_share(x_S, -x_S).mean == pytest.approx(-1.0)
    # uncorrelated by construction, Var(x + y) = Var(x − y): 0, between −b and b
    found = removed_share(np.array([1.0, -1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0]))
    assert found.mean == pytest.approx(0.0)
    assert found.low == pytest.approx(-found.high)
    # θ = Var(x + y)/Var(x − y) = 1 and r = 0: K = 1 + 2·4.3027²/2 = 19.513, its bound 19.513 + √(19.513² − 1) = 39.0
    # and (39.0 − 1)/(39.0 + 1) = .95
    assert found.high == pytest.approx(0.95, abs=1e-3)


def test_it_is_one_less_the_variance_of_the_difference_over_the_sum_of_the_variances() -> None:
    x_S, y_S = np.random.default_rng(1).normal(size=(2, 9))
    y_S += x_S
    expected = 1 - np.var(x_S - y_S, ddof=1) / (np.var(x_S, ddof=1) + np.var(y_S, ddof=1))
    found = removed_share(x_S, y_S)
    assert found.mean == pytest.approx(expected)
    assert -1 < found.low < expected < found.high < 1


def test_what_does_not_vary_or_has_too_few_seeds_has_no_interval() -> None:
    x_S = np.array([0.1, 0.4, 0.2])
    assert np.isnan(variance_ratio(x_S, np.ones(3)).mean)
    still = variance_ratio(np.ones(3), x_S)
    assert still.mean == 0.0
    assert np.isnan(still.low)
    assert np.isnan(removed_share(x_S[:1], x_S[:1]).mean)
    assert np.isnan(removed_share(np.ones(4), np.ones(4)).mean)
    two = removed_share(x_S[:2], np.array([0.2, 0.3]))
    # Var(x − y) = (0.2)²/2, Var x + Var y = (0.3² + 0.1²)/2: 1 − 0.04/0.1
    assert two.mean == pytest.approx(0.6)
    assert np.isnan(two.low)
