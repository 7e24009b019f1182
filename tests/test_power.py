"""Worked examples of what a comparison could have told apart, and of the synthetic suites that calibrate it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_runs import config, write_cell
from typer.testing import CliRunner

from harness.calibration.calibrate import CalibrationError, calibrate, recorded_components
from harness.calibration.simulate import split_in_two, under_a_difference, under_no_difference
from harness.cli import app
from harness.statistics.intervals import crossed_interval
from harness.statistics.power import (
    detectable,
    detectable_by_interval,
    detectable_by_sign_flips,
    interquartile_mean,
    performance_profile,
    power_of,
    probability_of_improvement,
)
from harness.statistics.synthetic import Components, before_clip, components_of, draw_suite, moments, shifted

COMPONENTS = Components(mean=0.9, seed=0.01, run=0.02, problem=0.04, taste=0.02, luck=0.05, problems=40, samples=8)


@given(st.floats(0.0, 6.0), st.sampled_from([2, 3, 11, 200]), st.sampled_from([0.05, 0.01, 0.05 / 30]))
@settings(max_examples=40, deadline=None)
def test_power_is_that_of_scipys_noncentral_t(shift: float, df: int, alpha: float) -> None:
    critical = stats.t.ppf(1 - alpha / 2, df)
    law = stats.nct(df, shift)
    reference = law.sf(critical) + np.nan_to_num(law.cdf(-critical))  # NaN where it is too small for scipy
    assert power_of(2 * shift, 2.0, df, alpha) == pytest.approx(reference, abs=1e-3)


def test_without_a_difference_the_power_is_the_level() -> None:
    assert power_of(0.0, 1.0, 7, 0.05) == pytest.approx(0.05, abs=1e-4)


def test_the_detectable_difference_is_that_of_the_textbook() -> None:
    # Known variance: (z.975 + z.8) standard errors = 1.959964 + 0.841621; the other tail adds nothing visible.
    assert detectable(2.0, np.inf) == pytest.approx(2 * (1.959964 + 0.841621), abs=1e-4)
    # Few degrees of freedom need more.
    assert detectable(2.0, 3) > detectable(2.0, 11) > detectable(2.0, np.inf)
    assert detectable(0.0, 3) == 0.0
    assert np.isnan(detectable(1.0, float("nan")))


def test_an_interval_detects_what_its_own_standard_error_allows() -> None:
    score_SP = np.array([[1.0, 3.0, 2.0], [4.0, 5.0, 6.0]])
    interval = crossed_interval([score_SP])
    # V and df as in test_statistics: 14.5/6 and 14.5²/183.5
    assert interval.df == pytest.approx(210.25 / 183.5)
    assert detectable_by_interval(interval) == pytest.approx(detectable(np.sqrt(14.5 / 6), 210.25 / 183.5))


def test_sign_flips_detect_at_holms_first_step_and_on_the_grid_of_p_values() -> None:
    difference_S = np.arange(12.0)  # s = √13, standard error √(13/12)
    # Of 30 tests: .05/30 = .001667; p is a multiple of 1/2048, of which three are .001465
    assert detectable_by_sign_flips(difference_S, 30) == pytest.approx(detectable(np.sqrt(13 / 12), 11, 3 / 2048))
    # Alone: .05 · 2048 = 102.4
    assert detectable_by_sign_flips(difference_S, 1) == pytest.approx(detectable(np.sqrt(13 / 12), 11, 102 / 2048))
    assert np.isnan(detectable_by_sign_flips(difference_S[:11], 1))  # no test
    assert np.isnan(detectable_by_sign_flips(difference_S, 200))  # .00025 is below the smallest p, 1/2048


def test_probability_of_improvement_counts_pairs_of_runs() -> None:
    # one benchmark: 3 > 1, 3 > 2, 2 > 1, and 2 = 2 counts half: 3.5 of 4
    found = probability_of_improvement(np.array([[3.0], [2.0]]), np.array([[1.0], [2.0]]))
    assert found.mean == 3.5 / 4
    assert 0 <= found.low <= found.mean <= found.high <= 1
    # a second benchmark that it always loses: the mean of both
    lost = probability_of_improvement(np.array([[3.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [2.0, 1.0]]))
    assert lost.mean == 3.5 / 8
    assert np.isnan(probability_of_improvement(np.array([[3.0]]), np.array([[1.0], [2.0]])).low)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.lists(st.integers(0, 5), min_size=2, max_size=6))
@settings(max_examples=20, deadline=None)
def test_probabilities_of_improvement_of_both_directions_add_up(own: list[int], other: list[int]) -> None:
    own_SB, other_SB = np.array(own, float)[:, None], np.array(other, float)[:, None]
    there, back = probability_of_improvement(own_SB, other_SB), probability_of_improvement(other_SB, own_SB)
    assert there.mean + back.mean == pytest.approx(1)
    # mannwhitneyu counts the same pairs
    pairs = len(own) * len(other)
    assert there.mean * pairs == pytest.approx(stats.mannwhitneyu(own, other).statistic)


def test_the_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    score_SB = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]])
    # of eight, two go at each end: (2 + 3 + 4 + 5)/4
    found = interquartile_mean(score_SB)
    assert found.mean == 3.5
    assert found.mean == stats.trim_mean(score_SB.ravel(), 0.25)
    assert found.low <= 3.5 <= found.high


def test_a_performance_profile_is_the_share_above_each_threshold() -> None:
    share_X, low_X, high_X = performance_profile(np.array([[0.2, 0.4], [0.6, 0.8]]), np.array([0.0, 0.4, 0.7, 0.9]))
    assert list(share_X) == [1.0, 0.5, 0.25, 0.0]
    assert (low_X <= share_X).all()
    assert (share_X <= high_X).all()


def test_components_are_those_of_the_analysis_of_variance_by_hand() -> None:
    # Two algorithms, two seeds, two problems, of pure effects ±a: each effect's mean square is 8 a² over its one df,
    # and all others are zero. A seed's variance is then (MS_seed − 0 − 0 + 0) / (2 algorithms · 2 problems) = 2 a².
    sign_S = np.array([0.25, -0.25])
    zero_ASP = np.full((2, 2, 2), 0.5)
    seed = components_of(zero_ASP + sign_S[None, :, None], samples=10**9)
    assert seed.seed == pytest.approx(np.sqrt(2) * 0.25)
    assert (seed.run, seed.problem, seed.taste) == (0.0, 0.0, 0.0)
    problem = components_of(zero_ASP + sign_S[None, None, :], samples=10**9)
    assert problem.problem == pytest.approx(np.sqrt(2) * 0.25)
    # ± by algorithm and seed: MS_run = 8 a² / 1, variance 8 a² / 2 problems
    run = components_of(zero_ASP + (sign_S[:, None] * np.array([1, -1]))[:, :, None], samples=10**9)
    assert run.run == pytest.approx(2 * 0.25)
    assert run.seed == 0.0


def test_a_synthetic_suite_shows_the_components_that_it_was_drawn_from() -> None:
    rng = np.random.default_rng(0)
    drawn = before_clip(COMPONENTS)
    found = [components_of(draw_suite(drawn, np.full(20, drawn.mean), 12, rng), 8) for _ in range(8)]
    for effect in ("mean", "run", "problem", "taste", "luck"):
        wanted = getattr(COMPONENTS, effect)
        assert np.mean([getattr(of, effect) for of in found]) == pytest.approx(wanted, rel=0.12, abs=0.002), effect


def test_the_truth_of_a_synthetic_suite_is_known_after_the_clip() -> None:
    drawn = before_clip(COMPONENTS)
    assert moments(drawn.mean, drawn.spread) == pytest.approx((COMPONENTS.mean, COMPONENTS.spread), abs=1e-6)
    normal = np.random.default_rng(0).normal(drawn.mean, drawn.spread, 400_000)
    assert np.clip(normal, 0, 1).mean() == pytest.approx(0.9, abs=5e-4)
    assert moments(shifted(drawn, 0.05), drawn.spread)[0] == pytest.approx(0.95)
    with pytest.raises(ValueError, match="is not a probability"):
        shifted(drawn, 0.2)


def test_calibration_sees_an_interval_that_is_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.calibration.simulate as simulate

    honest = under_no_difference(COMPONENTS, 3, 4, suites=60, seed=0)
    assert honest.score_coverage.value > 0.9
    assert honest.family_wise is None  # four seeds are not tested
    narrow = lambda scores: (x := crossed_interval(scores))._replace(  # noqa: E731
        low=x.mean - (x.mean - x.low) / 3, high=x.mean + (x.high - x.mean) / 3
    )
    monkeypatch.setattr(simulate, "crossed_interval", narrow)
    assert under_no_difference(COMPONENTS, 3, 4, suites=60, seed=0).score_coverage.value < 0.8


def test_a_difference_that_is_called_detectable_is_found_about_as_often_as_said() -> None:
    power = under_a_difference(COMPONENTS, 2, 12, suites=120, seed=0)
    assert 0.65 < power.found.value < 0.95
    assert power.difference > 0


def test_halves_of_one_algorithm_are_told_apart_by_a_test_that_always_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.calibration.simulate as simulate

    score_SP = draw_suite(COMPONENTS, np.array([0.9]), 24, np.random.default_rng(0))[0]
    rejected, covered = split_in_two(score_SP, 40, seed=0)
    assert rejected.value < 0.2
    assert covered.value > 0.8
    monkeypatch.setattr(simulate, "sign_flip_test", lambda difference_S: 0.0)
    assert split_in_two(score_SP, 40, seed=0)[0].value == 1.0


def recorded(
    folder: Path, *, seeds: int = 3, problems: int = 4, protocols: tuple[str | None, ...] = (None,), **evaluation: Any
) -> Path:
    """Runs of two algorithms, those by default worse than the base."""
    settings = config()
    settings["evaluation"] = {**settings["evaluation"], "hard_benchmarks": [], "samples": 4, **evaluation}

    def solved(right: int) -> dict[str, np.ndarray]:
        return {"arithmetic": np.tile(np.arange(4) < right, (problems, 1)).astype(float)}

    write_cell(folder, "base", None, solved(1), settings=settings)
    for label, seed, protocol in itertools.product(("grpo", "gvpo"), range(seeds), protocols):
        right = 0 if protocol else 2 + seed % 2
        write_cell(folder, label, seed, solved(right), curve=[0.5], settings=settings, protocol=protocol)
    return folder


def test_components_are_those_of_the_tuned_runs(tmp_path: Path) -> None:
    both = recorded(tmp_path / "both", protocols=(None, "default"))
    # by default nothing beats the base; tuned, two, three and two of four samples are right
    assert recorded_components([both])["both"].mean == pytest.approx(7 / 12)


def test_components_may_come_from_samples_that_are_given_by_benchmark(tmp_path: Path) -> None:
    table = recorded(tmp_path / "table", samples={"arithmetic": 4})
    assert recorded_components([table])["table"].samples == 4


@pytest.mark.parametrize(("size", "told"), [({"seeds": 1}, "the same seeds"), ({"problems": 1}, "two problems")])
def test_one_seed_or_one_problem_has_no_variance(tmp_path: Path, size: dict[str, Any], told: str) -> None:
    with pytest.raises(CalibrationError, match=told):
        recorded_components([recorded(tmp_path / "few", **size)])


def test_one_seed_has_no_halves(tmp_path: Path) -> None:
    runs, again = recorded(tmp_path / "enough"), recorded(tmp_path / "again", seeds=1)
    with pytest.raises(CalibrationError, match=r"again: .* the same seeds of every algorithm, two at least"):
        calibrate(tmp_path / "out", [runs], again, suites=100, workers=1)
    assert not (tmp_path / "out").exists()


def test_runs_of_one_name_are_not_told_apart_and_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="another of these is called e"):
        recorded_components([recorded(tmp_path / lab / "runs" / "e") for lab in "ab"])


def test_calibrate_writes_its_page_from_components_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.calibration.calibrate.SEEDS", (4, 12))
    monkeypatch.setattr("harness.calibration.calibrate.ALGORITHMS", (2, 3))
    out = tmp_path / "calibration"
    refused = CliRunner().invoke(app, ["calibrate", "--out", str(out)])
    assert "give the runs to take variance from" in str(refused.exception)
    row = {"source": "mine", **vars(COMPONENTS), "problems": 4}
    out.mkdir()
    pd.DataFrame([row]).to_csv(out / "components.csv", index=False)
    done = CliRunner().invoke(app, ["calibrate", "--out", str(out), "--suites", "100", "--workers", "1"])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out / "table.csv")
    assert set(table["what"]) == {"coverage of a score", "coverage of a difference", "family-wise error", "power"}
    # 4 seeds once, 12 with each number of algorithms; a family-wise error only where there is a test
    seeds = [4, 12, 12]
    assert len(table) == sum(4 if n == 12 else 3 for n in seeds)
    assert "each measured on 100 synthetic suites" in (out / "README.md").read_text()
    assert (out / "figures/calibration.png").is_file()
