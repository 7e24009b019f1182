"""What does not fit its checksums goes where nothing reads it: `<runs>/.set-aside/<cell>-<n>/`. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.record.files import RecordError, write

SET_ASIDE = ".set-aside"
"""Beside the cells."""

WHY = "why.txt"


def set_aside(folder: Path, names: Sequence[str], faults: Sequence[str], *, runs: Path, label: str) -> Path:
    """Moves what is there of the named files and folders below a folder of `runs`, in this order; returns where to.

    Leaves there what was at fault. Raises RecordError where the place is a link.
    """
    top = runs / SET_ASIDE
    if top.is_symlink():
        raise RecordError(f"{top} is a link, and no link below a suite's runs is followed: remove it")
    number = 1
    while (target := top / f"{label}-{number}").exists():
        number += 1
    write(target / WHY, "".join(f"{fault}\n" for fault in faults))
    for name in dict.fromkeys(names):
        if (folder / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).rename(target / name)
    return target
