"""Tables of text as Markdown, as LaTeX, and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import rich.box
import rich.markup
import rich.table

from harness.record.markdown import escape_markdown, markdown_table
from harness.report.columns import TextTable


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
    """The tables, and the notes as a list below them."""
    parts = [
        markdown_table(list(table), marked_rows(table, significant, escape_markdown, "**{}**"))
        for table in shown.values()
    ]
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


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
    """Text in which no character is a command of LaTeX."""
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
