r"""The ways in which one thing is written, brought to one way: the rules, in the order in which they are applied.

Each rule is small, named, and shown by an example, which `tests/test_grading.py` holds it to. None changes what an
answer says: `{,}` is no separator, `\left(` is `(`, 3.8e-7 is a power of ten. Everything here takes time
linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|sqrt|exp|log|ln|pi"

Replacement = str | Callable[[re.Match[str]], str]


class Rule(NamedTuple):
    """A way of writing and what it becomes."""

    name: str
    pattern: re.Pattern[str]
    replacement: Replacement
    example: tuple[str, str]
    """A text, and what this rule alone makes of it."""


def _rule(name: str, pattern: str, replacement: Replacement, before: str, after: str) -> Rule:
    return Rule(name, re.compile(pattern, re.ASCII), replacement, (before, after))


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_PARTS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}


_BASES = {
    **{"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"},
    **{"ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"},
}


def _written_out(name: str, pattern: str, text: str) -> Rule:
    return _rule(name, pattern, lambda _: text, pattern.strip("[]")[0], text)


_NEW_LINE = re.compile(r"\s*,?\s*\\\\(?:\[[^\]]*\])?\s*")
_CONTINUED = re.compile(r"\s*\\\\(?:\[[^\]]*\])?\s*&?\s*(?==)")


def _in_line(text: str) -> str:
    """Equations below each other as a list, and what begins with = as the link of a chain."""
    return _NEW_LINE.sub(", ", re.sub(r"(?<!\\)&", "", _CONTINUED.sub(" ", text))).strip(" ,")


RULES: tuple[Rule, ...] = (
    # Layout.
    _rule("thousands in braces", r"(?<=\d)(?:\{,\}|,\\!|,\\,|\\!)\s*(?=\d{3}(?!\d))", "", r"12{,}000", "12000"),
    _rule("thousands after a space command", r"(?<=\d),\\ (?=\d{3}(?!\d))", "", r"1,\ 000", "1000"),
    _rule("negative space", r"\\!\s*", "", r"5\!", "5"),
    _rule(
        "space",
        r"\s?(?:(?:(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|[\u00a0\u2009\u202f])\s?)+",
        " ",
        r"5\,\text{cm}",
        r"5 \text{cm}",
    ),
    _rule("quad run into a letter", r"\\q?quad(?=[A-Za-z])", " ", r"1,\quadx", "1, x"),
    _rule(
        "size of brackets",
        r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])\.?",
        "",
        r"\left(3\right]",
        "(3]",
    ),
    _rule(
        "interval open outwards",
        r"^(\$?)(?:\]([^\[\]]*)([\[\]])|\[([^\[\]]*)\[)(\$?)$",
        lambda m: f"{m[1]}[{m[4]}){m[5]}" if m[4] else f"{m[1]}({m[2]}{')' if m[3] == '[' else ']'}{m[5]}",
        "]1,2[",
        "(1,2)",
    ),
    _rule(
        "names of brackets",
        r"\\(?:lbrace|rbrace)(?![A-Za-z])",
        lambda m: rf"\{'{' if m[0][1] == 'l' else '}'}",
        r"\lbrace 1\rbrace",
        r"\{ 1\}",
    ),
    _rule(
        "over",
        r"\{([^{}]*)\\over(?![A-Za-z])\s*([^{}]*)\}",
        r"\\frac{\1}{\2}",
        r"{1\over 2}",
        r"\frac{1}{2}",
    ),
    _rule("size of a fraction", r"\\[dtc]frac(?![A-Za-z])", lambda _: r"\frac", r"\dfrac{1}{2}", r"\frac{1}{2}"),
    _rule(
        "unit behind a formula",
        r"^\$([^$]+)\$(?=\s+[A-Za-z%\\][^$]*$)|^\\\(((?:(?!\\\)).)+)\\\)(?=\s+[A-Za-z%][^$\\]*$)",
        r"\1\2",
        "$125$ miles",
        "125 miles",
    ),
    _rule("braces around a sign", r"(?<![\\^_\w}])\{\s*([-+=:])\s*\}", r"\1", r"{+}5", "+5"),
    _rule(
        "equations below each other",
        r"\\begin\s*\{((?:align|gather|equation|eqnarray|split)(?:ed|at)?\*?)\}((?:(?!\\begin|\\end).)*)\\end\s*\{\1\}",
        lambda m: _in_line(m[2]),
        r"\begin{align*}x&=1+2\\ &=3\\y&=4\end{align*}",
        "x=1+2 =3, y=4",
    ),
    _rule("Python's power", r"\*\*", "^", "2**3", "2^3"),
    _rule("negative power", r"\^\s*-\s*(\d+|[A-Za-z](?![A-Za-z]))", r"^{-\1}", "e^-1", "e^{-1}"),
    # Letters and words.
    _rule("upright letter", r"\\(?:mathrm|text|rm|operatorname)\s*\{\s*([eid])\s*\}", r"\1", r"\mathrm{e}", "e"),
    _rule(
        "all real numbers",
        r"^(\$?(?:[a-z]\s*\\in\s*)?)"
        r"(?:\\mathbb\s*\{?\s*R\s*\}?|\\text\s*\{\s*all real numbers\s*\}|all real numbers)(\$?)$",
        r"\1(-\\infty,\\infty)\2",
        r"\mathbb{R}",
        r"(-\infty,\infty)",
    ),
    _rule("bold letter", r"\\(?:mathbf|boldsymbol|mathit|mathbb)\s*\{\s*([A-Za-z])\s*\}", r"\1 ", r"\mathbf{v}", "v "),
    _rule(
        "kinds of text",
        r"\\(?:text(?:bf|it|rm|normal)|math(?:rm|bf|it|sf)|mbox|operatorname\*?)\s*(?=\{)",
        lambda _: r"\text",
        r"\mbox{ cm}",
        r"\text{ cm}",
    ),
    _rule("old kinds of text", r"\{\s*\\(?:rm|bf|it)(?![A-Za-z])\s*", lambda _: r"\text{", r"{\rm cm}", r"\text{cm}"),
    _rule(
        "label",
        r"^(\$?)(?:\\text\s*\{\s*)?(?i:(?:(?:the|final|my|our|so|thus|hence|therefore)\s+)*"
        r"(?:answer|ans|result|number|value|solution|total)\b(?:\s+(?:is|of))?)\s*[:=]?\s*\}?\s*[:=]?\s*(?=[^\s$}])",
        r"\1",
        r"\text{Final answer: }5",
        "5",
    ),
    _rule(
        "remark",
        r"\s*(?:\\text\s*\{\s*\((?:by|since|as|from|using|ans)[^{}()\d]*\)\s*\}"
        r"|\(\s*\\text\s*\{(?:by|since|as|from|using|ans)[^{}()\d]*\}\s*\)|\\checkmark)\s*(?=\$?$)",
        "",
        r"5\text{ (by symmetry)}",
        "5",
    ),
    _rule("font that goes on", r"(?<!\{)\\(?:rm|bf|it)(?![A-Za-z])\s*", " ", r"5\rm cm", "5 cm"),
    _rule("stop in text", r"\\text\s*\{\s*([.,;!])\s*\}", r"\1", r"5\text{.}", "5."),
    _rule(
        "number in text",
        r"\\text\s*\{\s*([-+]?\\?\$?\d[\d,.]*(?:/\d+)?(?:\s*\\?%)?)(?:\s+(?!and\b|or\b|to\b)([A-Za-z][^{}]*))?\s*\}",
        lambda m: f"{m[1]} \\text{{{m[2]}}}" if m[2] else m[1],
        r"\text{10 cm}^2",
        r"10 \text{cm}^2",
    ),
    _rule("power in text", r"(\\text\s*\{[^{}]*\^)\s*\{\s*(-?\d)\s*\}", r"\1\2", r"\text{s^{-1}}", r"\text{s^-1}"),
    _rule("micro", r"\\mu\s*\\text\s*\{\s*", lambda _: r"\text{µ", r"5\mu\text{m}", r"5\text{µm}"),
    _rule("micro in text", r"(\\text\s*\{[^{}]*)\\mu\s*(?=[A-Za-z])", r"\1µ", r"\text{\mu m}", r"\text{µm}"),
    _rule(
        "currency in front",
        r"(?:\\text\s*\{\s*(USD|EUR|Rs)\.?\s*\}|\b(USD|EUR|Rs)\b\.?)\s*([\d,.]*\d)",
        lambda m: rf"{m[3]} \text{{{m[1] or m[2]}}}",
        "USD 10",
        r"10 \text{USD}",
    ),
    _rule("and, or", r"\\text\s*\{\s*,?\s*(and|or)\s*\}", r" \1 ", r"6\text{ and }8", "6 and 8"),
    _rule(
        "percent",
        r"\\text\s*\{\s*(?:per ?cent\w*|pct)\s*(?:points?\s*)?\}"
        r"|\b(?:percentage(?: points?)?|per ?cent|pct)\b|\\%|(?:\\text\s*|(?<![\\A-Za-z}^_]))\{\s*\\?%\s*\}",
        "%",
        r"28 percent",
        "28 %",
    ),
    _rule(
        "degrees", r"\s*\^\s*\{?\s*\\circ\s*\}?|°|\\degree(?![A-Za-z])", lambda _: r" \deg ", r"90^{\circ}", r"90 \deg "
    ),
    _rule(
        "number of a base",
        rf"_\s*\{{?\s*\\text\s*\{{\s*(?:base[\s-]*)?(\d+|{'|'.join(_BASES)})\s*\}}\s*\}}?"
        r"|_\s*\{\s*\(\s*(\d+)\s*\)\s*\}"
        rf"|\s*(?:in\s+|\\text\s*\{{\s*(?:in )?)?base[\s-]+(\d+|{'|'.join(_BASES)})\s*\}}?(?=\$?$)",
        lambda m: f"_{{{_BASES.get(base := m[1] or m[2] or m[3], base)}}}",
        r"52_\text{base 8}",
        "52_{8}",
    ),
    _rule(
        "unit as a fraction",
        r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}",
        lambda m: rf"\text{{{m[1]}/{m[2]}}}",
        r"\frac{\text{m}}{\text{s}}",
        r"\text{m/s}",
    ),
    # Numbers.
    _rule(
        "power of ten",
        r"(?<![A-Za-z\\\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,9})(?![\d.]*[A-Za-z(^{\d])",
        lambda m: rf"{m[1]} \times 10^{{{int(m[2])}}}",
        "3.83e35",
        r"3.83 \times 10^{35}",
    ),
    _rule("Python's point", r"(?<=\d)\.(?=\s*[/*)])", "", "-3./2", "-3/2"),
    _rule(
        "part of one",
        "(\\d?)\\s*([" + "".join(_PARTS) + "])",
        lambda m: f"{m[1]} {_PARTS[m[2]]}" if m[1] else _PARTS[m[2]],
        "1½",
        "1 1/2",
    ),
    # Plain-text mathematics.
    _rule(
        "Python's module",
        rf"(?<![A-Za-z\\])(?:np|math|sympy|sp)\.(?=(?:{FUNCTIONS})\b)",
        "",
        "np.arcsin(1)",
        "arcsin(1)",
    ),
    _rule(
        "other names of functions",
        r"(?<![A-Za-z\\])a(sin|cos|tan)(?![A-Za-z])",
        r"arc\1",
        "atan(2)",
        "arctan(2)",
    ),
    _rule(
        "cube root",
        r"(?:(?<![A-Za-z\\])cbrt|∛)\s*(?:\(([^()]*)\)|(\d+))",
        lambda m: rf"\sqrt[3]{{{m[1] or m[2]}}}",
        "cbrt(7)",
        r"\sqrt[3]{7}",
    ),
    _rule("value", r"(?<![A-Za-z\\])abs\(([^()]*)\)", r"|\1|", "abs(x)", "|x|"),
    _rule("logarithm of a base", r"(?<![A-Za-z\\])log(2|10)(?=\s*\()", r"\\log_{\1}", "log2(5)", r"\log_{2}(5)"),
    _rule("superscript", "[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", "x²", "x^{2}"),
    _rule(
        "root sign",
        r"√\s*\(([^()√]*)\)|√\s*\{([^{}√]*)\}|√\s*(\w+)",
        lambda m: rf"\sqrt{{{m[1] or m[2] or m[3]}}}",
        "5√2",
        r"5\sqrt{2}",
    ),
    _written_out("pi", "π", r"\pi "),
    _written_out("theta", "θ", r"\theta "),
    _written_out("infinity", "∞", r"\infty "),
    _rule(
        "infinity in words",
        r"\\text\s*\{\s*infinity\s*\}|(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])",
        lambda _: r"\infty ",
        "(1, inf)",
        r"(1, \infty )",
    ),
    _rule(
        "positive infinity", r"(^|[(\[,{])\s*\+\s*\\infty", lambda m: rf"{m[1]}\infty", r"(1,+\infty)", r"(1,\infty)"
    ),
    _written_out("times", "[×·⋅]", r"\times "),
    _written_out("divided by", "[÷]", "/"),
    _written_out("minus", "[−–‐]", "-"),
    _written_out("plus or minus", "[±]", r"\pm "),
    _written_out("union", "[∪]", r"\cup "),
    _written_out("element", "[∈]", r"\in "),
    _rule("at most", r"≤|<=|\\leqslant(?![A-Za-z])|\\le(?![A-Za-z])", lambda _: r"\leq ", "x <= 2", r"x \leq  2"),
    _rule("at least", r"≥|>=|\\geqslant(?![A-Za-z])|\\ge(?![A-Za-z])", lambda _: r"\geq ", r"x\ge2", r"x\geq 2"),
    _rule("unequal", r"≠|!=|\\ne(?![A-Za-z])", lambda _: r"\neq ", "x≠2", r"x\neq 2"),
    _rule("less", r"\\lt(?![A-Za-z])|\\gt(?![A-Za-z])", lambda m: "<" if m[0][1] == "l" else ">", r"x\lt3", "x<3"),
    _rule("nearly", r"≈|\\(?:simeq|sim)(?![A-Za-z])|~=", lambda _: r"\approx ", "x≈2", r"x\approx 2"),
    _rule(
        "follows",
        r"⇒|⟹|→|⇔|∴|\\(?:implies|iff|(?:Long|long)?[lL]eftrightarrow|Longrightarrow|rightarrow|to|therefore)(?![A-Za-z])"
        r"|(?<![<>=])=>(?=[^<>]*=)",
        lambda _: r"\Rightarrow ",
        r"5x=30\implies x=6",
        r"5x=30\Rightarrow  x=6",
    ),
    _rule(
        "digit that goes on",
        r"(?<=\d)?\.(\d*?)(\d)\2\2+\s*(?:\.\.\.|…|\\l?dots(?![A-Za-z]))",
        lambda m: rf".{m[1]}\overline{{{m[2]}}}",
        "0.1666...",
        r"0.1\overline{6}",
    ),
    _rule("period in brackets", r"(?<=\d)\.(\d*)\((\d+)\)", r".\1\\overline{\2}", "0.1(6)", r"0.1\overline{6}"),
    _rule(
        "period between dots",
        r"(?<=\.)(\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?",
        r"\1\\overline{\2\3\4}",
        r"0.\dot{1}4285\dot{7}",
        r"0.\overline{142857}",
    ),
    _rule(
        "period under lines",
        r"(?<=\.)(\d*?)((?:\d[\u0304\u0305])+)",
        lambda m: rf"{m[1]}\overline{{{re.sub('[^0-9]', '', m[2])}}}",
        "0.3\u0305",
        r"0.\overline{3}",
    ),
    _rule(
        "repeating decimal",
        r"\\(?:bar|dot|overline)\s*(?:\{\s*(\d+)\s*\}|(\d))",
        r"\\overline{\1\2}",
        r"0.\bar3",
        r"0.\overline{3}",
    ),
    _rule(
        "dots behind a period",
        r"(\\overline\{\d+\})\s*(?:\.\.\.|…|\\l?dots(?![A-Za-z]))",
        r"\1",
        r"0.\overline{3}\ldots",
        r"0.\overline{3}",
    ),
)

_WHITE_SPACE = re.compile(r"\s\s+|[\n\t]")
_ESCAPED_TWICE = re.compile(r"\\\\(?=(?:d?frac|sqrt|text|boxed|left|right|pi|infty|cdot|times)\b)")


def convert_notation(text: str) -> str:
    r"""The text by all rules: r"\dfrac{3}{4}\,\mathrm{cm}^2" becomes r"\frac{3}{4} \text{cm}^2"."""
    text = _WHITE_SPACE.sub(" ", text)
    if "\\begin" not in text:  # a matrix needs its \\
        text = _ESCAPED_TWICE.sub(r"\\", text)
    for rule in RULES:
        text = rule.pattern.sub(rule.replacement, text)
    if "\\\\" in text and "\\begin" not in text:  # neither a matrix nor cases
        text = _in_line(text)
    return text.strip()


_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def strip_delimiters(text: str) -> str:
    r"""Without the $…$, \(…\) or \[…\] around the whole, and without a sentence's stop, inside or outside of them.

    >>> strip_delimiters(r"$\frac{1}{2}.$")
    '\\frac{1}{2}'
    """
    text = _without_stop(text)
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        if (
            text.startswith(opening)
            and text.endswith(closing)
            and "$" not in inner.replace("\\$", "")
            and opening not in inner.replace("\\$", "")
        ):
            return _without_stop(inner)
    return text


def _without_stop(text: str) -> str:
    text = text.strip()
    while text.endswith((".", ",", ";", ":", "*", "\\")):
        text = text[:-1].rstrip()
    return text


_DIGITS = frozenset("0123456789.")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;: ]")
_SPACE = re.compile(r"(?<=[0-9])\s+(?=[0-9.])|\s+")


def without_layout(text: str) -> str:
    r"""For comparison as text: white space, sizes of brackets and of fractions do not matter; one between digits does.

    >>> without_layout(r"$\dfrac{1}{2} x$"), without_layout("1 2")
    ('\\frac{1}{2}x', '1 2')
    """
    text = _LAYOUT.sub("", strip_delimiters(text))
    text = _SPACE.sub(
        lambda m: " " if m.start() and text[m.start() - 1].isdigit() and text[m.end() :][:1] in _DIGITS else "", text
    )
    return re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
