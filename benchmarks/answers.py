r"""Where the answer stands in a response.

1. Text behind an end-of-turn token does not belong to the response, nor does `<think>…</think>`; if there is an
   `<answer>…</answer>`, the response is what stands in it.
2. The answer is the last explicit statement: `#### 18`, `The answer is: 18`, `Answer: 18`, or \boxed{18}. Boxes next
   to each other, as in \boxed{1} and \boxed{2}, are one answer.
3. Without a statement the response is to be searched: the whole of a short one, the last lines of a long one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_CHARACTERS = 20_000
"""Only the end of a longer response is read: the last this many characters, which is where its answer stands."""

SHORT_ANSWER = 200
"""Characters up to which a line can be an answer, rather than a text that contains one."""

LAST_LINES = 1500
"""Characters at the end of a response without a stated answer that are searched for one."""

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text|im_start)\|>|</s>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_STATEMENT = re.compile(
    r"####|^A:"
    r"|\b(?i:answer(?:\s+[\w']+){0,6}?\s+(?:is|are)\b:?)"
    r"|(?:^[^\w\n]*|(?i:\bfinal\s+))(?i:answer)\W{0,6}?[:=]",  # "To check our answer: …" states none
    re.MULTILINE,
)
_DISPLAY = re.compile(r"\s*(?:\\\[.*?\\\]|\$\$.*?\$\$)", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s|\bI hope it is correct")
_BOX_SEPARATOR = re.compile(r"(?:(?![.!?]\s).){0,70}?(?:[,;&]|\b(?:and|or)\b)(?:(?![.!?]\s).){0,70}", re.DOTALL)


def find_answer(response: str) -> tuple[str, bool]:
    """The answer of a response, or the text to look for it in, and whether it is stated explicitly."""
    response = _END_OF_TURN.split(response.lstrip(), maxsplit=1)[0].rpartition("</think>")[2]
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
        rest = text[statement.end() : statement.end() + 5 * SHORT_ANSWER]
        display = _DISPLAY.match(rest)
        line = display.group() if display else rest.strip().partition("\n")[0]
        answer = _SENTENCE_END.split(line + " ")[0].strip(" \n.:*\"'")
        # "The answer is the sum of the two" states none, nor does "Our answer is correct" behind a box.
        is_answer = re.search(r"[\d\\$]", answer) or (not boxes and 0 < len(answer.split()) <= 4)
        if is_answer and len(answer) <= SHORT_ANSWER:
            return answer
    if not boxes:
        return None
    contents = {boxes[-1].content.strip(): None}
    for earlier, later in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[earlier.end : later.start]
        if not (len(between) < 10 or _BOX_SEPARATOR.fullmatch(between)):
            break
        contents[earlier.content.strip()] = None
    return ", ".join(reversed(contents))


_OPENING = re.compile(r"\\(?:f?box|boxed|framebox)(?:\s*\{|\s+(?P<bare>[^\s{}$\\]+))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class Boxed(NamedTuple):
    r"""A \boxed{…} in a text."""

    start: int
    """Index of the backslash."""
    end: int
    """Index behind the closing brace."""
    content: str


def boxed_expressions(text: str) -> list[Boxed]:
    r"""Every \boxed{…} that is closed, in the order of the text; of nested ones the outermost. Linear in the text.

    MATH has a few without braces, `\boxed 2`: there the content is everything up to white space, brace, $ or command.
    """
    found: list[Boxed] = []
    position = 0
    while opening := _OPENING.search(text, position):
        if opening["bare"] is not None:
            found.append(Boxed(opening.start(), opening.end(), opening["bare"].rstrip(".,;")))
            position = opening.end()
            continue
        end = _closing_brace(text, opening.end())
        if end is None:  # whatever follows is inside the unclosed brace, or unclosed too
            break
        found.append(Boxed(opening.start(), end, text[opening.end() : end - 1]))
        position = end
    return found


def _closing_brace(text: str, position: int) -> int | None:
    """The index behind the brace that closes the one opened just before `position`; an escaped brace counts not."""
    depth = 1
    for match in _BRACE.finditer(text, position):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None
