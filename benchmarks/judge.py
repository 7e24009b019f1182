r"""The verdict on one response: is its answer the gold one? The policy has a name,
`benchmarks.grading_policy.POLICY`, and docs/grading.md shows it.

An answer is found (`benchmarks.answers`), its notation made one (`benchmarks.notation`), and compared: as text without
its layout, as a quantity by value, as words or a time of day, and by its structure (`benchmarks.shapes`), part by part,
down to expressions (`benchmarks.algebra`). What none of these reads equals only itself.
"""

from __future__ import annotations

import re
from functools import lru_cache

from benchmarks.answers import MAX_CHARACTERS, SHORT_ANSWER, explicit_answer, find_answer
from benchmarks.benchmark import Verdict
from benchmarks.equality import equal, words_of
from benchmarks.notation import convert_notation, strip_delimiters, without_layout
from benchmarks.quantities import read_quantity


def judge(gold: str, response: str) -> Verdict:
    """The verdict on a response whose right answer is `gold`. May take for ever: see `benchmarks.grader`.

    The gold answer may itself be a solution that states its answer, as in graders' own tests.
    """
    gold = _gold(gold)
    found = find_answer(response)
    answers = [convert_notation(text) for text in found.texts]
    answers = [answer for answer in answers if strip_delimiters(answer)]
    if not answers:
        return "no_answer"
    if found.bare and _decimal_comma(gold) == without_layout(answers[0]):
        return "correct"
    if all(equal(gold, answer) for answer in answers):
        return "correct"
    return "correct" if len(answers) > 1 and equal(gold, ", ".join(answers)) else "wrong"


@lru_cache(maxsize=1024)  # a gold answer meets many responses
def _gold(gold: str) -> str:
    stated = explicit_answer(gold)
    if not stated and (unclosed := re.search(r"\\boxed\{(.*)", gold, re.DOTALL)):
        stated = (unclosed[1],)
    text = convert_notation(_CUT.sub(r"\1 ", ", ".join(stated)) if stated else _CUT.sub(r"\1 ", gold))
    return re.sub(r"^(-?0),(?=\d\d+$)", r"\1.", strip_delimiters(text))


_CUT = re.compile(r"([-+=])\s*\$\s+\$\s*")
"""Where the source cut a gold answer's formula in two."""


def _decimal_comma(gold: str) -> str:
    """A gold number with a decimal comma and two digits, as prices have, written with a point; else nothing. As a list
    it would be written the same way: so this is believed only of a response that is a bare number."""
    return gold.replace(",", ".") if re.fullmatch(r"-?\d+,\d\d", gold) else "\0"


def normal_answer(response: str) -> str:
    r"""The answer of a response in a normal form: equal texts are equal answers, and it is what maj@k counts.

    Numbers have their value, as an integer or a fraction in lowest terms (`0.5` and `\frac{1}{2}` are `1/2`, `$1,000`
    is `1000`); words have no case and markup; everything else has no layout. A response that states no answer gives its
    last number where it is long. Unlike `judge` this asks no computer algebra: \sqrt{8} and 2\sqrt{2} are two answers.
    Takes time linear in the response; empty if there is nothing to compare.
    """
    found = find_answer(response[-MAX_CHARACTERS:])
    text = ", ".join(found.texts)
    if not found.stated and len(text) > SHORT_ANSWER:
        numbers = _NUMBER_IN_TEXT.findall(text)
        text = numbers[-1] if numbers else ""
    answer = _ASSIGNMENT.sub("", strip_delimiters(convert_notation(text)))
    quantity = read_quantity(answer)
    if quantity is not None and not quantity.percent and not quantity.letter:
        return str(quantity.value)
    return words_of(answer) or without_layout(answer)


_NUMBER_IN_TEXT = re.compile(r"-?\d++(?:,\d{3}\b)*+(?:\.\d++)?", re.ASCII)
_ASSIGNMENT = re.compile(r"^[A-Za-z]\s*=(?!.*=)", re.DOTALL)
