"""Checksums: of files, by their paths in a folder; and of a JSON record, which it carries itself.

What lies on a disk for days is changed by more than its program. Whoever reads it checks it here first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.record.files import write_json

Sums = dict[str, str]
"""SHA-256 of files, by path relative to a folder."""

SEAL = "sha256"
"""In a record: the SHA-256 of all else in it."""

SUMS = "sums"
"""In a record: the `Sums` of the files that it vouches for."""

OWN_SUMS = "sums.json"
"""In a folder that carries its own: a record with the `Sums` of the other files in it."""


def sum_of(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first bytes. Raises OSError where it cannot be read, or is a link."""
    with _opened(path, getattr(os, "O_NOFOLLOW", 0)) as file:
        if size is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read(size)).hexdigest()


def sums_of(folder: Path, names: Iterable[str]) -> Sums:
    """Of the named files in a folder, and of all files below the named folders; what isn't there is left out.

    Raises OSError where one cannot be read.
    """
    paths = [path for name in names for path in _files(folder / name)]
    found = [path.relative_to(folder).as_posix() for path in paths]
    if len(paths) < 2:
        return dict(zip(found, map(sum_of, paths), strict=True))
    with ThreadPoolExecutor() as pool:  # hashing runs beside other threads: shards of a large model take minutes
        return dict(zip(found, pool.map(sum_of, paths), strict=True))


def unfit(folder: Path, sums: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """What of the named files, and of those below the named folders, is not as `sums` has it: a phrase each."""
    try:
        found = sums_of(folder, names)
    except OSError as error:
        return [f"{error.filename or folder} cannot be read ({error.strerror})"]
    faults = []
    for name in sorted({*sums, *found}):
        if name not in found:
            faults.append(f"{name} is missing")
        elif name not in sums:
            faults.append(f"{name} was added")
        elif found[name] != sums[name]:
            faults.append(f"{name} is not what was recorded (its SHA-256 differs)")
    return faults


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its own checksum, as JSON gives it back. Raises ValueError on NaN or infinity."""
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != SEAL}, allow_nan=False))
    return {**plain, SEAL: _seal_of(plain)}


def read_record(path: Path, name: str | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    """A JSON object, None where there is no such file or it is damaged, and what is wrong with it, as a phrase.

    One that has neither a checksum of its own nor sums of others was recorded before there were any, and is taken as it
    is. `name` is what the phrase calls it.
    """
    name = name or path.name
    try:
        with _opened(path) as file:
            record = json.loads(file.read().decode())
    except FileNotFoundError:
        return None, []
    except OSError as error:
        return None, [f"{name} cannot be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        what = "is empty" if path.stat().st_size == 0 else f"is damaged ({type(error).__name__}: {error})"
        return None, [f"{name} {what}"]
    if not isinstance(record, dict):
        return None, [f"{name} is damaged (no JSON object)"]
    if (SEAL in record or SUMS in record) and record.get(SEAL) != _seal_of(record):
        return None, [f"{name} is not what was recorded (its own SHA-256 differs)"]
    return record, []


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether it carries a checksum; `read_record` has compared it."""
    return SEAL in record


def write_own_sums(folder: Path) -> None:
    """Leaves in a folder the sums of all that is in it."""
    write_json(folder / OWN_SUMS, seal({SUMS: sums_of(folder, _inside(folder))}))


def own_faults(folder: Path) -> list[str]:
    """What of a folder is not as the sums in it say; without such sums, that."""
    record, faults = read_record(folder / OWN_SUMS)
    if record is None or SUMS not in record:
        return faults or [f"{OWN_SUMS} is missing"]
    return unfit(folder, record[SUMS], _inside(folder))


def made_anew(folder: Path) -> bool:
    """Whether something cached in a folder does not fit its sums, so that it has to be made again; says so."""
    faults = own_faults(folder)
    if faults:
        print(f"gvpo-bench: {folder} is made anew: {'; '.join(faults)}", file=sys.stderr)
    return bool(faults)


@contextlib.contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[io.BufferedReader]:
    """A file to be read. Raises OSError where it is none: a pipe, whose other end may never come, is not waited for."""
    flags |= getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, given: os.open(name, given | flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "neither a file nor a folder: move it away", str(path))
        yield file


def _inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != OWN_SUMS)


def _seal_of(record: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """A file, or all files below a folder; links are named, and not followed."""
    if path.is_dir() and not path.is_symlink():
        for below in sorted(path.iterdir()):
            yield from _files(below)
    elif path.exists() or path.is_symlink():
        yield path
