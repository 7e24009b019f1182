"""Synthetic suites with known truth, drawn from the variance that recorded ones show: what intervals and tests are
calibrated on.

Shapes: A algorithms, S seeds, P problems. An algorithm's chance to solve a problem under a seed is

    p_ASP = clip(μ_A + seed_S + run_AS + problem_P + taste_AP + luck_ASP, 0, 1),    score = Binomial(k, p) / k,

each effect normal and independent: what a seed does to all algorithms (they share problems and their order), what a run
does alone, what a problem is for all, and for one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from harness.statistics.intervals import Array

EFFECTS = ("seed", "run", "problem", "taste", "luck")
QUANTILES_X = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
"""Of the standard normal: an average over them is an expectation."""


@dataclass(frozen=True)
class Components:
    """Of the scores of a suite: their mean, the standard deviation of each effect, and the size."""

    mean: float
    seed: float
    run: float
    problem: float
    taste: float
    luck: float
    problems: int
    samples: int
    """k of avg@k."""

    @property
    def spread(self) -> float:
        """Of all effects together."""
        return float(np.sqrt(sum(getattr(self, effect) ** 2 for effect in EFFECTS)))


def components_of(score_ASP: Array, samples: int) -> Components:
    """The components of a recorded suite, by the analysis of variance of three crossed factors with one score each
    (Searle, Casella and McCulloch, Variance Components, ch. 4); an estimate below zero is zero.

    Algorithms are fixed: their means are taken out. What is left within a cell is luck and the binomial's own
    p (1 − p) / k, which is taken off; the part of it that all algorithms share is not told apart.
    """
    n_algorithms, n_seeds, n_problems = score_ASP.shape
    x_ASP = score_ASP - score_ASP.mean(axis=(1, 2), keepdims=True)
    s_S, p_P = x_ASP.mean(axis=(0, 2), keepdims=True), x_ASP.mean(axis=(0, 1), keepdims=True)
    as_AS, ap_AP = x_ASP.mean(axis=2, keepdims=True) - s_S, x_ASP.mean(axis=1, keepdims=True) - p_P
    sp_SP = x_ASP.mean(axis=0, keepdims=True) - s_S - p_P
    rest_ASP = x_ASP - s_S - p_P - as_AS - ap_AP - sp_SP
    a, s, p = n_algorithms - 1, n_seeds - 1, n_problems - 1

    def mean_square(effect: Array, df: int) -> float:
        return float((effect**2).sum()) * score_ASP.size / effect.size / df

    seed, problem, shared = mean_square(s_S, s), mean_square(p_P, p), mean_square(sp_SP, s * p)
    run, taste, rest = mean_square(as_AS, a * s), mean_square(ap_AP, a * p), mean_square(rest_ASP, a * s * p)
    binomial = float((score_ASP * (1 - score_ASP)).mean()) / (samples - 1)

    def deviation(variance: float) -> float:
        return float(np.sqrt(max(variance, 0.0)))

    return Components(
        mean=float(score_ASP.mean()),
        seed=deviation((seed - run - shared + rest) / (n_algorithms * n_problems)),
        run=deviation((run - rest) / n_problems),
        problem=deviation((problem - taste - shared + rest) / (n_algorithms * n_seeds)),
        taste=deviation((taste - rest) / n_seeds),
        luck=deviation((a * rest + shared) / n_algorithms - binomial),
        problems=n_problems,
        samples=samples,
    )


def moments(mean: float, spread: float) -> tuple[float, float]:
    """Mean and standard deviation of clip(X, 0, 1) for a normal X."""
    clipped_X = np.clip(mean + spread * QUANTILES_X, 0, 1)
    return float(clipped_X.mean()), float(clipped_X.std())


def before_clip(components: Components) -> Components:
    """The components whose chances, once clipped, have the mean and the spread of these, all effects in proportion."""
    wanted = (components.mean, components.spread)
    if wanted[1] == 0:
        return components

    def misfit(x: Array) -> Array:
        return np.subtract(moments(float(x[0]), float(np.exp(x[1]))), wanted)

    mean, log_spread = optimize.least_squares(misfit, [components.mean, np.log(components.spread)]).x
    factor = float(np.exp(log_spread)) / components.spread
    return replace(components, mean=float(mean), **{effect: factor * getattr(components, effect) for effect in EFFECTS})


def shifted(components: Components, difference: float) -> float:
    """The mean before the clip of an algorithm that scores higher by this difference; `components` are those before the
    clip.

    Raises ValueError where that would be a score outside (0, 1).
    """
    score = moments(components.mean, components.spread)[0] + difference
    if not 0 < score < 1:
        raise ValueError(f"a score of {score:.3f} is not a probability; shift by less")
    return float(optimize.brentq(lambda mean: moments(mean, components.spread)[0] - score, -20, 20))


def draw_suite(components: Components, mean_A: Array, seeds: int, rng: np.random.Generator) -> Array:
    """score_ASP of one suite whose algorithms have these means before the clip."""
    c, a, s, p = components, len(mean_A), seeds, components.problems
    chance_ASP = (
        np.asarray(mean_A)[:, None, None]
        + c.seed * rng.standard_normal((1, s, 1))
        + c.run * rng.standard_normal((a, s, 1))
        + c.problem * rng.standard_normal((1, 1, p))
        + c.taste * rng.standard_normal((a, 1, p))
        + c.luck * rng.standard_normal((a, s, p))
    )
    return rng.binomial(c.samples, np.clip(chance_ASP, 0, 1)) / c.samples
