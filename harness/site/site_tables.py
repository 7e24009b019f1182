"""Tables of a report as the page reads them: their texts as published, and what numbers stand in these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness.record.text import escape_latex, escape_markdown
from harness.report.columns import NAME, TextTable

NUMBER = re.compile(r"(?:< )?([+−-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?: ± (\d+(?:\.\d+)?))?(%| [kMG])?(?: \([^()]+\))?")
SIZES = {"%": 1e-2, " k": 1e3, " M": 1e6, " G": 1e9, None: 1.0}


def reading(text: str) -> tuple[float, float | None] | None:
    """The number that a text of a table shows, and half the width of its interval; None where it shows none.

    "0.905 ± 0.011" is (0.905, 0.011), "−0.2" is (−0.2, None), "37.1 k" is (37100, None), "12% (−3% to 40%)" is
    (0.12, None), and "< 0.001" is (0, None): below every number that is shown.
    """
    found = NUMBER.fullmatch(text)
    if found is None:
        return None
    value, half, unit = found.groups()
    size = SIZES[unit]
    below = text.startswith("<")
    return 0.0 if below else float(value.replace("−", "-")) * size, None if half is None else float(half) * size


def table_json(what: str, table: TextTable) -> dict[str, Any]:
    """A table as the page reads it: a column is a name, its texts, the numbers where it has any, and what is bold.

    Where rows stand under the names of families, the family is a column.
    """
    columns = [_column(name, texts, table.significant.get(name)) for name, texts in table.columns.items()]
    if table.families:
        columns.insert(1, _column("family", list(table.families), None))
    if table.highlighted:
        named = next(column for column in columns if column["name"] == NAME)
        named["bold"] = list(table.highlighted)
    return {"what": what, "columns": columns}


def _column(name: str, texts: list[str], bold: list[bool] | None) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "texts": texts}
    readings = [reading(text) for text in texts]
    if (read := sum(found is not None for found in readings)) and 2 * read >= sum(map(bool, texts)):
        column["values"] = [found and found[0] for found in readings]
        if any(found is not None and found[1] is not None for found in readings):
            column["halves"] = [found and found[1] for found in readings]
    if bold is not None:
        column["bold"] = bold
    return column


def escapes(texts: Iterable[str]) -> dict[str, list[str]]:
    """By text, what it is in Markdown and in LaTeX, of those texts that are anything else there."""
    found = {text: [escape_markdown(text), escape_latex(text)] for text in dict.fromkeys(texts)}
    return {text: escaped for text, escaped in found.items() if escaped != [text, text]}


def texts_of(table: Mapping[str, Any]) -> Iterable[str]:
    """All texts of a `table_json`, its headings among them."""
    yield table["what"]
    for column in table["columns"]:
        yield column["name"]
        yield from column["texts"]
