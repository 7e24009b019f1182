"""The atlas: one page of all algorithms, made from their classes and docstrings, with the portraits that it shows."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from algorithms.base import Algorithm
from harness.kit.cards import NOT_STATED, Card, CardError, card_of, families, instance, wrapped
from harness.kit.plain_portrait import plain
from harness.kit.portrait_figures import Picture, one, sheet
from harness.kit.portraits import GROUPS, SAMPLES, TEACHER, TOKENS, portrait
from harness.kit.traits import MEANING, Traits, traits_of
from harness.record.files import new_folder, write
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown, to_csv
from harness.report.drawing import NO_METADATA, encode

KINDS = (*NO_METADATA, "csv")
"""What a portrait may be written as."""

INTRODUCTION = f"""\
# The algorithms

Made from the classes in `algorithms/` and their docstrings by `make atlas`; a test holds it up to date. Every loss here
is a gradient ∇L = −Σ C ∇log π, and they differ in the coefficients C. Notation: x a prompt, y_i the i-th of its k
responses, R_i its reward, R̄ the mean of the group, π_θ the policy in training, ℓ_i the log-ratio of a response to the
policy that is named, in nats; sg holds a value constant. `gvpo-bench algorithms NAME` shows one of them in the
terminal.

![The portraits of all algorithms on one sheet](portraits.png)

**How to read a portrait.** It shows C of one response, measured on the class at its defaults; no formula is written
twice. The batch has {GROUPS} groups of {SAMPLES} responses of {TOKENS} tokens, half of them right (reward 1) and half
wrong (0). The policy in training has moved by ℓ nats on one response alone, evenly over its tokens; the behaviour, old
and reference policies are one and stay at ℓ = 0, where the dots are: on-policy. The dotted line is a response of a
group that is wrong throughout: what it shows is no reward. The narrow panel is on-policy: C against the share of the
group that is right. C is summed over the response's tokens and divided by the largest on-policy coefficient of the
half-right batch, so all have one scale. What stands for a prompt's difficulty (a critic's value, the greedy response's
reward, the reference samples' mean) is the share that is right; a teacher gives right responses {TEACHER:g} nats more
than the anchor, wrong ones {TEACHER:g} less. Given answers are all right, one a prompt, and given pairs are one right,
one wrong. What is drawn stands in [portraits.csv](portraits.csv), the sheet also as [SVG](portraits.svg).

**The words of the table** are measured on the classes, too:

{{words}}
- *token ratio*, *response ratio*: the unit whose log-ratio moves C; then come the policies whose log-probs are read
- *1/|y|*: a response weighs the same however long it is; without it each token does
"""


class Entry(NamedTuple):
    """All that the atlas knows of one algorithm."""

    card: Card
    traits: Traits
    rows: pd.DataFrame

    @property
    def picture(self) -> Picture:
        """What its portrait is drawn from."""
        return Picture(self.card.label, self.card.family, self.traits, self.rows)


def entry_of(cls: type[Algorithm], name: str) -> Entry:
    """Card, traits and portrait of a class at its defaults. Raises CardError where its loss fails on the probe."""
    card, algorithm = card_of(cls, name), instance(cls)
    try:
        rows = portrait(algorithm, name)
        return Entry(card, traits_of(algorithm, rows), rows)
    except Exception as error:
        raise CardError(
            f"{name}: its loss fails on the portrait's batch: {error}; `gvpo-bench check {name}` says more"
        ) from error


def entries() -> list[Entry]:
    """Of every registered algorithm, by family."""
    return [entry_of(cls, name) for members in families().values() for name, cls in members.items()]


def in_characters(entry: Entry) -> str:
    """The card and its portrait for a terminal of 80 columns."""
    card = entry.card
    parts = [f"{card.label} ({card.name}), {card.family}", wrapped(card.source or f"Source: {NOT_STATED}")]
    parts += [text if text.startswith(" ") else wrapped(text) for text in card.body]
    parts += [wrapped(f"{heading}: {text}") for heading, text in _told(entry).items()]
    if card.parameters:
        lines = ["Hyper-parameters:"]
        for parameter in card.parameters:
            space = f", tuned over {parameter.search}" if parameter.search else ""
            lines += [f"  {parameter.name} = {parameter.default}{space}", wrapped(parameter.doc, "      ")]
        parts.append("\n".join(lines))
    parts.append("C of one response, 1 = the largest on-policy:\n\n" + plain(entry.rows))
    return "\n\n".join(parts)


def page(found: list[Entry]) -> str:
    """The text of docs/algorithms.md."""
    words = "\n".join(f"- *{word}*: {meaning}" for word, meaning in MEANING.items())
    rows = [
        (
            f"[{escape_markdown(card.label)}](#{card.name})",
            card.family,
            escape_markdown(", ".join(traits.does)),
            escape_markdown(traits.compared),
            escape_markdown(card.short_needs),
            card.short_source,
        )
        for card, traits, _ in found
    ]
    headings = ("algorithm", "family", "what it does", "ratio and policies", "needs", "source")
    parts = [INTRODUCTION.format(words=words), markdown_table(headings, rows, left=len(headings))]
    family = None
    for entry in found:
        if entry.card.family != family:
            family = entry.card.family
            parts.append(f"## {family[0].upper()}{family[1:]}")
        parts.append(_section(entry))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _told(entry: Entry) -> dict[str, str]:
    """What a card says below the formula, by heading."""
    card, traits = entry.card, entry.traits
    return {
        "Does": f"{', '.join(traits.does)} ({traits.compared})",
        "Needs": "; ".join(text for _, text in card.needs) or "nothing beyond rewards and log-probs",
        "Reduces to": card.reduces_to or NOT_STATED,
        "Pitfalls": card.pitfalls or NOT_STATED,
    }


def _section(entry: Entry) -> str:
    card = entry.card
    parts = [f'<a id="{card.name}"></a>\n\n### {escape_markdown(card.label)}']
    parts.append(f"`{card.name}` · {_prose(card.source) or NOT_STATED}")
    parts += [f"```\n{textwrap.dedent(text)}\n```" if text.startswith(" ") else _prose(text) for text in card.body]
    parts.append("\n".join(f"- **{heading}**: {_prose(text)}" for heading, text in _told(entry).items()))
    if card.parameters:
        rows = [(f"`{p.name}`", f"`{p.default}`", escape_markdown(p.search), _prose(p.doc)) for p in card.parameters]
        parts.append(markdown_table(("hyper-parameter", "default", "tuned over", "what it does"), rows, left=4))
    parts.append(f"![Portrait of {escape_markdown(card.label)}](portraits/{card.name}.svg)")
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """Escaped for Markdown, but for what stands in backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape_markdown(text)
    cells = [piece if i % 2 else _escaped(piece) for i, piece in enumerate(pieces)]
    return "`".join(cells)


def _escaped(piece: str) -> str:
    """escape_markdown keeps no space at either end."""
    body = escape_markdown(piece)
    return f"{' ' * piece.startswith(' ')}{body}{' ' * piece.endswith(' ')}" if body else piece


def data(found: list[Entry]) -> pd.DataFrame:
    """What the portraits show, a row a point."""
    return pd.concat([entry.rows for entry in found], ignore_index=True)


def encoded(figure: Figure, rows: pd.DataFrame, kind: str) -> bytes:
    """A figure, or the data behind it, as a file of one of KINDS."""
    return to_csv(rows, float_format="%.6g").encode() if kind == "csv" else encode(figure, kind)


def write_portrait(path: Path, found: list[Entry]) -> None:
    """Writes the portrait of one algorithm, or the sheet of several, as what the name ends in.

    Raises CardError where that is none of KINDS.
    """
    kind = require_kind(path)
    figure = one(found[0].picture) if len(found) == 1 else sheet([entry.picture for entry in found])
    write(path, encoded(figure, data(found), kind))


def require_kind(path: Path) -> str:
    """What a file's name ends in. Raises CardError where that is none of KINDS."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise CardError(f"--out {path}: end the name in .{', .'.join(KINDS[:-1])} or .{KINDS[-1]}")
    return kind


def write_atlas(out: Path) -> Path:
    """Writes algorithms.md, portraits.csv, .svg and .png, and portraits/NAME.svg into a folder; returns the page."""
    found = entries()
    figure, rows = sheet([entry.picture for entry in found]), data(found)
    for kind in ("svg", "png", "csv"):
        write(out / f"portraits.{kind}", encoded(figure, rows, kind))
    with new_folder(out / "portraits") as folder:
        for entry in found:
            (folder / f"{entry.card.name}.svg").write_bytes(encode(one(entry.picture), "svg"))
    write(out / "algorithms.md", page(found))
    return out / "algorithms.md"
