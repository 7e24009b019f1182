"""Mutated suites and command lines: each must be planned, or refused with a message, and none may end in a traceback.

    python chaos/configurations.py --count 5000 --seed 0

`mutations` makes them from the text of a suite that is valid; `judged` plans one in this process, and says how that
ended. What is accepted is held against what a sweep relies on (`fault_of_cells`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, get_args

from mutation_material import ABLATION, ALGORITHMS, FILES, KEYS, ODD, OUTS, SMALL, SOURCES, VALUES

from benchmarks.errors import BenchError
from harness.record.disk_errors import refusal, require_writable
from harness.suite.load import load_suite, suite_files
from harness.suite.plan import Cell, plan

Ending = Literal["planned", "refused", "traceback", "hangs", "wrongly planned"]
"""The last three are faults."""

SECONDS = 30
"""After which a configuration hangs."""


@dataclass(frozen=True)
class Mutation:
    """A suite's text, with what stands beside its path on a command line."""

    kind: str
    text: str
    overrides: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    source: str | None = None
    """In place of the path of a file with the text."""
    out: str = "results"


@dataclass(frozen=True)
class Judgement:
    """How a mutation ended, and what was said."""

    mutation: Mutation
    ending: Ending
    said: str


_KEY = re.compile(r"^(\s*[\w.\"-]+\s*=\s*)(.*)$")
_WORD = re.compile(r"(?<==\s)[\w.+-]+(?=[\s,}])")


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _value(text: str, rng: random.Random) -> str:
    """Another value at one key."""
    lines = _lines(text)
    places = [i for i, line in enumerate(lines) if _KEY.match(line)]
    i = rng.choice(places)
    lines[i] = _KEY.sub(lambda found: found[1] + rng.choice(VALUES), lines[i].rstrip("\n")) + "\n"
    return "".join(lines)


def _number(text: str, rng: random.Random) -> str:
    """Another number in the place of one: this is what a user gets wrong, and most of it is right."""
    place = rng.choice(list(re.finditer(r"(?<=[\s\[])\d[\d.e-]*(?=[\s,}\]])", text)))
    whole = place[0].isdigit()
    value = (int if whole else float)(place[0])
    others = (value + 1, value - 1, value * 2, value * 7, value * 10**6, -value, 0, 1, value / 2, float(value), 10**18)
    return text[: place.start()] + str(rng.choice(others)) + text[place.end() :]


def _inner_value(text: str, rng: random.Random) -> str:
    """Another value somewhere inside of an inline table."""
    found = list(_WORD.finditer(text))
    place = rng.choice(found)
    return text[: place.start()] + rng.choice(VALUES) + text[place.end() :]


def _key(text: str, rng: random.Random) -> str:
    """A key, or a table's name, with a letter less, more, or another."""
    lines = _lines(text)
    i = rng.choice([i for i, line in enumerate(lines) if line.strip()])
    at = rng.randrange(max(1, len(lines[i].partition("=")[0].rstrip())))
    letter = rng.choice(("", "x", ".", "-", " ", '"', "é", "[", "]", "\x00", "\u202e"))
    lines[i] = lines[i][:at] + letter + lines[i][at + rng.randrange(2) :]
    return "".join(lines)


def _section(text: str, rng: random.Random) -> str:
    """A table less, twice, as a list of tables, or with another's name."""
    parts = re.split(r"(?m)^(?=\[)", text)
    i = rng.randrange(len(parts))
    what = rng.randrange(4)
    if what == 0:
        parts[i] = ""
    elif what == 1:
        parts.insert(i, parts[i])
    elif what == 2:
        parts[i] = re.sub(r"^\[(.*?)\]", r"[[\1]]", parts[i])
    else:
        names = [part.partition("\n")[0] for part in parts]
        parts[i] = rng.choice(names) + "\n" + parts[i].partition("\n")[2]
    return "".join(parts)


def _line(text: str, rng: random.Random) -> str:
    """A line less, twice, or at another place."""
    lines = _lines(text)
    line = lines[rng.randrange(len(lines))]
    what = rng.randrange(3)
    if what != 1:
        lines.remove(line)
    if what != 0:
        lines.insert(rng.randrange(len(lines) + 1), line)
    return "".join(lines)


def _cut(text: str, rng: random.Random) -> str:
    """The text up to somewhere, or without a stretch of it."""
    start = rng.randrange(len(text))
    return text[:start] + (text[start + rng.randrange(40) :] if rng.random() < 0.5 else "")


def _characters(text: str, rng: random.Random) -> str:
    """Some characters that are others."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        text = text[:at] + chr(rng.choice(ODD)) + text[at + 1 :]
    return text


def _table_that_is_none(text: str, rng: random.Random) -> str:
    """A whole table that is a value."""
    parts = re.split(r"(?m)^(?=\[)", text)
    i = rng.randrange(1, len(parts))
    name = parts[i][1:].partition("]")[0].strip("[")
    del parts[i]
    return f"{name} = {rng.choice(VALUES)}\n" + "".join(parts)


IN_TEXT: tuple[Callable[[str, random.Random], str], ...] = (
    *(_number,) * 8,
    *(_value, _inner_value, _line) * 2,
    *(_section, _table_that_is_none, _key, _cut, _characters),
)


def mutations(text: str, seed: int) -> Iterator[Mutation]:
    """Without end, and the same for each seed: one to three changes of the text, or of its command line, or both."""
    rng = random.Random(seed)
    while True:
        kinds, changed = [], text
        for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
            change = rng.choice(IN_TEXT)
            with contextlib.suppress(IndexError, ValueError):  # nothing is left that it could change
                changed = change(changed, rng)
                kinds.append(change.__name__.strip("_"))
        overrides: tuple[str, ...] = ()
        algorithms: tuple[str, ...] = ()
        source, out = None, "results"
        if not kinds or rng.random() < 0.15:
            overrides = tuple(f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 2))))
            kinds.append("--set")
        if rng.random() < 0.2:
            algorithms = tuple(rng.choice(ALGORITHMS) for _ in range(rng.choice((1, 1, 2))))
            kinds.append("--algorithm")
        if rng.random() < 0.03:
            source = rng.choice(SOURCES)
            kinds.append("source")
        if rng.random() < 0.05:
            out = rng.choice(OUTS)
            kinds.append("--out")
        yield Mutation(" ".join(kinds), changed, overrides, algorithms, source, out)


def prepare_folder(folder: Path) -> None:
    """What mutations refer to by {folder}."""
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    for name in ("locked.py", "locked.toml"):
        (folder / name).write_text("x = 1\n", encoding="utf-8")
        (folder / name).chmod(0)


def judged(mutation: Mutation, folder: Path) -> Judgement:
    """Plans it, within a folder that `prepare_folder` has prepared, as `gvpo-bench sweep` does before any work."""
    path = folder / "suite.toml"
    path.write_text(mutation.text, encoding="utf-8", errors="surrogatepass")
    at = str(folder)
    source = str(path) if mutation.source is None else mutation.source.replace("{folder}", at)
    algorithms = [name.replace("{folder}", at) for name in mutation.algorithms]
    try:
        with _time_limit(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            suite = load_suite(source, mutation.overrides, algorithms)
            require_writable(folder / mutation.out.replace("{folder}", at))
            cells = plan(suite)
    except BenchError as error:
        return Judgement(mutation, "refused", str(error))
    except _Hangs:
        return Judgement(mutation, "hangs", f"no end after {SECONDS} s")
    except BaseException as error:
        if isinstance(error, Exception) and (told := refusal(error)) is not None:
            return Judgement(mutation, "refused", told)
        return Judgement(mutation, "traceback", traceback.format_exc())
    fault = fault_of_cells(cells)
    return Judgement(mutation, "planned", "") if fault is None else Judgement(mutation, "wrongly planned", fault)


def fault_of_cells(cells: Sequence[Cell]) -> str | None:
    """What a sweep relies on and these cells break: folders of their own that a file system takes and a report finds,
    settings that a manifest can hold, each problem scored once, and an optimiser that AdamW takes."""
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        return "two cells have one folder"
    for cell in cells:
        for part in cell.name.split("/"):
            if part.startswith(".") or len(part.encode()) > 240:
                return f"the folder {part!r}"
        config = cell.config
        try:
            json.dumps(config.stated(), allow_nan=False)
        except ValueError as error:
            return f"{cell.name}: {error}"
        scored = [*config.evaluation.benchmarks, *config.evaluation.hard_benchmarks]
        if len(set(scored)) < len(scored):
            return f"scored twice: {scored}"
        if config.optimizer is not None and not all(0 <= beta < 1 for beta in config.optimizer.betas):
            return f"betas = {config.optimizer.betas}"
    return None


class _Hangs(BaseException):
    pass


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Tally:
    """What became of many."""

    endings: Counter[Ending] = field(default_factory=Counter)
    faults: list[Judgement] = field(default_factory=list)

    def add(self, judgement: Judgement) -> None:
        """Counts one, and keeps it where it is a fault."""
        self.endings[judgement.ending] += 1
        if judgement.ending not in ("planned", "refused"):
            self.faults.append(judgement)


def mutated_texts() -> list[str]:
    """The suites that are mutated, in turn."""
    return [SMALL, ABLATION, SMALL, suite_files()["embedded-k"].read_text("utf-8")]


def first(texts: Sequence[str], count: int, seed: int) -> Iterator[Mutation]:
    """So many mutations of the texts, in turn."""
    sources = [mutations(text, seed * 1000 + i) for i, text in enumerate(texts)]
    for i in range(count):
        yield next(sources[i % len(sources)])


def campaign(texts: Sequence[str], count: int, seed: int) -> Tally:
    """What becomes of so many mutations of the texts."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch:
        prepare_folder(Path(scratch))
        with contextlib.chdir(scratch):
            for mutation in first(texts, count, seed):
                tally.add(judged(mutation, Path(scratch)))
    return tally


def main() -> None:
    """Prints the counts, and each fault in full; exit code 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally = campaign(mutated_texts(), options.count, options.seed)
    for fault in tally.faults:
        mutation = fault.mutation
        print(f"--- {fault.ending}: {mutation.kind} {mutation.overrides} {mutation.algorithms} {mutation.source}")
        print(fault.said[-3000:])
    print({ending: tally.endings[ending] for ending in get_args(Ending)})
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
