"""Grading of recorded responses: `gvpo-bench grade FILE`.

FILE is JSONL, one response a line: {"gold": "18", "response": "… #### 18"}, and optionally `id`, `expected` (whether
the response is correct, by someone else's judgement), `label_kind` (whose) and `flag` (why that is in doubt). Where
`expected` is given, the report says how often the grader agrees.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from benchmarks.benchmark import Verdict
from benchmarks.grader import Grader
from benchmarks.grading_policy import POLICY
from harness.record.files import RecordError
from harness.record.text import terminal
from harness.suite.config import ConfigError


class RecordedResponse(BaseModel):
    """One line of the file. Fields of other names are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    gold: str
    response: str
    id: str | int | None = None
    """The line's number where there is none."""
    expected: bool | None = None
    label_kind: str | None = None
    flag: str | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many of the rows with a verdict of someone else's have the same one from the grader."""

    agreeing: int
    total: int

    @property
    def share(self) -> float:
        """NaN if there are no such rows."""
        return self.agreeing / self.total if self.total else float("nan")


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A response whose verdict is not the recorded one."""

    id: str | int
    expected: bool
    verdict: Verdict
    gold: str
    response: str
    label_kind: str | None
    flag: str | None


@dataclass(frozen=True, kw_only=True)
class GradeReport:
    """What the grader found. The agreements are None where no row has `expected`."""

    path: Path
    counts: dict[Verdict, int]
    """Responses by verdict; every verdict is a key."""
    seconds: float
    """Wall-clock time of the grading, the start of the processes included."""
    agreement: Agreement | None
    unflagged: Agreement | None
    """Of the rows without `flag`."""
    by_label_kind: dict[str, Agreement]
    disagreements: list[Disagreement]


def read_responses(path: Path) -> list[RecordedResponse]:
    """Every row of the file. Raises ConfigError where it cannot be read, with the line where a row is not as described
    above."""
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        try:
            # Half of a pair of surrogates, as a response has that was cut in two, is no character: pydantic takes none.
            row = RecordedResponse.model_validate_json(_SURROGATE.sub(_without_halves, line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{path}:{number}: {f'{field}: ' if field else ''}{first['msg']}. Each line must be a JSON object with "
                "the strings gold and response, and optionally id, expected (true or false), label_kind and flag"
            ) from None
        rows.append(row if row.id is not None else row.model_copy(update={"id": number}))
    return rows


_SURROGATE = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def _without_halves(match: re.Match[str]) -> str:
    r"""An escaped backslash and a whole pair as they are, and a half as U+FFFD, the character for what is none."""
    return r"\ufffd" if len(match[0]) == 6 else match[0]


def grade_file(
    path: Path,
    *,
    workers: int = 1,
    seconds: float = 5.0,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GradeReport:
    """Grade every row of the file in `workers` processes, with a limit of `seconds` for each.

    out: where to write a line {"id", "verdict"} for each row; must not exist yet. progress is called with the numbers
    of graded and of all rows.

    Raises ConfigError where a row is invalid or a file cannot be read or written, RecordError where `out` exists; all
    of them before grading.
    """
    rows = read_responses(path)
    if out is not None:
        if out.exists():
            raise RecordError(f"{out} exists already; remove it or choose another name for the verdicts")
        if not os.access(out.parent, os.W_OK):
            raise ConfigError(f"{out.parent} is not a folder that can be written to; the verdicts should go to {out}")
    start = time.monotonic()
    with Grader(workers=workers, seconds=seconds) as grader:
        verdicts = grader.grade(
            [(row.gold, row.response) for row in rows],
            None if progress is None else lambda finished: progress(finished, len(rows)),
        )
    if out is not None:
        try:
            _write_verdicts(out, rows, verdicts)
        except FileExistsError:  # another process made it meanwhile
            raise RecordError(f"{out} exists already; choose another name for the verdicts") from None
    return report(path, rows, verdicts, seconds=time.monotonic() - start)


def run_grading(path: Path, *, workers: int, seconds: float, out: Path | None, console: Console) -> None:
    """`grade_file` with its progress, and what it found as tables."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("grading", total=None)
        graded = grade_file(
            path,
            workers=workers,
            seconds=seconds,
            out=out,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(render(graded))


def report(path: Path, rows: Sequence[RecordedResponse], verdicts: Sequence[Verdict], *, seconds: float) -> GradeReport:
    """The summary of the verdicts on the rows. A timeout or error of the grader agrees with nothing."""
    labelled = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if row.expected is not None]

    def agreement(pairs: list[tuple[RecordedResponse, Verdict]]) -> Agreement:
        return Agreement(agreeing=sum(_agrees(row, verdict) for row, verdict in pairs), total=len(pairs))

    kinds = sorted({row.label_kind for row, _ in labelled if row.label_kind is not None})
    counts = Counter(verdicts)
    return GradeReport(
        path=path,
        counts={verdict: counts[verdict] for verdict in get_args(Verdict)},
        seconds=seconds,
        agreement=agreement(labelled) if labelled else None,
        unflagged=agreement([pair for pair in labelled if pair[0].flag is None]) if labelled else None,
        by_label_kind={kind: agreement([pair for pair in labelled if pair[0].label_kind == kind]) for kind in kinds},
        disagreements=[
            Disagreement(
                id=row.id if row.id is not None else "",
                expected=bool(row.expected),
                verdict=verdict,
                gold=row.gold,
                response=row.response,
                label_kind=row.label_kind,
                flag=row.flag,
            )
            for row, verdict in labelled
            if not _agrees(row, verdict)
        ],
    )


def _agrees(row: RecordedResponse, verdict: Verdict) -> bool:
    return verdict not in ("timeout", "error") and (verdict == "correct") == row.expected


def _write_verdicts(out: Path, rows: Sequence[RecordedResponse], verdicts: Sequence[Verdict]) -> None:
    """Write under another name first, so that `out` is complete if it exists, and never replaces another file."""
    with tempfile.NamedTemporaryFile("w", dir=out.parent, prefix=out.name, encoding="utf-8") as temporary:
        for row, verdict in zip(rows, verdicts, strict=True):
            temporary.write(json.dumps({"id": row.id, "verdict": verdict}) + "\n")
        temporary.flush()
        os.fsync(temporary.fileno())
        os.link(temporary.name, out)


def render(report: GradeReport) -> Group:
    """The report as tables for a terminal. Responses are shown escaped, their line breaks too."""
    title = terminal(f"{report.path.name}: {sum(report.counts.values())} responses by {POLICY}", "table.title")
    verdicts = Table("verdict", "responses", title=title)
    for verdict, count in report.counts.items():
        verdicts.add_row(verdict, str(count))
    parts: list[Table | Text] = [verdicts, Text(f"{report.seconds:.1f} s")]
    if report.agreement is not None and report.unflagged is not None:
        agreements = Table("rows", "agreeing", "of", "share", title="Agreement with the verdicts in the file")
        for name, agreement in [
            ("all", report.agreement),
            ("unflagged", report.unflagged),
            *report.by_label_kind.items(),
        ]:
            agreements.add_row(terminal(name), str(agreement.agreeing), str(agreement.total), f"{agreement.share:.2%}")
        parts.append(agreements)
    if report.disagreements:
        table = Table("id", "in the file", "grader", "gold", "end of the response", "label", title="Disagreements")
        for row in report.disagreements:
            label = " ".join(filter(None, [row.label_kind, row.flag]))
            expected = "correct" if row.expected else "wrong"
            cells = (
                str(row.id),
                expected,
                row.verdict,
                repr(row.gold[-80:])[1:-1],
                repr(row.response[-80:])[1:-1],
                label,
            )
            table.add_row(*map(terminal, cells))
        parts.append(table)
    return Group(*parts)
