r"""Gold answers that cannot be read as what they state, and are graded as text.

f(x) = ax + b$, where $b$ is an arbitrary integer, and …      prose with formulas
t(0,4]                                                        brackets that do not belong together
"""

from __future__ import annotations

import re
from functools import lru_cache

from benchmarks.notation import convert_notation, strip_delimiters
from benchmarks.quantities import read_quantity

_TEXT = re.compile(r"\\text\s*\{[^{}]*\}")
_WORDS = re.compile(r"(?<![\\A-Za-z])(?!(?:and|or)\b)[A-Za-z]{2,},?\s+(?:(?!and\b|or\b)[A-Za-z]{2,}|\$)")
_FORMULA = re.compile(r"[0-9\\$=<>^_]")
_PAIRS = {")": "([", "]": "([", "}": "{"}


@lru_cache(maxsize=4096)
def unreadable(gold: str) -> bool:
    r"""Whether a gold answer is graded as text, and only as text.

    >>> unreadable("$f(x)=ax+b$, where $b$ is arbitrary"), unreadable(r"$69$,$84$"), unreadable("864 square inches")
    (True, False, False)
    """
    text = convert_notation(gold)
    if read_quantity(text) is not None:
        return False
    bare = _TEXT.sub("", strip_delimiters(text))
    return (bool(_WORDS.search(bare)) and bool(_FORMULA.search(bare))) or not _balanced(bare)


def _balanced(text: str) -> bool:
    """Whether brackets close; ( and ] may, as of an interval, where nothing stands in front of the opening one."""
    opened: list[tuple[str, str]] = []
    for match in re.finditer(r"\\[a-zA-Z]+|\\.|[()\[\]{}]", text):
        token = match[0].removeprefix("\\")
        if token in ("(", "[", "{"):
            opened.append((token, text[: match.start()].rstrip()[-1:]))
        elif token in _PAIRS:
            if not opened:
                return False
            opening, before = opened.pop()
            mixed = token != "}" and (opening, token) in (("(", "]"), ("[", ")"))
            if opening not in _PAIRS[token] or (mixed and before.isalnum()):
                return False
    return not opened
