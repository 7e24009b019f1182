"""What several machines ran as one table, and what cannot be one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from publishing import change, drawn, seal, write_small
from small import command
from synthetic_runs import config, write_cell

from harness.publish.joining import joined, other_numbers
from harness.publish.raw_rows import RAW, PublishError, opened, write_raw
from harness.publish.recompute import verify_published
from harness.report import figures
from harness.report.trials import trials_of_suite


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda **given: [])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Seeds 0 and 1 of GRPO and GVPO here, seed 2 there; the base is in both."""
    folder = tmp_path_factory.mktemp("both")
    here = write_small(folder / "here" / "runs" / "small", range(2), failed=False)
    return here, write_small(folder / "there" / "runs" / "small", range(2, 3), failed=False)


@pytest.fixture
def parts(both: tuple[Path, Path], tmp_path: Path) -> list[Path]:
    """Copies that a test may change."""
    return [Path(shutil.copytree(part, tmp_path / part.parts[-3] / "runs" / "small")) for part in both]


def test_joined_runs_make_the_table_of_all_of_them(
    both: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("merge", *both, "--out", tmp_path / "joined") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "in more than one, with the same numbers, and taken once: base" in told
    assert "7 cells: " in told
    whole = write_small(tmp_path / "runs" / "small", range(3), failed=False)
    assert command("report", whole, "--out", tmp_path / "whole") == 0
    for name in ("table.csv", "table.tex", "seeds.csv"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert verify_published(tmp_path / "joined") == []
    # and raw rows join as runs do
    assert command("merge", tmp_path / "joined", both[0], "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "table.csv").read_bytes() == (tmp_path / "joined" / "table.csv").read_bytes()
    assert command("merge", *both, "--out", tmp_path / "joined") == 3
    assert "joined exists; give another --out" in capsys.readouterr().err


def test_gradient_coefficients_are_those_of_the_first_and_others_say_why_they_are_missing(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    there = write_small(tmp_path / "runs" / "small", range(3), ("grpo", "pg"), failed=False)
    suite = joined([both[0], there]).suite
    assert suite.coefficients is not None
    assert set(suite.coefficients["algorithm"]) == {"grpo", "gvpo"}
    assert suite.left_out["pg"] == "its runs were joined from elsewhere, where the batch was not this one"


def settings(**changes: Any) -> dict[str, Any]:
    """The config of a synthetic cell with a change of a key of one of its sections."""
    changed = config()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        changed[section] = {**changed[section], name: value}
    return changed


def everywhere(**fields: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for cell in folder.iterdir():
            if cell.name != "coefficients":
                change(cell, **fields)

    return spoil


def other_problems(folder: Path) -> None:
    for cell in folder.glob("*/samples.parquet"):
        samples = pd.read_parquet(cell)
        samples["problem_id"] = samples["problem_id"].replace("arithmetic-0", "arithmetic-9")
        samples.to_parquet(cell)
        change(cell.parent)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (everywhere(versions__grader="2"), 'version of grader: null ({here}: base); "2" ({there}: base)'),
        (everywhere(config__train__steps=40), "train.steps: 30 ({here}: base); 40 ({there}: base)"),
        (everywhere(config__evaluation__temperature=0.5), "evaluation.temperature: 1.0 ({here}: base); 0.5 ("),
        (everywhere(suite_hash="0"), 'suite_hash: "5a17e0000000cafe" ({here}: base); "0" ({there}: base)'),
        (everywhere(code_sha256="abc"), 'code_sha256: null ({here}: base); "abc" ({there}: base)'),
        (
            lambda folder: change(folder / "gvpo-s2", config__algorithm__optimizer__lr=1.0),
            "algorithm of gvpo.optimizer.lr: 0.0001 ({here}: gvpo-s0); 1.0 ({there}: gvpo-s2)",
        ),
        (
            lambda folder: change(folder / "gvpo-s2", config__tuning__trials=99),
            "tuning of gvpo.trials: 16 ({here}: gvpo-s0); 99 ({there}: gvpo-s2)",
        ),
        (other_problems, 'problems: "arithmetic 4 problems, 32 samples, arithmetic-hard 2 problems, 16 samples (ids '),
    ],
)
def test_what_cannot_be_compared_is_refused_with_both_values(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], told: str
) -> None:
    here, there = parts
    spoil(there)
    assert command("merge", here, there, "--out", tmp_path / "joined") == 3
    assert f"\n  {told.format(here=here, there=there)}" in capsys.readouterr().err
    assert not (tmp_path / "joined").exists()


def test_other_weights_are_refused_where_both_recorded_which(parts: list[Path]) -> None:
    here, there = parts
    everywhere(weights="aaa")(there)
    assert len(joined(parts).suite.cells) == 7  # a part that was recorded before does not say
    everywhere(weights="bbb")(here)
    with pytest.raises(PublishError, match=r'weights: "bbb" \(.*base\); "aaa"'):
        joined(parts)


def test_how_often_samples_are_kept_is_no_difference(parts: list[Path]) -> None:
    for folder, every in zip(parts, (5, 10), strict=True):
        everywhere(config__train__keep_samples_every=every)(folder)
    assert len(joined(parts).suite.cells) == 7


def test_a_cell_that_is_there_twice_with_other_numbers_is_refused(parts: list[Path]) -> None:
    here, there = parts
    shutil.copytree(here / "gvpo-s0", there / "gvpo-s0")
    assert joined(parts).twice == ["base", "gvpo-s0"]
    shutil.rmtree(there / "gvpo-s0")
    write_cell(there, "gvpo", 0, drawn("gvpo", 1), kl=0.1, curve=[0.25, 0.5, 0.625])
    seal(there)
    # over both benchmarks, four problems with 6 + 5 + 4 + 3 of 8 right and two with 4 + 3: 25 of 48; then 31 of 48
    with pytest.raises(PublishError, match=f"cell gvpo-s0 .*: score 0.520833 in {here}, score 0.645833 in {there}"):
        joined(parts)


def test_numbers_are_the_same_whatever_the_seconds_and_not_where_metrics_or_the_end_differ(parts: list[Path]) -> None:
    here, there = parts
    copy = shutil.copytree(here / "gvpo-s0", there / "gvpo-s0")

    def compared() -> tuple[str, str] | None:
        cells = [next(cell for cell in opened(part).cells if cell.name == "gvpo-s0") for part in parts]
        return other_numbers(*cells)

    for folder, seconds in ((here / "gvpo-s0", 1.0), (copy, 2.0)):
        rows = pd.read_json(folder / "metrics.jsonl", lines=True).assign(seconds=seconds)
        rows.to_json(folder / "metrics.jsonl", orient="records", lines=True)
        change(folder)
    assert compared() is None
    rows.assign(reward=0.5).to_json(copy / "metrics.jsonl", orient="records", lines=True)
    change(copy)
    # a curve of .25, .5 and .625
    assert compared() == ("mean training reward 0.458333", "mean training reward 0.5")
    rows.assign(length=99.0).to_json(copy / "metrics.jsonl", orient="records", lines=True)
    change(copy)
    told = compared()
    assert told is not None
    assert told[1] == "mean training reward 0.458333 with other metrics of its training"
    change(copy, status="failed")
    assert compared() == ("finished", "failed")


def test_raw_rows_have_the_numbers_of_their_cells_whatever_the_order_of_the_metrics(
    parts: list[Path], tmp_path: Path
) -> None:
    here, _ = parts
    path = here / "gvpo-s1" / "metrics.jsonl"
    rows = pd.read_json(path, lines=True)
    rows.assign(critic=None)[["step", "critic", *reversed(list(rows)[1:])]].to_json(path, orient="records", lines=True)
    change(here / "gvpo-s1")
    write_raw(tmp_path / "published" / RAW, opened(here))
    assert joined([here, tmp_path / "published"]).twice == ["base", "grpo-s0", "grpo-s1", "gvpo-s0", "gvpo-s1"]


@pytest.fixture
def by_algorithm(tmp_path: Path) -> list[Path]:
    """GRPO here and GVPO there, each its own baseline; GVPO ran last."""
    folders = []
    for day, label in enumerate(("grpo", "gvpo"), start=1):
        runs = write_small(tmp_path / label / "runs" / "small", range(2), (label,), failed=False)
        everywhere(config__report__baseline=label, date=f"2026-01-0{day}")(runs)
        folders.append(runs)
    return folders


def test_laboratories_may_split_a_suite_by_algorithm(by_algorithm: list[Path], tmp_path: Path) -> None:
    assert command("merge", *by_algorithm, "--out", tmp_path / "joined") == 0
    table = (tmp_path / "joined" / "table.md").read_text()
    assert "Δ to GVPO" in table
    assert "GRPO" in table


def write_trials(runs: Path, label: str, trials: int) -> None:
    (folder := trials_of_suite(runs).parent).mkdir(parents=True)
    rows = pd.DataFrame({"algorithm": label, "trial": range(trials), "lr": 1e-3, "score": 0.25})
    rows.assign(max_norm=1.0, failed=False).to_csv(folder / "trials.csv", index=False)


def test_trials_are_those_of_all_algorithms(by_algorithm: list[Path]) -> None:
    for runs, label in zip(by_algorithm, ("grpo", "gvpo"), strict=True):
        write_trials(runs, label, 2)
    trials = joined(by_algorithm).suite.trials
    assert trials is not None
    assert trials["algorithm"].tolist() == ["grpo", "grpo", "gvpo", "gvpo"]


def test_searches_of_unequal_budgets_are_not_joined(by_algorithm: list[Path]) -> None:
    write_trials(by_algorithm[0], "grpo", 2)
    write_trials(by_algorithm[1], "gvpo", 3)
    with pytest.raises(PublishError, match="gvpo has trials 3 and grpo 2, which is no fair search"):
        joined(by_algorithm)


def test_one_folder_is_nothing_to_join(both: tuple[Path, Path]) -> None:
    with pytest.raises(PublishError, match="two folders or more"):
        joined([both[0], both[0]])
