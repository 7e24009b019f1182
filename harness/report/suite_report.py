"""The table, figures and page of a suite, from its recorded cells.

    runs/<suite>/<cell>/ → comparison.py: seeds and table → here: <suite>/table.*, figures/, README.md

Does not import torch.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import rich.box
import rich.markup
import rich.table

from harness.record.cell_folder import write
from harness.report import figures
from harness.report.comparison import (
    EXTRA_PASSES,
    Cell,
    ReportError,
    Scores,
    agreed,
    algorithm_rows,
    benchmark_rows,
    load_cells,
    seed_rows,
    trials_of,
)
from harness.statistics.intervals import MIN_SEEDS_TO_TEST
from harness.suite.config import Published

SIGNIFICANT = 0.05
TOO_FEW = "too few seeds to test"

TextTable = dict[str, list[str]]
"""Columns of text by their heading."""


@dataclass(frozen=True)
class Report:
    """What was written. `table` has a row per algorithm, the base first, and table.csv's columns."""

    suite: str
    table: pd.DataFrame
    by_benchmark: pd.DataFrame
    """A row per benchmark and algorithm: benchmarks.csv."""
    path: Path
    """The page."""
    failed: list[str]
    """Cells that failed."""
    unfinished: list[str]
    """Cell folders without a manifest."""
    k: str = field(repr=False)
    baseline: str | None = field(repr=False)
    k_of: Mapping[str, str] = field(repr=False)
    """k of avg@k on each benchmark of the main score."""

    def render(self) -> rich.table.Table:
        """The main columns, for a terminal 80 characters wide; what else must be known is in the caption."""
        caption = []
        left_out = {"collapsed", "failed", "reward AUC", "length (tokens)"}
        if self.baseline is not None and self.table["p_value"].isna().all():
            left_out.add("p (Holm)")
            caption.append(f"Δ: {TOO_FEW}")
        collapsed = self.table[self.table["collapsed"].fillna(0) > 0]
        if len(collapsed):
            each = zip(collapsed["name"], collapsed["collapsed"], strict=True)
            caption.append("collapsed seeds: " + ", ".join(f"{name} {n}" for name, n in each))
        if self.failed:
            caption.append(f"failed: {', '.join(self.failed)}")
        for column, name in (("truncated", "truncated"), ("no_answer", "no answer"), ("grader_failures", "ungraded")):
            if len(self.by_benchmark) and (share := self.by_benchmark[column]).max() > 0:
                caption.append(f"{name}: {share.min():.1%} to {share.max():.1%} of the samples")
        shown = score_columns(self.table, self.k, self.baseline, self.k_of)
        shown = {name: texts for name, texts in shown.items() if name not in left_out}
        for name, value, spec in (("KL (nats)", "kl", ".2f"), (f"hard avg@{self.k}", "hard_avg_at_k", ".3f")):
            if name in shown:
                shown[name] = [plain(number, spec) for number in self.table[value]]
        significant = is_significant(self.table, self.baseline)
        return terminal_table(self.suite, shown, significant, caption, unbroken=("a", "Δ"))


def write_report(
    runs: Path, out: Path, *, baseline: str | None = None, published: Sequence[Published] | None = None
) -> Report:
    """Writes table.md, table.csv, table.tex, benchmarks.csv, seeds.csv, README.md and figures/ into `out` from
    the cells in `runs`.

    Args:
        runs: the folder that holds the suite's cells (<algorithm>-s<seed>/ and base/).
        out: the folder of the suite's published results: results/<suite>.
        baseline: the label that differences are taken from; by default the suite's own.
        published: reference rows; by default those that the newest cell recorded.

    Raises:
        ReportError: no cell, cells of different suites, a baseline not among them, or samples that do not match.
    """
    cells, unfinished = load_cells(runs)
    evaluation = agreed(cells, "evaluation")
    labels = sorted({cell.algorithm for cell in cells} - {"base"})
    if baseline is None:
        own = suite_baseline(cells)
        baseline = own if own in labels else None
    elif baseline not in labels:
        raise ReportError(f"baseline {baseline!r} has no cell in {runs}; choose one of: {', '.join(labels)}")

    scores = Scores(cells, evaluation["benchmarks"], evaluation["hard_benchmarks"])
    seeds, curves = seed_rows(scores)
    table = algorithm_rows(cells, scores, seeds, baseline)
    by_benchmark = benchmark_rows(scores, table)
    coefficients_path = runs / "coefficients.parquet"
    coefficients = pd.read_parquet(coefficients_path) if coefficients_path.is_file() else None
    k = k_text(evaluation)
    drawings = figures.draw(table=table, seeds=seeds, curves=curves, coefficients=coefficients, k=k, baseline=baseline)

    suite = str(cells[0].manifest["suite"])
    report = Report(
        suite=suite,
        table=table,
        by_benchmark=by_benchmark,
        path=out / "README.md",
        failed=[cell.name for cell in cells if not cell.finished],
        unfinished=unfinished,
        k=k,
        baseline=baseline,
        k_of={name: k_text(evaluation, name) for name in scores.benchmarks},
    )
    if published is None:
        recorded = newest(cells).config("report", "published") or []
        published = [Published.model_validate(row) for row in recorded]
    notes = make_notes(cells, scores, report)
    shown = {
        "scores": score_columns(table, k, baseline, report.k_of),
        **({"published": published_columns(published, scores.benchmarks)} if published else {}),
        **({"samples": sample_columns(by_benchmark)} if len(by_benchmark) else {}),
        "cost and settings": cost_columns(table),
    }
    if published:
        notes.insert(0, PUBLISHED_NOTE)
    significant = is_significant(table, baseline)
    markdown = to_markdown(shown, significant, notes)
    write(out / "table.csv", table.to_csv(index=False))
    write(out / "benchmarks.csv", by_benchmark.to_csv(index=False))
    write(out / "seeds.csv", seeds.to_csv(index=False))
    write(out / "table.md", markdown)
    write(out / "table.tex", to_latex(suite, shown, significant, notes))
    for drawing in drawings:
        for kind in ("svg", "png"):
            write(out / "figures" / f"{drawing.name}.{kind}", figures.encode(drawing.figure, kind))
    write(report.path, make_page(suite, markdown, drawings, cells))
    return report


def suite_baseline(cells: Sequence[Cell]) -> str | None:
    """The baseline that the suite names, whether it has a cell or not."""
    named = sorted({str(cell.config("report", "baseline")) for cell in cells})
    if len(named) > 1:
        raise ReportError(f"the cells were run with different baselines ({', '.join(named)}); choose one: --baseline")
    return cells[0].config("report", "baseline")


def newest(cells: Sequence[Cell]) -> Cell:
    """The cell that was run last: a suite's report settings may change without a cell being run again."""
    return max(cells, key=lambda cell: str(cell.manifest.get("date", "")))


def k_text(evaluation: dict[str, Any], benchmark: str | None = None) -> str:
    """k of avg@k, of one benchmark or of all; "k" where they differ."""
    samples = evaluation["samples"]
    found = {samples} if isinstance(samples, int) else set(samples.values())
    if benchmark is not None and not isinstance(samples, int):
        found = {samples[benchmark]}
    return str(found.pop()) if len(found) == 1 else "k"


def difference_heading(table: pd.DataFrame, baseline: str | None) -> str:
    return f"Δ to {table.set_index('algorithm')['name'].get(baseline, '')}"


def is_significant(table: pd.DataFrame, baseline: str | None) -> dict[str, list[bool]]:
    """Which cells of which column are significant."""
    return {difference_heading(table, baseline): [bool(p < SIGNIFICANT) for p in table["p_holm"]]}


def with_interval(value: float, low: float, high: float, decimals: int, sign: str = "") -> str:
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
    return "" if pd.isna(value) else f"{value:{spec}}"


def tokens(value: float) -> str:
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


PUBLISHED_NOTE = (
    "Published rows are others' numbers as their source prints them, in percent, under the protocol that stands with "
    "them: another one than ours, hence in a table of their own and in no difference or test."
)


def published_columns(published: Sequence[Published], benchmarks: Sequence[str]) -> TextTable:
    """Others' numbers, the benchmarks in the order of ours."""
    names = [name for name in benchmarks if any(name in row.scores for row in published)]
    names += sorted({name for row in published for name in row.scores} - set(names))
    return {
        "published elsewhere (%)": [row.label for row in published],
        **{name: [plain(row.scores.get(name, float("nan")), ".2f") for row in published] for name in names},
        "protocol": [row.protocol for row in published],
        "source": [row.source for row in published],
    }


def score_columns(table: pd.DataFrame, k: str, baseline: str | None, k_of: Mapping[str, str]) -> TextTable:
    """The columns of the first table as text; a column that no row fills is left out."""
    scores = interval_texts(table, "avg_at_k", "ci", 3)
    benchmarks = [str(column).removeprefix("avg_at_k_") for column in table if str(column).startswith("avg_at_k_")]
    shown = {
        "algorithm": list(table["name"]),
        "seeds": [plain(n, "d") for n in table["n_seeds"]],
        f"avg@{k}": [score or status for score, status in zip(scores, table["status"], strict=True)],
        **{
            f"{name} avg@{k_of[name]}": interval_texts(table, f"avg_at_k_{name}", f"{name}_ci", 3)
            for name in benchmarks
        },
        difference_heading(table, baseline): interval_texts(table, "diff", "diff_ci", 3, "+"),
        "p (Holm)": p_texts(table["diff"], table["p_holm"]),
        f"hard avg@{k}": interval_texts(table, "hard_avg_at_k", "hard_ci", 3),
        "reward AUC": interval_texts(table, "auc", "auc_ci", 3),
        "KL (nats)": interval_texts(table, "kl", "kl_ci", 2),
        "length (tokens)": interval_texts(table, "mean_length", "length_ci", 1),
        "collapsed": [plain(n, "d") for n in table["collapsed"]],
        "failed": [plain(n, "d") for n in table["failed"]],
    }
    return {column: texts for column, texts in shown.items() if any(texts)}


def sample_columns(table: pd.DataFrame) -> TextTable:
    """The columns of the table of samples as text: a row a benchmark and algorithm."""
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
    return {column: texts for column, texts in shown.items() if any(texts)}


def cost_columns(table: pd.DataFrame) -> TextTable:
    """The columns of the third table as text."""
    parameters = [
        "" if pd.isna(text) else ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
        for text in table["parameters"]
    ]
    shown = {
        "algorithm": list(table["name"]),
        "seconds a run": [plain(value, ".1f") for value in table["seconds"]],
        "generated tokens": [tokens(value) for value in table["generated_tokens"]],
        "trained tokens": [tokens(value) for value in table["trained_tokens"]],
        "extra tokens": [tokens(value) for value in table["extra_tokens"]],
        "tuning trials": [plain(n, "d") for n in table["tuning_trials"]],
        "lr": [plain(value, ".3g") for value in table["lr"]],
        "max-norm": [plain(value, ".3g") for value in table["max_norm"]],
        "parameters": parameters,
    }
    return {column: texts for column, texts in shown.items() if any(texts)}


def terminal_table(
    title: str,
    shown: TextTable,
    significant: Mapping[str, list[bool]],
    caption: Sequence[str],
    *,
    unbroken: tuple[str, ...],
) -> rich.table.Table:
    """A table for a terminal; columns whose names begin with one of `unbroken` are never wrapped."""
    table = rich.table.Table(
        title=title,
        caption=rich.markup.escape("; ".join(caption)) or None,
        box=rich.box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for name in shown:
        table.add_column(name, justify="right" if table.columns else "left", no_wrap=name.startswith(unbroken))
    for row in marked_rows(shown, significant, rich.markup.escape, "[bold]{}[/bold]"):
        table.add_row(*row)
    return table


def marked_rows(
    shown: TextTable, significant: Mapping[str, Sequence[bool]], escape: Callable[[str], str], bold: str
) -> Iterator[list[str]]:
    """The rows of a table, escaped, in bold where a column says that the value is significant."""
    for index, row in enumerate(zip(*shown.values(), strict=True)):
        yield [
            bold.format(escape(text)) if name in significant and significant[name][index] else escape(text)
            for name, text in zip(shown, row, strict=True)
        ]


def to_markdown(shown: dict[str, TextTable], significant: Mapping[str, Sequence[bool]], notes: list[str]) -> str:
    parts = []
    for table in shown.values():
        lines = [list(table), ["---", *["---:"] * (len(table) - 1)]]
        lines += marked_rows(table, significant, escape_markdown, "**{}**")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "Σ": r"$\Sigma$",
    "π": r"$\pi$",
    "β": r"$\beta$",
    "×": r"$\times$",
}


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(
    suite: str, shown: dict[str, TextTable], significant: Mapping[str, Sequence[bool]], notes: list[str]
) -> str:
    """A table environment (package booktabs), the notes below it as a footnote."""
    lines = [r"\begin{table}", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{escape_latex(suite)}: {' and '.join(shown)}.}}", rf"\label{{tab:{suite}}}"]
    for table in shown.values():
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table) - 1)}}}", r"\toprule"]
        head, *body = [list(map(escape_latex, table)), *marked_rows(table, significant, escape_latex, r"\textbf{{{}}}")]
        rows = [" & ".join(row) + r" \\" for row in body]
        lines += [" & ".join(head) + r" \\", r"\midrule", *rows]
        if next(iter(table.values()))[0] == "base":
            lines.insert(len(lines) - len(rows) + 1, r"\midrule")
        lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"]
    lines += [r"\parbox{\linewidth}{\footnotesize", *(escape_latex(note) + r"\par" for note in notes), "}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def make_notes(cells: Sequence[Cell], scores: Scores, report: Report) -> list[str]:
    """What a reader needs to judge the numbers, each note from the manifests."""
    table, baseline = report.table, report.baseline
    names = table.set_index("algorithm")["name"]
    notes = score_notes(cells, scores)
    trained = table[(table["algorithm"] != "base") & (table["n_seeds"] > 0)]
    single = [names[label] for label in trained.loc[trained["n_seeds"] == 1, "algorithm"]]
    if single:
        notes.append(f"One seed only, hence over problems only: {', '.join(single)}.")
    if baseline is not None:
        tested = int(table["p_value"].notna().sum())
        notes.append(
            f"Δ to {names[baseline]}: paired on the same seeds and problems. "
            + (
                "p: two-sided sign-flip test of the seeds' mean differences on these problems, Holm-corrected over "
                f"{tested} {'test' if tested == 1 else 'tests'}; bold where p is below {SIGNIFICANT}. "
                if tested
                else ""
            )
            + f"With fewer than {MIN_SEEDS_TO_TEST} matched seeds there is an interval and no test: {TOO_FEW}."
        )
    else:
        own = agreed(cells, "report", "baseline")
        notes.append(
            f"No differences: the suite's baseline, {own}, has no cell." if own else "No differences: no baseline."
        )
    notes += [
        "Reward AUC: the mean height of the curve of mean training reward over steps (trapezoid rule over the range of "
        "steps).",
        *row_notes(cells, table),
    ]
    if report.unfinished:
        notes.append(f"Not finished when this was written, hence not in the table: {', '.join(report.unfinished)}.")
    notes += seed_notes(cells)
    notes.append(tuning_note(cells, {label: names[label] for label in table["algorithm"] if label != "base"}))
    notes.append(COST_NOTE)
    return notes


COST_NOTE = (
    "Seconds (rollouts, training, evaluation) and tokens are means a run. Generated: every response token sampled "
    "for training. Trained: tokens of prompts and responses that went forward and backward "
    f"through the policy. Extra: those of the further passes ({', '.join(EXTRA_PASSES)}). Evaluation is in the "
    "seconds, not in these tokens."
)


def score_notes(cells: Sequence[Cell], scores: Scores) -> list[str]:
    """What the scores are, and their intervals."""
    evaluation = agreed(cells, "evaluation")
    k = k_text(evaluation)
    decoding = {key: value for key, value in evaluation.items() if not key.endswith("benchmarks") and key != "samples"}

    def listed(benchmarks: Sequence[str]) -> str:
        each_k = {name: f", k = {k_text(evaluation, name)}" if k == "k" else "" for name in benchmarks}
        return ", ".join(f"{name} ({scores.problems.get(name, 0)} problems{each_k[name]})" for name in benchmarks)

    notes = [
        f"avg@{k}: mean score over {k} samples a problem of the last checkpoint on {listed(scores.benchmarks)}"
        + (", the mean of the benchmarks' means" if len(scores.benchmarks) > 1 else "")
        + (f"; decoding: {settings_text(decoding)}." if decoding else ".")
    ]
    if scores.hard_benchmarks:
        notes.append(f"hard avg@{k}: the same on {listed(scores.hard_benchmarks)}.")
    if k != "1":
        notes.append(
            "pass@j: the chance that j samples of a problem hold a correct one, without bias from its k (Chen et al. "
            "2021, eq. 1). maj@k: whether the answer that most of the k samples give is correct, where equal means "
            "equal in normal form (numbers by value); no answer, no vote; of tied answers one is drawn."
        )
    notes.append(
        "wrong, no answer (nothing that could be graded) and grader failures are verdicts, as shares of the samples. "
        "truncated: ended by the length limit, whatever the verdict."
    )
    return [
        *notes,
        f"± is half of a 95% interval. Of avg@{k} and Δ: seeds and problems both taken as random and crossed (two-way "
        "random effects, Satterthwaite's t). Of KL, length and reward AUC: Student's t over seeds. The base is "
        "evaluated once: its interval is over problems only.",
    ]


def row_notes(cells: Sequence[Cell], table: pd.DataFrame) -> list[str]:
    """What the other columns are, and which cells failed."""
    return [
        "KL: exact, from the base, nats per evaluated response. Length: tokens of an evaluated response.",
        "collapsed: seeds whose score is below the base's"
        + (" (not counted: there is no finished base). " if table["status"].iloc[0] != "finished" else ". ")
        + "They stay in every mean. failed: cells that ended in an error and have no score.",
        *(f"failed: {cell.name}: {cell.error()[:300]}" for cell in cells if not cell.finished),
    ]


def tuning_note(cells: Sequence[Cell], names: dict[str, str]) -> str:
    """How many settings were tried for each algorithm, and over which space."""
    trials = {label: trials_of([cell for cell in cells if cell.algorithm == label]) for label in names}
    texts = {label: " or ".join(str(n or "none") for n in found) for label, found in trials.items()}
    if set(texts.values()) <= {"none"}:
        return "Tuning: none recorded for this suite; the settings are as given in it."
    if len(set(texts.values())) == 1:
        text = f"{next(iter(texts.values()))} trials for each algorithm"
    else:
        text = "trials: " + ", ".join(f"{names[label]} {text}" for label, text in texts.items())
    if any(len(found) > 1 for found in trials.values()):
        text += ", as recorded by cells run at different times"
    spaces = [cell.config("tuning") for cell in cells if cell.config("tuning")]
    space = {key: value for key, value in spaces[0].items() if key != "trials"}
    shared = all({**other, "trials": None} == {**spaces[0], "trials": None} for other in spaces)
    return (
        f"Tuning: {text} ({settings_text(space)})." if shared else f"Tuning: {text}; its space differs between cells."
    )


def seed_notes(cells: Sequence[Cell]) -> list[str]:
    seeds = sorted({cell.manifest["seed"] for cell in cells if cell.algorithm != "base"})
    if not seeds:
        return []
    run = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    listed = f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))
    text = f"Seeds {listed}: each is one RL run from the same base."
    train = next((cell.config("train") for cell in cells if cell.algorithm != "base" and cell.config("train")), None)
    return [text + (f" Budget of a run: {settings_text(train)}." if train else "")]


def settings_text(values: dict[str, Any]) -> str:
    """Keys and values in one line; what is null is left out."""
    texts = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items() if text is not None)


def make_page(suite: str, markdown: str, drawings: Sequence[figures.Drawing], cells: Sequence[Cell]) -> str:
    pictures = [
        f"![{drawing.caption}](figures/{drawing.name}.svg)\n\n*{escape_markdown(drawing.caption)}*"
        for drawing in drawings
    ]
    parts = [f"# {suite}", markdown.strip(), *pictures, "## How this was made"]
    rows = [
        ("command", distinct(cells, lambda manifest: shlex.join(shorten(manifest["command"])))),
        ("suite hash", distinct(cells, lambda manifest: manifest["suite_hash"])),
        ("git commit", distinct(cells, commit)),
        ("versions", distinct(cells, lambda manifest: settings_text(manifest["versions"]))),
        ("hardware", distinct(cells, lambda manifest: settings_text(manifest["hardware"]))),
    ]
    parts.append("\n".join(f"- {name}: {value}" for name, value in rows))
    parts.append(
        "`table.csv` has these numbers in full precision with both ends of every interval, `seeds.csv` those of each "
        "seed, `table.tex` is the table for LaTeX (package booktabs); every figure is in `figures/` as SVG and PNG."
    )
    return "\n\n".join(parts) + "\n"


def shorten(command: Sequence[str]) -> list[str]:
    """The command without the folder of the program, which is one machine's own."""
    return [Path(command[0]).name, *command[1:]] if command else []


def commit(manifest: dict[str, Any]) -> str:
    git = manifest["git"] or {}
    return f"{git.get('commit') or 'none'}{', with uncommitted changes' if git.get('dirty') else ''}"


def distinct(cells: Sequence[Cell], get: Callable[[dict[str, Any]], Any]) -> str:
    """The value that all cells share, or each value with the number of cells that have it."""
    counts: dict[str, int] = {}
    for cell in cells:
        text = f"`{str(get(cell.manifest)).replace('`', '')}`"
        counts[text] = counts.get(text, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} cells)" for text, count in counts.items())
