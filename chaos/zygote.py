"""Starts `gvpo-bench` by forking, since its imports take longer than a small sweep.

    python chaos/zygote.py

Each line on its standard input is a `Job` in JSON. Each fork becomes the command that the job names, in a session of
its own, and ends as any other Python does. Tells {"id", "pid"} of each that has started, and {"pid", "code"} of each
that has ended. All of them end with it, and it ends with its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import harness.cli
import harness.report.figures
import harness.sweep.executors
import harness.sweep.run
from benchmarks.farewell import end_with_parent


@dataclass(frozen=True)
class Job:
    """A command to start."""

    id: int
    arguments: Sequence[str]
    """After `gvpo-bench`."""
    folder: str
    """To work in."""
    shown: str
    """The file that takes what it prints."""
    environment: Mapping[str, str]
    figures: bool
    """Whether a report draws its figures, which takes longer than all else of it."""

    def line(self) -> bytes:
        """For the standard input of this script."""
        return json.dumps(asdict(self)).encode() + b"\n"


def tell(**news: int) -> None:
    """Says a line, in one piece."""
    os.write(1, json.dumps(news).encode() + b"\n")


def reap(*_: object) -> None:
    """Tells of all that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        tell(pid=pid, code=os.waitstatus_to_exitcode(status))


def next_job() -> Job | None:
    """Returns in each fork, with what it is to be, and in this process at the end of the input, with None."""
    for line in sys.stdin:
        job = Job(**json.loads(line))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # or an end could be told before its start
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        else:
            tell(id=job.id, pid=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        if pid == 0:
            return job
    return None


def become(job: Job) -> None:
    """Makes this process look as if it had been started with the job's command."""
    end_with_parent()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(job.shown, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for file, descriptor in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    sys.argv = ["gvpo-bench", *job.arguments]
    if not job.figures:
        harness.report.figures.draw = lambda **_: []


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign's to hear
    signal.signal(signal.SIGCHLD, reap)
    if (job := next_job()) is not None:
        become(job)
        harness.cli.main()
