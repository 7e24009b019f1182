"""Every cell of a folder of runs, compared with its checksums; and checksums for cells that were recorded without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import Timeout

from harness.record.base_answers import answer_files, read_answers
from harness.record.cell_folder import CellFolder
from harness.record.cell_state import EARLIER, LOCK, MANIFEST, SAMPLES, TRAINING, look
from harness.record.files import RecordError, write_json
from harness.record.runs_folder import recorded_cells
from harness.record.sums import SUMS, is_sealed, read_record, seal, sums_of


@dataclass(frozen=True)
class Verdict:
    """What became of comparing one cell, or one file of answers."""

    name: str
    """Of its folder, below that of the runs."""
    kind: Literal["sound", "damaged", "in use", "without checksums"]
    faults: list[str]


def verify(runs: Path) -> Iterator[Verdict]:
    """Compares everything that the cells of a suite have recorded, checkpoints included.

    A cell that another process holds is not compared: it changes. Raises RecordError where `runs` is no folder or holds
    no cell.
    """
    cells = recorded_cells(runs) if runs.is_dir() else []
    if not cells:
        raise RecordError(f"{runs} holds no cell: give a folder of runs, such as my-results/runs/<suite>")
    for cell in cells:
        name = cell.path.relative_to(runs).as_posix()
        try:
            faults, sealed = cell.faults(checkpoints=True), look(cell.path).is_sealed
        except RecordError as error:
            faults, sealed = [str(error)], True
        if faults and in_use(cell):
            yield Verdict(name, "in use", faults)
        else:
            yield Verdict(name, "damaged" if faults else "sound" if sealed else "without checksums", faults)
    for path in answer_files(runs):
        _, faults = read_answers(path)
        yield Verdict(path.name, "damaged" if faults else "sound", faults)


def in_use(cell: CellFolder) -> bool:
    """Whether another process holds the folder. Makes nothing in it."""
    if not (cell.path / LOCK).is_file():
        return False
    try:
        with cell.hold():
            return False
    except Timeout:
        return True
    except (OSError, RecordError):
        return False


def verify_runs(runs: Path, *, record: bool = False) -> tuple[list[str], bool]:
    """What `gvpo-bench verify` says, a line a cell that is not as it should be and the counts; and whether there is
    one that does not fit.

    With `record`, cells that were recorded without checksums get them first. Raises RecordError as `verify` does.
    """
    lines: list[str] = []
    counts: Counter[str] = Counter()
    for verdict in verify(runs):
        kind: str = verdict.kind
        if kind == "without checksums" and record:
            record_sums(CellFolder(runs / verdict.name))
            kind = "given checksums"
        counts[kind] += 1
        if kind == "damaged":
            lines.append(f"{verdict.name}: {'; '.join(verdict.faults)}")
        elif kind not in ("sound", "given checksums"):
            lines.append(f"{verdict.name}: {kind}")
    lines.append(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    if counts["damaged"]:
        lines.append(
            "The sweep of the suite sets damaged cells aside and runs them again. A finished cell's checkpoint is read "
            "for other evaluations alone, and its numbers stand: remove checkpoint/ to do without it, or the cell's "
            "folder to train it again."
        )
    return lines, bool(counts["damaged"])


def unsealed(runs: Path) -> int:
    """How many cells were recorded without checksums."""
    return sum(not cell.is_sealed() for cell in recorded_cells(runs))


def record_sums(cell: CellFolder) -> None:
    """Adds checksums of what is there now to a cell that was recorded without.

    Raises RecordError where something does not fit those that it has, or another process holds the folder.
    """
    try:
        lock = cell.hold()
    except Timeout:
        raise RecordError(f"{cell.path} is in use by another process") from None
    with lock:
        if faults := cell.faults(checkpoints=True):
            raise RecordError(f"{cell.path}: {'; '.join(faults)}")
        found = look(cell.path)
        if found.training is not None and not is_sealed(found.training):
            cell.seal_training(found.training)
        if found.manifest is not None:
            cell.finish(found.manifest)
        for path in sorted((cell.path / EARLIER).glob(f"[!.]*/{MANIFEST}")):
            earlier, _ = read_record(path)
            if earlier is not None:
                sums = sums_of(path.parent, [SAMPLES]) | sums_of(cell.path, [TRAINING])
                write_json(path, seal({**earlier, SUMS: sums}))
