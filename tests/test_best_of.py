"""The best of n trials, over the orders of the trials: by hand, and by going through all orders."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.best_of import best_after


def test_three_trials_by_hand():
    mean, low, high = best_after([0.9, 0.2, 0.6])
    # one: (.2 + .6 + .9)/3; two: .6 of {.2, .6}, .9 of {.2, .9} and of {.6, .9}; three: .9
    assert mean == pytest.approx([17 / 30, 0.8, 0.9])
    # 95% of three equally likely orders are all of them
    assert list(low) == [0.2, 0.6, 0.9]
    assert list(high) == [0.9, 0.9, 0.9]


def test_of_many_trials_the_interval_leaves_out_the_rare_orders():
    # of 100 trials, the first is one of the 2 lowest with probability .02, of the 3 lowest with .03
    mean, low, high = best_after([i / 100 for i in range(1, 101)])
    assert (low[0], high[0]) == (0.03, 0.98)
    assert mean[0] == pytest.approx(0.505)
    assert mean[1] == pytest.approx(2 / 3 * 1.01)  # of two of 1 … N: 2 (N + 1)/3


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=6))
def test_it_is_the_mean_over_all_orders(scores):
    orders = np.array([np.maximum.accumulate(order) for order in itertools.permutations(scores)])
    mean, low, high = best_after(scores)
    assert mean == pytest.approx(orders.mean(axis=0))
    assert list(low) == list(np.quantile(orders, 0.025, axis=0, method="inverted_cdf"))
    assert list(high) == list(np.quantile(orders, 0.975, axis=0, method="inverted_cdf"))


@pytest.mark.parametrize("scores", [[], [0.5, float("nan")]])
def test_a_trial_without_a_score_is_refused(scores):
    with pytest.raises(ValueError, match="each trial needs one"):
        best_after(scores)
