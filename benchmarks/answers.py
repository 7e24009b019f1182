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

MOST_STATEMENTS = 100
"""How many of the last words that may state an answer are looked behind."""

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text|im_start)\|>|</s>|<end_of_turn>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_STATEMENT = re.compile(
    r"####|^A:"
    r"|\b(?i:answer(?:\s+[\w']+){0,6}?\s+(?:is|are)\b:?)"
    r"|(?:^[^\w\n]*|(?i:\bfinal\s+))(?i:answer)\W{0,6}?[:=]",  # "To check our answer: …" states none
    re.MULTILINE,
)
_DISPLAY = re.compile(r"\s*(?:\\\[.*?\\\]|\$\$.*?\$\$)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?:[.?]|(?<!\\)!)['\")\]$]*\s|\bI hope it is correct")
_BOX_SEPARATOR = re.compile(r"(?:(?![.!?]\s).){0,70}?(?:[,;&]|\b(?:and|or)\b)(?:(?![.!?]\s).){0,70}", re.DOTALL)
_RESTATED = re.compile(
    r"[\s$\\()]*(?:=|\\approx|≈)[\s$\\()]*"
    r"|[^.!?]{0,20}?\b(?:that is|i\.e\.|namely|which is|in other words|equivalently|which equals"
    r"|so|thus|hence|therefore)\b[^.!?]{0,40}"
)
_VERB = re.compile(r".*\b(?:is|are|equals|was|were|be|has|have|gives|to get|makes)\b(?: exactly)?[:\s]+(.*)", re.DOTALL)
_LINKS = re.compile(r"(?<=^\$)(?:[^A-Za-z$\\]|\\(?:d?frac|times|cdot|\$|div|,|;| ))*=(?=[^=]*$)")
_PLACEHOLDER = re.compile(
    r"[\s.…_?~$]*|\s*(?:\\(?:text\w*|mathrm)\s*\{)?\s*(?:\\(?:cdots|ldots|dots|ldotp|;|,|quad|square|phantom\{\w*\}))*\s*"
    r"(?:(?:the|your|my|our|final|answer|result|solution|here|is)[\s:.]*)*\}?\s*",
    re.IGNORECASE,
)
_WORDS_ALONE = re.compile(r"\\text\w*\s*\{[\sA-Za-z',.:]*\}|\s*[A-Za-z]{2,}(?:[\s,]+[A-Za-z']+)+[\s.:]*")
_LEADING_MARKUP = re.compile(
    r"\A(?:(?:<[|｜][\w ▁]{1,40}[|｜]>|</?s>|<bos>|<(?:start|end)_of_turn>|\[/INST\])"
    r"\s*(?:(?:assistant|model|system)(?=\s|<))?\s*)+"
)
_BECAUSE = re.compile(
    r"(?:,\s*|\s+)(?:because|since|as|which|where|so)\s(?![^$]*\$(?:[^$]*\$[^$]*\$)*[^$]*$)", re.IGNORECASE
)
_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}")
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:and|or|sqrt|pi|sin|cos|tan|log|ln)\b)[A-Za-z]{2,}[,:]?\s+(?:[A-Za-z]{2,}|\$|\\\(|\\\[|\d)|[A-Za-z]{2,}\s?:\s"
)
_SENTENCE = re.compile(r"[A-Za-z]{2,}\b(?!\s*[({=\\])")
_FORMULA = re.compile(
    r"\$\$[^$]+\$\$|(?<!\\)\$(?:\\\$|[^$\n])+?(?<!\\)\$|\\\((?:(?!\\\)).)+\\\)|\\\[(?:(?!\\\]).)+\\\]"
    r"|(?<![A-Za-z\\])[(\[](?:[^()\[\]A-Za-z\n]|\\[a-z]+|[a-z](?![a-z])){0,100},(?:[^()\[\]A-Za-z\n]|\\[a-z]+|[a-z](?![a-z])){0,100}[)\]]",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\d:])\d{1,2}:\d\d(?:\s*[ap]\.?m\b\.?)?|"
    r"(?<![A-Za-z0-9_.^{])[-+]?\\?[$€£]?\d[\d,]*(?:\.\d+)?(?:\s*[-+*/^]\s*\(?\d+(?:\.\d+)?\)?)*(?:\s*%|\s+(?:percent|pct)\b)?"
    r"(?:\s+(?:hundred|thousand|[mbtr]+illion|dozen)\b)?(?:\s+[a-z]+)?",
    re.ASCII,
)
HEDGE = re.compile(
    r"\b(?:not|no|never|isn't|at (?:least|most)|(?:more|less|greater|fewer|larger|smaller|other) than|between|probably"
    r"|possibly|perhaps|maybe|might|may|could|either|unless|except|any(?:thing)?|unknown|if|up to|minimum|maximum|under"
    r"|over|above|below|or (?:more|less|so))\b|≲|≳",
    re.IGNORECASE,
)
"""Words by which an answer says less than its number, or denies it."""
_HEDGED = re.compile(
    r"\b(?:not|no|never|isn't|at (?:least|most)|(?:more|less|greater|fewer|larger|smaller|other) than|probably"
    r"|possibly|perhaps|maybe|doubt\w*|unlikely|den(?:y|ies)|unlike|rather than|instead of"
    r"|might be|may be|could be|cannot be|can't be|either|up to|unless|except)"
    r"(?:\s+(?:equals?(?: to)?|be|is|exactly|the|number|value|that|it|this|answer|result))*"
    r"[\s(\[{$\\]*(?:[A-Za-z](?:\([A-Za-z]\))?\s*(?:=|\\in)\s*)?[\s(\[{$]*$"
    r"|(?:\d|\$)\s+(?:or|and)\s*$",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"\W*(?:evaluate|compute|find|simplify|calculate|determine|express|solve|write|convert|factor|expand|rationali[sz]e"
    r"|give|round|prove|show|let|suppose|consider|what|which|how many|how much)\b",
    re.IGNORECASE,
)
_AFTER = re.compile(r"\s*(?:%|percent\w*\b|pct\b)?")
_JOINT = re.compile(r"\s*(?:,|;|,?\s*\band\b|,?\s*\bor\b)\s*")


class Found(NamedTuple):
    """Where the answer of a response was found."""

    texts: tuple[str, ...]
    """Of several boxes each; else one text, or none."""
    stated: bool
    """By a box, "the answer is" or the like, rather than searched for."""
    bare: bool = False
    """The response is the answer, and nothing else."""


def find_answer(response: str) -> Found:
    """The answer of a response: what it states, or where it states nothing the last formula or number in it."""
    response = _LEADING_MARKUP.sub("", response.lstrip())
    response = _END_OF_TURN.split(response, maxsplit=1)[0].rpartition("</think>")[2]
    if tagged := _ANSWER_TAG.findall(response):
        response = next((text for text in reversed(tagged) if text.strip()), "")
    stated = explicit_answer(response)
    if stated is not None:  # empty: a box, and nothing in it
        return Found(stated, True)
    text = response[-LAST_LINES:].strip()
    return Found(found, False, bare=found == (text,)) if (found := search(text)) else Found((), False)


def explicit_answer(text: str) -> tuple[str, ...] | None:
    """What the last explicit statement of an answer in the text says, without boxes or closing words: one text, or
    those of several boxes. Empty where all boxes are, None where nothing is stated."""
    boxes = boxed_expressions(text)
    filled = [box for box in boxes if not _PLACEHOLDER.fullmatch(box.content)]
    for statement in reversed(list(_STATEMENT.finditer(text))[-MOST_STATEMENTS:]):
        if filled and statement.start() < filled[-1].start:
            break
        if answer := _statement(text[statement.end() : statement.end() + 5 * SHORT_ANSWER], bool(filled)):
            return (answer,)
    if not boxes:
        return None
    return _group(text, filled)


def _statement(rest: str, boxed: bool) -> str:
    """The answer behind "the answer is", or nothing: "… the sum of the two" states none, nor does "… correct" behind a
    box."""
    display = _DISPLAY.match(rest)
    line = display.group() if display else rest.strip().partition("\n")[0]
    end = _SENTENCE_END.search(line + " ")
    said = _BECAUSE.split(line[: end.end()] if end and "hope" not in end[0] else line[: end.start()] if end else line)[
        0
    ]
    answer = said.lstrip(" \n:;,*\"'!").rstrip(" \n.:;,*\"'!").removeprefix('\\"').removesuffix("\\")
    if len(answer) > SHORT_ANSWER or _PLACEHOLDER.fullmatch(answer):
        return ""
    if not re.search(r"[0-9\\$]", answer):
        return answer if not boxed and 0 < len(answer.split()) <= 4 else ""
    return _said(answer)


def _said(line: str) -> str:
    """The formula or number of a sentence, "that she has 18 dollars", or what stands behind its last verb: the sentence
    itself where it has several."""
    if not _SENTENCE.match(line):
        return line
    if (verb := _VERB.match(line)) and re.search(r"[0-9$]", verb[1]):
        return verb[1]
    formulas, numbers = _found(line)
    if len(formulas) + len(numbers) > 1 or HEDGE.search(line):
        return line
    return (search(line) or (line,))[0]


def _group(text: str, boxes: list[Boxed]) -> tuple[str, ...]:
    """The last box, and those in front of it that only a separator divides from it, or that say it another time."""
    if not boxes:
        return ()
    contents = [boxes[-1].content.strip()]
    for earlier, later in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[earlier.end : later.start]
        if _RESTATED.fullmatch(between):
            continue
        if not (len(between) < 10 or _BOX_SEPARATOR.fullmatch(between)):
            break
        contents.append(earlier.content.strip())
    formulas = [content for content in contents if not _WORDS_ALONE.fullmatch(content)]
    return tuple(reversed(dict.fromkeys(formulas or contents[:1])))


def search(text: str) -> tuple[str, ...]:
    """The answer in a text that does not state one: the text where it is a formula, else its last formula, with those
    that "," or "and" joins to it, or else its last number. Empty where a hedge stands before it, or there is none.

    >>> search("so she has 18 apples."), search("The roots are $1$ and $2$."), search("at least 5 of them")
    (('18 apples',), ('$1$, $2$',), ())
    """
    text = re.sub(r"^\*\*(.*?)[.!]*\*\*$", r"\1", text.strip())
    if len(text) <= SHORT_ANSWER and "\n" not in text.strip() and not _PROSE.search(_TEXT.sub("", text)):
        return (text.strip(),) if re.search(r"\w", text) else ()
    formulas, numbers = ([match for match in kind if not _asked(text, match)] for kind in _found(text))
    if not formulas and not numbers:
        return ()
    number = numbers[-1] if numbers else None
    if number and formulas and not _SENTENCE_END.search(text[formulas[-1].end() - 3 : number.start()]):
        number = None  # "$x = 5$ after 3 steps"
    last = number if number and (not formulas or number.start() > formulas[-1].start()) else formulas[-1]
    if last is number:
        begin = _sentence_start(text, last)
        stop = _SENTENCE_END.search(text, last.end())
        verb = _VERB.match(text[begin : stop.start() if stop else len(text)])
        said = verb[1].strip(" \n.!*") if verb and begin + verb.start(1) <= last.start() else ""
        if said and not _PROSE.search(said) and "\n" not in said:
            return () if _HEDGED.search(text[: begin + verb.start(1)]) else (said,)  # type: ignore[union-attr]
        return () if _HEDGED.search(text[: last.start()]) else (last[0].strip(" .,:;"),)
    start = last.start()
    joined = [_LINKS.sub("", last[0]) + _AFTER.match(text, last.end())[0]]  # type: ignore[index]
    for earlier, later in zip(formulas[-2::-1], formulas[:0:-1], strict=True):
        if not _JOINT.fullmatch(text[earlier.end() : later.start()]):
            break
        joined.append(earlier[0])
        start = earlier.start()
    return () if _HEDGED.search(text[:start]) else (", ".join(reversed(joined)),)


def _asked(text: str, match: re.Match[str]) -> bool:
    """Whether a formula stands in a sentence that asks: "Evaluate $2 + 3$.", "What is $2 + 3$?"."""
    stops = (end.end() for end in _SENTENCE_END.finditer(text, 0, match.start()))
    begin = max(text.rfind("\n\n", 0, match.start()) + 1, *stops, 0)
    following = _SENTENCE_END.search(text, match.end())
    question = (following is not None and following[0].startswith("?")) or text[match.end() :].strip(" $.)") == "?"
    return question or _ASKING.match(text, begin) is not None


def _sentence_start(text: str, match: re.Match[str]) -> int:
    """The index at which the sentence of a match begins; a line is at least one."""
    stops = (end.end() for end in _SENTENCE_END.finditer(text, 0, match.start()))
    return max(text.rfind("\n", 0, match.start()) + 1, *stops, 0)


def _found(text: str) -> tuple[list[re.Match[str]], list[re.Match[str]]]:
    """The formulas of a text, and the numbers outside of them."""
    formulas = list(_FORMULA.finditer(text))
    return formulas, list(_NUMBER.finditer(_FORMULA.sub(lambda match: "\0" * len(match[0]), text)))


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
