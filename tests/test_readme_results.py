"""The numbers on the README's first screen are those of the committed tables."""

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
SUITES = ["embedded", "embedded-reuse", "embedded-stale"]


def readme_rows() -> list[list[str]]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- results -->")[2]
    table = section.partition("<!-- /results -->")[0]
    rows = [line.strip("| \n").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.mark.parametrize(("column", "suite"), list(enumerate(SUITES, start=1)))
def test_readme_shows_the_committed_scores_and_intervals(column, suite):
    table = pd.read_csv(ROOT / "results" / suite / "table.csv").set_index("name")
    rows = readme_rows()
    assert sorted(row[0] for row in rows) == sorted(table.index)
    for row in rows:
        score, half_width = map(float, re.findall(r"\d\.\d+", row[column]))
        own = table.loc[row[0]]
        assert score == pytest.approx(own["avg_at_k"], abs=0.0005), (row[0], suite)
        assert half_width == pytest.approx((own["ci_high"] - own["ci_low"]) / 2, abs=0.0005), (row[0], suite)
        significant = own["p_holm"] < 0.05
        assert row[column].startswith("**") == significant, f"{row[0]}: bold where it differs significantly, only"
