"""The columns of the tables as text: what a reader sees of the numbers of comparison.py."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd

from harness.suite.report_settings import Published

SIGNIFICANT = 0.05
TOO_FEW = "too few seeds to test"
NAME = "algorithm"
"""The heading of the column that names algorithms."""


@dataclass(frozen=True)
class TextTable:
    """A table as text, and how its rows are set."""

    columns: dict[str, list[str]]
    """By their heading; the first names the row."""
    significant: Mapping[str, list[bool]] = field(default_factory=dict)
    """Which cells of which column are significant."""
    families: Sequence[str] = ()
    """Of each row, "" for the base, where rows stand under the name of their family."""
    highlighted: Sequence[bool] = ()
    """Which rows are, where some are."""
    numbers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By heading, the columns of table.csv that stand there: the first names it, others are ends of its interval."""

    def without(self, left_out: Collection[str]) -> TextTable:
        """The same rows without some columns."""
        return replace(self, columns={name: texts for name, texts in self.columns.items() if name not in left_out})

    def blocks(self) -> Iterator[tuple[str, list[int]]]:
        """The rows that follow each other within a family, and its name; all of them under no name without families."""
        rows = range(len(next(iter(self.columns.values()))))
        families = self.families or [""] * len(rows)
        for family, block in groupby(rows, key=families.__getitem__):
            yield family, list(block)


class Column(NamedTuple):
    """A column of a table as text."""

    heading: str
    numbers: Sequence[str]
    """The columns of table.csv that it shows."""
    texts: list[str]


def text_table(
    table: pd.DataFrame,
    columns: Iterable[Column],
    highlight: Collection[str],
    significant: Mapping[str, list[bool]] | None = None,
) -> TextTable:
    """The text of a table whose rows are algorithms; a column that no row fills is left out."""
    filled = [column for column in columns if any(column.texts)]
    return TextTable(
        columns={column.heading: column.texts for column in filled},
        numbers={column.heading: column.numbers for column in filled},
        significant=significant or {},
        families=list(table["family"]) if "family" in table else (),
        highlighted=[label in highlight for label in table["algorithm"]] if highlight else (),
    )


def k_text(evaluation: dict[str, Any], benchmark: str | None = None) -> str:
    """k of avg@k, of one benchmark or of all; "k" where they differ."""
    samples = evaluation["samples"]
    found = {samples} if isinstance(samples, int) else set(samples.values())
    if benchmark is not None and not isinstance(samples, int):
        found = {samples[benchmark]}
    return str(found.pop()) if len(found) == 1 else "k"


def difference_heading(table: pd.DataFrame, baseline: str | None) -> str:
    """The heading of the column of differences to the baseline."""
    return f"Δ to {table.set_index('algorithm')['name'].get(baseline, '')}"


def is_significant(table: pd.DataFrame, baseline: str | None) -> dict[str, list[bool]]:
    """Which cells of which column are significant."""
    return {difference_heading(table, baseline): [bool(p < SIGNIFICANT) for p in table["p_holm"]]}


def with_interval(value: float, low: float, high: float, decimals: int, sign: str = "") -> str:
    """Value ± half the width of its interval; empty where there is no value."""
    if pd.isna(value):
        return ""
    text = f"{value:{sign}.{decimals}f}".replace("-", "−")
    return text if pd.isna(low) else f"{text} ± {(high - low) / 2:.{decimals}f}"


def interval_texts(table: pd.DataFrame, value: str, ci: str, decimals: int, sign: str = "") -> list[str]:
    """A column with its intervals, as text."""
    return [
        with_interval(row[value], row[f"{ci}_low"], row[f"{ci}_high"], decimals, sign) for _, row in table.iterrows()
    ]


def interval_column(table: pd.DataFrame, heading: str, value: str, ci: str, decimals: int, sign: str = "") -> Column:
    """A column with its intervals."""
    return Column(heading, (value, f"{ci}_low", f"{ci}_high"), interval_texts(table, value, ci, decimals, sign))


def score_column(
    table: pd.DataFrame, heading: str, value: str = "avg_at_k", ci: str = "ci", status: str = "status"
) -> Column:
    """Scores with their intervals, and the status of the runs where there is no score."""
    scores = interval_column(table, heading, value, ci, 3)
    texts = [score or why for score, why in zip(scores.texts, table[status], strict=True)]
    return scores._replace(texts=texts)


def in_brackets(row: pd.Series[Any], value: str, spec: str, ci: str | None = None) -> str:
    """A number and, where there is one, its interval in brackets."""
    low, high = (math.nan if ci is None else row[f"{ci}_{end}"] for end in ("low", "high"))
    interval = "" if pd.isna(low) else f" ({plain(low, spec)} to {plain(high, spec)})"
    return f"{plain(row[value], spec)}{interval}".replace("-", "−")


def plain_column(table: pd.DataFrame, heading: str, value: str, spec: str = "d") -> Column:
    """A column of numbers without intervals."""
    return Column(heading, (value,), [plain(number, spec) for number in table[value]])


def token_column(table: pd.DataFrame, heading: str, value: str) -> Column:
    """A column of numbers of tokens."""
    return Column(heading, (value,), [tokens(number) for number in table[value]])


def plain(value: Any, spec: str) -> str:
    """The number in a format spec; empty where there is none."""
    return "" if pd.isna(value) else f"{value:{spec}}"


def tokens(value: float) -> str:
    """A number of tokens in three digits and a unit."""
    if pd.isna(value):
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def p_texts(differences: Iterable[float], p_values: Iterable[float]) -> list[str]:
    """A column of corrected p-values; empty where there is no difference to test."""

    def text(difference: float, p: float) -> str:
        if pd.isna(difference):
            return ""
        return TOO_FEW if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"

    return [text(difference, p) for difference, p in zip(differences, p_values, strict=True)]


def published_columns(published: Sequence[Published], benchmarks: Sequence[str]) -> TextTable:
    """Others' numbers, the benchmarks in the order of ours."""
    names = [name for name in benchmarks if any(name in row.scores for row in published)]
    names += sorted({name for row in published for name in row.scores} - set(names))
    return TextTable(
        {
            "published elsewhere (%)": [row.label for row in published],
            **{name: [plain(row.scores.get(name, float("nan")), ".2f") for row in published] for name in names},
            "protocol": [row.protocol for row in published],
            "source": [row.source for row in published],
        }
    )


def score_columns(
    table: pd.DataFrame, k: str, baseline: str | None, k_of: Mapping[str, str], highlight: Collection[str] = ()
) -> TextTable:
    """The first table as text."""
    auc = interval_column(table, "reward AUC", "auc", "auc_ci", 3)
    none_drawn = table["auc"].isna() & (table["generated_tokens"] == 0) & (table["algorithm"] != "base")
    benchmarks = [str(column).removeprefix("avg_at_k_") for column in table if str(column).startswith("avg_at_k_")]
    shown = [
        Column(NAME, ("name",), list(table["name"])),
        plain_column(table, "seeds", "n_seeds"),
        score_column(table, f"avg@{k}"),
        *(
            [interval_column(table, f"avg@{k} by default", "default_avg_at_k", "default_ci", 3)]
            if "default_avg_at_k" in table
            else []
        ),
        *(
            interval_column(table, f"{name} avg@{k_of[name]}", f"avg_at_k_{name}", f"{name}_ci", 3)
            for name in benchmarks
        ),
        interval_column(table, difference_heading(table, baseline), "diff", "diff_ci", 3, "+"),
        Column("p (Holm)", ("p_holm", "p_value"), p_texts(table["diff"], table["p_holm"])),
        interval_column(table, f"hard avg@{k}", "hard_avg_at_k", "hard_ci", 3),
        *([interval_column(table, "IQM", "iqm", "iqm_ci", 3)] if "iqm" in table else []),
        # Of what is trained on given responses, nothing was drawn that has a reward.
        auc._replace(texts=["–" if none else text for none, text in zip(none_drawn, auc.texts, strict=True)]),
        interval_column(table, "KL (nats)", "kl", "kl_ci", 2),
        interval_column(table, "length (tokens)", "mean_length", "length_ci", 1),
        plain_column(table, "collapsed", "collapsed"),
        plain_column(table, "failed", "failed"),
    ]
    return text_table(table, shown, highlight, is_significant(table, baseline))


def evidence_columns(table: pd.DataFrame, baseline: str | None) -> list[Column]:
    """The table of what the comparison could tell apart, as text; without rows where there is no baseline."""
    name = table.set_index("algorithm")["name"].get(baseline, "")
    better = [
        plain(row["better"], ".2f")
        + ("" if pd.isna(row["better_ci_low"]) else f" ({row['better_ci_low']:.2f}–{row['better_ci_high']:.2f})")
        for _, row in table.iterrows()
    ]
    pairing = [in_brackets(row, "pairing_removes", ".0%", "pairing_ci") for _, row in table.iterrows()]
    return [
        Column(NAME, ("name",), list(table["name"])),
        plain_column(table, "matched seeds", "matched_seeds"),
        plain_column(table, "detectable Δ", "detectable", ".3f"),
        Column(f"P(better than {name})", ("better", "better_ci_low", "better_ci_high"), better),
        Column("variance removed by pairing", ("pairing_removes", "pairing_ci_low", "pairing_ci_high"), pairing),
    ]


def sample_columns(table: pd.DataFrame, highlight: Collection[str] = ()) -> TextTable:
    """The table of samples as text: a row a benchmark and algorithm."""
    chances = [
        name
        for name in map(str, table)
        if name.startswith(("pass_at_", "maj_at_")) and not name.endswith(("_low", "_high"))
    ]
    shares = ("wrong", "no_answer", "truncated", "grader_failures")
    shown = [
        Column("benchmark", ("benchmark",), list(table["benchmark"])),
        Column(NAME, ("name",), list(table["name"])),
        plain_column(table, "k", "k"),
        interval_column(table, "avg@k", "avg_at_k", "ci", 3),
        *(interval_column(table, name.replace("_at_", "@"), name, f"{name}_ci", 3) for name in chances),
        *(plain_column(table, name.replace("_", " "), name, ".1%") for name in shares),
    ]
    return text_table(table, shown, highlight)


def cost_columns(table: pd.DataFrame) -> list[Column]:
    """The columns of the third table as text."""
    parameters = [
        "" if pd.isna(text) else ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
        for text in table["parameters"]
    ]
    return [
        Column(NAME, ("name",), list(table["name"])),
        plain_column(table, "seconds a run", "seconds", ".1f"),
        token_column(table, "generated tokens", "generated_tokens"),
        *([token_column(table, "replayed tokens", "replayed_tokens")] if "replayed_tokens" in table else []),
        token_column(table, "trained tokens", "trained_tokens"),
        token_column(table, "extra tokens", "extra_tokens"),
        plain_column(table, "tuning trials", "tuning_trials"),
        plain_column(table, "lr", "lr", ".3g"),
        plain_column(table, "max-norm", "max_norm", ".3g"),
        Column("parameters", ("parameters",), parameters),
    ]
