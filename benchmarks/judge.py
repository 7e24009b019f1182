r"""The verdict on one response, and the loop of the process that gives it.

`judge(gold, response)` finds the answer in the response and compares it with the gold one.

What the answer of a response is:
  1. Text behind an end-of-turn token does not belong to the response, nor does `<think>…</think>`; if there is an
     `<answer>…</answer>`, the response is what stands in it.
  2. The answer is the last explicit statement: `#### 18`, `The answer is: 18`, `Answer: 18`, or \boxed{18}. Boxes next
     to each other, as in \boxed{1} and \boxed{2}, are one answer.
  3. Without a statement, a response of one short line is an answer as it is.
  4. Otherwise it is what math-verify finds in the last lines.

How answers are compared: text that is equal without its layout, numbers by value, words without case and markup, and
everything else by math-verify, which reads LaTeX. Notation that math-verify misreads is converted before, on both
sides: 3.8e-7 (it takes e for 2.718), `np.arcsin`, `\$36`, `√5`, `1./3`. And since it compares floats by rounding them
to 6 decimals, which makes all small numbers equal, numbers have to agree to 5 digits besides.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any

from benchmarks.base import Verdict
from benchmarks.boxed import boxed_expressions

MEMORY_BYTES = 2 * 1024**3
"""Limit of the process's address space."""

SHORT_ANSWER = 200
"""Characters up to which a line can be an answer, rather than a text that contains one."""

LAST_LINES = 1500
"""Characters at the end of a response without explicit answer in which math-verify looks for one."""

RELATIVE_TOLERANCE = 1e-5
"""Numbers that math-verify takes for equal must agree this well besides. (It takes 0.333333 for 1/3: 1e-6.)"""


def judge(gold: str, response: str) -> Verdict:
    """The verdict on a response whose right answer is `gold`. May take for ever: see `benchmarks.grader`.

    The gold answer may itself be a solution that states its answer, as in graders' own tests.
    """
    gold = _convert(explicit_answer(gold) or gold)
    text, stated = find_answer(response)
    answer = _convert(text)
    if not answer:
        return "no_answer"
    if _without_layout(gold) == _without_layout(answer):
        return "correct"
    gold_number, number = _number(gold), _number(answer)
    if gold_number is not None and number is not None:
        return "correct" if _close(gold_number, number) else "wrong"
    if (gold_words := _words(gold)) and gold_words == _words(answer):
        return "correct"
    if _with_decimal_point(gold) == _with_decimal_point(answer):
        return "correct"
    readings = _read(answer)
    if not readings:
        return "wrong" if stated else "no_answer"
    return "correct" if any(_equal(g, a) for g in _read(gold) for a in readings) else "wrong"


# Where the answer stands -----------------------------------------------------------------------------------------------

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text|im_start)\|>|</s>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_STATEMENT = re.compile(r"####|\b(?i:answer)\b\W{0,6}?(?:\s(?i:is|are)\b:?|[:=])\W{0,2}?|^A:", re.MULTILINE)
_DISPLAY = re.compile(r"\s*(?:\\\[.*?\\\]|\$\$.*?\$\$)", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s|\bI hope it is correct")
_BOX_SEPARATOR = re.compile(r"[,;&]|\b(?:and|or)\b")


def find_answer(response: str) -> tuple[str, bool]:
    """The answer of a response, or the text to look for it in, and whether it is stated explicitly."""
    response = _END_OF_TURN.split(response.lstrip())[0].rpartition("</think>")[2]
    if tagged := _ANSWER_TAG.findall(response):
        response = tagged[-1]
    stated = explicit_answer(response)
    return (response[-LAST_LINES:].strip(), False) if stated is None else (stated, True)


def explicit_answer(text: str) -> str | None:
    """What the last explicit statement of an answer in the text says, without boxes or closing words, or None."""
    boxes = boxed_expressions(text)
    for statement in reversed(list(_STATEMENT.finditer(text))):
        if boxes and statement.start() < boxes[-1].start:
            break
        rest = text[statement.end() :]
        display = _DISPLAY.match(rest)
        line = display.group() if display else rest.strip().partition("\n")[0]
        answer = _SENTENCE_END.split(line + " ")[0].strip(" .:*\"'")
        # "The answer is the sum of the two." is not a statement of an answer.
        if answer and len(answer) <= SHORT_ANSWER and (re.search(r"[\d\\$]", answer) or len(answer.split()) <= 4):
            return answer
    if not boxes:
        return None
    contents = [boxes[-1].content.strip()]
    for earlier, later in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[earlier.end : later.start]
        if not (len(between) < 10 or (len(between) < 70 and _BOX_SEPARATOR.search(between))):
            break
        if earlier.content.strip() not in contents:
            contents.insert(0, earlier.content.strip())
    return ", ".join(contents)


# What it says ----------------------------------------------------------------------------------------------------------

_FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|sqrt|exp|log|ln|pi"
_QUANTITY = re.compile(
    r"[$€£]?\s*(?P<number>[+-]?\s*(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,300})(?:\.\d{0,300})?|[+-]?\.\d{1,300})"
    r"\s*[$€£]?(?P<unit>(?:\s*[^\W\d_]{2,})*)"
)
_NO_UNITS = re.compile(
    rf"\b(?:and|or|to|choose|pct|percent\w*|hundred|thousand|[mb]illion|dozen|squared|cubed|{_FUNCTIONS})\b"
)
_MARKUP = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|rm|bf)(?![A-Za-z])|\\[ ,;:]")
_CONVERSIONS = (
    # Escaped once too often: \\frac, as in text that went through JSON twice. Matrices need their \\.
    (re.compile(r"\\\\(?=(?:d?frac|sqrt|text|boxed|left|right|pi|infty|cdot|times)\b)(?!.*\\begin)"), r"\\"),
    # \$36 and the thousands of 12,\!000 and 12{,}000.
    (re.compile(r"\\\$|\\!\s*"), ""),
    (re.compile(r"(?<=\d)(?:\{,\}|,\\ ?|\\,)(?=\d{3})"), ","),
    # 3.83e35, and the points of 1./3.
    (
        re.compile(r"(?<![A-Za-z\\\d.])(\d+\.?\d*|\.\d+)[eE]([+-]?)0*(\d+)(?![\d.]*[A-Za-z(^{])"),
        r"\1 \\times 10^{\2\3}",
    ),
    (re.compile(r"(?<=\d)\.(?=\s*[/*)])"), ""),
    # An upright e, i or d. math-verify would take \mathrm{…} for a unit.
    (re.compile(r"\\mathrm\s*\{\s*([A-Za-z])\s*\}"), r"\1"),
    # Python: np.arcsin(10/13), 2*x**3.
    (re.compile(rf"(?<![A-Za-z\\])(?:np|math|sympy|sp)\.({_FUNCTIONS})\b"), r"\\\1"),
    (re.compile(r"\*\*"), "^"),
    # Unicode.
    (re.compile(r"√\s*\(([^()]*)\)|√\s*\{([^{}]*)\}|√\s*(\w+)"), r"\\sqrt{\1\2\3}"),
    (re.compile("π"), r"\\pi "),
    (re.compile("∞"), r"\\infty "),
    (re.compile("[×·]"), r"\\times "),
    (re.compile("÷"), "/"),
    (re.compile("[−–]"), "-"),
    (re.compile("≤"), r"\\leq "),
    (re.compile("≥"), r"\\geq "),
    (re.compile("≠"), r"\\neq "),
    (re.compile("°"), r"^\\circ "),
)


def _convert(text: str) -> str:
    """The text in notation that math-verify reads as it is meant."""
    for pattern, replacement in _CONVERSIONS:
        text = pattern.sub(replacement, text)
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
    """For comparison of the text itself: white space, sizes of brackets and of fractions do not matter."""
    text = re.sub(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;: ]", "", _strip_delimiters(text))
    return re.sub(r"\s+", "", re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text))


def _number(text: str) -> float | None:
    """The value of a plain number, without its unit: 18, 1,234.50, €18, 18 dollars a day. None of anything else."""
    match = _QUANTITY.fullmatch(_strip_delimiters(text))
    if match is None or _NO_UNITS.search(match["unit"]):
        return None
    return float(re.sub(r"[\s,]", "", match["number"]))


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


def _words(text: str) -> str:
    r"""The letters of an answer that is nothing but words or a time of day, as \text{Evelyn}, (C), 4:30 p.m.; else empty."""
    text = _MARKUP.sub(" ", _strip_delimiters(text))
    text = re.sub(r"[\s{}*\"“”'.-]", "", text).casefold()
    text = text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text
    return text if re.fullmatch(r"[^\W\d_]+|\d{1,2}:\d\d(?:am|pm)?", text) else ""


def _with_decimal_point(text: str) -> str:
    """A number written with a decimal comma, 1000,99 or 0,125, written with a point. (1,234 has none: a thousand.)"""
    return re.sub(r"^(-?0|-?\d+(?!,\d{3}$)),(?=\d+$)", r"\1.", _strip_delimiters(text))


# What math-verify says -------------------------------------------------------------------------------------------------

_DELIMITER = re.compile(r"\$|\\\(|\\\[|\\boxed")
_PROSE = re.compile(r"^[^\\]*\b[A-Za-z]{2,}\s+[A-Za-z]{2,}\b[^\\]*$")


@cache
def _math_verify() -> ModuleType:
    import math_verify

    logging.disable(logging.CRITICAL)  # it warns of the missing time limit, which is the parent process's business
    return math_verify


def _read(text: str) -> list[Any]:
    """math-verify's readings of an answer: a sympy expression, and the text itself. Empty if it finds nothing."""
    mv = _math_verify()
    latex, plain = mv.LatexExtractionConfig(), mv.ExprExtractionConfig()
    if len(text) > SHORT_ANSWER or _DELIMITER.search(text) or _PROSE.search(text):
        return mv.parse(text, [latex, plain], parsing_timeout=None)
    # Only as LaTeX: as plain text, it would find the 2 in an expression that it cannot parse.
    return mv.parse(f"${text}$", [latex], parsing_timeout=None)


def _equal(gold: Any, answer: Any) -> bool:
    if not _math_verify().verify(gold, answer, timeout_seconds=None):
        return False
    try:
        a, b = complex(gold), complex(answer)
    except Exception:  # not numbers
        return True
    return abs(a - b) <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


# The process -----------------------------------------------------------------------------------------------------------


def _main(seconds: float) -> None:
    """Answer each line of [gold, response] on stdin with a line of verdict on stdout, until stdin ends."""
    verdicts = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing else can write where verdicts are read
    try:
        judge("1/2", r"\boxed{\frac{2}{4}}")  # imports math-verify and builds its parser
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=verdicts, flush=True)
        return
    _restrict()
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin.buffer:
        # The parent kills a case in time. If it is gone, the kernel does, which no computation can delay.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
        try:
            verdict = judge(*json.loads(line))
        except Exception:
            verdict = "error"
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(verdict, file=verdicts, flush=True)


def _restrict() -> None:
    """Limit what this process can use and do."""
    with suppress(ValueError, OSError):  # macOS has no limit of the address space
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process


if __name__ == "__main__":
    _main(float(sys.argv[1]))
