"""What the disk refuses, as a sentence with what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from benchmarks.errors import ExitCode

GO_ON = "the same command goes on from here"
SENTENCES = {
    errno.ENOSPC: (ExitCode.FAILED, f"the disk is full; make room, and {GO_ON}"),
    errno.EDQUOT: (ExitCode.FAILED, f"this user's share of the disk is used up; make room, and {GO_ON}"),
    errno.EIO: (ExitCode.FAILED, f"the disk failed to read or write; once it works again, {GO_ON}"),
    errno.EMFILE: (ExitCode.FAILED, f"too many open files; raise the limit (ulimit -n), and {GO_ON}"),
    errno.ENFILE: (ExitCode.FAILED, f"too many open files on this machine; close some, and {GO_ON}"),
    errno.ENOTDIR: (ExitCode.INPUT, "it, or what should be a folder above it, is a file; give another path"),
    errno.EEXIST: (ExitCode.INPUT, "it exists, and is a file instead of a folder; give another path"),
    errno.EISDIR: (ExitCode.INPUT, "it is a folder instead of a file; give another path"),
    errno.EACCES: (ExitCode.INPUT, "this user may not read or write it; change its permissions, or give another path"),
    errno.EPERM: (ExitCode.INPUT, "it may not be changed; change its permissions, or give another path"),
    errno.EROFS: (ExitCode.INPUT, "its disk can only be read; give another path"),
    errno.ENAMETOOLONG: (ExitCode.INPUT, "the name is too long for this disk; give a shorter one"),
    errno.ELOOP: (ExitCode.INPUT, "its symbolic links lead to each other; give another path"),
    errno.ENOENT: (ExitCode.INPUT, "there is no such file or folder"),
}
"""By the number of the error: what the command ends with, and what it says of the file."""

_OF_RUST = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors) name the number of an error that is no OSError."""


def sentence_of(error: Exception) -> tuple[ExitCode, str] | None:
    """What to say where the disk refused something; None where it was something else."""
    named = _OF_RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(named[1]) if named else None
    if number not in SENTENCES:
        return None
    code, sentence = SENTENCES[number]
    file = getattr(error, "filename", None)
    return code, sentence if file is None else f"{os.fsdecode(file)}: {sentence}"


def require_writable(folder: Path) -> None:
    """Raises the OSError that writing into the folder, or making it, would end in. Writes nothing."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    refused = None
    if not existing.is_dir():
        refused = errno.ENOTDIR
    elif not os.access(existing, os.W_OK | os.X_OK):
        refused = errno.EROFS if os.statvfs(existing).f_flag & os.ST_RDONLY else errno.EACCES
    if refused is not None:
        raise OSError(refused, os.strerror(refused), str(existing))
