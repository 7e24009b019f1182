r"""What an answer consists of: a list, a pair, an interval, a union, an equation, a matrix, or one expression.

    x = 1, y = 2                 list of two relations
    (1, \frac{9}{2})             tuple, or an open interval: brackets () and two parts
    (3, 4]                       tuple with brackets (]
    x \in (-\infty, 2) \cup (3, \infty)   relation whose second part is a union
    1 \pm \sqrt{19}              list of 1 + \sqrt{19} and 1 - \sqrt{19}

Reading takes a text as far as it has such a structure; what is left is an expression, for `benchmarks.algebra`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from benchmarks.notation import strip_delimiters
from benchmarks.quantities import read_compound, read_quantity

Kind = Literal["expression", "list", "set", "tuple", "union", "relation", "matrix"]


class Shape(NamedTuple):
    """A part of an answer."""

    kind: Kind
    text: str
    parts: tuple[Shape, ...] = ()
    marks: tuple[str, ...] = ()
    """The operators of a relation, between its parts; the two brackets of a tuple; the number of rows of a matrix."""


EMPTY_SET = "\\emptyset"

MAX_DEPTH = 8
"""Brackets within brackets that are taken apart."""

_RELATIONS = re.compile(r"\\(?:leq|geq|neq|approx|in|equiv|subset)(?![A-Za-z])|(?<![<>!:])[=<>]")
_MATRIX = re.compile(
    r"(?:\\?\[|\()?\s*\\begin\s*\{(?P<name>[pbvBV]?(?:small)?matrix\*?|array)\}"
    r"(?:\s*\{[lcr| ]*\})?(?P<cells>.*)\\end\s*\{(?P=name)\}\s*"
    r"(?:\\?\]|\))?",
    re.DOTALL,
)
_EMPTY = re.compile(r"\\(?:emptyset|varnothing)|∅|\\text\s*\{\s*(?:the )?empty set\s*\}")
_OPEN, _CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", re.ASCII)


@lru_cache(maxsize=2048)
def read_shape(text: str) -> Shape:
    """The structure of an answer in `convert_notation`'s notation."""
    return _read(text, 0)


def _read(text: str, depth: int) -> Shape:
    text = strip_delimiters(text)
    leaf = Shape("expression", EMPTY_SET if _EMPTY.fullmatch(text) else text)
    if depth > MAX_DEPTH or read_quantity(text) is not None or read_compound(text) is not None:
        return leaf

    def inner(piece: str) -> Shape:
        return _read(piece, depth + 1)

    if (matrix := _MATRIX.fullmatch(text)) and "\\begin" not in matrix["cells"]:
        rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix["cells"]) if row.strip()]
        return Shape("matrix", text, tuple(inner(cell) for row in rows for cell in row), (str(len(rows)),))
    if len(steps := split(text, r"\\Rightarrow")) > 1:
        return inner(steps[-1])
    if len(groups := split(text, r";|(?<![A-Za-z\\])(?:and|or)(?![a-z])")) > 1 and all(
        len(split(g, "[=,]")) > 3 for g in groups
    ):
        return Shape("list", text, tuple(inner(group)._replace(kind="tuple", marks=("(", ")")) for group in groups))
    if len(items := split_list(text, bracketed=False)) > 1:
        return Shape("list", text, tuple(inner(item) for item in items))
    if len(sides := split(text, _RELATIONS.pattern)) > 1:
        marks = tuple(match[0] for match in _RELATIONS.finditer(_blanked(text)))
        if all(side.strip() for side in sides):
            return Shape("relation", text, tuple(inner(side) for side in sides), marks)
        if marks == ("=",) or marks == ("\\approx",):  # "= 5", "x ="
            return inner(sides[1] or sides[0])
        return leaf
    if len(sets := split(text, r"\\cup(?![A-Za-z])")) > 1:
        return Shape("union", text, tuple(inner(piece) for piece in sets))
    if (brackets := _brackets(text)) is not None:
        opening, content, closing = brackets
        pieces = split_list(content, bracketed=True)
        if opening == "\\{" and (condition := _condition(content)):
            return inner(condition)
        if opening in ("\\{", "{") and not content:
            return Shape("expression", EMPTY_SET)
        if opening in ("\\{", "{"):
            return Shape("set", text, tuple(inner(piece) for piece in pieces))
        if len(pieces) > 1:
            return Shape("tuple", text, tuple(inner(piece) for piece in pieces), (opening, closing))
        return inner(content) if opening == "(" and depth < MAX_DEPTH else leaf
    if "\\pm" in text or "\\mp" in text:
        signs = [
            re.sub(r"\\mp(?![A-Za-z])\s*", below, re.sub(r"\\pm(?![A-Za-z])\s*", above, text))
            for above, below in ("+-", "-+")
        ]
        return Shape("list", text, tuple(Shape("expression", sign.removeprefix("+").strip()) for sign in signs))
    return leaf


def _condition(content: str) -> str | None:
    r"""What the elements of a set fulfil, x > 5 of x \in R \mid x > 5; None where it lists them."""
    element, *conditions = split(content, r"\\mid(?![A-Za-z])|\\colon(?![A-Za-z])|[|:]")
    name = element.partition("\\in")[0]
    return conditions[0].strip() if len(conditions) == 1 and _NAMES.fullmatch(name) else None


def split_list(text: str, *, bracketed: bool) -> list[str]:
    """The items of a list, separated by commas, semicolons, "and" and "or" outside of brackets.

    Outside of brackets 1,234 is a number; inside it is two. The comma before "and" separates nothing more.

    >>> split_list("19, 46, and 82", bracketed=False)
    ['19', '46', '82']
    >>> split_list("1,234", bracketed=False), split_list("1,234", bracketed=True)
    (['1,234'], ['1', '234'])
    """
    items: list[str] = []
    for piece in split(text, r";|,?\s*(?<![A-Za-z\\])(?:and|or)(?![a-z])" + (r"|," if bracketed else "")):
        if bracketed or _THOUSANDS.fullmatch(piece.strip()):
            items.append(piece)
            continue
        runs = re.split(r"(?<![\d,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])", piece)
        protected = "".join(run.replace(",", "\0") if i % 2 else run for i, run in enumerate(runs))
        items += [item.replace("\0", ",") for item in split(protected, ",")]
    items = [item.strip(" $") if item.count("$") % 2 else item.strip() for item in items]
    return [item for item in items if item] if len(items) > 1 and any(items) else items


def split(text: str, separator: str) -> list[str]:
    r"""The pieces between separators (a pattern) that stand outside of all brackets.

    >>> split(r"(1,2), 3", ",")
    ['(1,2)', ' 3']
    """
    pieces, start = [], 0
    for match in re.finditer(separator, _blanked(text)):
        pieces.append(text[start : match.start()])
        start = match.end()
    return [*pieces, text[start:]]


@lru_cache(maxsize=1024)
def _blanked(text: str) -> str:
    r"""The text with all that stands in brackets, or in \text{…}, replaced, at the same places; [a, b) is closed."""
    depth, result, position = 0, [], 0
    while position < len(text):
        character = text[position]
        if character == "\\" and position + 1 < len(text):
            following = text[position + 1]
            if following in "{}":
                depth = max(0, depth + (1 if following == "{" else -1))
            result.append(text[position : position + 2] if depth == 0 else "\1\1")
            position += 2
            continue
        if character in _CLOSE:
            depth = max(0, depth - 1)
        result.append(character if depth == 0 else "\1")
        if character in _OPEN:
            depth += 1
        position += 1
    return "".join(result)


def _brackets(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, content and closing bracket, where one pair of them is around the whole text."""
    match = re.fullmatch(r"(\\?\{|\(|\[|\\langle)(.*?)(\\?\}|\)|\]|\\rangle)", text, re.DOTALL)
    if match is None:
        return None
    inside = _blanked(text)[len(match[1]) : -len(match[3])]
    if inside.replace("\1", "") or _closes_early(text):
        return None
    opening = "(" if match[1] == "\\langle" else match[1]
    return opening, match[2].strip(), ")" if match[3] == "\\rangle" else match[3]


def _closes_early(text: str) -> bool:
    depth = 0
    for i, match in enumerate(matches := list(re.finditer(r"\\[A-Za-z]+|\\.|[()\[\]{}]", text))):
        token = match[0].removeprefix("\\")
        depth += 1 if token in ("(", "[", "{", "langle") else -1 if token in (")", "]", "}", "rangle") else 0
        if depth == 0 and i < len(matches) - 1 and i > 0:
            return match.end() < len(text.rstrip())
    return depth != 0


_NAME = (
    r"(?:m?\s*\\(?:angle|triangle|overline|overrightarrow|vec|hat|bar|dot|ddot|tilde|widehat|Delta)\s*)*"
    r"(?:\{\s*(?:[a-z]|\\[a-z]+)\s*\}|\{?\s*[A-Z](?:\s*[A-Z](?:_\{?\w+\}?)?)+\s*\}?|[A-Za-z]|\\(?!sqrt|frac|pm|cdot|times|pi(?![a-z])|infty|sin|cos|tan|log|ln|exp|text)[A-Za-z]+"
    r"|\\text\s*\{[^{}]*\})"
    r"(?:\s*_\s*(?:\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|\\?\w+))?(?:\s*(?:\^\s*(?:\{\s*)?(?:\\prime|\*)(?:\s*\})?|'+))?"
    r"(?:\s*\^\s*\{\s*-1\s*\})?(?:\s*(?:\([^()=+*/^-]{1,20}\)|(?<=[fghA-Z}])\([^()]{1,20}\)|\[[^\[\]=]{1,20}\]))?"
)
_NAMES = re.compile(
    rf"\s*(?:{_NAME}|[A-Z][A-Za-z]+|[a-z]{{4,}}|sum|max|min|age|gcd|lcm|\\(?:max|min|sup|inf)(?![A-Za-z])\s*{_NAME}|\|\s*{_NAME}\s*\||{_NAME}\s*:\s*{_NAME}|\\frac\s*\{{\s*{_NAME}\s*\}}\s*\{{\s*{_NAME}\s*\}}"
    rf"|\\frac\s*\{{\s*d\s*{_NAME}\s*\}}\s*\{{\s*d\s*{_NAME}\s*\}}"
    rf"|\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\))\s*"
)


def is_name(shape: Shape) -> bool:
    r"""Whether it only names something: x, v_{\max}, f(x), AB, |AB|, \frac{NO}{BO}, (p, q), \angle ABC."""
    return len(shape.text) <= 80 and _NAMES.fullmatch(shape.text) is not None
