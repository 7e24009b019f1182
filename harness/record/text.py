"""Texts that others wrote, a function for each medium that shows them: none is markup, a command or a formula there.

What cannot be seen (controls, bidirectional ones too, zero width, lone surrogates) is shown as JSON writes it, such as
`\\u202e`, and never left out. Where the medium sets white space itself, the text becomes one line.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.text import Text

BLANK = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters, marks and selectors that fonts show as nothing. All others of their kind count as seen."""

MARKDOWN = re.compile(
    r"[\\`*_|<>\[\]$&~]"  # anywhere
    r"|:(?=[\w+-]+:)"  # :name:, which GitHub shows as a picture
    r"|\A#|#\Z|\A[-+](?= |\Z)|\A-(?=[- ]*\Z)"  # a heading, an item of a list, a rule
)
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "Σ": r"$\Sigma$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "→": r"$\to$",
    **{
        letter: f"$\\{unicodedata.name(letter).rpartition(' ')[2].lower().replace('lamda', 'lambda')}$"
        for letter in "αβγδεζηθικλμνξπρστυφχψω"
    },
}
LATEX_KNOWS = re.compile(r"[\x00-\u017f–—‘’“”…]")
"""What pdfTeX can set as it stands: anything else is an error of inputenc."""
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def visible(text: str, *, lines: bool = False) -> str:
    """The text with a visible escape in place of each character that cannot be seen; `lines` keeps line breaks and
    tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _seen(c) or (lines and c in "\n\t") else json.dumps(c)[1:-1] for c in text)


def _seen(character: str) -> bool:
    space = unicodedata.category(character) == "Zs"  # of any width; isprintable knows one
    return (character.isprintable() or space) and not BLANK.match(character)


def one_line(text: str) -> str:
    """The visible text, each run of blanks and line breaks as one space, without any at its ends."""
    return visible(re.sub(r"[ \t\r\n]+", " ", text).strip(" "))


def last_line(traceback: str | None) -> str:
    """The line of a traceback that names the error."""
    lines = (traceback or "").strip().splitlines()
    return lines[-1].strip() if lines else "no traceback recorded"


def terminal(text: str, style: str = "", *, lines: bool = False) -> Text:
    """For rich: tables, titles, messages. No markup and no emoji names are looked for in it."""
    from rich.text import Text

    return Text(visible(text, lines=lines), style)


def say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Prints a line of texts, some of them with a style."""
    from rich.text import Text

    texts = [terminal(part) if isinstance(part, str) else terminal(*part) for part in parts]
    console.print(Text.assemble(*texts), highlight=False, soft_wrap=True)


def escape_markdown(text: str) -> str:
    """For Markdown with HTML: a cell of a table, a heading, an item of a list, a caption, the text of a link."""
    escaped = MARKDOWN.sub(r"\\\g<0>", one_line(text))
    return re.sub(r"\A(\d{1,9})([.)])(?= |\Z)", r"\1\\\2", escaped)  # an item of a numbered list


def code_span(text: str) -> str:
    """For Markdown, as code, where no table is around it."""
    shown = visible(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    space = " " if not shown or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{space}{shown}{space}{fence}"


def escape_latex(text: str) -> str:
    """For LaTeX, a cell of a table included, where the row before would take a [ or * for its own; what no version of
    LaTeX sets by itself stands there by its number."""
    return re.sub(r"\A[\[*]", r"{\g<0>}", "".join(map(_latex, one_line(text))))


def _latex(character: str) -> str:
    return LATEX.get(character) or (character if LATEX_KNOWS.match(character) else f"U+{ord(character):04X}")


def latex_key(text: str) -> str:
    """For the argument of LaTeX's \\label, which nobody reads; plain names stay as they are."""
    return re.sub(r"[^A-Za-z0-9 ._:/+-]", lambda match: f"{ord(match[0]):x}", text)


def file_name(text: str) -> str:
    """For a part of a file's name, and of a link to it; plain names stay as they are."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda match: f"{ord(match[0]):x}", text)


def figure_text(text: str) -> str:
    """For a text of matplotlib, which finds mathematics between dollars and hides labels that begin with _."""
    shown = one_line(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def spreadsheet(text: str) -> str:
    """For a cell of CSV: what a spreadsheet would compute stands behind a '; numbers stay numbers."""
    shown = visible(text)
    return f"'{shown}" if FORMULA.match(shown) and not NUMBER.fullmatch(shown) else shown


def to_csv(table: pd.DataFrame, *, float_format: str | None = None) -> str:
    """A table as CSV, whose texts and headings are those of `spreadsheet`; numbers are as pandas writes them."""
    import pandas as pd

    shown = table.set_axis([spreadsheet(str(name)) for name in table.columns], axis="columns")
    for place, dtype in enumerate(table.dtypes):
        if dtype.kind == "O":
            values = [spreadsheet(value) if isinstance(value, str) else value for value in table.iloc[:, place]]
            shown.isetitem(place, pd.Series(values, dtype=object).array)
    return shown.to_csv(index=False, float_format=float_format)
