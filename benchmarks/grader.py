"""The mathematics grader: math-verify inside worker processes that can be killed.

    with Grader(workers=2) as grader:
        grader.grade([("18", "… so she makes $18.\\n#### 18")])   # ["correct"]

A response is hostile input: reading or simplifying it may take for ever, or all the memory. So `benchmarks.judge` runs
in processes of its own (`benchmarks.grader_process`), which have limits of memory and time; a process that exceeds one
is killed, and only that case is lost. What a worker sends back is one word of a fixed list.

No part of a response is executed: it is parsed. Should code run in a worker nevertheless, it finds itself in
`benchmarks.sandbox`: where the kernel has Landlock and seccomp it can neither change a file nor start a process nor
reach a network.

The limit is of CPU time, and the kernel enforces it: so a verdict does not depend on what else the machine does. This
side enforces a limit of wall-clock time, many times as long, by SIGKILL.

Workers are started from nothing: they import neither the caller's `__main__` nor anything else of it, so a Grader works
in any thread and in any kind of process, and its processes end with the one that made it, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import cast, get_args

from benchmarks.answers import MAX_CHARACTERS, find_answer
from benchmarks.benchmark import Verdict
from benchmarks.errors import BenchError, ExitCode

WALL_FACTOR = 20.0
"""The limit of wall-clock time as a multiple of the limit of CPU time. It is for a process that sleeps: on a busy
machine one that computes may get a small part of a core."""

START_SECONDS = 120.0
"""How long a worker may take to start. Importing math-verify takes 1 s on an idle machine."""

START_ATTEMPTS = 3
"""How often a worker that dies or hangs before it can say a word is started."""

TRAINING_SECONDS = 2.0
"""The limit of one case in training. Ordinary ones take milliseconds, and none that is right above a second."""

_VERDICTS = frozenset(get_args(Verdict))


class GraderError(BenchError, RuntimeError):
    """Grading is impossible here: the worker processes do not start."""

    exit_code = ExitCode.FAILED


class Grader:
    """Grades responses in `workers` processes, which start when they are first needed and persist until `close`.

    seconds: the limit of one case, of CPU time; of wall-clock time, WALL_FACTOR times as much. Time to start a process
    does not count.

    give_up: once a case of `grade` has timed out, the further ones of the same gold answer that differ from it by
    numbers alone get the same verdict at once. A policy that has learnt to write power towers then costs one timeout a
    group.
    """

    def __init__(self, *, workers: int = 1, seconds: float = 5.0, give_up: bool = False) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if not seconds > 0:
            raise ValueError(f"seconds must be positive, not {seconds}")
        self._seconds = seconds
        self._give_up = give_up
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grader")
        self._workers: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # None: a process that is yet to start
        for _ in range(workers):
            self._workers.put(None)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes. A closed grader raises RuntimeError when asked to grade."""
        self._threads.shutdown(cancel_futures=True)
        while not self._workers.empty():
            if worker := self._workers.get():
                worker.kill()

    def grade(self, cases: Sequence[tuple[str, str]], progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """The verdicts on (gold, response) pairs, in their order.

        progress is called, in the caller's thread, with the number of finished cases. Raises GraderError where the
        worker processes do not start.
        """
        alike: dict[tuple[str, str] | int, list[int]] = {}
        for i, (gold, response) in enumerate(cases):
            alike.setdefault((gold, _without_numbers(response)) if self._give_up else i, []).append(i)
        futures = [self._threads.submit(self._grade_alike, [cases[i] for i in group]) for group in alike.values()]
        verdicts: dict[int, Verdict] = {}
        groups = dict(zip(futures, alike.values(), strict=True))
        try:
            for future in as_completed(futures):
                for i, verdict in zip(groups[future], future.result(), strict=True):  # raises at the first GraderError
                    verdicts[i] = verdict
                    if progress is not None:
                        progress(len(verdicts))
        finally:
            for future in futures:
                future.cancel()
        return [verdicts[i] for i in range(len(cases))]

    def _grade_alike(self, cases: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One after another; behind a timeout the rest are not tried."""
        verdicts: list[Verdict] = []
        for gold, response in cases:
            verdicts.append("timeout" if "timeout" in verdicts else self._grade_one(gold, response))
        return verdicts

    def _grade_one(self, gold: str, response: str) -> Verdict:
        worker = self._workers.get()
        try:
            if worker is None:
                worker = _start(self._seconds)
            verdict = worker.grade(gold, response[-MAX_CHARACTERS:])
        except BaseException:
            if worker is not None:
                worker.kill()
            worker = None
            raise
        finally:
            self._workers.put(worker if worker is not None and worker.alive else None)
        return verdict


def _without_numbers(response: str) -> str:
    """What responses have in common that differ by numbers alone: of the answer, not of the way to it."""
    return re.sub(r"\d+", "0", " ".join(find_answer(response[-MAX_CHARACTERS:]).texts))


def _start(seconds: float) -> _Worker:
    """A worker, tried again where it ends or hangs without a word: a machine may be busy. Raises GraderError."""
    for attempt in range(START_ATTEMPTS):
        try:
            return _Worker(seconds)
        except _Silent:
            if attempt == START_ATTEMPTS - 1:
                raise
    raise AssertionError


class _Silent(GraderError):
    """It did not start, and did not say why."""


class _Worker:
    """One grading process, ready for a case. Raises GraderError where it does not start."""

    def __init__(self, seconds: float) -> None:
        self._wall_seconds = WALL_FACTOR * seconds
        root = str(Path(__file__).resolve().parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.grader_process", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
                "PYTHONHASHSEED": "0",  # the order of sympy's sets, and so in rare cases a verdict, depends on it
            },
        )
        self.alive = True
        greeting = self._receive(START_SECONDS)
        if greeting != "ready":
            self.kill()
            if not greeting:
                raise _Silent(f"{START_ATTEMPTS} grading processes did not start: each ended or hung without a word")
            raise GraderError(f"a grading process did not start: {greeting}")

    def grade(self, gold: str, response: str) -> Verdict:
        """The verdict on one case. Afterwards the process may be dead: see `alive`."""
        assert self._process.stdin is not None
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died in between: the end of its output says so below
            self._process.stdin.write(json.dumps([gold, response]).encode() + b"\n")
        word = self._receive(self._wall_seconds)
        if word in _VERDICTS:
            return cast(Verdict, word)
        self.kill()
        out_of_time = self._process.returncode == -signal.SIGPROF or time.monotonic() - start >= self._wall_seconds
        return "timeout" if out_of_time else "error"

    def kill(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _receive(self, seconds: float) -> str:
        """The next line from the process, or "" when it ends or is silent for that long."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        received = b""
        while not received.endswith(b"\n"):
            if not wait([self._process.stdout.fileno()], max(0.0, deadline - time.monotonic())):
                return ""
            piece = os.read(self._process.stdout.fileno(), 4096)
            if not piece or len(received) > 4096:
                return ""
            received += piece
        return received.decode(errors="replace").strip()
