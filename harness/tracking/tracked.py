"""Has the trackers that a suite asks for follow its cells, while a sweep runs them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from harness.processes.apart import end_group
from harness.processes.fork_server import start
from harness.record.text import say
from harness.suite.config import ConfigError
from harness.suite.plan import Cell
from harness.suite.tracking_settings import Tracking
from harness.tracking.follow import follow
from harness.tracking.trackers import TrackedRun

END_SECONDS = 30.0
"""How long a tracker may take for the last rows when a sweep is over."""


def check_trackers(settings: Tracking) -> None:
    """Raises ConfigError where a tracker that is asked for is not installed."""
    for name in settings.chosen:
        if find_spec(name) is None:
            extra = "" if name == "tensorboard" else f"[{name}]"
            raise ConfigError(f"tracking.{name} = true needs the package {name}: pip install 'gvpo-bench{extra}'")


@contextlib.contextmanager
def tracked(
    settings: Tracking, suite: str, cells: Sequence[Cell], runs: Path, folder: Path, console: Console
) -> Iterator[None]:
    """Follows these cells below `runs` for as long as the block lasts, and a little longer for the last rows.

    A tracker that fails is named once and told nothing more; nothing else hangs on it.
    """
    found = [tracked_run(suite, cell, runs) for cell in cells if cell.is_trained]
    followers = [Follower(name, settings.project or suite, found, folder, console) for name in settings.chosen]
    try:
        yield
        for follower in followers:
            follower.end()
    finally:
        for follower in followers:
            follower.stop()


def tracked_run(suite: str, cell: Cell, runs: Path) -> TrackedRun:
    """The training of a cell."""
    return TrackedRun(suite, cell.name, runs / cell.name, cell.config.hashes().training, cell.config.stated())


class Follower:
    """A process that tells one tracker, and whoever says what it says."""

    def __init__(self, name: str, project: str, runs: Sequence[TrackedRun], folder: Path, console: Console) -> None:
        self.name, self.folder, self.console = name, folder, console
        self.process: BaseProcess | None = None
        self.ours: Connection
        self.ours, theirs = Pipe()
        try:
            self.process = start(follow, theirs, name, project, runs, folder)
        except (EOFError, OSError) as error:
            self._failed(str(error))
        theirs.close()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        try:
            last = self.ours.recv_bytes().decode()
        except (EOFError, OSError):
            return  # it was stopped, or never began
        if last:
            self._failed(last)

    def _failed(self, why: str) -> None:
        say(
            self.console,
            f"tracking.{self.name}: {why}. It is told nothing more in this sweep, which goes on without it (what it "
            f"printed: {self.folder / self.name}.log); the same command tells it what it has missed",
        )

    def end(self) -> None:
        """Waits until it has told the last rows, for END_SECONDS at most."""
        with contextlib.suppress(OSError):
            self.ours.send(None)
        self.listener.join(END_SECONDS)
        if self.listener.is_alive():
            self._failed(f"has not taken all rows within {END_SECONDS:g} s after the last cell")

    def stop(self) -> None:
        """Ends it, and all that it has started."""
        if self.process is not None:
            end_group(self.process)
        self.ours.close()
