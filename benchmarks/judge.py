r"""The verdict on one response: is its answer the gold one?

Answers are compared in four ways, cheap ones first: as text without its layout, as numbers by value, as words without
case and markup, and at last by math-verify, which reads LaTeX and compares by sympy. Three of its habits are corrected:
  - Notation that it misreads is converted before, on both sides: 3.8e-7 (it takes e for 2.718), `np.arcsin`, `\$36`,
    `√5`, `1./3`, an upright e.
  - It compares floats by rounding them to 6 decimals, which makes all small numbers equal. Numbers have to agree to
    5 digits besides.
  - It takes the last number of what it cannot parse. An answer that is LaTeX is read as LaTeX or not at all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from benchmarks.answers import MAX_CHARACTERS, SHORT_ANSWER, explicit_answer, find_answer
from benchmarks.benchmark import Verdict

ABSOLUTE_TOLERANCE = Fraction(1, 10**6)
RELATIVE_TOLERANCE = Fraction(1, 10**5)
"""Two numbers are equal if they are within both tolerances: 0.333333 is 1/3, 1e-9 is not 2e-9, 1000000 not 1000001."""


def judge(gold: str, response: str) -> Verdict:
    """The verdict on a response whose right answer is `gold`. May take for ever: see `benchmarks.grader`.

    The gold answer may itself be a solution that states its answer, as in graders' own tests.
    """
    gold = convert_notation(explicit_answer(gold) or gold)
    text, stated = find_answer(response)
    answer = convert_notation(text)
    if not answer:
        return "no_answer"
    if _without_layout(gold) == _without_layout(answer):
        return "correct"
    gold_value, value = _value(gold), _value(answer)
    if gold_value is not None and value is not None:
        return "correct" if _values_agree(gold_value, value) else "wrong"
    if (words := _words(gold)) and words == _words(answer):
        return "correct"
    if _with_decimal_point(gold) == _with_decimal_point(answer):
        return "correct"
    readings = _read(answer)
    if not readings:
        return "wrong" if stated else "no_answer"
    return "correct" if any(_equal(g, a) for g in _read(gold) for a in readings) else "wrong"


def normal_answer(response: str) -> str:
    r"""The answer of a response in a normal form: equal texts are equal answers, and it is what maj@k counts.

    Numbers have their value, as an integer or a fraction in lowest terms (`0.5` and `\frac{1}{2}` are `1/2`, `$1,000`
    is `1000`); words have no case and markup; everything else has no layout. A response that states no answer gives its
    last number where it is long. Unlike `judge` this asks no computer algebra: \sqrt{8} and 2\sqrt{2} are two answers.
    Takes time linear in the response; empty if there is nothing to compare.
    """
    text, stated = find_answer(response[-MAX_CHARACTERS:])
    if not stated and len(text) > SHORT_ANSWER:
        numbers = _NUMBER_IN_TEXT.findall(text)
        text = numbers[-1] if numbers else ""
    answer = _ASSIGNMENT.sub("", _strip_delimiters(convert_notation(text)))
    value = _value(answer)
    return str(value) if value is not None else _words(answer) or _without_layout(answer)


_NUMBER_IN_TEXT = re.compile(r"-?\d++(?:,\d{3}\b)*+(?:\.\d++)?")
_ASSIGNMENT = re.compile(r"^[A-Za-z]\s*=(?!.*=)", re.DOTALL)


_FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|sqrt|exp|log|ln|pi"

_CONVERSIONS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # \$36, 12,\!000 and 12{,}000.
        (r"\\\$|\\!\s*", ""),
        (r"(?<=\d)(?:\{,\}|,\\ ?|\\,)(?=\d{3})", ","),
        # 3.83e35, and the point of 1./3.
        (
            r"(?<![A-Za-z\\\d.])(\d++(?:\.\d*+)?|\.\d++)[eE]([+-]?\d{1,9}+)(?!\d|[\d.]*+[A-Za-z(^{])",
            lambda match: rf"{match[1]} \times 10^{{{int(match[2])}}}",
        ),
        (r"(?<=\d)\.(?=\s*[/*)])", ""),
        # An upright e, i or d. math-verify takes \mathrm{…} for a unit.
        (r"\\mathrm\s*\{\s*([A-Za-z])\s*\}", r"\1"),
        # Python: np.arcsin(10/13), 2*x**3.
        (rf"(?<![A-Za-z\\])(?:np|math|sympy|sp)\.({_FUNCTIONS})\b", r"\\\1"),
        (r"\*\*", "^"),
        (r"√\s*\(([^()]*)\)|√\s*\{([^{}]*)\}|√\s*(\w+)", r"\\sqrt{\1\2\3}"),
        ("π", r"\\pi "),
        ("∞", r"\\infty "),
        ("[×·]", r"\\times "),
        ("÷", "/"),
        ("[−–]", "-"),
        ("≤", r"\\leq "),
        ("≥", r"\\geq "),
        ("≠", r"\\neq "),
        ("°", r"^\\circ "),
    )
)
_ESCAPED_TWICE = re.compile(r"\\\\(?=(?:d?frac|sqrt|text|boxed|left|right|pi|infty|cdot|times)\b)")
_AND = re.compile(r"\\text\s*\{\s*(?:and|or)\s*\}")


def convert_notation(text: str) -> str:
    """The text in notation that math-verify reads as it is meant. Takes time linear in the text."""
    if "\\begin" not in text:  # a matrix needs its \\
        text = _ESCAPED_TWICE.sub(r"\\", text)
    for pattern, replacement in _CONVERSIONS:
        text = pattern.sub(replacement, text)
    # Between solutions of several unknowns, "and" separates more than the commas in them: p=5, q=2 and p=7, q=2.
    solutions = _AND.split(text)
    if len(solutions) > 1 and all(solution.count("=") > 1 and "," in solution for solution in solutions):
        text = "; ".join(solution.strip() for solution in solutions)
    return text.strip()


def _strip_delimiters(text: str) -> str:
    r"""Without the $…$, \(…\) or \[…\] around the whole, and without a full stop behind it."""
    text = text.strip().rstrip(".").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and opening not in inner and "$" not in inner:
            return inner.strip()
    return text


def _without_layout(text: str) -> str:
    """For comparison as text: white space, sizes of brackets and of fractions do not matter."""
    text = re.sub(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;: ]", "", _strip_delimiters(text))
    return re.sub(r"\s+", "", re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text))


_QUANTITY = re.compile(
    r"[$€£]?\s*+(?P<number>[+-]?\s*+"
    r"(?:(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d{1,300})(?:\.\d{0,300})?|\.\d{1,300}))"
    r"(?:\s*+\\(?:times|cdot)\s*+10\s*+\^\s*+(?:\{\s*+(?P<exponent>[+-]?\d{1,3})\s*+\}|(?P<digit>\d)))?"
    r"\s*+[$€£]?\s*+(?P<unit>[^\W\d_]{2,}+(?:\s++[^\W\d_]{2,}+)*+)?"
)
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac(?:\{(\d{1,300})\}|(\d))(?:\{(\d{1,300})\}|(\d))|\(?(\d{1,300})\)?/\(?(\d{1,300})\)?)"
)
_NOT_UNITS = re.compile(
    rf"\b(?:and|or|to|choose|pct|percent\w*|hundred|thousand|[mb]illion|dozen|squared|cubed|{_FUNCTIONS})\b"
)


def _value(text: str) -> Fraction | None:
    r"""The value of a plain number: 18, 1,234.50, €18, 18 dollars a day, 1.6 \times 10^{-19}, -3/4, \frac{3}{4}.

    None of anything else."""
    if match := _QUANTITY.fullmatch(_strip_delimiters(text)):
        if _NOT_UNITS.search(match["unit"] or ""):
            return None
        exponent = match["exponent"] or match["digit"] or "0"
        return Fraction(Decimal(re.sub(r"[\s,]", "", match["number"]) + "e" + exponent))
    if match := _FRACTION.fullmatch(_without_layout(text)):
        sign, numerator, denominator = (group for group in match.groups() if group is not None)
        return Fraction(int(sign + numerator), int(denominator)) if int(denominator) else None
    return None


def _values_agree(a: Fraction, b: Fraction) -> bool:
    difference = abs(a - b)
    return difference <= ABSOLUTE_TOLERANCE and difference <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


_MARKUP = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|rm|bf)(?![A-Za-z])|\\[ ,;:]")


def _words(text: str) -> str:
    r"""The letters of an answer that is only words or a time of day, as \text{Evelyn}, (C), 4:30 p.m.; else empty."""
    text = _MARKUP.sub(" ", _strip_delimiters(text))
    text = re.sub(r"[\s{}*\"“”'.]", "", text).casefold()
    text = text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text
    return text if re.fullmatch(r"[^\W\d_]+|\d{1,2}:\d\d(?:am|pm)?", text) else ""


def _with_decimal_point(text: str) -> str:
    """A number with a decimal comma, 1000,99 or 0,125, written with a point. 1,234 has none: it is a thousand."""
    return re.sub(r"^(-?0|-?\d+(?!,\d{3}$)),(?=\d+$)", r"\1.", _strip_delimiters(text))


@cache
def _math_verify() -> ModuleType:
    import math_verify

    logging.disable(logging.CRITICAL)  # it warns that it has no time limit: the parent process has one
    return math_verify


_DELIMITER = re.compile(r"\$|\\\(|\\\[|\\boxed")
_PROSE = re.compile(r"[^\\]*\b[A-Za-z]{2,}\s+[A-Za-z]{2,}\b[^\\]*")


@lru_cache(maxsize=1024)  # a gold answer meets many responses
def _read(text: str) -> tuple[Any, ...]:
    """math-verify's readings of an answer: a sympy expression, and the text itself. Empty if it finds nothing."""
    mv = _math_verify()
    latex, plain = mv.LatexExtractionConfig(), mv.ExprExtractionConfig()
    if len(text) > SHORT_ANSWER or _DELIMITER.search(text) or _PROSE.fullmatch(text):
        return tuple(mv.parse(text, [latex, plain], parsing_timeout=None))
    return tuple(mv.parse(f"${text}$", [latex], parsing_timeout=None))


def _equal(gold: Any, answer: Any) -> bool:
    """Whether math-verify takes two readings for equal, and, if they are numbers, they agree to 5 digits."""
    if not _math_verify().verify(gold, answer, timeout_seconds=None):
        return False
    try:
        a, b = complex(gold), complex(answer)
    except Exception:  # not numbers; a percentage, which may equal its hundredfold, does not convert either
        return True
    return abs(a - b) <= float(RELATIVE_TOLERANCE) * max(abs(a), abs(b))
