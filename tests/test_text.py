"""What others wrote stands in every output as text, in each medium read back by a parser of that medium."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.text import Text as FigureText
from rich.console import Console
from rich.table import Table
from small import command
from synthetic_runs import coefficients, config, write_cell, write_coefficients

from benchmarks.errors import BenchError
from harness.evaluation.grade import RecordedResponse
from harness.evaluation.grade import render as render_grades
from harness.evaluation.grade import report as grade_report
from harness.kit.check import ORDERED, Examination, Finding, show
from harness.kit.properties import Fault
from harness.preflight.checks import Check
from harness.preflight.doctor import table_of
from harness.record import files
from harness.record.text import (
    LATEX,
    code_span,
    escape_latex,
    escape_markdown,
    figure_text,
    one_line,
    say,
    spreadsheet,
    terminal,
    to_csv,
    visible,
)
from harness.report import page
from harness.report.ablation import write_ablation
from harness.report.drawing import encode
from harness.report.suite_report import write_report

FRAGMENTS = (
    *("$$", "$x$", "\\$", "[/x]", "[red]", ":skull:", "\x1b[31m", "\x9b", "\u202e", "\u2067", "\u200b", "\ufeff"),
    *("\ud800", "\x00", "\x85", "\u2028", "\u3164", "\ufe0f", "\U000e0041", "<script>", "<img onerror=x>", "&lt;", "|"),
    *("`", "``", "\n# x", "\r\n", "[a](http://b)", "![", "**", "__", "~~", "#", "- ", "+ ", "1. ", "12) ", "---", "\\"),
    *("\\input{x}", "%", "_", "{", "}", "^", "=1+1", "+", "-1", "@SUM(A1)", "\t=1", '"', ",", "'", " ", "words"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(st.characters(), max_size=3), max_size=5).map("".join)
MARKS, SIDES = ("strong", "em"), ("open", "close")
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])

hostile = given(TEXTS)
few = settings(max_examples=40, deadline=None)


def unseen(text: str) -> list[str]:
    """What Unicode calls a control, a format, a surrogate, unassigned, private, or a separator of lines."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PG + KL, β ≤ 0.1", "PG + KL, β ≤ 0.1"),
        ("a\u202eb", r"a\u202eb"),
        ("\x1b[31mred", r"\u001b[31mred"),
        ("two\nlines", r"two\nlines"),
        ("\ud800 zero\u200bwidth", r"\ud800 zero\u200bwidth"),
        ("a\u00a0b", "a\u00a0b"),  # a space that is seen
        ("\u3164\ufe0f", r"\u3164\ufe0f"),  # a letter and a selector that are not
    ],
)
def test_what_cannot_be_seen_is_shown_as_json_writes_it(text: str, shown: str) -> None:
    assert visible(text) == shown


@few
@hostile
def test_nothing_is_left_out_and_all_is_seen(text: str) -> None:
    shown = visible(text)
    assert not unseen(shown)
    if "\\" not in text:  # JSON's own reader gives the text back
        quoted = shown.replace('"', '\\"')
        assert json.loads(f'"{quoted}"').encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
    assert set(unseen(visible(text, lines=True))) <= {"\n", "\t"}


@few
@hostile
def test_a_terminal_prints_the_characters_and_no_more(text: str) -> None:
    console = Console(file=io.StringIO(), width=10_000, force_terminal=True, color_system=None)
    say(console, text)
    table = Table(title=terminal(text))
    table.add_column(terminal(text))
    table.add_row(terminal(text, "bold"))
    console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.startswith(visible(text) + "\n")
    assert set(unseen(printed)) <= {"\n"}
    assert printed.count(visible(text).strip()) >= 4


def text_of(tokens: Any) -> str:
    """The text of Markdown's inline tokens. Fails where one is anything else."""
    assert {token.type for token in tokens} <= {"text", "text_special"}
    return "".join(token.content for token in tokens)


@few
@hostile
def test_markdown_reads_back_as_the_text_alone_wherever_it_stands(text: str) -> None:
    assume(one_line(text).strip())
    shown = escape_markdown(text)
    written = f"# {shown}\n\n| {shown} | x |\n| --- | ---: |\n| {shown} | y |\n\n- {shown}\n- z\n\n![{shown}](a.svg)\n"
    tokens = MARKDOWN.parse(written)
    table = ("table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td")
    assert [token.tag for token in tokens if token.nesting == 1] == ["h1", *table, "ul", "li", "p", "li", "p", "p"]
    inline = [token for token in tokens if token.type == "inline"]
    found = [text_of(inline[place].children) for place in (0, 1, 3, 5)]
    assert [each.strip() for each in found] == 4 * [one_line(text).strip()]
    [image] = inline[-1].children or []
    assert text_of(image.children).strip() == one_line(text).strip()


@few
@hostile
def test_code_in_markdown_is_one_span_of_the_text(text: str) -> None:
    [item] = [token for token in MARKDOWN.parse(f"- command: {code_span(text)}\n") if token.type == "inline"]
    before, code = item.children or []
    assert (before.content, code.type) == ("command: ", "code_inline")
    assert code.content.strip() == visible(text).strip()


WRITTEN = {latex: character for character, latex in LATEX.items()} | {"{[}": "[", "{*}": "*"}
TEX = re.compile("|".join(map(re.escape, sorted(WRITTEN, key=len, reverse=True))) + r"|[^\\&%$#_{}~^|<>]", re.DOTALL)


@few
@hostile
def test_latex_has_no_command_but_those_of_characters_and_reads_back(text: str) -> None:
    shown = escape_latex(text)
    pieces = TEX.findall(shown)
    assert "".join(pieces) == shown
    assert "".join(WRITTEN.get(piece, piece) for piece in pieces) == one_line(text)
    assert not shown.startswith(("[", "*"))


@few
@hostile
def test_a_figure_draws_the_characters_and_no_mathematics(text: str) -> None:
    artist = FigureText(0, 0, figure_text(text))
    drawn, mathematics = artist._preprocess_math(artist.get_text())  # type: ignore[attr-defined]
    assert (drawn.removeprefix(" "), mathematics) == (one_line(text), False)
    assert not artist.get_text().startswith("_")


@few
@hostile
def test_csv_reads_back_and_computes_nothing(text: str) -> None:
    texts = pd.Series([text, None], dtype=object)  # of pandas' own dtype no lone surrogate can be
    table = pd.DataFrame({"": texts, "diff": [-0.5, 2.0], "n": pd.array([-1, None], dtype="Int64")})
    table.columns = pd.Index([text, "diff", "n"], dtype=object)
    [heading, row, empty] = csv.reader(io.StringIO(to_csv(table), newline=""))
    assert row[1:] == ["-0.5", "-1"]
    assert empty == ["", "2.0", ""]
    assert heading[0] == row[0]
    assert row[0].removeprefix("'") == visible(text).removeprefix("'")
    if row[0].lstrip()[:1] in tuple("=+-@"):
        assert float(row[0]) == float(text)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@x", "'@x"),
        (" =1", "' =1"),
        ("-1e-3", "-1e-3"),
        ("-1+1", "'-1+1"),
        ("\t=1", r"\t=1"),  # no tab is left of it
        ("A*-PO", "A*-PO"),
    ],
)
def test_formulas_stand_behind_an_apostrophe_and_numbers_stay_numbers(text: str, cell: str) -> None:
    assert spreadsheet(text) == cell


NASTY = (
    "=1+1 $$ $x$ [/x][red] \x1b[31m\u202e\u200b\ud800\x85|`<script>alert(1)</script><img src=x onerror=y>\n\n"
    "# h\r\n\\input{x} %_&#^~{} [a](http://b) @ &lt; :skull: **b**"
)
NAMES = ("$$", "_hidden", "[/]", "#", "*x", "[x", "-", "`", NASTY)
LABELS = ("grpo", *(f"{index}.$$[{index}\u202e_=&%" for index in range(1, len(NAMES))))
"""Of more algorithms than one panel holds, so that tables and figures have families."""


def write_nasty(suite: Path, count: int) -> None:
    """Cells whose every text is hostile; the last one failed."""
    drawn = {
        name: (np.random.default_rng(1).random((3, 4)) < 0.5).astype(float) for name in ("arithmetic", "a|<b>$$\x1b")
    }
    own = config(report={"baseline": LABELS[0]})
    own["evaluation"] |= {"samples": 4, "hard_benchmarks": ["a|<b>$$\x1b"]}
    own["train"] |= {"benchmark": NASTY}
    write_cell(suite, "base", None, drawn, settings=own)
    for index, (label, name) in enumerate(zip(LABELS[:count], NAMES[-count:], strict=True)):
        status = "failed" if index == count - 1 else "finished"
        write_cell(suite, label, 0, drawn, display=name, curve=[0.1, 0.2], status=status, settings=own, family=NASTY)
    for path in suite.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        nasty = {"suite": NASTY, "command": ["bench", NASTY], "hardware": {"cpu": NASTY}, "versions": {NASTY: "1"}}
        path.write_text(json.dumps(manifest | nasty | {"git": {"commit": NASTY}}))
        if manifest["algorithm"] != "base":
            manifest["config"]["algorithm"]["parameters"] = {"choice": NASTY}
    for path in suite.rglob("traceback.txt"):
        path.write_bytes(f"Traceback\nValueError: {NASTY.replace(chr(10), ' ')}".encode(errors="backslashreplace"))
    table = coefficients(np.random.default_rng(0), prompts=2, samples=4)
    made = table[table["algorithm"] == "grpo"]
    name = NASTY.replace("\ud800", "")  # which parquet cannot hold
    write_coefficients(suite, pd.concat([made, made.assign(algorithm="further", display=name)]), left_out={"x": NASTY})


def printed(*parts: Any) -> str:
    console = Console(file=io.StringIO(), width=2000, force_terminal=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def require_text_alone(out: Path) -> None:
    """Reads back all that a report published. Fails where anything in it is more than text."""
    for path in out.rglob("*.[mct]*"):
        content = path.read_bytes().decode()
        assert set(unseen(content)) <= {"\n"}, path.name
        if path.stem in ("table", "README"):
            assert "\\u202e" in content.replace(r"\textbackslash{}", "\\").replace("\\\\", "\\"), path.name
    for path in out.glob("*.csv"):
        heading, *rows = csv.reader(path.read_text().splitlines())
        assert {len(row) for row in rows} == {len(heading)}
        for cell in (cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@")):
            float(cell)
    tokens = MARKDOWN.parse((out / "README.md").read_text())
    assert not [token for token in tokens if token.type in ("html_block", "fence", "code_block", "hr")]
    inline = {child.type for token in tokens for child in token.children or []}
    assert inline <= {"text", "text_special", "code_inline", "image", *(f"{x}_{y}" for x in MARKS for y in SIDES)}
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2"]
    latex = (out / "table.tex").read_text()
    assert "\\input" not in latex
    assert not re.search(r"(?<!\\)%|\\\\\*?\s*\[", latex)  # no comment, no option of the end of a row
    assert len(re.findall(r"(?<!\\)\{", latex)) == len(re.findall(r"(?<!\\)\}", latex))
    for columns, body in re.findall(r"\{(?:tabular|longtable)\}\{(lr*)\}(.*?)\\end\{", latex, re.DOTALL):
        rows_of = [line for line in body.splitlines() if line.endswith(r" \\") and not line.startswith(r"\caption")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows_of} == {len(columns) - 1}
    figures = sorted((out / "figures").iterdir())
    assert figures
    for path in figures:
        if path.suffix == ".svg":
            ET.parse(path)


@pytest.fixture
def svg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is rasterised, which takes most of a report's time."""
    monkeypatch.setattr(page, "encode", lambda figure, kind: encode(figure, kind) if kind == "svg" else b"")


@pytest.mark.usefixtures("svg_alone")
@pytest.mark.parametrize("count", [3, len(LABELS)])
def test_a_report_of_hostile_cells_is_text_in_every_medium(count: int, tmp_path: Path) -> None:
    suite = tmp_path / "runs" / "nasty"
    write_nasty(suite, count)
    report = write_report(suite, tmp_path / "nasty", highlight=[LABELS[1]] if count == 3 else ())
    require_text_alone(tmp_path / "nasty")
    shown = printed(report.render())
    assert set(unseen(shown)) <= {"\n"}
    assert r"\u202e" in shown


@pytest.mark.usefixtures("svg_alone")
def test_an_ablation_whose_quantity_and_note_are_hostile_is_text(tmp_path: Path) -> None:
    points = [{"label": "1", "set": [f"train.x={NASTY}"]}, {"label": "2"}]
    ablation = {"quantity": NASTY, "reference": "1", "note": NASTY, "points": points}
    suite, own = tmp_path / "runs" / "[x] $$ <b>\x1b", config(ablation=ablation)
    for point in "12":
        drawn = {name: np.eye(3, 8) for name in ("arithmetic", "arithmetic-hard")}
        for label in ("base", "grpo", "gvpo") if point == "1" else ("grpo", "gvpo"):
            seed, curve = (None, ()) if label == "base" else (0, (0.1, 0.2))
            write_cell(
                suite / point,
                label,
                seed,
                drawn,
                display=f"{label}Δ\u202e",
                curve=curve,
                settings=own,
            )
    report = write_ablation(suite, tmp_path / "out")
    require_text_alone(tmp_path / "out")
    assert r"p to grpoΔ\\u202e" in (tmp_path / "out" / "table.md").read_text()
    assert set(unseen(printed(report.render()))) <= {"\n"}


def graded() -> str:
    row = RecordedResponse(gold=NASTY, response=NASTY, id=NASTY, expected=True, label_kind=NASTY, flag=NASTY)
    return printed(render_grades(grade_report(Path(f"{NASTY}.jsonl"), [row], ["wrong"], seconds=1.0)))


def doctored() -> str:
    return printed(table_of([Check(NASTY, "fail", NASTY, NASTY)], NASTY))


def checked() -> str:
    console = Console(file=io.StringIO(), width=2000)
    show(Examination([Finding(ORDERED[0], Fault(NASTY))], [NASTY], 1.0), NASTY, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("output", [graded, doctored, checked])
def test_what_a_command_prints_of_others_texts_is_text(output: Callable[[], str]) -> None:
    shown = output()
    assert set(unseen(shown)) <= {"\n"}
    for words in (r"[/x][red] \u001b[31m\u202e", ":skull:"):
        assert words in shown


def test_a_message_of_an_error_is_text_and_keeps_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise BenchError("first\x1b[31m\n  second\u202e [/x]")

    monkeypatch.setattr("harness.cli._load", refuse)
    assert command("plan", "embedded") == 2
    assert capsys.readouterr().err == "gvpo-bench: first\\u001b[31m\n  second\\u202e [/x]\n"


def test_a_traceback_with_a_lone_surrogate_can_be_written(tmp_path: Path) -> None:
    files.write(tmp_path / "traceback.txt", "ValueError: \ud800 β")
    assert (tmp_path / "traceback.txt").read_text(encoding="utf-8") == r"ValueError: \ud800 β"
