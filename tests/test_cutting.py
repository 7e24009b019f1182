"""The table that a paper needs: some columns, some algorithms, in four formats, from one source."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from publishing import write_small, write_small_ablation
from small import command

from harness.publish.cutting import cut
from harness.publish.raw_rows import opened
from harness.report.choice import report_of
from harness.report.page import Publication, shorten
from harness.suite.config import ConfigError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("cut") / "runs" / "small")


@pytest.fixture(scope="module")
def publication(runs: Path) -> Publication:
    return report_of(opened(runs)).publication


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return report_of(opened(write_small_ablation(tmp_path_factory.mktemp("cut") / "runs" / "beta"))).publication


# GVPO has a mean of 5.5/8 over its three seeds and four problems, GRPO of 3.5/8 (a seed of 4, 5 and 6 of 8 right on
# the first problem, one less on each further: 2.5, 3.5 and 4.5), the base of 3/32: 2, 1, 0 and 0 of 8
def test_rows_and_columns_come_in_the_order_asked_for_as_text_and_as_numbers(publication: Publication) -> None:
    found = cut(publication, ["diff", "avg_at_k"], ["gvpo", "base"])
    assert list(found.shown.columns) == ["algorithm", "Δ to GRPO", "avg@8"]
    assert found.shown.columns["algorithm"] == ["GVPO", "base"]
    assert [text.split(" ")[0] for text in found.shown.columns["avg@8"]] == ["0.688", "0.094"]
    assert found.shown.columns["Δ to GRPO"][1] == ""
    assert list(found.numbers) == [
        *("algorithm", "name", "diff", "diff_ci_low", "diff_ci_high", "avg_at_k", "ci_low", "ci_high"),
    ]
    assert found.numbers["diff"].iloc[0] == pytest.approx(0.25)
    assert found.notes[-1] == "2 of the 4 rows of the table: tests are corrected over all of those of the whole one."


def test_without_a_choice_it_is_the_first_table(publication: Publication) -> None:
    found = cut(publication)
    first = publication.shown["scores"]
    assert found.shown.columns == first.columns
    assert found.notes == publication.notes


def test_columns_of_every_table_and_those_that_no_table_shows_can_be_cut(publication: Publication) -> None:
    found = cut(publication, ["detectable", "lr", "seeds", "budget", "protocol", "command", "commit"], ["gvpo"])
    assert found.shown.columns["lr"] == ["0.0001"]
    assert found.shown.columns["seeds"] == ["0 to 2"]
    assert found.shown.columns["budget"] == ["benchmark arithmetic, steps 30, prompts 32, samples 8, temperature 1.0"]
    assert "samples 8" in found.shown.columns["protocol"][0]
    assert found.shown.columns["command"] == ["gvpo-bench sweep synthetic.toml"]
    assert found.shown.columns["commit"] == ["0123abc"]
    assert float(found.shown.columns["detectable Δ"][0]) == pytest.approx(found.numbers["detectable"][0], abs=5e-4)


def test_what_is_not_there_is_refused_with_what_is(publication: Publication) -> None:
    with pytest.raises(ConfigError, match=r"--columns accuracy: .*choose from: n_seeds, avg_at_k, diff, p_holm"):
        cut(publication, ["avg_at_k", "accuracy"])
    with pytest.raises(ConfigError, match=r"--algorithms gpvo: .*choose from: base, gvpo, grpo, ppo"):
        cut(publication, [], ["gpvo"])
    with pytest.raises(ConfigError, match="--columns ci_low"):  # it comes with its value
        cut(publication, ["ci_low"])


def test_rows_of_an_ablation_keep_their_points(ablation: Publication) -> None:
    found = cut(ablation, ["avg_at_k", "point_diff"], ["gvpo"])
    assert found.shown.columns["β"] == ["0.1", "1"]
    assert list(found.shown.columns) == ["β", "algorithm", "avg@8", "Δ to 1"]
    assert list(found.numbers[["point", "label"]].itertuples(index=False, name=None)) == [
        ("0.1", "gvpo"),
        ("1", "gvpo"),
    ]


def test_a_table_is_printed_or_written_in_the_format_of_its_name(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--columns", "avg_at_k, p_holm", "--algorithms", "base,gvpo")
    assert command("table", runs, *chosen) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| algorithm | avg@8 | p (Holm) |\n| --- | ---: | ---: |\n| base | 0.094 ± ")
    assert "\n- " in printed
    assert command("table", runs, *chosen, "--format", "csv") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(table["algorithm"]) == ["base", "gvpo"]
    for kind in ("md", "tex", "csv", "parquet"):
        out = tmp_path / f"cut.{kind}"
        assert command("table", runs, *chosen, "--out", out) == 0
        assert f"table: {out}" in re.sub(r"\s*\n", "", capsys.readouterr().out)
    assert (tmp_path / "cut.md").read_text() == printed
    assert r"\toprule" in (tmp_path / "cut.tex").read_text()
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "cut.parquet"), pd.read_csv(tmp_path / "cut.csv"), check_dtype=False
    )
    assert command("table", runs, "--out", tmp_path / "cut.md") == 3
    assert "cut.md exists; give another --out" in capsys.readouterr().err
    assert command("table", runs, "--format", "parquet") == 2
    assert "give a file, --out table.parquet" in capsys.readouterr().err
    assert command("table", runs, "--columns", "accuracy") == 2


def test_a_command_is_published_without_one_machines_folders() -> None:
    machine = ["/home/me/.venv/bin/gvpo-bench", "sweep", "/data/mine.toml", "--out", "/scratch", "--seeds", "3"]
    assert shorten(machine) == ["gvpo-bench", "sweep", "mine.toml", "--seeds", "3"]
    assert shorten(["gvpo-bench", "sweep", "embedded", "--out=/scratch"]) == ["gvpo-bench", "sweep", "embedded"]
    assert shorten([]) == []
