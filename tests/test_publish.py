"""What is published can be made again from its raw rows, and nothing is published that is not whole."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest
from publishing import change, drawn, write_small, write_small_ablation
from small import command, files, write_suite
from synthetic_runs import write_cell

from harness.publish import raw_rows
from harness.publish.completeness import unclean
from harness.publish.freeze import publish_suite
from harness.publish.push import published_site
from harness.publish.raw_rows import PublishError, opened, read_raw, write_raw
from harness.publish.readme_table import score_rows, suites_of, update_readme, with_tables
from harness.publish.recompute import differences, published_files, verify_published
from harness.record.cell_folder import CellFolder
from harness.record.environment import code_of_commit
from harness.record.files import RecordError
from harness.record.sums import write_own_sums
from harness.report import figures
from harness.report.choice import report_of
from harness.report.recorded_cells import RecordedCell, RecordedSuite, recorded_suite

ROOT = Path(__file__).parent.parent
LIMIT = 20 * 2**20
"""Bytes of all raw rows that are committed."""


@pytest.fixture(autouse=True)
def _no_rasters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes most of the time."""
    monkeypatch.setattr(figures, "draw", lambda **given: [])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small suite's runs, which no test changes."""
    return write_small(tmp_path_factory.mktemp("recorded") / "runs" / "small")


@pytest.fixture
def runs(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "runs" / "small"))


@pytest.fixture(scope="module")
def once(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
        return publish_suite(recorded, tmp_path_factory.mktemp("once"))


@pytest.fixture
def published(once: Path, tmp_path: Path) -> Path:
    """The published folder of that suite."""
    return Path(shutil.copytree(once, tmp_path / "results" / "small"))


def everything(suite: RecordedSuite) -> dict[str, bytes]:
    return published_files(report_of(suite).publication, suite)


@pytest.mark.parametrize("write", [write_small, write_small_ablation])
def test_raw_rows_make_the_very_tables_and_figures_that_the_cells_make(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    suite = recorded_suite(write(tmp_path / "runs" / "small"))
    write_raw(tmp_path / "raw", suite)
    from_cells, from_rows = everything(suite), everything(read_raw(tmp_path / "raw"))
    assert {"table.md", "table.tex", "table.csv", "table.parquet", "seeds.csv", "README.md", "card.md"} < set(
        from_cells
    )
    assert any(name.startswith("figures/") for name in from_cells)
    assert from_rows == from_cells


def test_raw_rows_hold_every_sample_metric_manifest_and_traceback(recorded: Path, tmp_path: Path) -> None:
    suite = recorded_suite(recorded)
    write_raw(tmp_path / "raw", suite)
    cells = {cell.name: cell for cell in read_raw(tmp_path / "raw").cells}
    assert list(cells) == [cell.name for cell in suite.cells]
    for cell in suite.cells:
        kept, folder = cells[cell.name], CellFolder(recorded / cell.name)
        assert kept.manifest == {**cell.manifest, "command": ["gvpo-bench", "sweep", "synthetic.toml"]}
        assert kept.rows.metrics() == folder.metrics()
        if cell.finished:
            pd.testing.assert_frame_equal(
                kept.rows.samples(raw_rows.SAMPLE_COLUMNS).astype({"kl": float}),
                folder.samples().astype({"kl": float}),
            )
        assert kept.rows.traceback() == folder.traceback()
    assert "FloatingPointError" in cells["ppo-s0"].error()
    assert "/somewhere" not in json.dumps([cell.manifest for cell in cells.values()])


def test_raw_rows_hold_the_coefficients_and_the_trials_as_they_are(recorded: Path, tmp_path: Path) -> None:
    trials = pd.DataFrame({"algorithm": ["gvpo"] * 2, "trial": [0, 1], "lr": [1e-3, 0.1 + 0.2], "score": [0.25, None]})
    suite = replace_fields(recorded_suite(recorded), trials=trials)
    write_raw(tmp_path / "raw", suite)
    kept = read_raw(tmp_path / "raw")
    for found, expected in ((kept.trials, trials), (kept.coefficients, suite.coefficients)):
        assert found is not None
        assert expected is not None
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.usefixtures("without_figures")
def test_responses_that_are_too_large_are_left_out_and_that_is_said(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_rows, "MOST_TEXT", 100)
    write_raw(tmp_path / "raw", recorded_suite(recorded))
    assert json.loads((tmp_path / "raw" / "suite.json").read_text())["responses"] is False
    suite = read_raw(tmp_path / "raw")
    assert "response" not in suite.cells[0].rows.samples(raw_rows.SAMPLE_COLUMNS)
    assert "(without the responses, which are too large)" in everything(suite)["card.md"].decode()


def test_samples_recorded_before_answers_were_have_none_in_their_raw_rows(recorded: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "small"
    path = write_cell(runs, "base", None, drawn("base", 0)) / "samples.parquet"
    pd.read_parquet(path).drop(columns="answer").to_parquet(path)
    write_raw(tmp_path / "raw", recorded_suite(runs))
    assert "answer" not in read_raw(tmp_path / "raw").cells[0].samples()


def test_what_is_published_is_verified_where_the_runs_are_not(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_published(published) == []
    before = files(published)
    assert command("verify", published) == 0
    assert "every table and every figure's data follow from the raw rows" in capsys.readouterr().out
    assert files(published) == before
    assert command("verify", published, "--record") == 2
    assert "leave --record out" in capsys.readouterr().err


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return spoil


def parquet(folder: Path) -> None:
    table = pd.read_parquet(folder / "table.parquet")
    table.loc[table["algorithm"] == "gvpo", "avg_at_k"] = 0.75
    table.to_parquet(folder / "table.parquet", index=False)


# GVPO has 6, 7 and 8 of 8 right on the first problem and one less on each further: means of 4.5/8, 5.5/8 and 6.5/8.
FORGED = {
    replace("table.md", "0.688", "0.888"): "table.md: line 4 is '| GVPO | 3 | 0.888 ± ",
    replace("table.tex", "0.688", "0.888"): "table.tex: line ",
    replace("table.csv", ",0.6875,", ",0.8875,"): (
        "table.csv: row 2 (gvpo GVPO): avg_at_k is 0.8875, and 0.6875 follows from the raw rows"
    ),
    replace("seeds.csv", "gvpo,2", "gvpo,7"): "seeds.csv: row 7 (gvpo 2.0): seed is 7.0, and 2.0 follows",
    replace("card.md", "seeds 0 to 2", "seeds 0 to 11"): "card.md: line 5 is ",
    replace("README.md", "0123abc", "0123abd"): "README.md: line ",
    parquet: "table.parquet: row 2 (gvpo GVPO): avg_at_k is 0.75, and 0.6875 follows",
    replace("figures/final_scores.csv", "gvpo,0.6875", "gvpo,0.6876"): (
        "figures/final_scores.csv: row 2 (gvpo 0.6875): avg_at_k is 0.6876, and 0.6875 follows"
    ),
    replace("figures/length.csv", "mean", "middle"): "figures/length.csv: the columns differ (mean, middle)",
    lambda folder: (folder / "figures" / "length.png").unlink(): "figures/length.png is missing",
    lambda folder: (folder / "benchmarks.csv").unlink(): "benchmarks.csv is missing",
}


def test_whatever_does_not_follow_from_the_raw_rows_is_named_though_the_checksums_were_made_to_fit(
    published: Path,
) -> None:
    for spoil in FORGED:
        spoil(published)
    write_own_sums(published)
    (published / "figures" / "final_scores.svg").write_text("of which the data say nothing")
    lines = verify_published(published)
    for told in FORGED.values():
        assert any(line.startswith(told) for line in lines), (told, lines)
    assert "figures/final_scores.svg is not what was recorded (its SHA-256 differs)" in lines
    assert len(lines) == len(FORGED) + 1


def test_figures_may_differ_in_their_last_digits_and_tables_may_not() -> None:
    assert differences("table.csv", b"x\n0.10\n", b"x\n0.1\n") == ["table.csv: other bytes for the same values"]
    rows = [b"algorithm,x\ngvpo,0.1\n", b"algorithm,x\ngvpo,0.10000000000000002\n"]
    assert differences("figures/f.csv", *rows) == []
    assert differences("table.csv", *rows) == [
        "table.csv: row 1 (gvpo 0.10000000000000002): x is 0.1, and 0.10000000000000002 follows from the raw rows"
    ]


def test_of_many_differences_the_first_are_named_and_the_others_counted() -> None:
    lines = differences("table.md", b"a\n" * 30, b"b\n" * 30)
    assert len(lines) == 21
    assert lines[-1] == "table.md: 10 more"


def test_nothing_is_made_of_raw_rows_that_do_not_fit_their_checksums(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published / "raw" / "samples.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert command("verify", published) == 1
    assert "raw: samples.parquet is not what was recorded" in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["suite.json", "sums.json", "*"])
def test_a_published_suite_that_lost_a_file_of_its_raw_rows_is_still_one_and_says_so(
    published: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (published / "raw").glob(lost):
        path.unlink()
    named = f"{published}/raw: {'sums.json' if lost == '*' else lost} is missing. Restore what was published"
    assert command("verify", published) == 1
    assert named in capsys.readouterr().out
    assert command("table", published) == 3
    assert named in capsys.readouterr().err
    with pytest.raises(RecordError, match="is missing"):
        published_site(published.parent, published.parent / "site")


def test_raw_rows_of_another_suite_are_not_taken_for_its_own(
    recorded: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(published / "raw")
    suite = recorded_suite(recorded)
    write_raw(published / "raw", replace_fields(suite, name="other"))
    assert command("table", published) == 3
    assert f"{published}: raw/suite.json is not what was recorded" in capsys.readouterr().err
    (published / "sums.json").unlink()
    assert opened(published).name == "other"


def test_a_point_of_an_ablation_may_be_called_raw(tmp_path: Path) -> None:
    write_cell(tmp_path / "beta" / "raw", "base", None, drawn("base", 0))
    assert not raw_rows.is_published(tmp_path / "beta")


@pytest.mark.usefixtures("without_figures")
def test_rows_that_were_forged_with_their_checksums_no_longer_make_the_tables(published: Path) -> None:
    path = published / "raw" / "samples.parquet"
    samples = pd.read_parquet(path)
    samples.loc[samples["cell"] == "gvpo-s0", "score"] = 1.0
    samples.to_parquet(path, index=False)
    write_own_sums(published / "raw")
    write_own_sums(published)
    assert any("table.csv: row 2 (gvpo GVPO): avg_at_k is 0.6875" in line for line in verify_published(published))


def test_a_later_format_is_refused(published: Path) -> None:
    path = published / "raw" / "suite.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    write_own_sums(published / "raw")
    assert "has format 2, and this gvpo-bench reads 1" in verify_published(published)[0]


@pytest.mark.usefixtures("without_figures")
def test_publishing_again_replaces_the_folder_and_raw_rows_say_how_it_is_shown(
    runs: Path, published: Path, tmp_path: Path
) -> None:
    folder = publish_suite(runs, published.parent, baseline="gvpo", highlight=["grpo"])
    assert folder == published
    assert not (folder / "figures").exists()
    table = (folder / "table.md").read_text()
    assert "Δ to GVPO" in table
    assert "**GRPO**" in table
    again = publish_suite(folder, tmp_path / "again")
    assert contents(again) == contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("without_figures")
def test_trials_that_are_published_stand_behind_a_suite_whose_runs_have_none_beside_them(
    recorded: Path, tmp_path: Path
) -> None:
    trials = pd.DataFrame({"algorithm": ["gvpo"] * 2, "trial": [0, 1], "lr": [1e-3, 1e-4], "score": [0.25, 0.5]})
    trials[["max_norm", "failed"]] = [1.0, False]
    (tuning := tmp_path / "results" / "tuning" / "small").mkdir(parents=True)
    trials.to_csv(tuning / "trials.csv", index=False)
    kept = opened(publish_suite(recorded, tmp_path / "results")).trials
    assert kept is not None
    assert kept["score"].tolist() == [0.25, 0.5]


def test_a_folder_of_something_else_is_not_replaced(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "results" / "small").mkdir(parents=True)
    (tmp_path / "results" / "small" / "thesis.txt").write_text("mine")
    with pytest.raises(PublishError, match="is no published suite"):
        publish_suite(runs, tmp_path / "results")
    assert (tmp_path / "results" / "small" / "thesis.txt").read_text() == "mine"


def test_everything_that_is_wrong_with_a_suite_is_listed_and_nothing_is_written(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(runs / "gvpo-s1")
    shutil.rmtree(runs / "gvpo-s2")
    shutil.rmtree(runs / "base")
    (runs / "grpo-s2" / "manifest.json").unlink()
    change(runs / "grpo-s0", git={"commit": "0123abc", "dirty": True})
    change(runs / "gvpo-s0", trained_with={"git": {"commit": "9999999", "dirty": False}, "versions": {"torch": "1"}})
    change(runs / "ppo-s0", git=None)
    write_cell(runs, "gvpo", 2, drawn("gvpo", 2), curve=[0.5])  # anew, without checksums
    assert command("publish", runs, "--out", tmp_path / "results") == 3
    told = capsys.readouterr().err
    for line in (
        "\n  not finished: grpo-s2\n",
        "\n  not there: base, gvpo-s1\n",
        "\n  without checksums (gvpo-bench verify --record adds them): gvpo-s2\n",
        "\n  3 commits (",
        "\n  2 sets of versions (",
        "\n  run with uncommitted changes: grpo-s0\n",
        "\n  run from no commit: ppo-s0\n",
    ):
        assert line in told
    assert "9999999" in told
    assert not (tmp_path / "results").exists()


def test_an_ablation_lacks_what_any_of_its_points_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_small_ablation(tmp_path / "runs" / "small")
    write_cell(runs / "1", "grpo", 0, drawn("grpo", 0), curve=[0.5], suite_hash="1")
    shutil.rmtree(runs / "0.1" / "gvpo-s1")
    assert command("publish", runs, "--out", tmp_path / "results") == 3
    assert "\n  not there: 0.1/grpo-s0, 0.1/grpo-s1, 0.1/gvpo-s1, 1/grpo-s1\n" in capsys.readouterr().err
    shutil.rmtree(runs / "0.1")
    assert command("publish", runs, "--out", tmp_path / "results") == 3
    assert "\n  not there: 0.1/grpo-s0, 0.1/grpo-s1, 0.1/gvpo-s0, 0.1/gvpo-s1, 1/grpo-s1\n" in capsys.readouterr().err


def test_changes_beside_the_code_of_a_commit_are_no_changes_of_it() -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()

    def told(code: str | None, commit: str = head) -> list[str]:
        manifest = {"git": {"commit": commit, "dirty": True}, "code_sha256": code}
        return list(unclean([cast(RecordedCell, SimpleNamespace(name="a", manifest=manifest))]))

    assert told(code_of_commit(head)) == []
    assert told("another") == ["run with uncommitted changes: a"]
    assert told(None) == ["run with uncommitted changes: a"]
    assert told(None, commit="0" * 40) == ["run with uncommitted changes: a"]


def test_cells_that_do_not_fit_their_checksums_are_not_published(runs: Path, tmp_path: Path) -> None:
    (runs / "gvpo-s0" / "metrics.jsonl").write_text("")
    assert command("publish", runs, "--out", tmp_path / "results") == 3
    assert not (tmp_path / "results").exists()


def test_a_suite_of_the_package_has_all_of_its_cells_with_its_own_settings(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "small.toml"
    suite.write_text(
        'name = "small"\nseeds = 3\n[train]\nbenchmark = "arithmetic-train"\nsteps = 1\nprompts = 8\nsamples = 4\n'
        'max_new_tokens = 4\n[evaluation]\nbenchmarks = ["arithmetic"]\n[report]\nbaseline = "grpo"\n'
        "[algorithms.grpo]\noptimizer = { lr = 1e-3, max_norm = 1.0 }\n"
        "[algorithms.dpo]\noptimizer = { lr = 1e-3, max_norm = 1.0 }\n"
    )
    assert command("publish", recorded, "--suite", suite, "--out", tmp_path / "results") == 3
    told = capsys.readouterr().err
    assert "not there: dpo-s0, dpo-s1, dpo-s2\n" in told
    assert "not cells of the suite as its file has it: gvpo-s0, gvpo-s1, gvpo-s2, ppo-s0, ppo-s1, ppo-s2\n" in told
    assert "run with other settings than the suite's file has: base, grpo-s0, grpo-s1, grpo-s2\n" in told


def test_the_card_says_what_was_compared_on_what_how_and_what_is_not_claimed(published: Path) -> None:
    card = (published / "card.md").read_text()
    for told in (
        "3 rows of the table, seeds 0 to 2: GVPO, GRPO, ppo.",
        "Failed: 3 of 10 runs; ppo-s0 (FloatingPointError: the loss is NaN at step 3)",
        "Scored on: arithmetic (4 problems); hard split, apart from the score: arithmetic-hard (2 problems).",
        "Budget of a run: benchmark arithmetic, steps 30,",
        "Command: `gvpo-bench sweep synthetic.toml`.",
        "Git commit: `0123abc`.",
        "No test: 3 seeds are fewer than the 12 that one takes.",
        "Seconds are those of one machine",
        "No gradient coefficients of ppo: it failed.",
    ):
        assert told in card, told


README = """# Mine
<!-- results: small = on-policy; other -->
old
<!-- end -->
kept
"""


def test_the_readme_has_the_scores_of_the_suites_that_its_marker_names(published: Path, tmp_path: Path) -> None:
    assert suites_of("small = on-policy; other") == {"small": "on-policy", "other": "other"}
    shutil.copytree(published, published.with_name("other"))
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert update_readme(readme, published.parent, "small")
    lines = readme.read_text().splitlines()
    assert lines[:2] + lines[-2:] == ["# Mine", "<!-- results: small = on-policy; other -->", "<!-- end -->", "kept"]
    assert lines[2] == "| avg@8 after training | on-policy | other |"
    assert [line.split(" | ")[0] for line in lines[4:-2]] == ["| base", "| GVPO", "| GRPO", "| ppo"]
    assert lines[5].startswith("| GVPO | 0.688 ± ")
    assert lines[7] == "| ppo | – | – |"
    readme.write_text("no markers")
    assert not update_readme(readme, published.parent, "small")
    assert readme.read_text() == "no markers"
    (published.with_name("other") / "table.csv").write_text("point,label\n")
    write_own_sums(published.with_name("other"))
    with pytest.raises(PublishError, match="is that of an ablation"):
        with_tables(README, published.parent)


def test_the_readme_takes_no_number_of_a_suite_that_is_not_as_it_was_published(published: Path) -> None:
    other = Path(shutil.copytree(published, published.with_name("other")))
    replace("table.csv", ",0.6875,", ",0.8875,")(other)
    with pytest.raises(PublishError, match=r"other: table\.csv is not what was recorded.*\(git checkout\)"):
        with_tables(README, published.parent)
    (other / "sums.json").unlink()
    replace("benchmarks.csv", ",k,", ",kk,")(other)
    with pytest.raises(PublishError, match=r"benchmarks\.csv has no column k: publish the suite anew"):
        with_tables(README, published.parent)
    (other / "table.csv").write_text("")
    with pytest.raises(PublishError, match=r"table\.csv cannot be read \(No columns to parse"):
        with_tables(README, published.parent)


@pytest.mark.usefixtures("without_figures")
def test_a_readme_that_also_names_what_is_not_published_yet_is_left_as_it_is(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert command("publish", runs, "--out", tmp_path / "results", "--readme", readme) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "README.md is left as it is: " in told
    assert "other/table.csv does not exist: publish the suite, or take it out" in told
    assert readme.read_text() == README


def test_the_readme_of_the_project_shows_what_is_published() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- results: " in text
    assert with_tables(text, ROOT / "results") == text


FAMILIES = {"grpo": "clipped ratio", "gvpo": "regression", "kimi": "regression", "sft": "supervised"}


def test_rows_stand_under_families_and_what_did_not_run_in_a_suite_has_a_dash() -> None:
    def table(**scores: float) -> pd.DataFrame:
        rows = [
            {"algorithm": label, "name": label.upper(), "family": FAMILIES.get(label), "avg_at_k": value}
            | {"ci_low": value - 0.01, "ci_high": value + 0.01, "p_holm": 0.01 if label == "gvpo" else float("nan")}
            for label, value in scores.items()
        ]
        return pd.DataFrame(rows)

    three = [table(base=0.2, grpo=0.5, gvpo=0.6, kimi=0.7), table(base=0.2, gvpo=0.8), table(base=0.2, sft=0.4)]
    assert score_rows(three) == [
        ["BASE", "0.200 ± 0.010", "0.200 ± 0.010", "0.200 ± 0.010"],
        ["*supervised*", "", "", ""],
        ["SFT", "–", "–", "0.400 ± 0.010"],
        ["*clipped ratio*", "", "", ""],
        ["GRPO", "0.500 ± 0.010", "–", "–"],
        ["*regression*", "", "", ""],
        # a mean of .7 each: by label
        ["GVPO", "**0.600 ± 0.010**", "**0.800 ± 0.010**", "–"],
        ["KIMI", "0.700 ± 0.010", "–", "–"],
    ]


def test_the_raw_rows_that_are_committed_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "results").glob("*/raw/*")) <= LIMIT


@pytest.mark.usefixtures("without_figures")
def test_a_published_suite_is_reported_elsewhere_and_stays_as_it_is(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(published)
    assert command("report", published) == 3
    assert "this is published, and stays as it is; give another --out" in capsys.readouterr().err
    suite = write_suite(tmp_path, tmp_path / "no-model")  # it is called small, too
    assert command("sweep", suite, "--out", published.parent) == 3
    assert f"{published}: this is published" in capsys.readouterr().err
    assert not (published.parent / "runs").exists()
    assert command("report", published.parent / "runs" / "small") == 3  # whose report would stand there
    assert command("report", published, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "table.csv").read_bytes() == (published / "table.csv").read_bytes()
    assert files(published) == before
    assert opened(published).name == "small"


@pytest.mark.usefixtures("without_figures")
def test_a_relative_path_is_that_of_the_folder(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Path(shutil.copytree(recorded, tmp_path / "out" / "runs" / "small"))
    before = contents(runs)
    for place, name in ((runs.parent, "small"), (runs, ".")):
        monkeypatch.chdir(place)
        assert command("report", name) == 0
        assert (tmp_path / "out" / "small" / "table.csv").is_file()
        shutil.rmtree(tmp_path / "out" / "small")
    assert contents(runs) == before
