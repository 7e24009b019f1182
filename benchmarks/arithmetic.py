"""Left-to-right arithmetic modulo 10: the embedded benchmark, which needs no download and a model of 97k parameters.

One real example: `7+3*5-8` is evaluated strictly from left to right, modulo 10: 7+3=0, 0*5=0, 0-8=2. A response is
written in one of three styles, the text after its last `=` is the answer, and it must end by itself (EOS):

    direct  `=2`
    skip    `;0=2`      every second intermediate value
    full    `:0,0=2`    every intermediate value

A problem's solution is the response in full; its mistake is one too, with a slip that makes its answer wrong.

Problems of 4 or 5 terms are in distribution, 6 or 7 are hard. About 10% of all expressions are held out by a hash of
their text: half of them for the tables, half for tuning.
"""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from benchmarks.benchmark import Problem, Verdict

OPERANDS = "23456789"
OPERATORS = "+-*"
SYMBOLS = "0123456789+-*=;:, "
PROMPT_WIDTH = 13
"""Characters of the longest expression (7 terms). Shorter prompts are filled with spaces on the right."""
TERMS = {False: (4, 5), True: (6, 7)}
"""Numbers of terms, by whether a problem is hard."""

Split = Literal["train", "test", "tune"]
Style = Literal["direct", "skip", "full"]


def partial_values(expression: str) -> list[int]:
    """The values after each operator, evaluated from left to right modulo 10."""
    values = [int(expression[0])]
    for operator, operand in zip(expression[1::2], expression[2::2], strict=True):
        values.append(_apply(values[-1], operator, int(operand)))
    return values[1:]


def _apply(left: int, operator: str, right: int) -> int:
    if operator == "+":
        return (left + right) % 10
    return (left - right if operator == "-" else left * right) % 10


def split_of(expression: str) -> Split:
    """Which split an expression belongs to, by the SHA-256 of its text: 5% test, 5% tune, the rest train."""
    bucket = hashlib.sha256(expression.encode()).digest()[0] * 256 + hashlib.sha256(expression.encode()).digest()[1]
    return "test" if bucket < 3277 else "tune" if bucket < 6554 else "train"


def random_expression(rng: random.Random, terms: int) -> str:
    """So many digits with operators between them, as `3+4*2`."""
    characters = [rng.choice(OPERANDS)]
    for _ in range(terms - 1):
        characters += [rng.choice(OPERATORS), rng.choice(OPERANDS)]
    return "".join(characters)


def write_response(expression: str, style: Style, *, slip: float = 0.0, rng: random.Random | None = None) -> str:
    """A response in the given style. With probability `slip`, each step's value is replaced by a random digit and the
    rest follows from it."""
    value, values = int(expression[0]), []
    for operator, operand in zip(expression[1::2], expression[2::2], strict=True):
        value = _apply(value, operator, int(operand))
        if rng is not None and slip > 0 and rng.random() < slip:
            value = rng.randrange(10)
        values.append(value)
    if style == "direct":
        return f"={value}"
    shown = values[:-1] if style == "full" else values[1:-1:2]
    return (":" if style == "full" else ";") + ",".join(map(str, shown)) + f"={value}"


def wrong_response(expression: str) -> str:
    """A response in full with slips, a third of the steps on average, and a wrong answer: the first of those that a
    generator seeded by the expression writes."""
    rng = random.Random(f"arithmetic/mistake/{expression}")
    answer = str(partial_values(expression)[-1])
    while True:
        response = write_response(expression, "full", slip=1 / 3, rng=rng)
        if response.rpartition("=")[2] != answer:
            return response


@dataclass(frozen=True)
class Arithmetic:
    """`count` distinct problems of one split, the same on every machine."""

    name: str
    split: Split
    hard: bool
    count: int
    grading: Literal["exact"] = "exact"

    def problems(self) -> list[Problem]:
        """See `Benchmark`."""
        return list(self._problems())

    @functools.cache  # noqa: B019 - there are four of them, and they live as long as the process
    def _problems(self) -> tuple[Problem, ...]:
        rng = random.Random(f"arithmetic/{self.split}/{self.hard}")
        found: dict[str, None] = {}
        while len(found) < self.count:
            expression = random_expression(rng, rng.choice(TERMS[self.hard]))
            if split_of(expression) == self.split:
                found[expression] = None
        return tuple(
            Problem(
                id=expression,
                prompt=expression.ljust(PROMPT_WIDTH),
                answer=str(partial_values(expression)[-1]),
                solution=write_response(expression, "full"),
                mistake=wrong_response(expression),
            )
            for expression in found
        )

    def answer_of(self, response: str) -> str:
        """The text after the last `=`, empty without one."""
        _, equals, given = response.rpartition("=")
        return given if equals else ""


def grade(answer: str, response: str, *, truncated: bool) -> Verdict:
    """Exact comparison of the text after the last `=`; a truncated response is wrong whatever it says."""
    _, equals, given = response.rpartition("=")
    if not equals:
        return "no_answer"
    return "correct" if given == answer and not truncated else "wrong"


ARITHMETIC = [
    Arithmetic("arithmetic-train", "train", hard=False, count=4096),
    Arithmetic("arithmetic", "test", hard=False, count=192),
    Arithmetic("arithmetic-hard", "test", hard=True, count=192),
    Arithmetic("arithmetic-tune", "tune", hard=False, count=192),
]
