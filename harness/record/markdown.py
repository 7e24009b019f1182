"""Tables in Markdown, the same way wherever something is published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table without a line break at its end: the first `left` columns aligned left, the others right.

    The texts are taken as they are: see text.py's `escape_markdown`. Cells are not padded to the width of their column,
    which a column of parameters would make the width of a page.
    """
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))
