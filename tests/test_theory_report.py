"""What the run of the theory leaves behind."""

from __future__ import annotations

import pandas as pd
import pytest

from algorithms import ALGORITHMS
from harness.theory import estimator, fixed_batch
from harness.theory.claims import PARTS, run, to_latex, to_markdown, to_table, write_results
from harness.theory.every_algorithm import where_it_ends
from harness.theory.findings import SMALL, Record
from harness.theory.theory_figures import FIGURES, draw

COLUMNS = [
    "claim",
    "equation",
    "setting",
    "quantity",
    "measured",
    "expected",
    "tolerance",
    "holds",
    "samples",
    "seconds",
]


def test_a_row_holds_within_its_tolerance_and_a_nan_never():
    record = Record("claim")
    record.near("eq", "s", "q", 1.0 + 1e-7, 1.0, tolerance=1e-6)
    record.near("eq", "s", "q", 1.0 + 1e-5, 1.0, tolerance=1e-6)
    record.near("eq", "s", "q", float("nan"), 1.0, tolerance=1e-6)
    record.above("eq", "s", "q", 0.5, 0.01)
    record.above("eq", "s", "q", 0.001, 0.01)
    record.report("eq", "s", "q", 3.0)
    assert [row.holds for row in record.rows] == ["yes", "no", "no", "yes", "no", "n.a."]
    assert [row.expected for row in record.rows] == ["1", "1", "1", "> 0.01", "> 0.01", ""]


def test_the_table_comes_in_three_formats_with_its_origin_and_what_does_not_hold(tmp_path):
    records = [fixed_batch.one_batch(SMALL, 0), Record("1 unique optimum")]
    records[1].near("seed eq. 99", "here", "a | b", 1.0, 0.0, tolerance=1e-6)
    ends = where_it_ends("sft", ALGORITHMS["sft"], SMALL, 0)
    write_results(tmp_path, to_table(records), records[0].frames, ends, command="gvpo-bench theory", began=0.0)
    assert "the given answers" in (tmp_path / "optimum_by_algorithm.md").read_text()
    assert list(pd.read_csv(tmp_path / "optimum_by_algorithm.csv")["ends_at"]) == ["the given answers"]
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.columns) == COLUMNS
    assert table.claim.iloc[0] == "1 unique optimum"
    text = (tmp_path / "table.md").read_text()
    assert "gvpo-bench theory" in text
    assert "torch" in text
    failures = text.split("## What does not hold as stated")[1].split("\n## ")[0]
    assert "seed eq. 99" in failures
    assert "a \\| b" in failures
    assert "| Σ w |" in text
    assert "longtable" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "figures" / "coefficients.png").stat().st_size > 1000
    assert (tmp_path / "figures" / "coefficients.svg").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_seven_claims_are_run_and_their_frames_are_drawn(tmp_path):
    assert len({part.__module__ for part in PARTS}) == 7
    records = [estimator.monte_carlo(SMALL, 0), fixed_batch.one_batch(SMALL, 0)]
    frames = {name: frame for record in records for name, frame in record.frames.items()}
    assert set(frames) <= {name for needed, _ in FIGURES.values() for name in needed}
    assert {path.stem for path in draw(frames, tmp_path)} == {"estimator", "coefficients"}


def test_markdown_and_latex_escape_what_their_formats_reserve():
    record = Record("claim")
    record.near("eq", "k_1 & 5%", "|x|", 0.0, tolerance=1.0)
    table = to_table([record])
    assert "\\|x\\|" in to_markdown(table, {}, "made", pd.DataFrame())
    assert "k\\_1 \\& 5\\%" in to_latex(table, "made")


def test_no_workers_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="workers is 0"):
        run(tmp_path, workers=0)
