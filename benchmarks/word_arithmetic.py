"""Sums in plain English, of graded difficulty: problems that a small pretrained language model solves now and then.

    sums-1  numbers of one digit, a story of one person     Anna has 8 pens and gets 5 more. How many pens … ‖ 13
    sums-2  numbers of one digit, a story of two            Ben has 8 pens and Tom has 5 pens. How many … ‖ 13
    sums-3  numbers of two digits, in any wording           How much is 38 and 57 together? ‖ 95
    sums-4  three numbers of one digit, in any wording      What is 8 + 5 + 9? ‖ 22

Such a model rambles when it is asked plainly: `model.template = "qa-3shot"` shows it three worked examples.

The answer of a response is the last number in it, and a truncated response is wrong whatever it says.

About 10% of all questions are held out by a hash of their text: half of them for the tables, half for tuning. There are
64 sums at levels 1 and 2: a question that is held out there is another story of a sum that training shows, and a score
says whether the model reads and answers it. At levels 3 and 4 it is mostly another sum.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.arithmetic import Split, split_of
from benchmarks.benchmark import Problem, Verdict

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Julia", "Lucas", "Maria", "Tom")
THINGS = ("apples", "balls", "books", "cards", "coins", "eggs", "pens", "plates", "shells", "stamps", "stones", "toys")

COUNTS: dict[Split, int] = {"train": 2048, "test": 192, "tune": 192}

Wording = Callable[[list[int], random.Random], str]
"""Asks for the sum of some numbers."""


def _listed(items: Sequence[object]) -> str:
    """`3 and 4`, `3, 4 and 5`."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}"


def _gets_more(numbers: list[int], rng: random.Random) -> str:
    name, things, (first, *more) = rng.choice(NAMES), rng.choice(THINGS), numbers
    then = " and then ".join(f"{number} more" for number in more)
    return f"{name} has {first} {things} and gets {then}. How many {things} does {name} have now?"


def _together(numbers: list[int], rng: random.Random) -> str:
    names, things = rng.sample(NAMES, len(numbers)), rng.choice(THINGS)
    have = _listed([f"{name} has {number} {things}" for name, number in zip(names, numbers, strict=True)])
    return f"{have}. How many {things} do they have together?"


WORDINGS: tuple[Wording, ...] = (
    lambda numbers, rng: f"What is {' + '.join(map(str, numbers))}?",
    lambda numbers, rng: f"What is {' plus '.join(map(str, numbers))}?",
    lambda numbers, rng: f"What is the sum of {_listed(numbers)}?",
    lambda numbers, rng: f"How much is {_listed(numbers)} together?",
    _gets_more,
    _together,
)


@dataclass(frozen=True)
class Level:
    """Which numbers are added, and how that is asked."""

    terms: int
    least: int
    most: int
    """Of each number."""
    wordings: tuple[Wording, ...] = WORDINGS

    def draw(self, rng: random.Random) -> tuple[str, list[int]]:
        """A question and its numbers."""
        numbers = [rng.randint(self.least, self.most) for _ in range(self.terms)]
        return rng.choice(self.wordings)(numbers, rng), numbers


LEVELS = {
    1: Level(2, 2, 9, (_gets_more,)),
    2: Level(2, 2, 9, (_together,)),
    3: Level(2, 10, 99),
    4: Level(3, 2, 9),
}


@dataclass(frozen=True)
class Sums:
    """The distinct problems of one level and split, the same on every machine."""

    name: str
    level: int
    split: Split
    grading: Literal["number"] = "number"

    def problems(self) -> list[Problem]:
        """See `Benchmark`."""
        return list(self._problems())

    @functools.cache  # noqa: B019 - they are few, and live as long as the process
    def _problems(self) -> tuple[Problem, ...]:
        rng = random.Random(f"sums/{self.level}/{self.split}")
        found: dict[str, list[int]] = {}
        while len(found) < COUNTS[self.split]:
            text, numbers = LEVELS[self.level].draw(rng)
            if split_of(text) == self.split:
                found.setdefault(text, numbers)
        return tuple(
            Problem(
                id=f"sums-{self.level}/{self.split}/{index}",
                prompt=text,
                answer=str(sum(numbers)),
                solution=response(numbers, sum(numbers)),
                mistake=response(numbers, wrong_sum(numbers, rng)),
            )
            for index, (text, numbers) in enumerate(found.items())
        )

    def answer_of(self, response: str) -> str:
        """See `last_number`."""
        return last_number(response)


def response(numbers: list[int], answer: int) -> str:
    """As the worked examples of the template qa-3shot answer, where a space follows `A:`."""
    return f" {' + '.join(map(str, numbers))} = {answer}"


def wrong_sum(numbers: list[int], rng: random.Random) -> int:
    """Near the right one: at most 3 away, and positive."""
    right = sum(numbers)
    return rng.choice([near for near in range(max(1, right - 3), right + 4) if near != right])


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")


def last_number(response: str) -> str:
    """The last number that a response writes, without the commas of thousands; empty without one."""
    found = _NUMBER.findall(response)
    return found[-1].replace(",", "") if found else ""


def grade(answer: str, response: str, *, truncated: bool) -> Verdict:
    """Exact comparison of the last number; a truncated response is wrong whatever it says."""
    given = last_number(response)
    if not given:
        return "no_answer"
    return "correct" if given == answer and not truncated else "wrong"


_SUFFIXES: dict[Split, str] = {"train": "-train", "test": "", "tune": "-tune"}

SUMS = [Sums(f"sums-{level}{suffix}", level, split) for level in LEVELS for split, suffix in _SUFFIXES.items()]
