"""The record of a campaign: trials.csv, a row a trial as it ended, and README.md, which counts them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from parts import Part
from verdicts import FAULTS, MEANINGS, Verdict

from harness.record.environment import environment
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown, spreadsheet

DIGITS = 12
"""Of a hash."""

MOST_SAID = 2000
"""Characters of what was said that are kept."""


@dataclass(frozen=True)
class Trial:
    """A row of trials.csv."""

    part: str
    number: int
    about: str
    verdict: Verdict
    said: str
    seconds: float
    seed: int
    code: str
    """The first digits of `CODE_SHA256`."""


class Ledger:
    """trials.csv, which is there again when the campaign is: each trial is added as it ends."""

    def __init__(self, path: Path, seed: int, code: str) -> None:
        """Reads what is there. Rows of another seed are of another campaign, and go when the first trial of this one is
        added; those of other code (`CODE_SHA256`) stay until their trials are run again."""
        self.path, self.seed, self.code = path, seed, code[:DIGITS]
        self.trials: list[Trial] = []
        rows = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        for row in rows[1:]:
            if len(row) == len(COLUMNS) and row[-2] == str(seed):
                part, number, about, verdict, said, seconds, _, code = row
                known = next(word for word in MEANINGS if word == verdict)
                self.trials.append(Trial(part, int(number), about, known, said, float(seconds), seed, code))
        self.is_new = not self.trials

    def has(self, part: str, number: int) -> bool:
        """Whether a trial of this code has ended, and as it should."""
        return any(
            (trial.part, trial.number, trial.code) == (part, number, self.code)
            and trial.verdict not in (*FAULTS, "not run")
            for trial in self.trials
        )

    def add(self, trial: Trial) -> None:
        """Keeps a trial, in place of an earlier run of it."""
        known = [old for old in self.trials if (old.part, old.number) != (trial.part, trial.number)]
        whole = self.is_new or len(known) < len(self.trials)
        self.trials = [*known, trial]
        if whole:
            write(self.path, "".join(map(_line, [COLUMNS, *map(self._row, self.trials)])))
            self.is_new = False
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_line(self._row(trial)))

    def of(self, part: str) -> list[Trial]:
        """The trials of a part."""
        return [trial for trial in self.trials if trial.part == part]

    def faults(self, parts: Sequence[str]) -> list[Trial]:
        """Those of some parts that ended as none may."""
        return [trial for trial in self.trials if trial.part in parts and trial.verdict in FAULTS]

    def _row(self, trial: Trial) -> list[str]:
        said = " ".join(trial.said[:MOST_SAID].split())
        return [*map(str, astuple(trial)[:4]), said, f"{trial.seconds:.1f}", str(trial.seed), trial.code]


COLUMNS = [field.name for field in fields(Trial)]


def _line(row: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([spreadsheet(text) for text in row])
    return buffer.getvalue()


def page(ledger: Ledger, parts: Sequence[Part], command: str) -> str:
    """README.md: what was tried, and what became of it. A part that was not run says why."""
    shown: list[Verdict] = [verdict for verdict in MEANINGS if verdict != "not run"]
    rows, left_out = [], []
    for part in parts:
        trials = ledger.of(part.name)
        counts = Counter(trial.verdict for trial in trials)
        ran = len(trials) - counts["not run"]
        rows.append([part.name, f"{ran:,} of {part.whole:,}", *(f"{counts[verdict]:,}" for verdict in shown)])
        reasons = {trial.said for trial in trials if trial.verdict == "not run"}
        if (lacking := part.lacks()) is not None:
            reasons.add(lacking)
        if ran < part.whole:
            why = "; ".join(sorted(reasons)) or "not run yet: the same command goes on with them"
            left_out.append(
                f"- {escape_markdown(part.name)}: {part.whole - ran:,} of {part.whole:,}: {escape_markdown(why)}."
            )
    whole = [trial for trial in ledger.trials if trial.verdict != "not run"]
    faults = [trial for trial in whole if trial.verdict in FAULTS]
    made = environment()
    git, hardware = made["git"] or {}, made["hardware"]
    commit = f"{git.get('commit', 'unknown')}{' with changes' if git.get('dirty') else ''}"
    by_code = Counter(trial.code for trial in whole)
    codes = ", ".join(f"{code} ({count:,} trials)" for code, count in by_code.most_common())
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        "# The campaign against silent errors",
        "",
        f"{len(whole):,} trials, of which {len(faults):,} ended as none may. A small sweep (2 algorithms, 3 steps, the "
        "embedded base) is killed, damaged, misused and starved, and what it leaves is compared with what "
        "an undisturbed one leaves, to the last digit. Each trial is a row of [trials.csv](trials.csv).",
        "",
        markdown_table(["part", "trials run", *shown], rows),
        "",
        f"The columns {', '.join(FAULTS)} must be 0.",
        "",
        *(["## What ended as none may", "", *map(_fault_line, faults), ""] if faults else []),
        "## What was tried",
        "",
        *(f"- **{part.name}**: {part.about}" for part in parts),
        "",
        "Reports of the trials leave out their figures, but where a sweep is killed in its report.",
        "",
        "## What the words mean",
        "",
        *(f"- **{verdict}**: {meaning}." for verdict, meaning in MEANINGS.items()),
        "",
        "## What was not run",
        "",
        *(left_out or ["Everything was."]),
        "",
        "## How it was made",
        "",
        f"- command: `{command}`; its trials together took {sum(trial.seconds for trial in whole) / 60:,.0f} minutes",
        f"- commit: {escape_markdown(commit)}; code {codes}",
        f"- hardware: {escape_markdown(str(hardware['cpu']))}, {hardware['cores']} cores, {hardware['system']}",
        f"- versions: {escape_markdown(versions)}",
        f"- date: {made['date']}",
    ]
    return "\n".join(lines) + "\n"


def _fault_line(trial: Trial) -> str:
    said = escape_markdown(trial.said[:200])
    return f"- {trial.part} {trial.number}, {escape_markdown(trial.about)}: {trial.verdict} (code {trial.code}): {said}"


def write_page(out: Path, ledger: Ledger, parts: Sequence[Part], command: str) -> None:
    """Writes README.md beside trials.csv."""
    write(out / "README.md", page(ledger, parts, command))
