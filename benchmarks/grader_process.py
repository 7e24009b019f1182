"""The process in which responses are graded: `python -m benchmarks.grader_process SECONDS`, started by a `Grader`.

It answers each line of [gold, response] in JSON on stdin with a line of verdict on stdout, until stdin ends.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress

from benchmarks.farewell import end_with_parent
from benchmarks.judge import judge
from benchmarks.sandbox import confine

MEMORY_BYTES = 2 * 1024**3
"""Limit of the process's address space."""


def _main(seconds: float) -> None:
    """Answer each line of [gold, response] on stdin with a line of verdict on stdout, until stdin ends."""
    end_with_parent()  # in the middle of a case too
    verdicts = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing else can write where verdicts are read
    try:
        judge("x^2-4", r"\boxed{(x-2)(x+2)}")  # imports sympy and math-verify's parser, and builds it
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=verdicts, flush=True)
        return
    _restrict()
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin.buffer:
        # When this much CPU time is used, the kernel ends the process by SIGPROF, which no computation can delay.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            verdict = judge(*json.loads(line))
        except Exception:
            verdict = "error"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, file=verdicts, flush=True)


def _restrict() -> None:
    """Limit what this process can use, and do: `benchmarks.sandbox` says what that keeps from it, and where."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    with suppress(ValueError, OSError):  # macOS has no limit of the address space
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    confine([sys.modules[name] for name in ("sympy", "latex2sympy2_extended", "antlr4")])  # they import more when used


if __name__ == "__main__":
    _main(float(sys.argv[1]))
