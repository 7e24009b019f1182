"""What a report publishes: its files, the page among them, and how its numbers were made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.record.files import remove_scratch, write
from harness.record.text import code_span, escape_markdown, to_csv
from harness.report.columns import TextTable
from harness.report.comparison import Scores
from harness.report.drawing import Drawing, encode
from harness.report.formats import to_latex, to_markdown
from harness.report.notes import settings_text
from harness.report.recorded_cells import RecordedCell


@dataclass(frozen=True)
class Publication:
    """What a report publishes of a suite, apart from its figures: what a site is made of, too."""

    suite: str
    cells: Sequence[RecordedCell]
    scores: Scores
    names: Mapping[str, str]
    """What a reader calls the algorithms, by `RecordedCell.algorithm`, the base among them."""
    csv: Mapping[str, pd.DataFrame]
    """Tables in full precision, by the names of their files."""
    shown: dict[str, TextTable]
    """Tables as text, by what their rows are."""
    notes: list[str]

    def files(self) -> dict[str, str]:
        """A CSV file a table of numbers, table.md and table.tex, by their names."""
        return {
            **{f"{name}.csv": to_csv(table) for name, table in self.csv.items()},
            "table.md": to_markdown(self.shown, self.notes),
            "table.tex": to_latex(self.suite, self.shown, self.notes),
        }


def publish(out: Path, publication: Publication, drawings: Sequence[Drawing]) -> None:
    """Writes the publication's files, figures/ and the page, README.md, into `out`."""
    remove_scratch(out)
    files = publication.files()
    for name, text in files.items():
        write(out / name, text)
    write_figures(out, drawings)
    packages = "packages booktabs and longtable" if "{longtable}" in files["table.tex"] else "package booktabs"
    page = make_page(publication.suite, files["table.md"], drawings, publication.cells, packages)
    write(out / "README.md", page)


def write_figures(out: Path, drawings: Sequence[Drawing]) -> None:
    """Writes each figure as SVG, PNG and the CSV of what it draws, into `out`/figures/."""
    folder = out / "figures"
    remove_scratch(folder)
    for drawing in drawings:
        for kind in ("svg", "png"):
            write(folder / f"{drawing.name}.{kind}", encode(drawing.figure, kind))
        write(folder / f"{drawing.name}.csv", to_csv(drawing.data))


def pictures(drawings: Sequence[Drawing]) -> list[str]:
    """The figures in Markdown, each with its caption."""
    return [
        f"![{caption}](figures/{drawing.name}.svg)\n\n*{caption}*"
        for drawing in drawings
        for caption in [escape_markdown(drawing.caption)]
    ]


def make_page(
    suite: str, markdown: str, drawings: Sequence[Drawing], cells: Sequence[RecordedCell], packages: str
) -> str:
    """The suite's README.md: tables, figures, how they were made, and the `packages` that its LaTeX needs."""
    parts = [f"# {escape_markdown(suite)}", markdown.strip(), *pictures(drawings), "## How this was made"]
    parts.append("\n".join(f"- {name}: {distinct(cells, get)}" for name, get in PROVENANCE.items()))
    parts.append(
        "`table.csv` has these numbers in full precision with both ends of every interval, `seeds.csv` those of each "
        f"seed, `table.tex` is the table for LaTeX ({packages}); every figure is in `figures/` as SVG and PNG, with "
        "what it draws as CSV."
    )
    return "\n\n".join(parts) + "\n"


def shorten(command: Sequence[str]) -> list[str]:
    """The command without the folder of the program, which is one machine's own."""
    return [Path(command[0]).name, *command[1:]] if command else []


def commit(manifest: dict[str, Any]) -> str:
    """The commit that a manifest records."""
    git = manifest["git"] or {}
    return f"{git.get('commit') or 'none'}{', with uncommitted changes' if git.get('dirty') else ''}"


PROVENANCE: dict[str, Callable[[dict[str, Any]], str]] = {
    "command": lambda manifest: shlex.join(shorten(manifest["command"])),
    "suite hash": lambda manifest: str(manifest["suite_hash"]),
    "git commit": commit,
    "versions": lambda manifest: settings_text(manifest["versions"]),
    "hardware": lambda manifest: settings_text(manifest["hardware"]),
}
"""How numbers were made, from the manifest of each cell."""


def distinct(cells: Sequence[RecordedCell], get: Callable[[dict[str, Any]], Any]) -> str:
    """The value that all cells share, or each value with the number of cells that have it."""
    counts: dict[str, int] = {}
    for cell in cells:
        text = code_span(str(get(cell.manifest)))
        counts[text] = counts.get(text, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} cells)" for text, count in counts.items())
