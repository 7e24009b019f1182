"""Files and folders that are the old ones or the whole new ones, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes) -> None:
    """Writes a file in one step: it is the old one, or the whole new one. Text is written as UTF-8, lone surrogates as
    `\\ud800`.

    Raises OSError, which names the file or folder, where the file system refuses.
    """
    scratch = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
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
        shutil.rmtree(old)
    elif old.exists():
        old.rename(target)


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}-replaced")


def hash_of(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
