"""Which cells lie in the folder of a suite's runs."""

from __future__ import annotations

from pathlib import Path

from harness.record.cell_folder import CellFolder
from harness.record.cell_state import HASH, MANIFEST, METRICS, RESUME, SAMPLES, TRAINING
from harness.record.files import refuse_links


def cell_folders(runs: Path) -> list[CellFolder]:
    """The folders of a suite's runs, or of a point's, that a cell has ended in, by name. Raises RecordError on a link
    to a folder."""
    return [CellFolder(path) for path in folders_in(runs) if (path / MANIFEST).exists()]


def recorded_cells(runs: Path) -> list[CellFolder]:
    """The folders that a cell has left something in, ended or not, by name; of an ablation, those of all its points."""
    found: list[CellFolder] = []
    for path in folders_in(runs):
        if any((path / name).exists() for name in (MANIFEST, TRAINING, HASH, METRICS, SAMPLES, RESUME)):
            found.append(CellFolder(path))
        else:
            found += recorded_cells(path)
    return found


def folders_in(runs: Path) -> list[Path]:
    """The folders in a folder of runs, by name, but for hidden ones. Raises RecordError on a link to one."""
    every = sorted(runs.iterdir()) if runs.is_dir() else []
    found = [path for path in every if path.is_dir() and not path.name.startswith(".")]
    for path in found:
        if path.is_symlink():
            refuse_links(path)
    return found
