"""What a grading process gives up before its first response, by what the system offers, each where it is there.

    limits          no file grows; no process is started by who is not root (everywhere)
    another user    a process of root becomes nobody, where nobody can read Python and the installed packages
    own network     a namespace without a device (Linux, where users may make namespaces)
    Landlock        no file opened for writing, made, renamed or removed, none executed; no TCP; no signal to processes
                    outside (Linux from 5.13 on; TCP from 6.7, signals from 6.12)
    seccomp         no system call but those of COMPUTING, and files opened for reading alone: no process, no program,
                    no socket, no signal, whoever the user is (Linux with libseccomp)

So code in the process makes, changes and removes no file where Landlock or seccomp holds (times and modes of its user's
files: where seccomp holds), starts no process where it is not root's or seccomp holds, and reaches no network where it
has its own or seccomp holds. On Linux it gains no rights by what it executes. Everywhere it may compute, and read what
its user may read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from benchmarks.farewell import end_with_parent

COMPUTING = (
    "read readv pread64 write close lseek stat lstat fstat newfstatat statx getdents getdents64 readlink readlinkat"
    " getcwd access faccessat faccessat2 mmap mprotect munmap mremap madvise brk futex sched_yield poll ppoll"
    " clock_gettime clock_getres gettimeofday time times getrusage setitimer getitimer getrandom getpid gettid getuid"
    " geteuid getgid getegid uname sysinfo rt_sigreturn restart_syscall exit exit_group"
)
"""The system calls of a process that computes, reads files and answers; `open` and `openat` are allowed for reading."""

NOBODY = 65534
"""The user without any rights."""

_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_NO_NEW_PRIVS = 0x10000000, 0x40000000, 38


def confine(needed: Iterable[ModuleType] = ()) -> tuple[str, ...]:
    """Give up, for good, what computing does not need. Returns the names of what holds beside the limits: those of
    `offered`, less what the kernel refuses after all.

    needed: packages of which files may be read later, beside those of Python itself.
    """
    means = _means(needed)  # before the limits: the libraries start a process when they are imported
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    held = []
    for name, take in means.items():
        with suppress(Exception):  # each library has its own
            take()
            held.append(name)
        end_with_parent()  # the kernel forgets that wherever a process changes its rights
    return tuple(held)


def offered(needed: Iterable[ModuleType] = ()) -> tuple[str, ...]:
    """The names of what `confine` would use here."""
    return tuple(_means(needed))


def _means(needed: Iterable[ModuleType]) -> dict[str, Callable[[], object]]:
    """By name, in the order in which they are taken: the later ones forbid what the earlier ones need."""
    linux = sys.platform == "linux"
    found = {
        "another user": _become_nobody if os.getuid() == 0 and all(map(_readable_by_all, (os, *needed))) else None,
        "own network": _leave_network if linux else None,
        "Landlock": _landlock() if linux else None,
        "seccomp": _seccomp() if linux else None,
    }
    return {name: take for name, take in found.items() if take is not None}


def _readable_by_all(package: ModuleType) -> bool:
    """Whether any user may read the files of a package."""
    path = Path(package.__file__ or "").resolve()
    return bool(path.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in path.parents)


def _become_nobody() -> None:
    """Raises OSError in a container that has no other user."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _leave_network() -> None:
    """A user namespace, in which anybody may make a namespace of networks. Raises OSError where users may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _landlock() -> Callable[[], object] | None:
    try:
        import py_landlock
    except ImportError:
        return None
    try:
        return py_landlock.Landlock(strict=False).allow_read("/").apply  # nothing else is allowed anywhere
    except py_landlock.LandlockError:  # an older kernel, or one that was started without it
        return None


def _seccomp() -> Callable[[], object] | None:
    try:
        import pyseccomp
    except (ImportError, RuntimeError):  # RuntimeError: there is no libseccomp
        return None
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in COMPUTING.split():
        if _known(name):
            calls.add_rule(pyseccomp.ALLOW, name)
    changing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    for name, place in (("open", 1), ("openat", 2)):
        if _known(name):
            calls.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(place, pyseccomp.MASKED_EQ, changing, os.O_RDONLY))
    return calls.load


def _known(call: str) -> bool:
    """Whether this kind of processor has the call."""
    import pyseccomp

    return pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call) >= 0
