"""The columns of the tables as text: what a reader sees of the numbers of comparison.py."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import pandas as pd

from harness.suite.config import Published

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

    def without(self, left_out: Collection[str]) -> TextTable:
        """The same rows without some columns."""
        return replace(self, columns={name: texts for name, texts in self.columns.items() if name not in left_out})

    def blocks(self) -> Iterator[tuple[str, list[int]]]:
        """The rows that follow each other within a family, and its name; all of them under no name without families."""
        rows = range(len(next(iter(self.columns.values()))))
        families = self.families or [""] * len(rows)
        for family, block in groupby(rows, key=families.__getitem__):
            yield family, list(block)


def text_table(
    table: pd.DataFrame,
    columns: dict[str, list[str]],
    highlight: Collection[str],
    significant: Mapping[str, list[bool]] | None = None,
) -> TextTable:
    """The text of a table whose rows are algorithms; a column that no row fills is left out."""
    return TextTable(
        columns={name: texts for name, texts in columns.items() if any(texts)},
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
    scores = interval_texts(table, "avg_at_k", "ci", 3)
    benchmarks = [str(column).removeprefix("avg_at_k_") for column in table if str(column).startswith("avg_at_k_")]
    shown = {
        "algorithm": list(table["name"]),
        "seeds": [plain(n, "d") for n in table["n_seeds"]],
        f"avg@{k}": [score or status for score, status in zip(scores, table["status"], strict=True)],
        f"avg@{k} by default": interval_texts(table, "default_avg_at_k", "default_ci", 3)
        if "default_avg_at_k" in table
        else [],
        **{
            f"{name} avg@{k_of[name]}": interval_texts(table, f"avg_at_k_{name}", f"{name}_ci", 3)
            for name in benchmarks
        },
        difference_heading(table, baseline): interval_texts(table, "diff", "diff_ci", 3, "+"),
        "p (Holm)": p_texts(table["diff"], table["p_holm"]),
        f"hard avg@{k}": interval_texts(table, "hard_avg_at_k", "hard_ci", 3),
        "IQM": interval_texts(table, "iqm", "iqm_ci", 3) if "iqm" in table else [],
        "reward AUC": [
            "–" if pd.isna(auc) and generated == 0 and label != "base" else text  # trained on given responses
            for text, auc, generated, label in zip(
                interval_texts(table, "auc", "auc_ci", 3),
                table["auc"],
                table["generated_tokens"],
                table["algorithm"],
                strict=True,
            )
        ],
        "KL (nats)": interval_texts(table, "kl", "kl_ci", 2),
        "length (tokens)": interval_texts(table, "mean_length", "length_ci", 1),
        "collapsed": [plain(n, "d") for n in table["collapsed"]],
        "failed": [plain(n, "d") for n in table["failed"]],
    }
    return text_table(table, shown, highlight, is_significant(table, baseline))


def evidence_columns(table: pd.DataFrame, baseline: str | None) -> dict[str, list[str]]:
    """The table of what the comparison could tell apart, as text; without rows where there is no baseline."""
    name = table.set_index("algorithm")["name"].get(baseline, "")
    return {
        "algorithm": list(table["name"]),
        "matched seeds": [plain(n, "d") for n in table["matched_seeds"]],
        "detectable Δ": [plain(value, ".3f") for value in table["detectable"]],
        f"P(better than {name})": [
            plain(row["better"], ".2f")
            + ("" if pd.isna(row["better_ci_low"]) else f" ({row['better_ci_low']:.2f}–{row['better_ci_high']:.2f})")
            for _, row in table.iterrows()
        ],
        "variance removed by pairing": [
            (
                plain(row["pairing_removes"], ".0%")
                + (
                    ""
                    if pd.isna(row["pairing_ci_low"])
                    else f" ({row['pairing_ci_low']:.0%} to {row['pairing_ci_high']:.0%})"
                )
            ).replace("-", "−")
            for _, row in table.iterrows()
        ],
    }


def sample_columns(table: pd.DataFrame, highlight: Collection[str] = ()) -> TextTable:
    """The table of samples as text: a row a benchmark and algorithm."""
    chances = {
        name.replace("_at_", "@"): interval_texts(table, name, f"{name}_ci", 3)
        for name in map(str, table)
        if name.startswith(("pass_at_", "maj_at_")) and not name.endswith(("_low", "_high"))
    }
    shown = {
        "benchmark": list(table["benchmark"]),
        "algorithm": list(table["name"]),
        "k": [str(k) for k in table["k"]],
        "avg@k": interval_texts(table, "avg_at_k", "ci", 3),
        **chances,
        "wrong": [f"{share:.1%}" for share in table["wrong"]],
        "no answer": [f"{share:.1%}" for share in table["no_answer"]],
        "truncated": [f"{share:.1%}" for share in table["truncated"]],
        "grader failures": [f"{share:.1%}" for share in table["grader_failures"]],
    }
    return text_table(table, shown, highlight)


def cost_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of the third table as text."""
    parameters = [
        "" if pd.isna(text) else ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
        for text in table["parameters"]
    ]
    return {
        "algorithm": list(table["name"]),
        "seconds a run": [plain(value, ".1f") for value in table["seconds"]],
        "generated tokens": [tokens(value) for value in table["generated_tokens"]],
        "replayed tokens": [tokens(value) for value in table.get("replayed_tokens", [])],
        "trained tokens": [tokens(value) for value in table["trained_tokens"]],
        "extra tokens": [tokens(value) for value in table["extra_tokens"]],
        "tuning trials": [plain(n, "d") for n in table["tuning_trials"]],
        "lr": [plain(value, ".3g") for value in table["lr"]],
        "max-norm": [plain(value, ".3g") for value in table["max_norm"]],
        "parameters": parameters,
    }
