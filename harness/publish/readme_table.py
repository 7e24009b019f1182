"""Tables of published scores in a README, between markers that say which suites they show.

<!-- results: embedded = on-policy; embedded-stale = stale sampling policy -->
| avg@8 after training | on-policy | stale sampling policy |
…
<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pandas as pd

from harness.publish.raw_rows import PublishError
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.record.sums import OWN_SUMS, own_faults
from harness.record.text import escape_markdown
from harness.report.columns import SIGNIFICANT, with_interval

MARKED = re.compile(r"(<!-- results: (?P<suites>[^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str, results: Path) -> str:
    """The text, with the table between each pair of markers as the published suites have it.

    Raises PublishError where a suite that is named has no table with scores by algorithm, or is not what its checksums
    say.
    """
    return MARKED.sub(lambda found: f"{found[1]}{score_table(suites_of(found['suites']), results)}\n{found[3]}", text)


def update_readme(readme: Path, results: Path, suite: str) -> bool:
    """Writes the tables between a README's markers anew. Returns whether one of them names the suite."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if not any(suite in suites_of(found["suites"]) for found in MARKED.finditer(text)):
        return False
    if (changed := with_tables(text, results)) != text:
        write(readme, changed)
    return True


def suites_of(marker: str) -> dict[str, str]:
    """The suites that a marker names, and what their columns are called: by default as the suite."""
    parts = [part.partition("=") for part in marker.split(";")]
    return {suite.strip(): title.strip() or suite.strip() for suite, _, title in parts}


def score_table(suites: Mapping[str, str], results: Path) -> str:
    """The scores of some published suites side by side, as Markdown."""
    for suite in suites:
        require_sound(results / suite)
    tables = {suite: published_table(results / suite) for suite in suites}
    ks = {k for suite in suites for k in samples_of(results / suite)}
    heading = f"avg@{ks.pop() if len(ks) == 1 else 'k'} after training"
    return markdown_table([heading, *map(escape_markdown, suites.values())], score_rows(list(tables.values())))


def require_sound(folder: Path) -> None:
    """Raises PublishError where a published folder that has checksums does not fit them."""
    if (folder / OWN_SUMS).is_file() and (faults := own_faults(folder)):
        raise PublishError(
            f"{folder}: {'; '.join(faults)}. Restore what was published (git checkout), or publish it anew"
        )


def published_table(folder: Path) -> pd.DataFrame:
    """The table of a published suite. Raises PublishError where there is none with a row an algorithm."""
    path = folder / "table.csv"
    if not path.is_file():
        raise PublishError(f"{path} does not exist: publish the suite, or take it out of the marker in the README")
    table = _read(path)
    if "algorithm" not in table:
        raise PublishError(f"{path} is that of an ablation, with points and algorithms: a README shows suites")
    return _with(path, table, ["name", "avg_at_k", "ci_low", "ci_high", "p_holm"])


def samples_of(folder: Path) -> set[int]:
    """The k of avg@k of its benchmarks. Raises PublishError where they are not said."""
    path = folder / "benchmarks.csv"
    return set(_with(path, _read(path), ["k"])["k"]) if path.is_file() else set()


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise PublishError(f"{path} cannot be read ({error}): publish the suite anew") from None


def _with(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    if missing := [name for name in columns if name not in table]:
        raise PublishError(f"{path} has no column {', '.join(missing)}: publish the suite anew")
    return table


def score_rows(tables: Sequence[pd.DataFrame]) -> list[list[str]]:
    """The base, then every algorithm of any table, the highest mean score of its suites first; "–" where it did not run
    or has no score. Under a row a family where a table has families.

    Imports torch, by the contract that names the families.
    """
    from algorithms.base import Family

    every = pd.concat(tables, ignore_index=True)
    about = every.groupby("algorithm").agg(name=("name", "first"), score=("avg_at_k", "mean"))
    about = about.sort_values("score", ascending=False, kind="stable")

    def row(label: str) -> list[str]:
        return [escape_markdown(str(about.loc[label, "name"])), *(_score(table, label) for table in tables)]

    trained = about.index.drop("base", errors="ignore")
    rows = [row("base")] if "base" in about.index else []
    if "family" not in every:
        return [*rows, *map(row, trained)]
    family = every.dropna(subset="family").groupby("algorithm")["family"].first()
    for name in [*get_args(Family), *sorted(set(family) - set(get_args(Family)))]:
        labels = [label for label in trained if family.get(label, "other") == name]
        rows += [[f"*{escape_markdown(name)}*", *[""] * len(tables)], *map(row, labels)] if labels else []
    return rows


def _score(table: pd.DataFrame, label: str) -> str:
    own = table[table["algorithm"] == label]
    if own.empty or own["avg_at_k"].isna().all():
        return "–"
    row = own.iloc[0]
    text = with_interval(row["avg_at_k"], row["ci_low"], row["ci_high"], 3)
    return f"**{text}**" if row["p_holm"] < SIGNIFICANT else text
