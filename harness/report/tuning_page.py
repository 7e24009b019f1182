"""The page of a suite's search for hyper-parameters: what was tried, what it took, what was found.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from harness.record.files import remove_scratch, write
from harness.record.text import escape_markdown, to_csv, visible
from harness.report.columns import NAME, TextTable, plain, tokens
from harness.report.formats import to_markdown
from harness.report.notes import settings_text
from harness.report.page import pictures, write_figures
from harness.report.trials import PARAMETER, SPENT, TRIALS
from harness.report.tuning_figures import searched, tuning_drawings
from harness.statistics.best_of import best_after


def best_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The row of each algorithm's best trial, by label; of equal ones the first tried."""
    ordered = trials.sort_values(["algorithm", "score", "trial"], ascending=[True, False, True], kind="stable")
    return ordered.drop_duplicates("algorithm").set_index("algorithm")


def write_tuning_page(
    folder: Path,
    trials: pd.DataFrame,
    *,
    suite: str,
    names: Mapping[str, str],
    baseline: str | None,
    about: Mapping[str, Any],
) -> None:
    """Writes trials.csv, README.md and figures/ into `folder`.

    Args:
        trials: a row a trial (harness/report/trials.py).
        names: what the algorithms are called, by label, in the order of the page.
        baseline: the label that stands grey behind the others in the figures.
        about: the suite's [tuning] settings.
    """
    remove_scratch(folder)
    write(folder / TRIALS, to_csv(trials, float_format="%.6g"))
    drawings = tuning_drawings(trials, names, baseline)
    write_figures(folder, drawings)
    markdown = to_markdown({"trials": trial_columns(trials, names)}, trial_notes(trials, about))
    parts = [f"# {escape_markdown(suite)}: tuning", markdown.strip(), *pictures(drawings)]
    parts.append(
        "`trials.csv` has every trial, `best.toml` the best settings as the suite's file takes them and the commands "
        "that found them; every figure is in `figures/` as SVG and PNG, with what it draws as CSV."
    )
    write(folder / "README.md", "\n\n".join(parts) + "\n")


def trial_columns(trials: pd.DataFrame, names: Mapping[str, str]) -> TextTable:
    """A row an algorithm: what its trials took, and the best of them."""
    best = best_trials(trials)
    shown: dict[str, list[str]] = {NAME: [], "trials": [], "failed": []}
    shown |= {heading: [] for heading in ("generated tokens", "trained tokens", "extra tokens")}
    shown |= {heading: [] for heading in ("best of one", "best of half", "best of all", "lr", "max-norm", "parameters")}
    for label, name in names.items():
        own, row = trials[trials["algorithm"] == label], best.loc[label]
        expected_N, _, _ = best_after(list(own["score"]))
        parameters = {
            column.removeprefix(PARAMETER): row[column]
            for column in map(str, trials)
            if column.startswith(PARAMETER) and pd.notna(row[column])
        }
        values = [
            *(name, str(len(own)), plain(own["failed"].sum(), "d")),
            *(tokens(own[spent].sum(min_count=len(own))) for spent in SPENT),
            *(f"{expected_N[n - 1]:.3f}" for n in (1, max(1, len(own) // 2), len(own))),
            *(f"{row['lr']:.3g}", f"{row['max_norm']:.3g}", settings_text(parameters)),
        ]
        for column, value in zip(shown.values(), values, strict=True):
            column.append(value)
    return TextTable({heading: texts for heading, texts in shown.items() if any(texts)})


def trial_notes(trials: pd.DataFrame, about: Mapping[str, Any]) -> list[str]:
    """What was searched, under which budget, and how to read the table."""
    budget = trials["token_budget"].dropna().unique()
    correlation = {
        (str(label), name): float(own["lr"].corr(own[name].astype(float), method="spearman"))
        for label, own in trials.groupby("algorithm")
        for name in searched(trials, str(label))
        if own["lr"].nunique() > 1
    }
    notes = [
        f"{settings_text(dict(about))}: the same for every algorithm, whose own hyper-parameters have the ranges that "
        "its class declares. No table uses these seeds or problems.",
        "Scores are avg@k on the tuning problems, the mean over the tuning seeds; a run that failed counts as 0. best "
        "of one, half and all: the expected best score after so many of the trials, over all orders of them.",
    ]
    if correlation:
        (label, name), most = max(correlation.items(), key=lambda item: abs(item[1]))
        notes.append(
            "A few points cannot vary everything apart: the rank correlation of the learning rate with a "
            f"hyper-parameter of the algorithm's own is {median(map(abs, correlation.values())):.2f} in size in the "
            f"median, and {most:.2f} at most ({visible(label)}, {visible(name.removeprefix(PARAMETER))})."
        )
    if len(budget):
        notes.append(
            f"Every trial of every algorithm may draw {budget[0]:,.0f} response tokens for training. What its trials "
            "took is in the ledger's columns: responses end where the policy ends them, and what an algorithm draws or "
            "scores besides is its own."
        )
    unknown = sorted(set(trials.loc[trials["trained_tokens"].isna(), "algorithm"].astype(str)))
    if len(unknown) == trials["algorithm"].nunique():
        notes.append("What the trials took was not recorded.")
    elif unknown:
        notes.append(f"Tokens are not recorded of: {', '.join(map(visible, unknown))}.")
    return notes
