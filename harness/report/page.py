"""What a report publishes: its files, the page among them, and how its numbers were made."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harness.record.files import remove_scratch, write
from harness.record.text import code_span, escape_markdown, to_csv, visible
from harness.report.columns import TextTable
from harness.report.comparison import Scores
from harness.report.drawing import Drawing, encode
from harness.report.formats import to_latex, to_markdown
from harness.report.notes import seeds_text, settings_text
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
    draw: Callable[[], list[Drawing]]
    """Draws the figures, which takes most of a report's time."""

    @cached_property
    def drawings(self) -> list[Drawing]:
        """The figures, in the order of the page."""
        return self.draw()

    @cached_property
    def tables(self) -> Mapping[str, bytes]:
        """Its tables by the names of their files: CSV and Parquet of numbers, table.md and table.tex."""
        texts = {
            **{f"{name}.csv": to_csv(table) for name, table in self.csv.items()},
            "table.md": to_markdown(self.shown, self.notes),
            "table.tex": to_latex(self.suite, self.shown, self.notes),
        }
        numbers = self.csv["table"].to_parquet(index=False)
        return {name: text.encode() for name, text in texts.items()} | {"table.parquet": numbers}

    def figure_data(self) -> dict[str, bytes]:
        """What each figure draws, as CSV, by the names of the files."""
        return {f"{FIGURES}/{drawing.name}.csv": to_csv(drawing.data).encode() for drawing in self.drawings}

    def page(self) -> bytes:
        """The suite's page, README.md."""
        tables = self.tables
        packages = "packages booktabs and longtable" if b"{longtable}" in tables["table.tex"] else "package booktabs"
        return make_page(self.suite, tables["table.md"].decode(), self.drawings, self.cells, packages).encode()


FIGURES, PAGE = "figures", "README.md"
"""What lies in a published folder beside the tables."""
PICTURES = ("svg", "png")
"""The formats of every figure."""


def publish(out: Path, publication: Publication) -> Path:
    """Writes the publication's tables, figures/ and the page into `out`. Returns the path of the page."""
    remove_scratch(out)
    for name, content in publication.tables.items():
        write(out / name, content)
    write_figures(out, publication.drawings)
    write(out / PAGE, publication.page())
    return out / PAGE


def write_figures(out: Path, drawings: Sequence[Drawing]) -> None:
    """Writes each figure as SVG, PNG and the CSV of what it draws, into `out`/figures/."""
    folder = out / FIGURES
    remove_scratch(folder)
    for drawing in drawings:
        for kind in PICTURES:
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
        "`table.csv` and `table.parquet` have these numbers in full precision with both ends of every interval, "
        f"`seeds.csv` those of each seed, `table.tex` is the table for LaTeX ({packages}); every figure is in "
        "`figures/` as SVG and PNG, with what it draws as CSV."
    )
    return "\n\n".join(parts) + "\n"


RESULTS_GO_TO = re.compile(r"--out(=.*)?", re.DOTALL)


def shorten(command: Sequence[str]) -> list[str]:
    """The command without what is one machine's own and decides no number: folders of absolute paths, and --out."""
    parts = [Path(part).name if Path(part).is_absolute() else part for part in command]
    return [
        part
        for before, part in zip(["", *parts], parts, strict=False)
        if before != "--out" and not RESULTS_GO_TO.fullmatch(part)
    ]


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


def distinct(
    cells: Sequence[RecordedCell], get: Callable[[dict[str, Any]], Any], shown: Callable[[str], str] = code_span
) -> str:
    """The value that all cells share, or each value with the number of cells that have it."""
    counts = Counter(shown(str(get(cell.manifest))) for cell in cells)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count} cells)" for text, count in counts.items())


def origin_note(cells: Sequence[RecordedCell]) -> str:
    """By which command, at which commit the numbers were made, for tables that stand without their page."""
    found = {name: distinct(cells, PROVENANCE[name], str) for name in ("command", "git commit", "suite hash")}
    return f"Made by {found['command']}; git commit {found['git commit']}; suite hash {found['suite hash']}."


def with_origin(table: pd.DataFrame, rows: Sequence[str], cells: Sequence[RecordedCell]) -> pd.DataFrame:
    """The table, and in each row how its numbers came about: `seeds`, `budget` (of a training), `protocol` (of the
    evaluation), `command` and `commit`. `rows` has the `RecordedCell.algorithm` of each row."""

    def origin(algorithm: str) -> dict[str, str]:
        own = [cell for cell in cells if cell.algorithm == algorithm]
        trained = [cell for cell in own if cell.manifest["seed"] is not None]
        found = {
            "seeds": seeds_text([cell.manifest["seed"] for cell in trained]),
            "budget": settings_text(trained[0].config("train") or {}) if trained else "",
            "protocol": settings_text(own[0].config("evaluation")) if own else "",
            "command": distinct(own, PROVENANCE["command"], str) if own else "",
            "commit": distinct(own, commit, str) if own else "",
        }
        return {name: visible(text) for name, text in found.items()}

    return pd.concat([table, pd.DataFrame(list(map(origin, rows)))], axis=1)
