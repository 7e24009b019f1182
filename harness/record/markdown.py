"""Tables in Markdown, the same way wherever something is published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table without a line break at its end: the first `left` columns aligned left, the others right.

    The texts are taken as they are: see `escape_markdown`. Cells are not padded to the width of their column, which a
    column of parameters would make the width of a page.
    """
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def escape_markdown(text: str) -> str:
    """The text in one line, with what Markdown would take for markup escaped."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))
