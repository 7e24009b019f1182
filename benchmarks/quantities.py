r"""Numbers with what belongs to them: 1,234.50, 1 1/2, 0.\overline{3}, 5\text{ million}, 28\%, 15\text{ cm}^2, 2 h 30.

A quantity is read from the whole of a text or not at all, and its value is exact.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from benchmarks.notation import FUNCTIONS, strip_delimiters, without_layout

ABSOLUTE_TOLERANCE = Fraction(1, 10**6)
RELATIVE_TOLERANCE = Fraction(1, 10**5)
"""Two numbers are equal if they are within both tolerances: 0.333333 is 1/3, 1e-9 is not 2e-9, 1000000 not 1000001."""


class Quantity(NamedTuple):
    """A number with its unit."""

    value: Fraction
    unit: str = ""
    """As written, in lower case; empty where there is none."""
    percent: bool = False
    letter: bool = False
    """The unit is a single letter outside of \\text: it may be a variable."""


def values_agree(a: Fraction, b: Fraction) -> bool:
    """Within both tolerances."""
    difference = abs(a - b)
    return difference <= ABSOLUTE_TOLERANCE and difference <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


MAGNITUDES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
}
"""Words behind a number that multiply it."""
_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d{1,300})"
_INTEGER = r"(?:\{\s*\d{1,300}\s*\}|\d)"
_NUMBER = re.compile(
    rf"(?P<front>\\?\$|[€£¥])?\s*(?P<sign>[+-])?\s*(?P<currency>\\?\$|[€£¥])?\s*"
    r"(?:"
    rf"(?P<repeating>\d{{0,300}}\.\d{{0,300}})\\overline\{{(?P<period>\d{{1,300}})\}}"
    rf"|(?:(?P<whole>\d{{1,300}})\s*(?P<joint>\s|(?=\\frac)))?"
    rf"(?:\\frac\s*(?P<n1>{_INTEGER})\s*(?P<d1>{_INTEGER})|\(?(?P<n2>\d{{1,300}})\)?\s*/\s*\(?(?P<d2>\d{{1,300}})\)?)"
    rf"|(?P<decimal>{_DIGITS}(?:\.\d{{0,300}})?|\.\d{{1,300}})"
    r")"
    r"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*(?P<exponent>[+-]?\d{1,3})\s*\}|(?P<digit>\d)))?",
    re.ASCII,
)
_TENS = re.compile(
    r"(?P<sign>[+-]?)\s*10\s*\^\s*(?:\{\s*(?P<exponent>[+-]?\d{1,3})\s*\}|(?P<digit>\d))(?!\d)", re.ASCII
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_MAGNITUDE = re.compile(rf"\s*({'|'.join(MAGNITUDES)})s?\b", re.IGNORECASE)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_UNIT = re.compile(
    rf"[^\W\d_]+\.?{_POWER}(?:(?:\s*(?:/|\\cdot|\\times|\*|\s-?)\s*)[^\W\d_]+\.?{_POWER})*|\\deg(?:\s+[CF]\b)?|[€£¥$¢]|\\\$"
)
_NOT_UNITS = re.compile(
    rf"\b(?:and|or|to|choose|mod|{'|'.join(MAGNITUDES)}|not|plus|minus|times|over|than|least|most|approximately"
    rf"|about|if|for|{FUNCTIONS})\b",
    re.IGNORECASE,
)
_SAME_UNITS = (
    "m meter metre", "cm centimeter centimetre", "mm millimeter millimetre", "km kilometer kilometre", "in inch inche",
    "ft foot feet", "yd yard", "mi mile", "g gram", "kg kilogram", "mg milligram", "lb pound", "oz ounce",
    "s sec second", "min minute", "h hr hour", "day", "week", "month", "yr year", "l liter litre", "gal gallon",
    "ml milliliter millilitre", "dollar $ \\$ usd buck", "cent ¢", "€ euro eur", "rs rupee inr", "£", "¥ yen yuan",
    "degree \\deg deg", "rad radian", "mph",
    "n newton", "j joule", "w watt", "v volt", "a ampere amp", "k kelvin", "hz hertz", "pa pascal", "ohm", "c", "mol",
    "unit",
)  # fmt: skip
_CANONICAL = {name: names.split()[0] for names in _SAME_UNITS for name in names.split()}
_LETTERS = "msghLNJWV"
"""Letters that may be a unit without being marked as text."""


def canonical_unit(unit: str) -> str | None:
    """One name for the names of a unit, "in^2" for "square inches"; None for what is no unit that is known.

    >>> canonical_unit("square inches"), canonical_unit("inches^2"), canonical_unit("apples")
    ('in^2', 'in^2', None)
    """
    unit = unit.lower().replace("{", "").replace("}", "").replace(".", "").strip()
    power = re.search(r"\^\s*(-?\d)$", unit)
    name = re.sub(r"\s*\^\s*-?\d$", "", unit)
    exponent = power[1] if power else "1"
    for word, value in (("square ", "2"), ("sq ", "2"), ("cubic ", "3"), ("cu ", "3")):
        if name.startswith(word):
            name, exponent = name[len(word) :].strip(), value
    found = _CANONICAL.get(name) or _CANONICAL.get(name.removesuffix("s"))
    return found if found is None or exponent == "1" else f"{found}^{exponent}"


def is_unit(text: str) -> bool:
    """Whether a text is made of units that are known: "m/s", "kg m^2", "miles per hour"."""
    parts = re.split(r"/|\\cdot|\bper\b|\*", text)
    return all(canonical_unit(part) or all(map(canonical_unit, part.split() or [""])) for part in parts)


def units_conflict(a: str, b: str) -> bool:
    """Whether both are units that are known, and differ. Cents are no dollars; of apples and pieces nobody knows."""
    first, second = canonical_unit(a), canonical_unit(b)
    return first is not None and second is not None and first != second and "unit" not in (first, second)


def _integer(text: str) -> int:
    return int(text.strip("{} \t"))


def _value(match: re.Match[str]) -> Fraction | None:
    if match["period"] is not None:
        head = match["repeating"]
        shown = Fraction(Decimal("0" + head if head != "." else "0"))
        return shown + Fraction(
            int(match["period"]), (10 ** len(match["period"]) - 1) * 10 ** len(head.partition(".")[2])
        )
    if match["decimal"] is not None:
        value = Fraction(Decimal(re.sub(r"[\s,]", "", match["decimal"])))
    else:
        numerator, denominator = match["n1"] or match["n2"], match["d1"] or match["d2"]
        if not _integer(denominator):
            return None
        value = Fraction(_integer(numerator), _integer(denominator))
        if match["whole"] is not None:
            value += int(match["whole"])
    exponent = match["exponent"] or match["digit"]
    return value * Fraction(10) ** int(exponent) if exponent else value


def read_quantity(text: str) -> Quantity | None:
    r"""The quantity that the whole text writes, or None.

    >>> read_quantity(r"15\text{ cm}^2")
    Quantity(value=Fraction(15, 1), unit='cm^2', percent=False, letter=False)
    >>> read_quantity("1 1/2").value, read_quantity(r"5\text{ million}").value, read_quantity("1 2")
    (Fraction(3, 2), Fraction(5000000, 1), None)
    """
    text = strip_delimiters(text)
    if len(text) > 1000 or not (text[:1] in "+-.$€£¥\\(" or text[:1].isdigit()):
        return None
    return _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> Quantity | None:
    found = _leading(text)
    if found is None:
        return None
    quantity, rest = found
    return quantity if not rest else None


def _leading(text: str) -> tuple[Quantity, str] | None:
    """The quantity at the beginning of a text, and what is behind it."""
    match = _NUMBER.match(text) or _TENS.match(text)
    if match is None:
        return None
    tens = _TENS.match(text)
    if tens is not None and (match.re is _TENS or match["decimal"] == "10"):
        match = tens
        value: Fraction | None = Fraction(10) ** int(match["exponent"] or match["digit"])
        front = ""
    else:
        value, front = _value(match), match["front"] or match["currency"] or ""
    if value is None:
        return None
    value = -value if match["sign"] == "-" else value
    rest = _TEXT.sub(r" \1 ", text[match.end() :])
    if scale := _MAGNITUDE.match(rest):
        value, rest = value * MAGNITUDES[scale[1].lower()], rest[scale.end() :]
    attached, rest = not rest.startswith((" ", "\t")), rest.strip()
    if rest.startswith("%"):
        return Quantity(value, "%", percent=True), rest[1:].strip()
    unit = _UNIT.match(rest)
    if unit is None or _NOT_UNITS.search(unit[0]):
        return Quantity(value, "$" if front else ""), rest
    written = unit[0].strip()
    in_text = r"\text" in text
    letter = not in_text and re.match(r"[A-Za-z](?![A-Za-z])", written) is not None
    if letter and written[0] not in _LETTERS:
        return Quantity(value), rest  # 2n
    if (
        not in_text
        and (attached or len(written.split()[0]) < 3)
        and canonical_unit(re.split(r"[\s/^.]", written)[0]) is None
        and not is_unit(written)
    ):
        return Quantity(value), rest  # 2ab is a product
    return Quantity(value, re.sub(r"\s*\^\s*\{?\s*(-?\d)\s*\}?", r"^\1", written).lower(), letter=letter), rest[
        unit.end() :
    ].strip()


_NUMERAL = re.compile(r"\(?([0-9A-Z]*[0-9][0-9A-Z]*(?:\.[0-9A-Z]+)?)\)?_\s*(?:\{\s*(\d{1,2})\s*\}|(\d{1,2}))", re.ASCII)


def read_numeral(text: str) -> tuple[str, int] | None:
    """The digits and the base of a number that says its base, 52_8 or 2E_{16}; None of anything else.

    >>> read_numeral("52_8"), read_numeral("2E_{16}"), read_numeral("3A_5")
    (('52', 8), ('2E', 16), None)
    """
    match = _NUMERAL.fullmatch(without_layout(text))
    if match is None:
        return None
    digits, base = match[1], int(match[2] or match[3])
    valid = 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits.replace(".", ""))
    return (digits, base) if valid else None


def read_compound(text: str) -> tuple[Quantity, ...] | None:
    """The parts of a quantity in several units, 2 h 30, 5 ft 6 in, 2 hours and 30 minutes; None of anything else."""
    parts: list[Quantity] = []
    separated = False
    rest = strip_delimiters(text)
    if len(rest) > 200:
        return None
    while rest:
        words = re.match(rf"{_NUMBER.pattern}\s*(?:\\text\s*\{{\s*([A-Za-z.]+)\s*\}}|([A-Za-z]+))?", rest, re.ASCII)
        if words is None or not words[0]:
            return None
        value = _value(words)
        unit = words.group(words.re.groups - 1) or words.group(words.re.groups) or ""
        if value is None or (unit and canonical_unit(unit) is None) or (not unit and (not parts or separated)):
            return None
        parts.append(Quantity(-value if words["sign"] == "-" else value, canonical_unit(unit) or ""))
        gap = re.match(r"\s*(,|and\b)?\s*", rest[words.end() :])
        separated, rest = bool(gap and gap[1]), rest[words.end() + (gap.end() if gap else 0) :]
        if not unit and rest:
            return None
    return tuple(parts) if len(parts) > 1 else None


_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:\s*(?:\{:\}|:)\s*(?P<minute>[0-5]\d))?"
    r"\s*(?:(?P<half>[ap])\.?\s?m\.?|(?P<morning>in the morning)|in the (?:afternoon|evening)|at night)?",
    re.ASCII | re.IGNORECASE,
)
_NAMED_TIMES = {"noon": (12, 0, "p"), "midnight": (12, 0, "a")}


def read_clock(text: str) -> tuple[int, int, str] | None:
    """Hour, minute and half of the day ("a", "p", or "" where it is not said) of a time like 4:30 p.m.; else None.

    >>> read_clock("04:30 PM"), read_clock("16:30"), read_clock("noon"), read_clock("0:05"), read_clock("4:30")
    ((4, 30, 'p'), (4, 30, 'p'), (12, 0, 'p'), (12, 5, 'a'), (4, 30, ''))
    """
    said = _TEXT.sub(r" \1 ", strip_delimiters(text)).strip()
    match = _CLOCK.fullmatch(said)
    if match is None or int(match["hour"]) > 23:
        return _NAMED_TIMES.get(said.lower())
    hour, minute = int(match["hour"]), match["minute"]
    named = said[match.end("minute" if minute else "hour") :].strip()
    half = (match["half"] or ("a" if match["morning"] else "p" if named else "")).lower()
    if minute is None and not half:
        return None
    if hour > 12 or hour == 0:
        half = half or ("p" if hour else "a")
    return (hour - 12 if hour > 12 else hour or 12), int(minute or 0), half
