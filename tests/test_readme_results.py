"""The numbers on the README's first screen are those of the committed tables.

`python tests/test_readme_results.py` prints the table anew: under families where a committed table has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pandas as pd

from algorithms.base import Family
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown
from harness.report.columns import SIGNIFICANT, with_interval

ROOT = Path(__file__).parent.parent
SUITES = {
    "embedded": "on-policy",
    "embedded-reuse": "each batch reused 4×",
    "embedded-stale": "stale sampling policy",
}


def committed() -> list[pd.DataFrame]:
    return [pd.read_csv(ROOT / "results" / suite / "table.csv") for suite in SUITES]


def score(table: pd.DataFrame, label: str) -> str:
    own = table[table["algorithm"] == label]
    if own.empty or own["avg_at_k"].isna().all():
        return "–"
    row = own.iloc[0]
    text = with_interval(row["avg_at_k"], row["ci_low"], row["ci_high"], 3)
    return f"**{text}**" if row["p_holm"] < SIGNIFICANT else text


def results_rows(tables: Sequence[pd.DataFrame]) -> list[list[str]]:
    """The base, then every algorithm of any table, the highest mean score of its suites first; "–" where it did not run
    or has no score. Under a row a family where a table has families."""
    every = pd.concat(tables, ignore_index=True)
    about = every.groupby("algorithm").agg(name=("name", "first"), score=("avg_at_k", "mean"))
    about = about.sort_values("score", ascending=False, kind="stable")

    def row(label: str) -> list[str]:
        return [escape_markdown(str(about.loc[label, "name"])), *(score(table, label) for table in tables)]

    trained = about.index.drop("base")
    if "family" not in every:
        return [row("base"), *map(row, trained)]
    family = every.dropna(subset="family").groupby("algorithm")["family"].first()
    rows = [row("base")]
    for name in get_args(Family):
        labels = [label for label in trained if family.get(label, "other") == name]
        rows += [[f"*{name}*", *[""] * len(tables)], *map(row, labels)] if labels else []
    return rows


def readme_rows() -> list[list[str]]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- results -->")[2]
    table = section.partition("<!-- /results -->")[0]
    rows = [line.strip("\n").removeprefix("| ").removesuffix(" |") for line in table.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def test_readme_shows_the_committed_scores_and_intervals() -> None:
    tables = committed()
    shown, expected = readme_rows(), results_rows(tables)
    if any("family" in table for table in tables):
        assert shown == expected
    assert sorted(shown) == sorted(expected)


def test_rows_stand_under_families_and_what_did_not_run_in_a_suite_has_a_dash() -> None:
    def table(**scores: float) -> pd.DataFrame:
        rows = [
            {"algorithm": label, "name": label.upper(), "family": FAMILIES.get(label), "avg_at_k": value}
            | {"ci_low": value - 0.01, "ci_high": value + 0.01, "p_holm": 0.01 if label == "gvpo" else float("nan")}
            for label, value in scores.items()
        ]
        return pd.DataFrame(rows)

    three = [table(base=0.2, grpo=0.5, gvpo=0.6, kimi=0.7), table(base=0.2, gvpo=0.8), table(base=0.2, sft=0.4)]
    assert results_rows(three) == [
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


FAMILIES = {"grpo": "clipped ratio", "gvpo": "regression", "kimi": "regression", "sft": "supervised"}


if __name__ == "__main__":
    print(markdown_table(["avg@8 after training", *SUITES.values()], results_rows(committed())))
