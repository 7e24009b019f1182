"""What a file system refuses, as a sentence with what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from benchmarks.errors import BenchError

_GOES_ON = "the same command goes on from here"
MAKE_ROOM = f"make room, and {_GOES_ON}"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), MAKE_ROOM),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
        f"change that or give another --out; {_GOES_ON}",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), f"raise the limit (ulimit -n); {_GOES_ON}"),
    **dict.fromkeys((errno.ENOENT, errno.ELOOP), "give another path"),
    errno.EIO: f"check the disk; {_GOES_ON}",
}
"""What a user can do where a file system refuses, by the error's number."""

_OF_RUST = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors) name the number of an error that is no OSError."""


class OutputError(BenchError):
    """A folder that nothing could be written into. The message names it."""


def refusal(error: Exception) -> str | None:
    """What to say where a file system refused something; None where it was something else."""
    named = _OF_RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(named[1]) if named else None
    if number not in REMEDIES:
        return None
    file = getattr(error, "filename", None)
    where = "" if file is None else f"{os.fsdecode(file)}: "
    return f"{where}{os.strerror(number)}; {REMEDIES[number]}"


def add_remedy(error: BaseException) -> None:
    """Where a disk was full, ends the error's traceback with what to do, which the sweep repeats."""
    if isinstance(error, Exception) and (told := refusal(error)) is not None and told.endswith(MAKE_ROOM):
        error.add_note(told)


def require_writable(folder: Path) -> None:
    """Raises OutputError where nothing could be written into the folder, which need not be there. Writes nothing."""
    existing = folder.absolute()
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(existing))
        if not os.access(existing, os.W_OK | os.X_OK):
            read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, "", str(existing))
    except OSError as error:
        raise OutputError(refusal(error) or f"{existing}: {error}") from None
