"""The report of synthetic cells: every number recomputed here by other means, and what must not be hidden."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rich.console
from matplotlib import pyplot
from scipy import stats
from synthetic_runs import coefficients, config, write_cell, write_coefficients, write_runs

from harness.record.cell_folder import CellFolder
from harness.record.text import escape_latex
from harness.report import drawing, figures
from harness.report.cast import cast_of
from harness.report.columns import TextTable
from harness.report.comparison import ReportError
from harness.report.curves import GENERATED, overlapping
from harness.report.formats import to_latex
from harness.report.suite_report import Report, write_report
from harness.suite.report_settings import Published

PROBLEMS, SAMPLES = 6, 4


def scores(seed: int, level: float, problems: int = PROBLEMS) -> dict[str, np.ndarray]:
    """Scores of 0 and 1 that are the same wherever seed and level are."""
    random = np.random.default_rng([seed, round(1000 * level)])
    return {
        "arithmetic": (random.random((problems, SAMPLES)) < level).astype(float),
        "arithmetic-hard": (random.random((3, SAMPLES)) < level / 2).astype(float),
    }


def small_config(**changes: Any) -> dict[str, Any]:
    settings = config()
    settings["evaluation"] = settings["evaluation"] | {"samples": SAMPLES}
    return settings | changes


def write_small(
    suite: Path, n_seeds: int = 3, levels: dict[str, float] | None = None, **changes: Any
) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """The base and two algorithms; returns the scores of each cell."""
    write_cell(suite, "base", None, scores(0, 0.3), length=4.0, settings=small_config(**changes))
    written = {}
    for label, level in (levels or {"grpo": 0.6, "gvpo": 0.8}).items():
        for seed in range(n_seeds):
            written[label, seed] = scores(seed, level)
            write_cell(
                suite,
                label,
                seed,
                written[label, seed],
                kl=level + seed,
                length=6.0 + seed,
                curve=[0.3, 0.5 + 0.1 * seed, level],
                settings=small_config(**changes),
            )
    return written


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a suite's cells; figures are drawn but not rasterised, which takes most of a report's time."""
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    return tmp_path / "runs" / "small"


def report_of(suite: Path, **options: Any) -> tuple[Report, Any]:
    """The report, and its table.csv by algorithm."""
    out = suite.parent.parent / suite.name
    report = write_report(suite, out, **options)
    return report, pd.read_csv(out / "table.csv", index_col="algorithm")


def half_width(score_SP: np.ndarray) -> float:
    """Of the crossed interval, from variance components rather than mean squares."""
    n_seeds, n_problems = score_SP.shape
    residual_SP = score_SP - score_SP.mean(1, keepdims=True) - score_SP.mean(0) + score_SP.mean()
    noise = (residual_SP**2).sum() / (n_seeds - 1) / (n_problems - 1) / score_SP.size
    of_seeds, of_problems = score_SP.mean(1).var(ddof=1) / n_seeds, score_SP.mean(0).var(ddof=1) / n_problems
    variance = max(of_seeds + of_problems - noise, noise)
    spread = (
        of_seeds**2 / (n_seeds - 1) + of_problems**2 / (n_problems - 1) + noise**2 / ((n_seeds - 1) * (n_problems - 1))
    )
    return float(stats.t.ppf(0.975, max(variance**2 / spread, min(n_seeds, n_problems) - 1)) * np.sqrt(variance))


def test_every_number_of_the_csv(suite: Path) -> None:
    written = write_small(suite)
    _, table = report_of(suite)

    assert list(table.index) == ["base", "gvpo", "grpo"]
    score_SP = {
        (label, benchmark): np.array([written[label, seed][benchmark].mean(axis=1) for seed in range(3)])
        for label in ("gvpo", "grpo")
        for benchmark in ("arithmetic", "arithmetic-hard")
    }
    for label, level in (("grpo", 0.6), ("gvpo", 0.8)):
        row = table.loc[label]
        main_SP, hard_SP = score_SP[label, "arithmetic"], score_SP[label, "arithmetic-hard"]
        assert row["avg_at_k"] == pytest.approx(main_SP.mean())
        assert row["ci_high"] - row["avg_at_k"] == pytest.approx(half_width(main_SP))
        assert row["avg_at_k"] - row["ci_low"] == pytest.approx(half_width(main_SP))
        assert row["hard_avg_at_k"] == pytest.approx(hard_SP.mean())
        assert row["hard_ci_high"] - row["hard_avg_at_k"] == pytest.approx(half_width(hard_SP))
        # KL level + 0, 1, 2: mean level + 1, standard deviation 1
        assert row["kl"] == pytest.approx(level + 1)
        assert row["kl_ci_high"] - row["kl"] == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))
        # curve .3, .5 + .1s, level over steps 1 to 3: (.15 + .5 + .1s + level/2)/2, mean over s = 0, 1, 2
        assert row["auc"] == pytest.approx((0.65 + 0.1 + level / 2) / 2)
        # samples of a cell have 24 lengths of 6 + s, of which a third is one more and a third one less
        assert row["mean_length"] == pytest.approx(7.0)
        # rollout 2, training 3 + s, evaluation 1: mean 7
        assert row["seconds"] == pytest.approx(7.0)
        assert (row["n_seeds"], row["failed"], row["collapsed"]) == (3, 0, 0)
        # 256 responses in each of three steps, of 4.3, halfway and 6 + s tokens, rounded
        steps = [round(256 * length) for s in range(3) for length in (4.3, (4.3 + 6 + s) / 2, 6 + s)]
        assert row["generated_tokens"] == pytest.approx(sum(steps) / 3)
        assert row["trained_tokens"] == pytest.approx(sum(steps) / 3)
        assert row["extra_tokens"] == 3
        assert (row["tuning_trials"], row["lr"], row["max_norm"]) == (16, 1e-4, 1.0)
        assert json.loads(row["parameters"]) == {"beta": 0.1, "anchor": "old"}

    difference_SP = score_SP["gvpo", "arithmetic"] - score_SP["grpo", "arithmetic"]
    row = table.loc["gvpo"]
    assert row["diff"] == pytest.approx(difference_SP.mean())
    assert row["diff_ci_high"] - row["diff"] == pytest.approx(half_width(difference_SP))
    assert row["matched_seeds"] == 3
    assert table.loc["grpo", ["diff", "p_value"]].isna().all()


def test_chances_and_outcomes_of_every_benchmark(suite: Path) -> None:
    written = write_small(suite)
    _, _ = report_of(suite)
    table: Any = pd.read_csv(suite.parent.parent / suite.name / "benchmarks.csv").set_index(["benchmark", "algorithm"])
    assert len(table) == 2 * 3
    for (benchmark, label), row in table.iterrows():
        if label == "base":
            continue
        score_SPK = np.array([written[label, seed][benchmark] for seed in range(3)])
        correct_SP = score_SPK.sum(-1)
        assert row["k"] == SAMPLES
        assert row["avg_at_k"] == pytest.approx(score_SPK.mean())
        assert row["pass_at_4"] == pytest.approx((correct_SP > 0).mean())
        # Of the 6 pairs of 4 samples, those that hold no correct one: 6, 3, 1, 0, 0 with 0 to 4 correct samples.
        pairs_SP = np.array([6, 3, 1, 0, 0])[correct_SP.astype(int)]
        assert row["pass_at_2"] == pytest.approx((1 - pairs_SP / 6).mean())
        # Correct samples answer 3 and wrong ones 4: with two of each, one of the two answers is drawn.
        assert row["maj_at_k"] == pytest.approx(np.select([correct_SP > 2, correct_SP == 2], [1, 0.5], 0).mean())
        assert row["wrong"] == pytest.approx(1 - score_SPK.mean())
        assert (row["no_answer"], row["truncated"], row["grader_failures"]) == (0, 0, 0)
    markdown = (suite.parent.parent / suite.name / "table.md").read_text()
    assert "| benchmark | algorithm | k | avg@k | pass@2 | pass@4 | maj@k | wrong | no answer | truncated |" in markdown


def test_truncated_and_unanswered_samples_are_shown_apart(suite: Path) -> None:
    write_small(suite)
    path = suite / "gvpo-s0" / "samples.parquet"
    samples = pd.read_parquet(path)
    samples.loc[:5, "finish"] = "length"
    samples.loc[samples["score"] == 0, ["verdict", "answer"]] = ["no_answer", ""]
    samples.to_parquet(path)
    report, _ = report_of(suite)
    row = report.by_benchmark.set_index(["benchmark", "algorithm"]).xs(("arithmetic", "gvpo"))
    assert row["truncated"] == pytest.approx(6 / (3 * PROBLEMS * SAMPLES))
    assert row["no_answer"] > 0
    assert "truncated: 0.0% to 8.3% of the samples" in " ".join(str(report.render().caption).split())


def test_cells_that_recorded_no_answers_are_reported_without_a_majority(suite: Path) -> None:
    write_small(suite)
    for path in suite.glob("*/samples.parquet"):
        pd.read_parquet(path).drop(columns="answer").to_parquet(path)
    report, _ = report_of(suite)
    assert report.by_benchmark["maj_at_k"].isna().all()
    assert report.by_benchmark["pass_at_2"].notna().all()
    assert "maj@k |" not in (report.path.parent / "table.md").read_text()


def test_the_base_has_a_row_with_an_interval_over_problems(suite: Path) -> None:
    write_small(suite)
    row = report_of(suite)[1].loc["base"]
    score_P = scores(0, 0.3)["arithmetic"].mean(axis=1)
    reference = stats.ttest_1samp(score_P, 0).confidence_interval(0.95)
    assert (row["avg_at_k"], row["ci_low"], row["ci_high"]) == pytest.approx(
        (score_P.mean(), reference.low, reference.high)
    )
    assert row["kl"] == 0.0
    assert row[["auc", "collapsed", "diff", "p_holm", "lr", "parameters", "tuning_trials"]].isna().all()


def test_twelve_seeds_are_tested_and_corrected(suite: Path) -> None:
    written = write_small(suite, 12, {"grpo": 0.5, "gvpo": 0.9, "mine": 0.52})
    report, table = report_of(suite)

    expected = {}
    for label in ("gvpo", "mine"):
        difference_S = np.array(
            [written[label, s]["arithmetic"].mean() - written["grpo", s]["arithmetic"].mean() for s in range(12)]
        )
        flipped = [abs(np.dot(signs, difference_S)) for signs in itertools.product((1, -1), repeat=12)]
        expected[label] = np.mean(np.array(flipped) >= abs(difference_S.sum()) - 1e-9)
        assert table.loc[label, "p_value"] == pytest.approx(expected[label])
    assert expected["gvpo"] < 0.025 < expected["mine"]
    assert table.loc["gvpo", "p_holm"] == pytest.approx(2 * expected["gvpo"])
    assert table.loc["mine", "p_holm"] == pytest.approx(max(2 * expected["gvpo"], expected["mine"]))

    # bold: the one significant difference and nothing else
    markdown = (report.path.parent / "table.md").read_text()
    assert re.findall(r"\*\*(.*?)\*\*", markdown) == [f"+{table.loc['gvpo', 'diff']:.3f} ± {spread(table, 'gvpo')}"]
    assert (report.path.parent / "table.tex").read_text().count(r"\textbf{") == 1
    assert "Holm-corrected over 2 tests" in markdown


def spread(table: Any, label: str) -> str:
    return f"{(table.loc[label, 'diff_ci_high'] - table.loc[label, 'diff_ci_low']) / 2:.3f}"


def test_eleven_seeds_are_too_few_to_test(suite: Path) -> None:
    write_small(suite, 11)
    report, table = report_of(suite)
    assert table["p_value"].isna().all()
    markdown = (report.path.parent / "table.md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| GVPO"))
    assert "too few seeds to test" in row
    assert "**" not in markdown
    assert "too few seeds to test" in shown(report)


def shown(report: Report, width: int = 80) -> str:
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(report.render())
    return " ".join(capture.get().split())


def test_one_seed_has_an_interval_over_problems_and_the_notes_say_so(suite: Path) -> None:
    write_small(suite, 1)
    report, table = report_of(suite)
    score_P = scores(0, 0.8)["arithmetic"].mean(axis=1)
    reference = stats.ttest_1samp(score_P, 0).confidence_interval(0.95)
    assert (table.loc["gvpo", "ci_low"], table.loc["gvpo", "ci_high"]) == pytest.approx((reference.low, reference.high))
    assert np.isnan(table.loc["gvpo", "kl_ci_low"])
    assert "One seed only, hence over problems only: GVPO, GRPO" in report.path.read_text()


def test_a_failed_seed_is_counted_and_named(suite: Path) -> None:
    write_small(suite)
    write_cell(suite, "gvpo", 3, {}, status="failed", curve=[0.3], settings=small_config())
    report, table = report_of(suite)
    assert (table.loc["gvpo", "n_seeds"], table.loc["gvpo", "failed"]) == (3, 1)
    assert table.loc["gvpo", "status"] == "finished"
    assert report.failed == ["gvpo-s3"]
    assert "gvpo-s3: FloatingPointError: the loss is NaN at step 3" in report.path.read_text()
    assert "failed: gvpo-s3" in shown(report)
    # the difference is paired on the seeds that both have
    assert table.loc["gvpo", "matched_seeds"] == 3


def test_an_algorithm_that_failed_throughout_is_still_a_row(suite: Path) -> None:
    write_small(suite)
    for seed in range(3):
        write_cell(suite, "broken", seed, {}, status="failed", settings=small_config())
    report, table = report_of(suite)
    assert list(table.index) == ["base", "gvpo", "grpo", "broken"]
    assert table.loc["broken", "status"] == "failed"
    assert (table.loc["broken", "n_seeds"], table.loc["broken", "failed"]) == (0, 3)
    assert table.loc["broken", ["avg_at_k", "kl", "seconds", "diff"]].isna().all()
    assert re.search(r"\| broken \| 0 \| failed \|", (report.path.parent / "table.md").read_text())


def test_a_failed_baseline_leaves_no_differences_and_no_crash(suite: Path) -> None:
    write_small(suite, levels={"gvpo": 0.8})
    write_cell(suite, "grpo", 0, {}, status="failed", settings=small_config())
    _, table = report_of(suite)
    assert table["diff"].isna().all()
    assert table.loc["gvpo", "matched_seeds"] == 0


def test_everything_failed_still_reports(suite: Path) -> None:
    write_cell(suite, "base", None, {}, status="failed", settings=small_config())
    write_cell(suite, "grpo", 0, {}, status="failed", settings=small_config())
    report, table = report_of(suite)
    assert list(table["status"]) == ["failed", "failed"]
    assert report.failed == ["base", "grpo-s0"]


def test_a_collapsed_seed_stays_in_the_mean_and_is_counted(suite: Path) -> None:
    write_small(suite)
    nothing = {name: np.zeros_like(score) for name, score in scores(0, 0.5).items()}
    write_cell(suite, "gvpo", 3, nothing, kl=9.0, curve=[0.3, 0.1, 0.0], settings=small_config())
    report, table = report_of(suite)
    own = [scores(seed, 0.8)["arithmetic"].mean() for seed in range(3)]
    assert table.loc["gvpo", "avg_at_k"] == pytest.approx(sum(own) / 4)
    assert table.loc["gvpo", "collapsed"] == 1
    assert table.loc["grpo", "collapsed"] == 0
    assert "collapsed seeds: GVPO 1" in shown(report)


def test_an_equal_score_is_no_collapse(suite: Path) -> None:
    write_small(suite, 1)
    write_cell(suite, "same", 0, scores(0, 0.3), curve=[0.3, 0.3], settings=small_config())
    assert report_of(suite)[1].loc["same", "collapsed"] == 0


def test_without_a_base_collapse_is_unknown(suite: Path) -> None:
    write_cell(suite, "grpo", 0, scores(0, 0.6), curve=[0.3, 0.6], settings=small_config())
    report, table = report_of(suite)
    assert table.loc["base", "status"] == "missing"
    assert np.isnan(table.loc["grpo", "collapsed"])
    assert "there is no finished base" in report.path.read_text()


def test_algorithms_without_gradient_coefficients_are_named_with_the_reason(suite: Path) -> None:
    write_coefficients(suite, coefficients(np.random.default_rng(0)), left_out={"late": "ArithmeticError: too far"})
    write_small(suite)
    report, _ = report_of(suite)
    page = report.path.read_text(encoding="utf-8")
    assert "Not in the figure of gradient coefficients: late (ArithmeticError: too far)." in page
    assert "figures/gradient_coefficients.svg" in page


def test_comparison_of_coefficients_that_is_still_to_come_is_said(suite: Path) -> None:
    write_small(suite)
    report, _ = report_of(suite)
    assert "Not in the figure of gradient coefficients: all (a sweep in one process" in report.path.read_text()


def test_failed_comparison_of_coefficients_is_said_and_its_folder_is_no_cell(suite: Path) -> None:
    write_coefficients(suite, None, status="failed")
    CellFolder(suite / "coefficients").write_traceback("Traceback\nMemoryError: CUDA out of memory\n")
    write_small(suite)
    report, table = report_of(suite)
    page = report.path.read_text(encoding="utf-8")
    assert "Not in the figure of gradient coefficients: all (MemoryError: CUDA out of memory)." in page
    assert "gradient_coefficients" not in page
    assert "coefficients" not in set(table.index)


def test_unfinished_cells_are_named(suite: Path) -> None:
    write_small(suite)
    (suite / "gvpo-s7").mkdir()
    report, table = report_of(suite)
    assert report.unfinished == ["gvpo-s7"]
    assert table.loc["gvpo", "n_seeds"] == 3
    assert "not in the table: gvpo-s7" in report.path.read_text()


def test_several_benchmarks_count_the_same(suite: Path) -> None:
    evaluation = small_config()["evaluation"] | {"benchmarks": ["arithmetic", "arithmetic-hard"], "hard_benchmarks": []}
    written = write_small(suite, evaluation=evaluation)
    _, table = report_of(suite)
    row = table.loc["gvpo"]
    for benchmark in ("arithmetic", "arithmetic-hard"):
        expected = np.mean([written["gvpo", seed][benchmark].mean() for seed in range(3)])
        assert row[f"avg_at_k_{benchmark}"] == pytest.approx(expected)
        assert row[f"{benchmark}_ci_low"] < expected < row[f"{benchmark}_ci_high"]
    assert row["avg_at_k"] == pytest.approx((row["avg_at_k_arithmetic"] + row["avg_at_k_arithmetic-hard"]) / 2)
    assert np.isnan(row["hard_avg_at_k"])


def test_benchmarks_with_another_k_each_say_which(suite: Path) -> None:
    evaluation = small_config()["evaluation"] | {
        "benchmarks": ["arithmetic", "arithmetic-hard"],
        "hard_benchmarks": [],
        "samples": {"arithmetic": SAMPLES, "arithmetic-hard": 2},
    }
    write_cell(suite, "base", None, mixed(0, 0.3), settings=small_config(evaluation=evaluation))
    for label in ("grpo", "gvpo"):
        cell = write_cell(suite, label, 0, mixed(1, 0.6), curve=[0.3], settings=small_config(evaluation=evaluation))
        assert cell.is_dir()
    report, table = report_of(suite)
    markdown = (report.path.parent / "table.md").read_text()
    assert f"| avg@k | arithmetic avg@{SAMPLES} | arithmetic-hard avg@2 |" in markdown
    assert f"arithmetic (6 problems, k = {SAMPLES}), arithmetic-hard (3 problems, k = 2)" in markdown
    # the mean of the benchmarks' means, whatever their k
    own = mixed(1, 0.6)
    assert table.loc["gvpo", "avg_at_k"] == pytest.approx(
        (own["arithmetic"].mean() + own["arithmetic-hard"].mean()) / 2
    )


def mixed(seed: int, level: float) -> dict[str, np.ndarray]:
    drawn = scores(seed, level)
    return {"arithmetic": drawn["arithmetic"], "arithmetic-hard": drawn["arithmetic-hard"][:, :2]}


def test_published_rows_stand_in_a_table_of_their_own(suite: Path) -> None:
    rows = [
        {"label": "base", "source": "A (2025), Table 1", "protocol": "greedy", "scores": {"arithmetic": 14.68}},
        {"label": "GVPO", "source": "A (2025), Table 1", "protocol": "greedy", "scores": {"other": 20.72}},
    ]
    write_small(suite, report={"baseline": "grpo", "published": rows})
    report, table = report_of(suite)
    ours, evidence, published, *_ = (report.path.parent / "table.md").read_text().split("\n\n")
    assert "14.68" not in ours + evidence
    assert published.splitlines() == [
        "| published elsewhere (%) | arithmetic | other | protocol | source |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| base | 14.68 |  | greedy | A (2025), Table 1 |",
        "| GVPO |  | 20.72 | greedy | A (2025), Table 1 |",
    ]
    assert "14.68" in (report.path.parent / "table.tex").read_text()
    assert "Published rows are others' numbers" in report.path.read_text()
    assert list(table.index) == ["base", "gvpo", "grpo"]  # the table's numbers are ours alone


def test_suites_published_rows_replace_those_of_earlier_runs(suite: Path) -> None:
    old = {"label": "old", "source": "s", "protocol": "p", "scores": {"arithmetic": 1.0}}
    write_small(suite, report={"baseline": "grpo", "published": [old]})
    new = Published(label="new", source="s", protocol="p", scores={"arithmetic": 2.0})
    page = report_of(suite, published=[new])[0].path.read_text()
    assert "| new | 2.00 |" in page
    assert "| old |" not in page


def test_another_baseline(suite: Path) -> None:
    write_small(suite)
    table = report_of(suite, baseline="gvpo")[1]
    assert table.loc["grpo", "diff"] < 0
    assert np.isnan(table.loc["gvpo", "diff"])
    with pytest.raises(ReportError, match=r"baseline 'ppo' has no cell .* choose one of: grpo, gvpo"):
        report_of(suite, baseline="ppo")


def test_the_baseline_is_the_one_that_the_suite_named_last(suite: Path) -> None:
    write_small(suite)
    for path in suite.glob("gvpo-*/manifest.json"):  # as a sweep of `--algorithm gvpo` left them
        manifest = json.loads(path.read_text())
        manifest["config"]["report"]["baseline"] = "gvpo"
        path.write_text(json.dumps(manifest | {"date": "2026-01-01"}))
    assert report_of(suite)[0].baseline == "gvpo"
    for path in suite.glob("grpo-*/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"date": "2026-01-02"}))
    assert report_of(suite)[0].baseline == "grpo"


def test_the_suites_baseline_may_not_have_run_yet(suite: Path) -> None:
    write_small(suite, levels={"gvpo": 0.8})
    report, table = report_of(suite)
    assert table["diff"].isna().all()
    assert "the suite's baseline, grpo, has no cell" in report.path.read_text()


def test_two_entries_of_one_algorithm_are_told_apart(suite: Path) -> None:
    write_small(suite)
    for seed in range(2):
        write_cell(suite, "gvpo-b1", seed, scores(seed, 0.7), display="GVPO", curve=[0.3, 0.7], settings=small_config())
    table = report_of(suite)[1]
    assert table.loc["gvpo", "name"] == "GVPO (gvpo)"
    assert table.loc["gvpo-b1", "name"] == "GVPO (gvpo-b1)"


def test_tuning_recorded_differently_is_said_and_not_refused(suite: Path) -> None:
    write_small(suite)
    more = small_config(tuning={"trials": 32, "benchmark": "arithmetic-tune"})
    write_cell(suite, "gvpo", 3, scores(3, 0.8), curve=[0.3, 0.6], settings=more)
    write_cell(suite, "mine", 0, scores(3, 0.8), curve=[0.3, 0.6], settings=small_config(tuning=None))
    report, table = report_of(suite)
    assert np.isnan(table.loc["gvpo", "tuning_trials"])
    assert table.loc["grpo", "tuning_trials"] == 16
    page = report.path.read_text()
    assert re.search(r"Tuning: trials: .*GVPO 16 or 32.*GRPO 16, .*its space differs", page)
    assert "MINE none" in page


def other_hash(suite: Path) -> None:
    write_cell(suite, "ppo", 0, scores(0, 0.6), curve=[0.3, 0.6], suite_hash="other", settings=small_config())


def other_problems(suite: Path) -> None:
    write_cell(suite, "ppo", 0, scores(0, 0.6, problems=5), curve=[0.3, 0.6], settings=small_config())


def other_learning_rate(suite: Path) -> None:
    write_cell(suite, "gvpo", 3, scores(3, 0.8), curve=[0.3, 0.6], lr=1e-3, settings=small_config())


def other_source(suite: Path) -> None:
    folder = write_cell(suite, "gvpo", 3, scores(3, 0.8), curve=[0.3, 0.6], settings=small_config())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["algorithm"]["source_sha256"] = "0123456789abcdef"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def no_hard_samples(suite: Path) -> None:
    only = {"arithmetic": scores(0, 0.6)["arithmetic"]}
    write_cell(suite, "ppo", 0, only, curve=[0.3, 0.6], settings=small_config())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_hash, r"mixes cells of different suites.*other: ppo-s0.*evaluates their checkpoints.*move the cells"),
        (other_problems, r"base and ppo-s0 were not evaluated on the same problems"),
        (other_learning_rate, r"disagree on algorithm.optimizer \(gvpo-s.*gvpo-s3.*\)"),
        (other_source, r"disagree on algorithm.source_sha256 \(gvpo-s.*gvpo-s3.*\)"),
        (no_hard_samples, "ppo-s0: cell ppo-s0 has no sample of arithmetic-hard"),
    ],
)
def test_cells_that_cannot_be_compared_are_refused_by_name(
    suite: Path, spoil: Callable[[Path], None], message: str
) -> None:
    write_small(suite)
    spoil(suite)
    with pytest.raises(ReportError, match=message):
        report_of(suite)
    assert not (suite.parent.parent / suite.name).exists()


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="is not a folder"):
        write_report(tmp_path / "none", tmp_path)
    with pytest.raises(ReportError, match="no cell with a manifest"):
        write_report(tmp_path, tmp_path)


def test_the_page_says_how_it_was_made(suite: Path) -> None:
    write_small(suite)
    page = report_of(suite)[0].path.read_text()
    assert "command: `gvpo-bench sweep synthetic.toml`" in page
    assert "/somewhere/" not in page
    assert "torch 2.13.0" in page
    assert "a made-up processor" in page
    assert "16 trials for each algorithm" in page
    assert "temperature 1.0" in page
    assert "Seeds 0 to 2" in page
    for image in re.findall(r"\]\((figures/.*?)\)", page):
        assert (suite.parent.parent / suite.name / image).is_file()


def test_the_latex_table_is_well_formed_whatever_the_names(suite: Path) -> None:
    write_small(suite)
    name = r"50% of_\{x}&#1 ~^$"
    write_cell(suite, "odd", 0, scores(0, 0.5), display=name, curve=[0.3, 0.4], settings=small_config())
    report, _ = report_of(suite)
    latex = (report.path.parent / "table.tex").read_text()
    for body in re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end\{tabular\}", latex, re.DOTALL):
        for line in body[1].splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(body[0]) - 1
    assert escape_latex(name) in latex
    assert escape_latex("a_b & 5% ±") == r"a\_b \& 5\% $\pm$"
    assert len(re.findall(r"(?<!\\)\{", latex)) == len(re.findall(r"(?<!\\)\}", latex))


def test_a_hostile_name_stays_in_its_markdown_cell(suite: Path) -> None:
    write_small(suite)
    write_cell(suite, "odd", 0, scores(0, 0.5), display="a|b\n<b>", curve=[0.3, 0.4], settings=small_config())
    report, _ = report_of(suite)
    assert r"| a\|b\\n\<b\> |" in (report.path.parent / "table.md").read_text()


def test_the_terminal_table_fits_80_columns(suite: Path) -> None:
    out = suite.parent.parent
    report = write_report(write_runs(out, n_seeds=2, problems=10, steps=4), out)
    console = rich.console.Console(width=80)
    with console.capture() as capture:
        console.print(report.render())
    for label in ("GVPO", "Kimi k1.5", "PG + KL"):
        assert any(line.strip().startswith(label) for line in capture.get().splitlines())
    assert "…" not in capture.get()


def test_figures_are_complete_deterministic_and_leave_pyplot_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "DPI", 30)  # the same figures, sooner
    suite = write_runs(tmp_path, n_seeds=3, problems=12, steps=5)
    files = {}
    for name in ("first", "second"):
        write_report(suite, tmp_path / name)
        files[name] = {p.relative_to(tmp_path / name): p.read_bytes() for p in sorted((tmp_path / name).rglob("*.*"))}
    assert files["first"] == files["second"]
    drawn = {path.stem for path in files["first"] if path.parts[0] == "figures"}
    assert drawn == {
        "learning_curves_steps",
        "learning_curves_tokens",
        "final_scores",
        "score_against_kl",
        "score_against_seconds",
        "score_against_generated_tokens",
        "score_against_trained_tokens",
        "cost_per_point",
        *(f"pass_at_k_{benchmark}" for benchmark in ("arithmetic", "arithmetic-hard")),
        "length",
        "gradient_coefficients",
    }
    assert {path.suffix for path in files["first"] if path.parts[0] == "figures"} == {".svg", ".png", ".csv"}
    assert len([path for path in files["first"] if path.parts[0] == "figures"]) == 3 * len(drawn)
    assert pyplot.get_fignums() == []


def test_algorithms_differ_in_marker_colour_and_line() -> None:
    style = drawing.styles(["gvpo", "grpo", "ppo", "dpo", "kimi", "pg"])
    for part in ("color", "marker", "dashes"):
        assert len({str(getattr(look, part)) for look in style.values()}) == 6
    many = drawing.styles([f"mine{i}" for i in range(40)])
    assert len({str(look) for look in many.values()}) == 40
    # the same in a suite with fewer algorithms
    assert drawing.styles(["ppo", "mine"])["ppo"] == style["ppo"]


def test_curves_against_tokens_stop_where_the_first_seed_stops() -> None:
    curves = pd.DataFrame(
        {
            "algorithm": "gvpo",
            "seed": [0, 0, 1, 1],
            "step": [1, 2, 1, 2],
            "generated_tokens": [10, 30, 20, 50],
            "reward": [0.0, 1.0, 0.0, 1.0],
        }
    )
    cast = cast_of({"gvpo": "GVPO"}, ["gvpo"], {}, None, [])
    figure, data = figures.over(curves, GENERATED, "reward", "reward", cast)
    x, y = map(np.asarray, figure.axes[0].lines[0].get_data())
    assert x.min() >= 20
    assert x.max() <= 30
    # at 20 tokens: (20 − 10)/20 = .5 and 0, mean .25; at 30: 1 and (30 − 20)/30 = 1/3, mean 2/3; linear between
    expected = 0.25 + (x - 20) / 10 * (2 / 3 - 0.25)
    assert y == pytest.approx(expected)
    assert list(data["x"]) == pytest.approx(list(x))
    assert list(data["mean"]) == pytest.approx(list(y))


def test_seeds_without_a_common_range_have_no_curve() -> None:
    # seed 0 ran from 10 to 30 s, seed 1 from 40 to 50 s; both of the other algorithm from 10 s to 30 s
    curves = pd.DataFrame(
        {"algorithm": ["a"] * 4 + ["b"] * 4, "seed": [0, 0, 1, 1] * 2, "seconds": [10, 30, 40, 50, *[10, 30] * 2]}
    )
    assert overlapping(curves, "seconds") == {"b"}


def test_coefficients_are_drawn_per_response_in_units_of_the_largest() -> None:
    # one group, two responses of two tokens; means over tokens 2 and −1
    table = pd.DataFrame(
        {
            "algorithm": "gvpo",
            "display": "GVPO",
            "prompt": 0,
            "sample": [0, 0, 1, 1],
            "token": [0, 1, 0, 1],
            "reward": [1.0, 1.0, 0.0, 0.0],
            "log_ratio": [0.5, 0.5, 0.1, 0.1],
            "coefficient": [1.0, 3.0, -1.0, -1.0],
        }
    )
    figure, data = figures.gradient_coefficients(table, cast_of({"gvpo": "GVPO"}, [], {}, None, []))
    axes = figure.axes[0]
    points = np.concatenate([drawn.get_offsets() for drawn in axes.collections])
    # log-ratios less their mean of .3; coefficients over 2
    assert sorted(points.tolist()) == [pytest.approx([-0.2, -0.5]), pytest.approx([0.2, 1.0])]
    assert "2" in axes.get_title()
    assert data[["log_ratio", "coefficient"]].to_numpy().tolist() == [
        pytest.approx([0.2, 2]),
        pytest.approx([-0.2, -1]),
    ]


def test_a_batch_whose_policy_has_not_moved_is_drawn_against_the_reward() -> None:
    table = coefficients(np.random.default_rng(0), prompts=2, samples=4).assign(log_ratio=0.0)
    figure, _ = figures.gradient_coefficients(table, cast_of(dict.fromkeys(table["algorithm"], ""), [], {}, None, []))
    assert "reward" in figure.get_supxlabel()


def test_importing_the_report_does_not_import_torch() -> None:
    code = "import sys, harness.report.suite_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here; CI installs it")
def test_latex_compiles_the_tables_whatever_the_names_and_however_many(suite: Path, tmp_path: Path) -> None:
    write_small(suite)
    hostile = r"50% of_\{x}&#1 ~^$ \input{/etc/passwd} β ≥ …"
    write_cell(suite, "odd", 0, scores(0, 0.5), display=hostile, curve=[0.3, 0.4], settings=small_config())
    report, _ = report_of(suite)
    tables = {"plain": (report.path.parent / "table.tex").read_text()}
    names = TextTable({"algorithm": ["base", "a", hostile], "avg@8": ["", "0.9 ± 0.1", "−1"]}, families=["", "x", "y"])
    tables["long"] = to_latex("suite_of_many", {"scores": names}, [f"a note on {hostile}"])
    for name, table in tables.items():
        page = (
            r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}"
            + f"\n{table}\n"
            + r"\end{document}"
        )
        (tmp_path / f"{name}.tex").write_text(page, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "root:" not in (tmp_path / f"{name}.log").read_text(errors="replace")
