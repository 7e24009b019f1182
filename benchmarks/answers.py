r"""Where the answer stands in a response.

1. Text behind an end-of-turn token does not belong to the response, nor does `<think>…</think>`; if there is an
   `<answer>…</answer>`, the response is what stands in it.
2. The answer is the last explicit statement: `#### 18`, `The answer is: 18`, `Answer: 18`, or \boxed{18}. Boxes next
   to each other, as in \boxed{1} and \boxed{2}, are one answer.
3. Without a statement the response is to be searched: the whole of a short one, the last lines of a long one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.quantities import MAGNITUDES

MAX_CHARACTERS = 20_000
"""Only the end of a longer response is read: the last this many characters, which is where its answer stands."""

SHORT_ANSWER = 200
"""Characters up to which a line can be an answer, rather than a text that contains one."""

LAST_LINES = 1500
"""Characters at the end of a response without a stated answer that are searched for one."""

MOST_STATEMENTS = 100
"""How many of the last words that may state an answer are looked behind."""

_END_OF_TURN = re.compile(r"<[|｜][A-Za-z][\w▁ ]{2,40}[|｜]>|</s>|<eos>|<end_of_turn>")
_THOUGHT_BEFORE = re.compile(r"</think>|<\|channel\|>final<\|message\|>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_STATEMENT = re.compile(
    r"####|^A:"
    r"|\b(?i:answer(?:\s+[\w']+){0,6}?\s+(?:is|are)\b:?)"
    r"|(?:^[^\w\n]*|(?i:\bfinal\s+))(?i:answer)\W{0,6}?[:=]",  # "To check our answer: …" states none
    re.MULTILINE,
)
_DISPLAY = re.compile(r"\s*(?:\\\[.*?\\\]|\$\$.*?\$\$)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?:[.?]|(?<!\\)!(?!\s*[=+*/^<-]))['\")\]$]*\s|\bI hope it is correct")
_BOX_SEPARATOR = re.compile(r"(?:(?![.!?]\s).){0,70}?(?:[,;&]|\b(?:and|or)\b)(?:(?![.!?]\s).){0,70}", re.DOTALL)
_RESTATED = re.compile(
    r"[\s$\\()]*(?:=|\\approx|≈)[\s$\\()]*"
    r"|[^.!?]{0,20}?\b(?:that is|i\.e\.|namely|which is|in other words|equivalently|which equals"
    r"|so|thus|hence|therefore)\b[^.!?]{0,40}"
)
_VERB = re.compile(r".*\b(?:is|are|equals|was|were|be|has|have|gives|to get|makes)\b(?: exactly)?[:\s]+(.*)", re.DOTALL)
_LINKS = re.compile(r"(?<=^\$)(?:[^A-Za-z$\\]|\\(?:d?frac|times|cdot|\$|div|,|;| ))*=(?=[^=]*$)")
_PLACEHOLDER = re.compile(
    r"[\s.…_?~$]*|\s*(?:\\(?:text\w*|mathrm)\s*\{)?"
    r"\s*(?:\\(?:cdots|ldots|dots|ldotp|;|,|quad|square|blacksquare|Box|phantom\{\w*\}))*\s*"
    r"(?:(?:the|your|my|our|final|answer|result|solution|here|is)[\s:.]*)*\}?\s*",
    re.IGNORECASE,
)
_WORDS_ALONE = re.compile(
    r"\\text\w*\s*\{[\sA-Za-z',.:]*\}|\s*[A-Za-z]{2,}(?:[\s,]+[A-Za-z']+)+[\s.:]*"
    r"|\s*\\text\w*\s*\{\s*(?:since|because|as|where|when|note|by)\b.*",
    re.DOTALL,
)
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
_SCALE = rf"(?:{'|'.join(MAGNITUDES)})s?\b"
_WORD = (
    r"(?:\s+(?:sq\.?|square|cu\.?|cubic)(?=\s))?"
    r"(?:\s+(?!(?:is|are|was|were|isn|and|or|but|of|in|on|at|for|to|from|by|with|as|if|then|that|which)\b)[a-z]+)?"
)
_NUMBER = re.compile(
    r"(?<![\d:])\d{1,2}:\d\d(?:\s*[apAP]\.?\s?[mM]\b\.?)?|[-+]?(?:∞|\binfinity\b)|"
    r"(?<![A-Za-z0-9_.^{])[-+]?\\?[$€£]?\d[\d,]*(?:\.\d+)?(?:\s+\d+/\d+)?(?:\s*[-+*/^]\s*\(?\d+(?:\.\d+)?\)?)*"
    rf"(?:\s*%|\s+(?:percent|pct)\b)?(?:\s+{_SCALE})?{_WORD}",
    re.ASCII,
)
_WEAK = (
    r"not|no|never|neither|nobody|nothing|impossible|hardly|almost|isn't|wasn't|cannot|can't|couldn't"
    r"|at (?:least|most|minimum|maximum)"
    r"|(?:more|less|greater|fewer|larger|smaller|other|rather|different) (?:than|from)|anything but|unlike\w*"
    r"|probably|possibly|perhaps|maybe|might|may|could|either|up to|as (?:many|much|few|little) as|unless|except"
    r"|instead of|under|over|above|below|beyond|exceed\w*|near|close to|somewhere\b.{0,10}|doubt\w*|den(?:y|ies)"
    r"|false|untrue"
)
"""Words in front of a number that make less of it, or deny it."""
HEDGE = re.compile(
    rf"\b(?:{_WEAK}|between|any(?:thing)?|unknown|if|minimum|maximum|or (?:more|less|so|fewer)|wrong|incorrect)\b|≲|≳",
    re.IGNORECASE,
)
"""Words by which an answer says less than its number, or denies it."""
_HEDGED = re.compile(
    rf"\b(?:{_WEAK})(?:\s+(?:equals?|to|be|is|would|say|like|true|exactly|the|final|number|value|that|it|this|answer|result))*"
    r"[\s(\[{$\\:]*(?:[A-Za-z](?:\([A-Za-z]\))?\s*(?:=|\\in)\s*)?[\s(\[{$]*$"
    r"|(?:\d|\$)\s+(?:or|and)\s*$",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"[^.!?\n]{0,60}?\b(?:(?:is|was|are|were) (?:not|wrong|incorrect|false|untrue)\b|isn't\b|(?:but )?not quite\b)",
    re.IGNORECASE,
)
"""Behind a number, in its sentence."""
_ASKING = re.compile(
    r"\W*(?:evaluate|compute|find|simplify|calculate|determine|express|solve|write|convert|factor|expand|rationali[sz]e"
    r"|give|round|prove|show|let|suppose|consider|what|how many|how much)\b"
    r"|\W*which (?!equals|is|gives|means|makes|was|has|leads|simplifies|yields)",
    re.IGNORECASE,
)
_FACTORIAL = re.compile(r"(?:(?<![\w}])[A-Za-z]|\([^(),]*[a-z][^(),]*\))\s*!\s*$")
_BESIDE = re.compile(r"[ \t]*|\s*(?:,|;|,?\s*\band\b|,?\s*\bor\b)\s*")
_SCALED = re.compile(rf"\s*\$?\s*(?:\\(?:text|mathrm)\s*\{{\s*)?({_SCALE})", re.IGNORECASE)
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
    *_, response = _THOUGHT_BEFORE.split(response) if "<|channel|>" in response else (response,)
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
        if filled and statement.start() < filled[-1].end:
            break
        line = max(text.rfind("\n", 0, statement.start()) + 1, statement.start() - 60)
        if _HEDGED.search(text, line, statement.start()):  # "I doubt that the answer is 5"
            return ()
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
    end = _SENTENCE_END.search(_FORMULA.sub(lambda m: "\0" * (len(m[0]) - 2) + m[0][-2:], line) + " ")
    if end:
        line = line[: end.start() if "hope" in end[0] else end.end()]
    said = _BECAUSE.split(line)[0].lstrip(" \n:;,*\"'!").rstrip(" \n.:;,*\"'")
    answer = _without_exclamation(said).rstrip(" \n.:;,*\"'").removeprefix('\\"').removesuffix("\\")
    if len(answer) > SHORT_ANSWER or _PLACEHOLDER.fullmatch(answer):
        return ""
    if not re.search(r"[0-9\\$]", answer):
        return answer if not boxed and 0 < len(answer.split()) <= 4 else ""
    return _said(answer)


def _without_exclamation(text: str) -> str:
    """Without the mark that ends an exclamation; "n!" and "(n-1)!" are factorials, and "5!" in words is none."""
    return text if _FACTORIAL.search(text) else text.rstrip("! ")


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
    scale = _SCALED.match(text, boxes[-1].end)
    contents = [boxes[-1].content.strip() + (rf" \text{{ {scale[1]}}}" if scale else "")]
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
        return (_without_exclamation(text.strip()),) if re.search(r"\w|∞", text) else ()
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
        first = _first_beside(text, numbers)
        weak = _HEDGED.search(text[: first.start()]) or _TAKEN_BACK.match(text, last.end())
        return () if weak else (text[first.start() : last.end()].strip(" .,:;"),)
    start = last.start()
    joined = [_LINKS.sub("", last[0]) + _AFTER.match(text, last.end())[0]]  # type: ignore[index]
    for earlier, later in zip(formulas[-2::-1], formulas[:0:-1], strict=True):
        if not _JOINT.fullmatch(text[earlier.end() : later.start()]):
            break
        joined.append(earlier[0])
        start = earlier.start()
    weak = _HEDGED.search(text[:start]) or _TAKEN_BACK.match(text, last.end())
    return () if weak else (", ".join(reversed(joined)),)


def _first_beside(text: str, numbers: Sequence[re.Match[str]]) -> re.Match[str]:
    """The first of the numbers that stand side by side at the end: 2 hours 30 minutes; 1, 3 and 5."""
    first = numbers[-1]
    for earlier in numbers[-2::-1]:
        if not _BESIDE.fullmatch(text[earlier.end() : first.start()]):
            break
        first = earlier
    return first


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
