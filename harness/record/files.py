"""Files and folders that are the old ones or the whole new ones, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.errors import BenchError, ExitCode


class RecordError(BenchError, RuntimeError):
    """A runs folder that cannot be continued as asked. The message says which cell, and the ways out."""

    exit_code = ExitCode.REFUSED


def write(path: Path, content: str | bytes) -> None:
    """Writes a file in one step: it is the old one, or the whole new one. Text is written as UTF-8, lone surrogates as
    `\\ud800`.

    Raises OSError, which names the file or folder, where the file system refuses.
    """
    scratch = path.with_name(f".{path.name}-{_MACHINE}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        scratch.replace(path)
    except OSError as error:
        if error.filename in (None, str(scratch)):  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses this too
            scratch.unlink(missing_ok=True)


_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_SCRATCH = re.compile(rf"\..+-{_MACHINE}-(\d+)-[0-9a-f]{{8}}")


def remove_scratch(folder: Path) -> None:
    """Removes from a folder what a process of this machine that is no more left there when it was killed in `write`."""
    for path in folder.glob(".*"):
        if (found := _SCRATCH.fullmatch(path.name)) and not _runs(int(found[1])):
            with contextlib.suppress(OSError):  # it is in nobody's way
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link and not what it points to; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_links(path: Path) -> None:
    """Raises RecordError where a path, or anything below it, is a link, or neither a file nor a folder."""
    if path.is_symlink():
        raise RecordError(
            f"{path} is a link, and no link below a suite's runs is followed: put what it points to in its place, or "
            "remove it"
        )
    if path.is_dir():
        with contextlib.suppress(FileNotFoundError):  # which another process replaces just now
            for below in sorted(path.iterdir()):
                refuse_links(below)
    elif path.exists() and not path.is_file():
        raise RecordError(f"{path} is neither a file nor a folder: move it away")


def locked(path: Path, seconds: float = -1) -> Any:
    """The lock of a file, held until the block or the process ends.

    Raises filelock's Timeout where another process holds it for longer, RecordError where it is no plain file.
    """
    if path.is_symlink() or path.is_dir():
        kind = "link" if path.is_symlink() else "folder"
        raise RecordError(f"{path} is a {kind}, where the file of a lock should be: remove it")
    return FileLock(path, timeout=seconds, poll_interval=0.2).acquire()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one step. Raises ValueError on NaN or infinity, which JSON does not have."""
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def cache_folder() -> Path:
    """`GVPO_BENCH_CACHE`, or gvpo-bench in the user's cache folder."""
    if own := os.environ.get("GVPO_BENCH_CACHE"):
        return Path(own)
    from platformdirs import user_cache_path  # which perf/gpu.py does without

    return user_cache_path("gvpo-bench", appauthor=False)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block ends well, replacing what was there.

    No file system replaces a folder by another in one step: a kill in between leaves the old one where
    `restore_folder` finds it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(target)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    scratch.chmod(0o755)
    try:
        yield scratch
        if target.exists():
            target.rename(_replaced(target))
        scratch.rename(target)
        shutil.rmtree(_replaced(target), ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def restore_folder(target: Path) -> None:
    """Brings back the old folder where a kill came while `new_folder` replaced it, or removes it where a new one is."""
    old = _replaced(target)
    if old.exists() and target.exists():
        remove(old)
    elif old.exists():
        old.rename(target)


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}-replaced")


def hash_of(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
