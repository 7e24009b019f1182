"""Steps in blocks on request, so that processes under comparison can take turns. Standard library only: the peer's
environment runs it too.

A child replies on its stdout with one line of JSON, the seconds of each step of a block: once unasked, after its first
step, when it is warm; then for each number of steps that it reads as a line of stdin. It ends with its stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence


class Blocks:
    """The child's side. `tick` is called after every step and returns when the next may begin."""

    def __init__(self) -> None:
        self.replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not mix with the replies
        self._begin(1)

    def _begin(self, steps: int) -> None:
        self.steps, self.seconds = steps, list[float]()
        self.started = time.perf_counter()

    def tick(self) -> None:
        """Ends a step; returns when the next may begin, or ends the process when none will."""
        self.seconds.append(time.perf_counter() - self.started)
        if len(self.seconds) == self.steps:
            print(json.dumps(self.seconds), file=self.replies, flush=True)
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            self._begin(int(line))
        self.started = time.perf_counter()


class Child:
    """The parent's side."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.command = list(command)
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self._reply()

    def block(self, steps: int) -> list[float]:
        """Seconds of each of the next steps."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        return self._reply()

    def close(self) -> None:
        """Ends the child."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _reply(self) -> list[float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended with exit code {self.process.wait()}; see its output")
        return json.loads(line)
