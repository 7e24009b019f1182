"""What an algorithm's class says of itself, read from its docstrings and fields: its card.

The module's docstring begins with the source. The class's docstring states the loss as an indented block; paragraphs
that begin with "Reduces to:" and "Pitfalls:" are told apart, all others are kept in their order. Imports no torch by
itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import sys
import textwrap
from dataclasses import dataclass
from typing import Any, get_args

from algorithms import ALGORITHMS
from algorithms.base import EXTRAS, Algorithm, Choice, Family, LogUniform, Needs
from benchmarks.errors import BenchError
from harness.suite.config import ConfigError
from harness.suite.user_code import load_class, needs_of
from harness.suite.user_errors import reported

NOT_STATED = "not stated"

DATA = {
    "base": ("base samples", "responses of the frozen base, drawn anew at each step"),
    "demonstrations": ("given answers", "given answers, one to a prompt: no sampling"),
    "pairs": ("given pairs", "given pairs, a better and a worse response to a prompt: no sampling"),
}
SUPPLIED = {
    "greedy_reward_G": "greedy response",
    "reference_reward_GN": "its samples",
    "teacher_logp_GK": "teacher",
    "length_limit_G": "limit",
}


class CardError(BenchError):
    """An algorithm that cannot be shown."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A hyper-parameter in words."""

    name: str
    default: str
    search: str
    doc: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is told of one algorithm; empty where its class does not tell it."""

    name: str
    label: str
    family: str
    source: str
    body: tuple[str, ...]
    """The paragraphs of the docstring but the two below; one that is indented is a formula."""
    reduces_to: str
    pitfalls: str
    needs: tuple[tuple[str, str], ...]
    """Each in a word or two, and in a sentence."""
    parameters: tuple[Parameter, ...]

    @property
    def short_source(self) -> str:
        """The arXiv number, or what stands first in the source's brackets, as far as it fits beside such numbers."""
        if found := re.search(r"arXiv[: ](\d{4}\.\d{4,5})", self.source):
            return found[1]
        found = re.search(r"\(([^,;)]+)", self.source)
        return textwrap.shorten(found[1], 11, placeholder="…") if found else ""

    @property
    def short_needs(self) -> str:
        """All needs on one line."""
        return ", ".join(short for short, _ in self.needs)


def load(spec: str) -> type[Algorithm]:
    """The class behind a name, `path/to/file.py:Class` or an entry point. Raises CardError with the near matches."""
    try:
        return load_class(spec)
    except ConfigError as error:
        near = difflib.get_close_matches(spec.lower(), ALGORITHMS, n=3, cutoff=0.5)
        near += [name for name in ALGORITHMS if spec.lower() in name and name not in near]
        hint = f"; did you mean {' or '.join(near)}?" if near and ":" not in spec else ""
        raise CardError(f"{error}{hint}") from None


def card_of(cls: type[Algorithm], name: str) -> Card:
    """The card of a class, at its defaults. Raises CardError where it cannot be made, or its needs are wrong."""
    try:
        needs = needs_of(instance(cls))
    except ConfigError as error:
        raise CardError(f"{cls.__name__}: {error}") from None
    told: dict[str, str] = {}
    body = []
    for paragraph in paragraphs(cls):
        word = next((word for word in ("Reduces to:", "Pitfalls:") if paragraph.startswith(word)), None)
        if word is None:
            body.append(paragraph)
        else:
            told[word] = paragraph.removeprefix(word).strip()
    module = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
    return Card(
        name=name,
        label=cls.name,
        family=cls.family,
        source=" ".join(module.split("\n\n")[0].split()).rstrip("."),
        body=tuple(body),
        reduces_to=told.get("Reduces to:", ""),
        pitfalls=told.get("Pitfalls:", ""),
        needs=needs_in_words(needs),
        parameters=tuple(_parameter(field) for field in dataclasses.fields(cls)),  # type: ignore[arg-type]
    )


def instance(cls: type[Algorithm]) -> Algorithm:
    """The algorithm at its defaults. Raises CardError where it cannot be made so."""
    with reported(
        lambda text: CardError(f"{cls.__name__}() raises {text}; give every hyper-parameter a sound default")
    ):
        return cls()


def paragraphs(cls: type[Algorithm]) -> list[str]:
    """Of the class's own docstring; formulas keep their lines and their indent, prose is one line each."""
    text = inspect.cleandoc(cls.__doc__ or "")
    if text.startswith(f"{cls.__name__}("):  # what dataclass puts there when there is none
        return []
    blocks = re.split(r"\n\s*\n", text)
    return [block if block.startswith(" ") else " ".join(block.split()) for block in blocks if block.strip()]


def families() -> dict[str, dict[str, type[Algorithm]]]:
    """The registered algorithms by family, in the order of Family and then of ALGORITHMS; a family has at least one."""
    found = {
        family: {name: cls for name, cls in ALGORITHMS.items() if cls.family == family} for family in get_args(Family)
    }
    return {family: members for family, members in found.items() if members}


def needs_in_words(needs: Needs) -> tuple[tuple[str, str], ...]:
    """Everything that the harness must supply beyond rewards and log-probs, shortly and in a sentence."""
    words = [DATA[needs.data]] if needs.data in DATA else []
    if needs.min_group_size > 1 and needs.data != "pairs":
        words.append((f"k≥{needs.min_group_size}", f"at least {needs.min_group_size} samples a prompt"))
    if needs.critic:
        words.append(("critic", "a critic, trained along with the policy"))
    if needs.reference:
        words.append(("reference", "log-probs under the frozen reference"))
    if needs.entropy:
        words.append(("entropy", "the policy's entropy at each token"))
    if needs.sampler:
        words.append(("sampler", "log-probs as the sampling engine reported them"))
    words += [(SUPPLIED[name], EXTRAS[name]) for name in needs.extras]
    if needs.refill is not None:
        words.append(("refill", "further prompts in place of groups without a signal"))
    return tuple(words)


def _parameter(field: dataclasses.Field[Any]) -> Parameter:
    space = field.metadata.get("search")
    search = ""
    if isinstance(space, Choice):
        search = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in space.values)
    elif isinstance(space, LogUniform):
        search = f"{space.low:g} to {space.high:g}, log"
    return Parameter(name=field.name, default=str(field.default), search=search, doc=field.metadata.get("doc", ""))


def wrapped(text: str, indent: str = "", width: int = 80) -> str:
    """Prose within the width; no word is broken."""
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
