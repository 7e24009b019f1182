r"""Whether an answer is the gold one: by text, by value, by words, and by structure, part by part.

`gold` and `answer` are never exchanged: an answer may name what gold does not (x = 5), or leave out a name, a unit or a
percent sign that gold has; the rules are in docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.algebra import equations_equal, expressions_equal
from benchmarks.answers import HEDGE
from benchmarks.golds import unreadable
from benchmarks.notation import strip_delimiters, without_layout
from benchmarks.quantities import (
    Quantity,
    read_clock,
    read_compound,
    read_numeral,
    read_quantity,
    units_conflict,
    values_agree,
)
from benchmarks.shapes import EMPTY_SET, Shape, is_name, read_shape

LONGEST = 4000
"""Characters up to which an answer's structure is read; a longer one equals only itself."""


def equal(gold: str, answer: str) -> bool:
    """Whether an answer in `convert_notation`'s notation is the gold one."""
    if without_layout(gold) == without_layout(answer):
        return True
    if (choice := _CHOICE.fullmatch(answer)) and any(equal(gold, said) for said in choice.groups()):
        return True
    same = _values_equal(gold, answer)
    if same is None and (pointed := _with_decimal_point(answer)):
        same = _values_equal(gold, pointed)
    if same is not None:
        return same
    if (words := words_of(gold)) and words == words_of(answer):
        return True
    if unreadable(gold) or max(len(gold), len(answer)) > LONGEST or (HEDGE.search(answer) and not HEDGE.search(gold)):
        return False
    return shapes_equal(read_shape(gold), read_shape(answer))


_CHOICE = re.compile(r"(?:\\text\s*\{)?\(([A-H])\)\s*\}?\s*[:.]?\s*(?=\d|\\(?!text))(.+)", re.DOTALL)
"""The letter of a choice in front of what it stands for: (C) 12."""
_ABOUT = re.compile(
    r"^(?:\\approx|\b(?:approximately|about|roughly|around|nearly|exactly|only|just)\b)\s*", re.IGNORECASE
)


def _values_equal(gold: str, answer: str) -> bool | None:
    """Of two times, numerals or quantities; None of anything else."""
    times = read_clock(gold), read_clock(answer)
    if times[0] is not None and times[1] is not None:
        return _clocks_equal(times[0], times[1])
    numerals = read_numeral(gold), read_numeral(answer)
    if numerals[0] is not None:  # the base may be left out
        return numerals[0] == numerals[1] or numerals[0][0] == without_layout(answer)
    if numerals[1] is not None:
        return numerals[1][1] == 10 and _values_equal(gold, numerals[1][0]) is True
    quantities = read_quantity(gold), read_quantity(answer)
    if quantities[0] is not None and quantities[1] is not None:
        return _quantities_equal(quantities[0], quantities[1])
    return None


def _quantities_equal(gold: Quantity, answer: Quantity) -> bool:
    """By value and unit; the sign of a percentage may be left out, and of a gold value below 1 may not."""
    if gold.letter:  # 2s for a variable s
        return answer.letter and gold.unit == answer.unit and values_agree(gold.value, answer.value)
    if gold.percent or answer.percent:
        return _percents_equal(gold, answer)
    if gold.unit and answer.unit and units_conflict(gold.unit, answer.unit):
        return False
    return values_agree(gold.value, answer.value)


def _percents_equal(gold: Quantity, answer: Quantity) -> bool:
    if gold.percent and answer.percent:
        return values_agree(gold.value, answer.value)
    if gold.percent:
        return any(values_agree(value, answer.value) for value in (gold.value, gold.value / 100))
    as_written = abs(gold.value) >= 1 and values_agree(gold.value, answer.value)
    return as_written or (abs(gold.value) <= 1 and values_agree(gold.value, answer.value / 100))


def _clocks_equal(gold: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    """To the minute; the half of the day may be left out or added."""
    return gold[:2] == answer[:2] and (gold[2] == answer[2] or not gold[2] or not answer[2])


_MARKUP = re.compile(r"\\(?:text|rm|bf)(?![A-Za-z])|\\[ ,;:]")


def words_of(text: str) -> str:
    r"""The letters of an answer that is only words, as \text{Evelyn} or (C), without case; else empty."""
    text = _MARKUP.sub(" ", strip_delimiters(text))
    text = re.sub(r"[\s{}*\"“”'.]", "", text).casefold()
    text = text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text
    return text if re.fullmatch(r"[^\W\d_]+", text) else ""


def shapes_equal(gold: Shape, answer: Shape) -> bool:
    """Whether two structures say the same."""
    if without_layout(gold.text) == without_layout(answer.text):
        return True
    answer = _value(_last_step(answer, gold), gold)
    if gold.kind == "list" or gold.kind == "set":
        return _lists_equal(gold, answer)
    if gold.kind == "relation":
        return _relation_equal(gold, answer)
    interval = _as_interval(gold), _as_interval(answer)
    if interval[0] and interval[1]:
        gold, answer = interval[0], interval[1]
    if gold.kind == answer.kind == "union":
        return _matched(gold.parts, answer.parts)
    if gold.kind == "matrix" and answer.kind == "tuple":  # [[1, 2], [3, 4]]
        rows = [row.parts for row in answer.parts if row.kind == "tuple" and row.marks == answer.marks == ("[", "]")]
        return (
            len(rows) == len(answer.parts)
            and gold.marks == (str(len(rows)),)
            and _all_equal(gold.parts, [cell for row in rows for cell in row])
        )
    if gold.kind == "matrix" or answer.kind == "matrix":
        if gold.kind == answer.kind and len(gold.parts) == len(answer.parts) and gold.marks == answer.marks:
            return _all_equal(gold.parts, answer.parts)
        return expressions_equal(gold.text, answer.text)
    if gold.kind == "tuple":
        brackets = answer.marks == gold.marks if answer.kind == "tuple" else gold.marks == ("(", ")")
        ordered = answer.kind == "tuple" or (answer.kind in ("list", "set") and len(gold.parts) > 1)
        return ordered and brackets and _all_equal(gold.parts, answer.parts)
    if gold.kind == answer.kind == "expression":
        return _leaves_equal(gold.text, answer.text)
    if answer.kind in ("list", "set") and len(answer.parts) == 1 and gold.text != EMPTY_SET:
        return shapes_equal(gold, answer.parts[0])
    return False


def _all_equal(gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
    return len(gold) == len(answer) and all(shapes_equal(g, a) for g, a in zip(gold, answer, strict=True))


def _leaves_equal(gold: str, answer: str) -> bool:
    answer = _ABOUT.sub("", answer)
    if (same := _values_equal(gold, answer)) is not None:
        return same
    first, second = read_quantity(gold), read_quantity(answer)
    parts = read_compound(gold), read_compound(answer)
    if parts[0] or parts[1]:
        return parts[0] is not None and parts[1] is not None and _compounds_equal(parts[0], parts[1])
    if (words := words_of(gold)) and words == words_of(answer):
        return True
    if first is not None and first.letter and second is None:
        first = None
    return (first is None or second is None) and expressions_equal(gold, answer)


def _with_decimal_point(text: str) -> str:
    """An answer with a decimal comma, 1000,99 or 0,125, written with a point; empty for 1,234, which is a thousand."""
    match = re.fullmatch(r"(-?(?:0|\d+(?!,\d{3}$))),(\d+)", strip_delimiters(text), re.ASCII)
    return f"{match[1]}.{match[2]}" if match else ""


def _compounds_equal(gold: Sequence[Quantity], answer: Sequence[Quantity]) -> bool:
    return len(gold) == len(answer) and all(
        g.value == a.value and (not g.unit or not a.unit or g.unit == a.unit) for g, a in zip(gold, answer, strict=True)
    )


_LETTERS = re.compile(r"[A-Za-z]+(?:\s*_\s*\{?\w+\}?)?")
_EQUALS = {"=", "\\approx", "\\in", "\\equiv"}


_ARITHMETIC = re.compile(
    r"\\(?:d?frac|sqrt|cdot|times|div|log|ln|sin|cos|tan|binom|pi|deg|overline|text|lfloor|rfloor|lceil|rceil)(?![A-Za-z])"
)


class _Assignment(NamedTuple):
    """x = 5, x \\approx 5 or x \\in [0, 1]."""

    name: str
    value: Shape


def _assignment(shape: Shape, *, loosely: bool, anywhere: bool = False) -> _Assignment | None:
    r"""What a relation names, and the last link of its chain; of x = 1/3 \approx 0.33, 1/3. None of other shapes.

    loosely: an expression without a number, as m + n, and arithmetic that is right, as 2 + 3, name something too: of an
    answer, but not of a gold one, whose left side may be the point.
    anywhere: the name may stand further back in the chain.
    """
    if shape.kind != "relation" or not set(shape.marks) <= _EQUALS:
        return None
    first, *links = shape.parts
    for mark, link in zip(shape.marks[:0:-1], shape.parts[:1:-1], strict=True):
        if mark == "\\approx":
            links.remove(link)
    last = links[-1]
    if is_name(first):
        several = len(re.sub(r"\W|_", "", first.text)) > 1
        return (
            None
            if several and _LETTERS.fullmatch(last.text) and not loosely and "(" not in first.text
            else _Assignment(first.text, last)
        )
    if is_name(last) and len(links) == 1:
        return _Assignment(last.text, first)
    if anywhere and any(is_name(link) for link in links[:-1]):
        return _Assignment(next(link.text for link in links if is_name(link)), last)
    if loosely and re.search(r"[A-Za-z]", _ARITHMETIC.sub("", first.text)) is None:
        says_something = without_layout(first.text) != without_layout(last.text)
        return _Assignment("", last) if says_something and _chain_holds(shape) else None
    nameless = re.sub(r"[_^]\s*(?:\{[^{}]*\}|\w)", "", first.text)
    return _Assignment(first.text, last) if loosely and not re.search(r"\d", nameless) else None


def _chain_holds(shape: Shape) -> bool:
    return all(
        mark != "=" or shapes_equal(a, b) for mark, a, b in zip(shape.marks, shape.parts, shape.parts[1:], strict=False)
    )


def _value(answer: Shape, gold: Shape) -> Shape:
    """The answer without the name that it gives to what gold does not name."""
    if gold.kind == "relation" or (gold.kind == "list" and any(part.kind == "relation" for part in gold.parts)):
        return answer
    found = _assignment(answer, loosely=True)
    return found.value if found else answer


def _last_step(answer: Shape, gold: Shape) -> Shape:
    """x = 6 of 5x = 30 and x = 6: a derivation, unless gold is a list itself."""
    if answer.kind != "list" or gold.kind in ("list", "set", "tuple"):
        return answer
    *steps, last = answer.parts
    derived = all(step.kind == "relation" and not is_name(step.parts[0]) for step in steps)
    return last if derived and _assignment(last, loosely=False) else answer


def _items(shape: Shape) -> list[Shape]:
    r"""The elements of a list or set, those of lists in it included: 1 \pm 2, 5 has three. Of a = 4, -8 the name is
    dropped."""
    if shape.kind not in ("list", "set"):
        return [shape]
    items = [item for part in shape.parts for item in _items(part)]
    first, *others = items
    named = _assignment(first, loosely=False)
    if named and others and all(item.kind != "relation" for item in others):
        return _items(named.value) + others
    return items


def _distinct(items: Sequence[Shape]) -> list[Shape]:
    kept: list[Shape] = []
    for item in items:
        if not any(shapes_equal(other, item) for other in kept):
            kept.append(item)
    return kept


def _lists_equal(gold: Shape, answer: Shape) -> bool:
    """In any order. What gold has once the answer may repeat; what gold has twice, a double root, counts.

    Values of several names, x = 4, y = 5, may be given without the names, but then in their order.
    """
    expected, given = _items(gold), _items(answer)
    if answer.kind == "tuple" and gold.kind == "list":
        return _all_equal(expected, answer.parts) and answer.marks == ("(", ")")
    if (
        answer.kind not in ("list", "set")
        and len(expected) != 1
        and (expanded := _value(answer, expected[0])) != answer
    ):
        return shapes_equal(gold, expanded)
    names = {named.name for item in expected if (named := _assignment(item, loosely=False))}
    if len(names) > 1 and not any(item.kind == "relation" for item in given):
        return _all_equal(expected, given)
    if not names:
        steps = [item for item in given if item.kind == "relation" and not _assignment(item, loosely=False)]
        given = [item for item in given if item not in steps] if len(steps) < len(given) else given
    if len(given) > 200 or len(expected) > 200:
        return False
    if len(_distinct(expected)) == len(expected) and len(given) > len(expected):
        given = _distinct(given)
    return _matched(expected, given)


def _matched(gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
    """Whether each part of one is a part of the other."""
    left = list(answer)
    for part in gold:
        same = next((other for other in left if shapes_equal(part, other)), None)
        if same is None:
            return False
        left.remove(same)
    return not left


_MIRRORED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}


def _relation_equal(gold: Shape, answer: Shape) -> bool:
    expected, given = _assignment(gold, loosely=False, anywhere=True), _assignment(answer, loosely=True)
    if expected and answer.kind != "relation":
        return shapes_equal(expected.value, answer)
    if expected and given and _same_name(expected.name, given.name):
        return shapes_equal(expected.value, given.value)
    intervals = _as_interval(expected.value if expected else gold), _as_interval(given.value if given else answer)
    if intervals[0] and intervals[1]:
        return shapes_equal(intervals[0], intervals[1])
    if answer.kind != "relation" or len(gold.parts) != 2 or len(answer.parts) != 2:
        return False
    (mark,), (other,) = gold.marks, answer.marks
    same = equations_equal((gold.parts[0].text, gold.parts[1].text), (answer.parts[0].text, answer.parts[1].text))
    return (same == "same" and mark == other) or (same == "flipped" and _MIRRORED.get(mark, mark) == other)


def _same_name(a: str, b: str) -> bool:
    """f(n) and f(x) are one name, x and y two."""
    first, second = (re.sub(r"(?<=[A-Za-z}])\([^()]*\)|\\text|[\s{}\\]", "", without_layout(name)) for name in (a, b))
    return first == second


def _as_interval(shape: Shape) -> Shape | None:
    r"""An interval, also from -2 < x \leq 7, x > 5, and a union from 1 \leq |x| \leq 2; None of anything else."""
    if shape.kind == "tuple" and len(shape.parts) == 2:
        return shape
    if shape.kind == "union":
        return shape
    if shape.kind == "list" and len(found := [_as_interval(part) for part in shape.parts]) > 1:
        pieces = [piece for piece, part in zip(found, shape.parts, strict=True) if piece and part.kind == "relation"]
        return Shape("union", shape.text, tuple(pieces)) if len(pieces) == len(found) else None
    if shape.kind != "relation" or not set(shape.marks) <= set(_MIRRORED):
        return None
    parts, marks = shape.parts, shape.marks
    if all(mark in (">", "\\geq") for mark in marks):
        parts, marks = parts[::-1], tuple(_MIRRORED[mark] for mark in marks[::-1])
    if not all(mark in ("<", "\\leq") for mark in marks):
        return None
    if len(parts) == 2 and is_name(parts[1]) and not is_name(parts[0]):
        return _interval(parts[0], marks[0], Shape("expression", "\\infty"), "<")
    if len(parts) == 2 and is_name(parts[0]) and not is_name(parts[1]):
        return _interval(Shape("expression", "-\\infty"), "<", parts[1], marks[0])
    if len(parts) != 3 or not is_name(parts[1]):
        return None
    found_interval = _interval(parts[0], marks[0], parts[2], marks[1])
    if not parts[1].text.startswith("|") or parts[0].text.startswith("-"):
        return found_interval
    low, high = (Shape("expression", f"-({part.text})") for part in (parts[2], parts[0]))
    return Shape("union", shape.text, (_interval(low, marks[1], high, marks[0]), found_interval))


def _interval(low: Shape, left: str, high: Shape, right: str) -> Shape:
    brackets = "[" if left == "\\leq" else "(", "]" if right == "\\leq" else ")"
    return Shape("tuple", f"{brackets[0]}{low.text},{high.text}{brackets[1]}", (low, high), brackets)
