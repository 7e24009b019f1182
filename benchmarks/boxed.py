r"""The contents of \boxed{…}, with braces matched, which no regular expression does."""

from __future__ import annotations

import re
from typing import NamedTuple

_OPENING = re.compile(r"\\(?:f?box|boxed|framebox)(?:\s*\{|\s+(?P<bare>[^\s{}$\\]+))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Boxed(NamedTuple):
    start: int
    """Index of the backslash."""
    end: int
    """Index behind the closing brace."""
    content: str


def boxed_expressions(text: str) -> list[Boxed]:
    r"""Every \boxed{…} that is closed, in the order of the text; of nested ones the outermost. Linear in the text.

    MATH has a few without braces, `\boxed 2`: there the content is everything up to white space, brace, $ or command.
    """
    found: list[Boxed] = []
    position = 0
    while opening := _OPENING.search(text, position):
        if opening["bare"] is not None:
            found.append(Boxed(opening.start(), opening.end(), opening["bare"].rstrip(".,;")))
            position = opening.end()
            continue
        end = _closing_brace(text, opening.end())
        if end is None:  # whatever follows is inside the unclosed brace, or unclosed too
            break
        found.append(Boxed(opening.start(), end, text[opening.end() : end - 1]))
        position = end
    return found


def _closing_brace(text: str, position: int) -> int | None:
    """The index behind the brace that closes the one opened just before `position`; an escaped brace counts not."""
    depth = 1
    for match in _BRACE.finditer(text, position):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None
