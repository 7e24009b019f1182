"""Starts `gvpo-bench` by forking, since its imports, and those of its fork server, take longer than a small sweep.

    python chaos/zygote.py

Each line on its standard input is a `Job` in JSON. Each fork becomes the command that the job names, in a session of
its own, and ends as any other Python does. Tells {"id", "pid"} of each that has started, and {"pid", "code"} of each
that has ended. All of them end with it, and it ends with its standard input.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import multiprocessing.util
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from job import Job
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import harness.cli
import harness.report.figures
import harness.sweep.executors
import harness.sweep.run
from benchmarks import load_benchmark
from benchmarks.farewell import end_with_parent
from harness.processes.fork_server import PRELOADED


def warm_up() -> None:
    """Has everything ready that is computed once in a process and then kept: half of what a small sweep takes."""
    for module in PRELOADED:
        importlib.import_module(module)
    for benchmark in ("arithmetic-train", "arithmetic", "arithmetic-hard"):
        load_benchmark(benchmark).problems()
    get_checkpoint_conversion_mapping("qwen3")


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
    sys.path.remove(str(Path(__file__).parent))
    sys.modules["__main__"] = harness.cli  # which processes of multiprocessing's import
    if not job.figures:
        harness.report.figures.draw = lambda **_: []


def provide_fork_server() -> None:
    """Has multiprocessing's fork server be a fork of this process as it is now, in place of a Python that would import
    anew what is here already. It waits until it is asked for, with the descriptors and the environment of that time."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        serve(theirs)
    theirs.close()
    spawn: Any = multiprocessing.util.spawnv_passfds

    def spawn_or_ask(path: Any, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        if "multiprocessing.forkserver" not in arguments[-1]:
            started: int = spawn(path, arguments, descriptors)
            return started
        multiprocessing.util.spawnv_passfds = spawn
        message = json.dumps([arguments[-1], list(descriptors), dict(os.environ)])
        socket.send_fds(ours, [message.encode()], list(descriptors))
        ours.close()
        return pid

    multiprocessing.util.spawnv_passfds = spawn_or_ask  # type: ignore[assignment]


def serve(asked: socket.socket) -> None:
    """Becomes the fork server when it is asked to, and ends where it never is."""
    message, received, _, _ = socket.recv_fds(asked, 2**20, 8)
    asked.close()
    if not message:
        os._exit(0)
    command, wanted, environment = json.loads(message)
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(aside, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    exec(command, {})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign's to hear
    signal.signal(signal.SIGCHLD, reap)
    warm_up()
    if (job := next_job()) is not None:
        become(job)
        provide_fork_server()
        harness.cli.main()
