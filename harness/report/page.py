"""What a report publishes: its files, the page among them, and how its numbers were made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.record.files import remove_scratch, write
from harness.record.text import code_span, escape_markdown, to_csv
from harness.report.columns import TextTable
from harness.report.drawing import Drawing, encode
from harness.report.formats import to_latex, to_markdown
from harness.report.notes import settings_text
from harness.report.recorded_cells import RecordedCell


def publish(
    out: Path,
    suite: str,
    cells: Sequence[RecordedCell],
    *,
    csv: Mapping[str, pd.DataFrame],
    shown: dict[str, TextTable],
    notes: list[str],
    drawings: Sequence[Drawing],
) -> None:
    """Writes a CSV file a table of numbers, table.md, table.tex, figures/ and the page, README.md, into `out`.

    Args:
        csv: tables in full precision, by the names of their files.
        shown: tables as text, by what their rows are.
    """
    for folder in (out, out / "figures"):
        remove_scratch(folder)
    markdown = to_markdown(shown, notes)
    for name, table in csv.items():
        write(out / f"{name}.csv", to_csv(table))
    write(out / "table.md", markdown)
    latex = to_latex(suite, shown, notes)
    write(out / "table.tex", latex)
    for drawing in drawings:
        for kind in ("svg", "png"):
            write(out / "figures" / f"{drawing.name}.{kind}", encode(drawing.figure, kind))
    packages = "packages booktabs and longtable" if "{longtable}" in latex else "package booktabs"
    write(out / "README.md", make_page(suite, markdown, drawings, cells, packages))


def make_page(
    suite: str, markdown: str, drawings: Sequence[Drawing], cells: Sequence[RecordedCell], packages: str
) -> str:
    """The suite's README.md: tables, figures, how they were made, and the `packages` that its LaTeX needs."""
    pictures = [
        f"![{caption}](figures/{drawing.name}.svg)\n\n*{caption}*"
        for drawing in drawings
        for caption in [escape_markdown(drawing.caption)]
    ]
    parts = [f"# {escape_markdown(suite)}", markdown.strip(), *pictures, "## How this was made"]
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
        f"seed, `table.tex` is the table for LaTeX ({packages}); every figure is in `figures/` as SVG and PNG."
    )
    return "\n\n".join(parts) + "\n"


def shorten(command: Sequence[str]) -> list[str]:
    """The command without the folder of the program, which is one machine's own."""
    return [Path(command[0]).name, *command[1:]] if command else []


def commit(manifest: dict[str, Any]) -> str:
    """The commit that a manifest records."""
    git = manifest["git"] or {}
    return f"{git.get('commit') or 'none'}{', with uncommitted changes' if git.get('dirty') else ''}"


def distinct(cells: Sequence[RecordedCell], get: Callable[[dict[str, Any]], Any]) -> str:
    """The value that all cells share, or each value with the number of cells that have it."""
    counts: dict[str, int] = {}
    for cell in cells:
        text = code_span(str(get(cell.manifest)))
        counts[text] = counts.get(text, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} cells)" for text, count in counts.items())
