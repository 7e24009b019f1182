"""Files that travel between machines, by name and content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.record.files import new_folder, write

Files = dict[str, bytes]
"""Contents by path, relative to a folder."""


def pack(folder: Path, names: Sequence[str]) -> Files:
    """The named files below a folder, and all files of the named folders; what isn't there is left out."""
    paths = [path for name in names for path in (folder / name, *sorted((folder / name).rglob("*")))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def unpack(folder: Path, files: Files) -> None:
    """Writes what `pack` read: each file, and each folder of files, in one step."""
    for top in dict.fromkeys(name.partition("/")[0] for name in files):
        if top in files:
            write(folder / top, files[top])
            continue
        with new_folder(folder / top) as scratch:
            for name, content in files.items():
                if name.startswith(f"{top}/"):
                    write(scratch / name.removeprefix(f"{top}/"), content)
