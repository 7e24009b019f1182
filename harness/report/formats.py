"""Tables of text as Markdown, as LaTeX, and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pandas as pd
import rich.box
import rich.table

from harness.record.markdown import markdown_table
from harness.record.text import escape_latex, escape_markdown, latex_key, terminal
from harness.report.columns import NAME, TextTable

Shown = TypeVar("Shown")
"""A text as a medium takes it."""


def terminal_table(
    title: str,
    shown: TextTable,
    caption: Sequence[str],
    *,
    unbroken: tuple[str, ...],
) -> rich.table.Table:
    """A table for a terminal; columns whose names begin with one of `unbroken` are never wrapped. Where rows are
    highlighted, the others are dim."""
    table = rich.table.Table(
        title=terminal(title, "table.title"),
        caption=terminal("; ".join(caption), "table.caption") if caption else None,
        box=rich.box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for name in shown.columns:
        table.add_column(
            terminal(name), justify="right" if table.columns else "left", no_wrap=name.startswith(unbroken)
        )
    rows = marked_rows(shown, terminal, lambda text: terminal(text, "bold"))
    for family, block in shown.blocks():
        if family:
            table.add_row(terminal(family, "italic"))
        for index in block:
            table.add_row(*rows[index], style="dim" if shown.highlighted and not shown.highlighted[index] else None)
    return table


def collapsed_note(table: pd.DataFrame, *names: str) -> list[str]:
    """The rows of a report's table that have collapsed seeds, called by the columns `names`, as a line of a caption;
    none where there are none."""
    found = table[table["collapsed"].fillna(0) > 0]
    each = zip(*(found[name] for name in names), found["collapsed"], strict=True)
    return ["collapsed seeds: " + ", ".join(" ".join([*row, f"{n:.0f}"]) for *row, n in each)] if len(found) else []


def marked_rows(table: TextTable, shown: Callable[[str], Shown], bold: Callable[[str], Shown]) -> list[list[Shown]]:
    """The rows of a table as a medium shows them, in bold what is significant, and the names of highlighted rows."""
    marks = dict(table.significant)
    if table.highlighted:
        marks[NAME] = list(table.highlighted)
    return [
        [
            bold(text) if name in marks and marks[name][index] else shown(text)
            for name, text in zip(table.columns, row, strict=True)
        ]
        for index, row in enumerate(zip(*table.columns.values(), strict=True))
    ]


def to_markdown(shown: dict[str, TextTable], notes: list[str]) -> str:
    """The tables, and the notes as a list below them."""
    parts = [
        markdown_table(list(map(escape_markdown, table.columns)), markdown_rows(table)) for table in shown.values()
    ]
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def markdown_rows(table: TextTable) -> Iterator[list[str]]:
    """The rows of a table, each family's under a row that names it."""
    rows = marked_rows(table, escape_markdown, lambda text: f"**{escape_markdown(text)}**")
    for family, block in table.blocks():
        if family:
            yield [f"*{escape_markdown(family)}*", *[""] * (len(table.columns) - 1)]
        yield from (rows[index] for index in block)


def to_latex(suite: str, shown: dict[str, TextTable], notes: list[str]) -> str:
    """A table environment (package booktabs), the notes below it as a footnote. Rows that stand under the names of
    families are too many for one page: then each table is a longtable (package longtable)."""
    footnotes = [r"\parbox{\linewidth}{\footnotesize", *(escape_latex(note) + r"\par" for note in notes), "}"]
    lines: list[str] = []
    if any(table.families for table in shown.values()):
        for what, table in shown.items():
            head, body = latex_rows(table)
            lines += [r"{\scriptsize\setlength{\tabcolsep}{3pt}", rf"\begin{{longtable}}{{{alignment(table)}}}"]
            key = latex_key(f"{suite}-{what.replace(' ', '-')}")
            lines += [rf"\caption{{{escape_latex(suite)}: {what}.}}\label{{tab:{key}}} \\"]
            lines += [r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body]
            lines += [r"\end{longtable}}"]
        return "\n".join([*lines, r"\noindent" + footnotes[0], *footnotes[1:]]) + "\n"
    lines += [r"\begin{table}", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{escape_latex(suite)}: {' and '.join(shown)}.}}", rf"\label{{tab:{latex_key(suite)}}}"]
    for table in shown.values():
        head, body = latex_rows(table)
        lines += [rf"\begin{{tabular}}{{{alignment(table)}}}", r"\toprule", head, r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip"]
    return "\n".join([*lines, *footnotes, r"\end{table}"]) + "\n"


def alignment(table: TextTable) -> str:
    """The first column left, the others right."""
    return f"l{'r' * (len(table.columns) - 1)}"


def latex_rows(table: TextTable) -> tuple[str, list[str]]:
    """The head of a tabular and its rows, each family's under its name, a rule below the base."""
    marked = marked_rows(table, escape_latex, lambda text: rf"\textbf{{{escape_latex(text)}}}")
    rows = [" & ".join(row) + r" \\" for row in marked]
    body = []
    for family, block in table.blocks():
        if family:
            body += [
                r"\addlinespace",
                rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\textit{{{escape_latex(family)}}}}} \\*",
            ]
        body += [rows[index] for index in block]
    if next(iter(table.columns.values()))[0] == "base":
        body.insert(1, r"\midrule")
    return " & ".join(map(escape_latex, table.columns)) + r" \\", body
