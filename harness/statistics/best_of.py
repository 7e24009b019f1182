"""The best of n trials: what a search of a smaller budget would have found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.statistics.intervals import Array


def best_after(scores: Sequence[float]) -> tuple[Array, Array, Array]:
    """mean_N, low_N, high_N: the best score after n = 1 … B of B trials, over all orders that they could have come in.

    The mean is the expected validation performance of Dodge et al. 2019 (Show Your Work, arXiv 1909.03004, §3), of n
    trials drawn without replacement, Σ_i v_(i) C(i−1, n−1)/C(B, n) with v_(i) the i-th lowest: theirs, with
    replacement, is too low (Tang et al. 2020, arXiv 2004.13705). The interval holds the best score of 95% of
    the orders: it is what luck in the search makes of these trials, and not how well they are known.

    Raises ValueError where there is no score, or one that is not finite.
    """
    value_B = np.sort(np.asarray(scores, dtype=np.float64))
    trials = len(value_B)
    if trials == 0 or not np.isfinite(value_B).all():
        raise ValueError(f"{trials} scores, {int(np.isfinite(value_B).sum())} of them finite: each trial needs one")
    # P(best of n is at most the i-th lowest), for n = 1 … B: all n lie among the i lowest.
    chance_NB = np.array(
        [[math.comb(i, n) / math.comb(trials, n) for i in range(1, trials + 1)] for n in range(1, trials + 1)]
    )
    mean_N = np.diff(chance_NB, axis=1, prepend=0.0) @ value_B
    low_N, high_N = (value_B[np.argmax(chance_NB >= share - 1e-12, axis=1)] for share in (0.025, 0.975))
    return mean_N, low_N, high_N
