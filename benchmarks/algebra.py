r"""Whether two expressions are equal, by math-verify's LaTeX parser and sympy's arithmetic.

Numbers are compared by value. Expressions with variables are compared at points: both are evaluated at the same random
values, and differ as soon as they do at one. That is faster than to simplify the difference and misses fewer
equalities; two different expressions agree by chance at all points with a probability that does not matter here. What
the parser cannot read equals only itself.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, Literal

from benchmarks.notation import FUNCTIONS, without_layout
from benchmarks.quantities import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, is_unit

_EXACT = 1e-10
"""Relative difference of what is equal without any decimal in it."""

Same = bool | None
"""None: it cannot be told."""


@cache
def _libraries() -> tuple[Any, Any, Any, Any, ModuleType]:
    import latex2sympy2_extended as reader
    import sympy
    from latex2sympy2_extended import math_normalization as normalization

    logging.disable(logging.CRITICAL)  # math-verify warns that it has no time limit: the parent process has one
    config = normalization.NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    conversion = reader.latex2sympy2.ConversionConfig(interpret_as_mixed_fractions=False)
    return reader.latex2sympy, normalization.normalize_latex, config, conversion, sympy


_PREPARATIONS = (
    (re.compile(r"\\\$|[$€£]"), ""),
    (re.compile(r"\s*\\deg(?![A-Za-z])"), ""),
    (re.compile(r"\\ldots|\\dots"), ""),
    (re.compile(r"_\s*([0-9])(?![0-9])"), r"_{\1}"),
    (re.compile(r"\\hbar(?![A-Za-z])"), r"\\Upsilon "),
    (re.compile(r"(?<![A-Za-z\\])E(?=\s*_)"), r"\\Xi "),  # E alone is Euler's number to the parser
    (
        re.compile(r"(?<![\d.}])(\d+)\s*(\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|(?<=\d)\s\s*\d+/\d+)(?![\d^])"),
        r"(\1+\2)",
    ),
    (re.compile(rf"(?<![A-Za-z\\])(?=(?:{FUNCTIONS})(?![A-Za-z]))"), r"\\"),
)
_TEXT_UNIT = re.compile(
    r"(?<=[\d})!a-z])(?:\s*\\text\s*\{([^{}]*)\}|\s+([a-z]{2,}))(?:\s*\^\s*(?:\{\s*\d\s*\}|\d))?\s*$"
)
_UNREADABLE = re.compile(
    r"[0-9]\s+[0-9]|[^\x00-\x7f]|\\text\s*\{[^{}]*\s[^{}]*\}|(?<![A-Za-z\\])[A-Za-z]{3,}\s+[A-Za-z]{2,}"
)
_MAX_LENGTH = 1000


def _with_braces(text: str) -> str:
    r"""sqrt(3) and x^(2/3) with braces, at the bracket that belongs there: \sqrt{3}, x^{2/3}."""
    position = 0
    while match := re.compile(r"(\\sqrt|\\exp|\^)\s*\(").search(text, position):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        if depth:
            return text
        opening, closing = ("{", "}") if match[1] != "\\exp" else ("{(", ")}")
        text = f"{text[: match.start(1)]}{match[1]}{opening}{text[match.end() : end - 1]}{closing}{text[end:]}"
        position = match.start(1) + len(match[1]) + 1
    return text


def prepared(text: str) -> str:
    """The text as the parser reads it rightly."""
    for pattern, replacement in _PREPARATIONS:
        text = pattern.sub(replacement, text)
    unit = _TEXT_UNIT.search(text)
    if unit and is_unit(unit[1] or unit[2]):
        text = text[: unit.start()]
    return _with_braces(text).strip()


@lru_cache(maxsize=4096)
def parse(text: str) -> Any:
    """The sympy expression of a text in `convert_notation`'s notation; None where it is none."""
    if len(text) > _MAX_LENGTH:
        return None
    text = prepared(text)
    if not text or _UNREADABLE.search(text):
        return None
    read, normalise, config, conversion, sympy = _libraries()
    try:
        normal = normalise(text, config)
        is_complex = re.search(r"(?<![A-Za-z\\])i(?![A-Za-z])|\\imath", normal) is not None
        found = read(
            normal,
            is_real=not is_complex,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=conversion,
        )
    except RecursionError:
        return None
    except Exception:  # the parser raises plain ones, and whatever sympy raises
        return None
    return found if isinstance(found, sympy.Basic | sympy.MatrixBase) else None


@lru_cache(maxsize=2048)
def _flat(text: str) -> Any:
    """The expression with its unknown functions and derivatives as symbols, so that it can be evaluated."""
    expression = parse(text)
    sympy = _libraries()[4]
    if expression is None or not isinstance(expression, sympy.Expr):
        return None
    unknown = {
        node: sympy.Symbol(re.sub(r"\W", "_", str(node)) + "_", real=True)
        for node in sympy.preorder_traversal(expression)
        if isinstance(node, sympy.core.function.AppliedUndef | sympy.Derivative)
    }
    return expression.xreplace(unknown) if unknown else expression


def _points(names: Sequence[str], whole: bool, decimal: bool = False) -> list[tuple[dict[str, Any], bool]]:
    """Values for the variables, and whether they are all positive.

    decimal: also small ones, beside which a constant that is a small decimal has all its digits.
    """
    sympy = _libraries()[4]
    rng = random.Random("points")
    points = []
    for positive in (True, True, True, False, False):
        if whole:
            values = {name: sympy.Integer(rng.randint(2, 40)) for name in names}
        else:
            sign = [1] if positive else [1, -1]
            values = {
                name: sympy.Rational(rng.randint(400_000, 2_400_000), 1_000_003) * rng.choice(sign) for name in names
            }
        points.append((values, positive or whole))
    if decimal and not whole:
        points.append(({name: value / 10**9 for name, value in points[0][0].items()}, True))
    return points


def _evaluated(expression: Any, values: dict[str, Any]) -> complex | None:
    sympy = _libraries()[4]
    symbols = {symbol: values[symbol.name] for symbol in expression.free_symbols}
    number = (expression.subs(symbols) if symbols else expression).evalf(20)
    if not number.is_number or number.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        return None
    try:
        return complex(number)
    except (TypeError, OverflowError):
        return None


def _near(a: complex, b: complex, relative: float, absolute: float | None = None) -> bool:
    difference = abs(a - b)
    return difference <= relative * max(abs(a), abs(b)) and (absolute is None or difference <= absolute)


def expressions_equal(gold: str, answer: str) -> bool:
    """Whether two expressions, in `convert_notation`'s notation, are equal. May take for ever."""
    if without_layout(gold) == without_layout(answer):
        return True
    first, second = _flat(gold), _flat(answer)
    if first is None or second is None:
        return _matrices_equal(gold, answer)
    return bool(_same(first, second))


def _matrices_equal(gold: str, answer: str) -> bool:
    sympy = _libraries()[4]
    first, second = parse(gold), parse(answer)
    if first is None or second is None or (isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr)):
        return False
    try:
        first, second = first.doit(), second.doit()
        if isinstance(first, sympy.MatrixBase) and isinstance(second, sympy.MatrixBase):
            return first.shape == second.shape and all(
                bool(_same(a, b)) for a, b in zip(first.flat(), second.flat(), strict=True)
            )
        return bool(first == second)
    except Exception:
        return False


def _same(first: Any, second: Any) -> Same:
    sympy = _libraries()[4]
    try:
        if first == second:
            return first not in (sympy.nan, sympy.zoo)
        names = sorted({symbol.name for symbol in first.free_symbols | second.free_symbols})
        decimal = first.has(sympy.Float) or second.has(sympy.Float)
        if not names:
            return _numbers_equal(first, second, decimal)
        if {s.name for s in first.free_symbols} != {s.name for s in second.free_symbols} and not (
            first.free_symbols and second.free_symbols
        ):
            return False
        if decimal:
            terms, others = (sympy.expand(side).as_coefficients_dict() for side in (first, second))
            if set(terms) == set(others):  # each coefficient has its digits
                return all(_numbers_equal(terms[term], others[term], decimal) for term in terms)
        whole = first.has(sympy.floor, sympy.ceiling) or second.has(sympy.floor, sympy.ceiling)
        return _agree_at_points(first, second, names, decimal, whole)
    except Exception:  # of sympy's evaluation, which raises whatever its parts raise
        return None


def _numbers_equal(first: Any, second: Any, decimal: bool) -> Same:
    sympy = _libraries()[4]
    first, second = first.doit(), second.doit()
    if not decimal and first.is_Rational and second.is_Rational:
        return bool(first == second)
    a, b, infinite = first.evalf(30), second.evalf(30), (sympy.oo, -sympy.oo)
    if not (a.is_number and b.is_number) or a.has(sympy.nan, sympy.zoo) or b.has(sympy.nan, sympy.zoo):
        return None
    if a.has(*infinite) or b.has(*infinite):
        return bool(a == b)
    size = max(abs(a), abs(b))
    if decimal:
        return all(_decimals_agree(x, y, size) for x, y in zip(a.as_real_imag(), b.as_real_imag(), strict=True))
    return bool(abs(a - b) <= sympy.Float("1e-20") * size)


def _decimals_agree(a: Any, b: Any, size: Any) -> bool:
    """Within both tolerances, or what is left of zero by rounding."""
    difference = abs(a - b)
    digits = difference <= float(RELATIVE_TOLERANCE) * max(abs(a), abs(b)) or difference <= _EXACT * size
    return bool(digits and difference <= float(ABSOLUTE_TOLERANCE))


def _agree_at_points(first: Any, second: Any, names: Sequence[str], decimal: bool, whole: bool) -> Same:
    relative = float(RELATIVE_TOLERANCE) if decimal else _EXACT
    compared = 0
    for values, positive in _points(names, whole, decimal):
        a, b = _evaluated(first, values), _evaluated(second, values)
        if a is None or b is None:
            continue
        if not positive and (abs(a.imag) > 1e-12 or abs(b.imag) > 1e-12):
            continue  # of logarithms and roots, branches may differ
        if not _near(a, b, relative):
            return False
        compared += 1
    return True if compared >= 2 else None


def equations_equal(gold: tuple[str, str], answer: tuple[str, str]) -> Literal["same", "flipped"] | None:
    """Whether one side minus the other is the same up to a factor in both, and "flipped" if the factor is negative.

    What holds always, or for no value of anything (0 = 1), has no variable left and equals nothing.
    """
    sympy = _libraries()[4]
    sides = [_flat(text) for text in (*gold, *answer)]
    if any(side is None for side in sides):
        return None
    first, second = sides[0] - sides[1], sides[2] - sides[3]
    if not first.free_symbols or not second.free_symbols:
        return None
    names = sorted({symbol.name for symbol in first.free_symbols | second.free_symbols})
    decimal = first.has(sympy.Float) or second.has(sympy.Float)
    relative = float(RELATIVE_TOLERANCE) if decimal else _EXACT
    factors: list[complex] = []
    try:
        for values, positive in _points(names, whole=False):
            a, b = _evaluated(first, values), _evaluated(second, values)
            if a is None or b is None or (not positive and (abs(a.imag) > 1e-12 or abs(b.imag) > 1e-12)):
                continue
            if min(abs(a), abs(b)) < 1e-12:
                return None
            factors.append(a / b)
    except Exception:
        return None
    if len(factors) < 2 or not all(_near(factor, factors[0], relative) for factor in factors):
        return None
    if abs(factors[0].imag) > 1e-9:
        return None
    return "same" if factors[0].real > 0 else "flipped"
