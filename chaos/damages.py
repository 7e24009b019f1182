"""Every kind of file that a sweep leaves, damaged in every way: the sweep ends with the same numbers, or refuses."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import commands
from commands import Ended
from parts import Part
from stage import SUITE_NAME
from verdicts import Outcome, differences, fault_of, judge, message_of, tables_of

Template = Literal["undisturbed", "trained", "interrupted", "evaluated_otherwise"]
"""Folders of results to damage, by their names in `Stage`."""

DEAF_TO_ROOT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Before a command: root reads what it may not read, and this is root without that."""


@dataclass(frozen=True)
class Place:
    """A file or folder that a sweep leaves, and the other cell's that it can be swapped with."""

    template: Template
    path: str
    """In the folder of runs; {cell} is one of the cells, {key} whatever stands there."""

    def __str__(self) -> str:
        """For the page."""
        return f"{self.path.replace('{cell}/', '')} ({self.template.replace('_', ' ')})"


CELL_FILES = ("manifest.json", "training.json", "metrics.jsonl", "problems.json", "samples.parquet", "hash", ".lock")
CHECKPOINT_FILES = ("checkpoint/model.safetensors", "checkpoint/config.json", "checkpoint/tokenizer.json")
RESUME_FILES = ("resume/progress.json", "resume/sums.json", "resume/shard-{key}.safetensors")

PLACES: tuple[Place, ...] = (
    *(Place("undisturbed", f"{{cell}}/{name}") for name in (*CELL_FILES, *CHECKPOINT_FILES, "checkpoint")),
    *(Place("undisturbed", name) for name in ("mine-s0/algorithm.py", "base/samples.parquet", "base/manifest.json")),
    *(Place("undisturbed", f"coefficients/{name}") for name in ("coefficients.parquet", "manifest.json")),
    *(Place("undisturbed", name) for name in ("pass-rates-{key}.json", "{cell}", "../../small/table.csv")),
    *(Place("trained", f"{{cell}}/{name}") for name in ("training.json", *CHECKPOINT_FILES, "checkpoint")),
    *(Place("trained", f"{{cell}}/{name}") for name in ("metrics.jsonl", "problems.json", "hash")),
    *(Place("interrupted", f"gvpo-s0/{name}") for name in (*RESUME_FILES, "resume")),
    *(Place("interrupted", f"gvpo-s0/{name}") for name in ("metrics.jsonl", "problems.json", "hash")),
    Place("interrupted", "pass-rates-{key}.json"),
    *(
        Place("evaluated_otherwise", f"{{cell}}/earlier/{{key}}/{name}")
        for name in ("samples.parquet", "manifest.json")
    ),
    Place("evaluated_otherwise", "{cell}/earlier/{key}"),
)

CELLS = ("gvpo-s0", "mine-s0")


def flip(path: Path, rng: random.Random) -> None:
    """Another bit somewhere."""
    whole = bytearray(path.read_bytes())
    whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(whole)


def cut(path: Path, rng: random.Random) -> None:
    """The end is missing."""
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def empty(path: Path, rng: random.Random) -> None:
    """Nothing is left in it."""
    path.write_bytes(b"")


def noise(path: Path, rng: random.Random) -> None:
    """A stretch of other bytes."""
    whole = path.read_bytes()
    at = rng.randrange(len(whole))
    path.write_bytes(whole[:at] + rng.randbytes(min(64, len(whole) - at)) + whole[at + 64 :])


def append(path: Path, rng: random.Random) -> None:
    """Something more at its end: a row twice, or bytes."""
    whole = path.read_bytes()
    path.write_bytes(whole + (whole.splitlines(keepends=True)[-1] if whole.endswith(b"\n") else rng.randbytes(16)))


def delete_row(path: Path, rng: random.Random) -> None:
    """A line is missing."""
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def delete(path: Path, rng: random.Random) -> None:
    """It is gone."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def swap(path: Path, other: Path) -> None:
    """What another cell has in this place, and the other way round."""
    aside = path.with_name("swapped-aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def folder_for_file(path: Path, rng: random.Random) -> None:
    """A folder stands in the place of the file."""
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("something")


def file_for_folder(path: Path, rng: random.Random) -> None:
    """A file stands in the place of the folder."""
    shutil.rmtree(path)
    path.write_text("something")


def link(path: Path, elsewhere: Path) -> None:
    """A symbolic link to where it has been moved."""
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def dangle(path: Path, rng: random.Random) -> None:
    """A symbolic link to nothing."""
    delete(path, rng)
    path.symlink_to("/nowhere")


def lock_up(path: Path, rng: random.Random) -> None:
    """Nobody may read it."""
    path.chmod(0)


WAYS: Mapping[str, Callable[[Path, random.Random], None]] = {
    "bit flipped": flip,
    "another bit flipped": flip,
    "cut": cut,
    "emptied": empty,
    "noise": noise,
    "appended to": append,
    "row deleted": delete_row,
    "deleted": delete,
    "replaced by a folder": folder_for_file,
    "replaced by a file": file_for_folder,
    "replaced by a dangling link": dangle,
    "unreadable": lock_up,
}
SWAPPED, LINKED = "swapped with another cell's", "replaced by a link"

OF_FILES = ("bit flipped", "another bit flipped", "cut", "emptied", "noise", "appended to", "replaced by a folder")
OF_TEXTS = ("row deleted",)
OF_FOLDERS = ("replaced by a file",)
OF_BOTH = ("deleted", LINKED, "replaced by a dangling link", "unreadable")


def ways_of(place: Place) -> Sequence[str]:
    """The ways in which a place can be damaged."""
    name = place.path.rpartition("/")[2]
    if name == ".lock":  # which is empty
        return ("appended to", "replaced by a folder", *OF_BOTH)
    found = [*OF_BOTH, *((SWAPPED,) if "{cell}" in place.path else ())]
    if name in ("checkpoint", "resume", "{cell}") or place.path.endswith("earlier/{key}"):
        return [*OF_FOLDERS, *found]
    return [*OF_FILES, *(OF_TEXTS if name.endswith((".json", ".jsonl", ".py", ".csv")) else ()), *found]


@dataclass(frozen=True)
class Damage:
    """One place, in one way."""

    place: Place
    way: str
    cell: str
    other: str

    def __str__(self) -> str:
        """For the page."""
        return f"{self.place}: {self.way}"

    def do(self, runs: Path, rng: random.Random, outside: Path) -> Path:
        """Damages it, and returns its path; what is linked to then lies in `outside`."""
        path = self._found(runs, self.cell, rng)
        if self.way == SWAPPED:
            swap(path, self._found(runs, self.other, rng))
        elif self.way == LINKED:
            link(path, outside / f"elsewhere-{path.name}")
        else:
            WAYS[self.way](path, rng)
        return path

    def _found(self, runs: Path, cell: str, rng: random.Random) -> Path:
        pattern = self.place.path.replace("{cell}", cell).replace("{key}", "*")
        return rng.choice(sorted(runs.glob(pattern)))


def damages() -> list[Damage]:
    """All of them; the cells take turns."""
    found: list[Damage] = []
    for place in PLACES:
        for way in ways_of(place):
            turn = len(found) % 2
            found.append(Damage(place, way, CELLS[turn], CELLS[1 - turn]))
    return found


class Damages(Part):
    """See the module."""

    name: ClassVar[str] = "damages"
    about: ClassVar[str] = (
        "A file or folder that a sweep has left, finished, killed or evaluated anew, is damaged; then `report` is "
        "called, and the sweep again. `report` must give the old tables or refuse, too."
    )

    @property
    def whole(self) -> int:
        """See `Part`."""
        return len(damages())

    def describe(self, number: int) -> str:
        """See `Part`."""
        return str(damages()[number])

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`."""
        damage, out = damages()[number], folder / "out"
        template: Path = getattr(self.stage, damage.place.template)
        shutil.copytree(template, out)
        tables = tables_of(template / SUITE_NAME)
        path = damage.do(out / "runs" / SUITE_NAME, self.rng(number), folder)
        try:
            return self._judged(damage, out, tables, folder)
        finally:
            if damage.way == "unreadable" and path.exists():
                path.chmod(0o700)

    def _judged(self, damage: Damage, out: Path, tables: Mapping[str, str], folder: Path) -> Outcome:
        locked = damage.way == "unreadable" and os.geteuid() == 0
        if locked and shutil.which(DEAF_TO_ROOT[0]) is None:
            return Outcome("not run", "needs setpriv, without which root reads everything")

        def run(*arguments: object) -> Ended:
            shown = folder / f"{arguments[0]}.txt"
            if locked:
                program = [*DEAF_TO_ROOT, *commands.python()]
                return commands.start(arguments, folder, shown=shown, program=program).wait()
            return self.stage.zygote.start(arguments, folder, shown=shown).wait()

        if damage.place.template == "undisturbed" and "small/" not in damage.place.path:
            ended = run("report", out / "runs" / SUITE_NAME, "--out", folder / "report")
            if (fault := fault_of(ended)) is not None:
                return fault
            if ended.code != 0 and message_of(ended) is None:
                return Outcome("wrong end", f"report ended with exit code {ended.code}: {ended.shown[-1000:]}")
            if ended.code == 0 and (differing := differences(tables, tables_of(folder / "report"))):
                return Outcome("silently different", f"report: {'; '.join(differing)}")
        return judge(run(*self.stage.sweep(out)), self.stage.numbers, out, may_refuse=True)
