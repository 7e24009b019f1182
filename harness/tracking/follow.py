"""The process that tells one tracker what the cells of a sweep record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from harness.processes.apart import last_words
from harness.record.files import RecordError, write_json
from harness.record.standing import Mark, rows_of, stage_of, trace_of
from harness.record.sums import read_record
from harness.tracking.trackers import MAKERS, TrackedRun, Tracker

POLL_SECONDS = 1.0


def follow(connection: Connection, name: str, project: str, runs: Sequence[TrackedRun], folder: Path) -> None:
    """Follows the runs until the other end says that they are over, or is closed; sends what failed, as a text.

    `folder` is where the tracker's own output goes, and which steps it has been told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _speak_into(folder / f"{name}.log")
    try:
        following = Following(MAKERS[name](folder, project), runs, folder / f"{name}.json")
        while not _is_over(connection):
            following.look()
        following.look()
        following.close()
        last = b""
    except BaseException as error:  # a library's SystemExit too
        last = f"{type(error).__name__}: {error}".encode(errors="backslashreplace")
    last_words(connection, last)


class Following:
    """One tracker, and how many steps of which run it has been told, which a file remembers."""

    def __init__(self, tracker: Tracker, runs: Sequence[TrackedRun], memory: Path) -> None:
        self.tracker, self.runs, self.memory = tracker, runs, memory
        record, _ = read_record(memory)
        self.told: dict[str, int] = {key: int(steps) for key, steps in (record or {}).items()}
        self.seen: dict[str, Mark | None] = {}
        self.open: set[str] = set()

    def look(self) -> None:
        """Tells what is new."""
        for run in self.runs:
            mark = trace_of(run.folder).rows
            if mark != self.seen.get(run.key):
                self.seen[run.key] = mark
                self._tell(run)
            if run.key in self.open and (stage := stage_of(run.folder)) in ("evaluating", "finished", "failed"):
                self.tracker.end(run, failed=stage == "failed")
                self.open.remove(run.key)

    def _tell(self, run: TrackedRun) -> None:
        try:
            rows = rows_of(run.folder, run.training_hash)
        except (RecordError, OSError):  # it is replaced just now, or the sweep will say what is wrong with it
            return
        told = self.told.get(run.key, 0)
        if len(rows) > told:
            self.tracker.tell(run, rows, told)
            self.told[run.key] = len(rows)
            self.open.add(run.key)
            write_json(self.memory, self.told)

    def close(self) -> None:
        """Lets the tracker go."""
        self.tracker.close()


def _is_over(connection: Connection) -> bool:
    try:
        return connection.poll(POLL_SECONDS) and connection.recv() is None
    except (EOFError, OSError):
        return True


def _speak_into(path: Path) -> None:
    """What libraries print goes there: the terminal is the sweep's."""
    with path.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
