"""The table that a paper needs, cut from all that a suite's table has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.publish.raw_rows import PublishError
from harness.record.files import write
from harness.record.text import to_csv, visible
from harness.report.columns import TextTable
from harness.report.families import MANY
from harness.report.formats import to_latex, to_markdown
from harness.report.page import Publication
from harness.suite.config import ConfigError

FORMATS = ("md", "tex", "csv", "parquet")
ROW_NAMES = ("point", "name")
"""Of the columns that name a row, those that a reader sees."""
KEYS = ("point", "label", "algorithm", "name")
"""The columns that name a row."""


@dataclass(frozen=True)
class Cut:
    """Some columns and rows of a suite's table."""

    suite: str
    shown: TextTable
    numbers: pd.DataFrame
    notes: list[str]

    def encode(self, kind: str) -> bytes:
        """The cut as a file of one of FORMATS: text with notes, or numbers with both ends of every interval."""
        if kind == "md":
            return to_markdown({"cut": self.shown}, self.notes).encode()
        if kind == "tex":
            return to_latex(self.suite, {"cut": self.shown}, self.notes).encode()
        return to_csv(self.numbers).encode() if kind == "csv" else self.numbers.to_parquet(index=False)


def cut(publication: Publication, columns: Sequence[str] = (), algorithms: Sequence[str] = ()) -> Cut:
    """The rows of some algorithms and some columns, in the order asked for; without either, those of the first table.

    A column is called as in table.csv, and brings the ends of its interval. Tests are those of the whole table.

    Raises ConfigError, which lists what there is, where one is not there.
    """
    table = publication.csv["table"]
    by_algorithm = [
        shown
        for shown in publication.shown.values()
        if shown.numbers and {name for numbers in shown.numbers.values() for name in numbers} <= set(table.columns)
    ]
    headings = {numbers[0]: (shown, heading) for shown in by_algorithm for heading, numbers in shown.numbers.items()}
    ends = {name for shown in by_algorithm for numbers in shown.numbers.values() for name in numbers[1:]}
    known = [*headings, *(str(name) for name in table.columns if name not in headings and name not in ends)]
    known = [name for name in known if name not in KEYS]
    first = by_algorithm[0]
    default = [numbers[0] for numbers in first.numbers.values() if numbers[0] not in KEYS]
    chosen = _known(columns, known, "columns") or default
    labels = table["label" if "label" in table else "algorithm"]
    wanted = _known(algorithms, list(dict.fromkeys(labels)), "algorithms") or list(labels)
    rows = [place for place, label in enumerate(labels) if label in wanted]
    if algorithms and "label" not in table:
        rows.sort(key=lambda place: wanted.index(labels[place]))

    texts = {heading: first.columns[heading] for heading, numbers in first.numbers.items() if numbers[0] in KEYS}
    numbers, significant = [name for name in KEYS if name in table], {}
    for name in chosen:
        if name not in headings:
            texts[name] = ["" if pd.isna(value) else visible(str(value)) for value in table[name]]
            numbers.append(name)
            continue
        shown, heading = headings[name]
        texts[heading] = shown.columns[heading]
        numbers += [column for column in shown.numbers[heading] if column not in numbers]
        if heading in shown.significant:
            significant[heading] = [shown.significant[heading][place] for place in rows]
    return Cut(
        suite=publication.suite,
        shown=TextTable(
            {heading: [of[place] for place in rows] for heading, of in texts.items()},
            significant,
            families=[first.families[place] for place in rows] if first.families and len(rows) > MANY else (),
            highlighted=[first.highlighted[place] for place in rows] if first.highlighted else (),
        ),
        numbers=table.iloc[rows][numbers].reset_index(drop=True),
        notes=[*publication.notes, *_cut_note(len(rows), len(table))],
    )


def _cut_note(rows: int, every: int) -> list[str]:
    if rows == every:
        return []
    return [f"{rows} of the {every} rows of the table: tests are corrected over all of those of the whole one."]


def _known(asked: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--{what} {','.join(unknown)}: there is no such thing here; choose from: {', '.join(known)}")
    return list(dict.fromkeys(asked))


def write_cut(found: Cut, kind: str, out: Path | None) -> str | None:
    """Writes a cut as one of FORMATS; without `out`, returns it as text.

    Raises ConfigError where Parquet is asked for without a file, PublishError where the file exists.
    """
    content = found.encode(kind)
    if out is None:
        if kind == "parquet":
            raise ConfigError("--format parquet is no text: give a file, --out table.parquet")
        return content.decode()
    if out.exists():
        raise PublishError(f"{out} exists; give another --out, or remove it")
    write(out, content)
    return None
