"""The page of a report, and how its numbers were made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.record.markdown import escape_markdown
from harness.report import figures
from harness.report.comparison import (
    RecordedCell,
)
from harness.report.notes import settings_text


def make_page(suite: str, markdown: str, drawings: Sequence[figures.Drawing], cells: Sequence[RecordedCell]) -> str:
    """The suite's README.md: tables, figures and how they were made."""
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
    """The commit that a manifest records."""
    git = manifest["git"] or {}
    return f"{git.get('commit') or 'none'}{', with uncommitted changes' if git.get('dirty') else ''}"


def distinct(cells: Sequence[RecordedCell], get: Callable[[dict[str, Any]], Any]) -> str:
    """The value that all cells share, or each value with the number of cells that have it."""
    counts: dict[str, int] = {}
    for cell in cells:
        text = f"`{str(get(cell.manifest)).replace('`', '')}`"
        counts[text] = counts.get(text, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} cells)" for text, count in counts.items())
