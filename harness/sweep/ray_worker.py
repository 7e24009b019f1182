"""The part of a Ray sweep that runs on the nodes, and what travels between them and the driver."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from harness.record.cell_folder import CellFolder
from harness.record.environment import environment
from harness.record.travel import Files, unpack
from harness.suite.plan import Cell
from harness.sweep.launch import launch_cell

PASSED_ON = ("GVPO_BENCH_DATA", "HF_HUB_OFFLINE")
"""Environment variables of the driver that a node has too, where it does not set its own."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    node_id: str
    environment: Mapping[str, Any]
    """As a manifest has it."""
    mark: str | None
    """What the worker finds in the driver's mark: the driver's own text where they share the runs folder."""
    missing: str | None
    """The folder or file of a model, where the driver has it and this node doesn't."""

    def __str__(self) -> str:
        return f"{self.environment['hardware']['node']} (Ray node {self.node_id})"


@dataclass(frozen=True)
class Job:
    """What every worker of a sweep is told."""

    runs: Path
    command: list[str]
    mark: Path
    """A file that the driver has written into the runs folder."""
    folder: Path
    """The driver's working directory, which relative paths start from."""
    variables: Mapping[str, str]
    models: Sequence[Path]
    """Those that are folders or files of the driver's."""
    base: Files | None
    """The driver's embedded base and teacher: what was trained on another processor need not be the same to the last
    bit."""


class Worker:
    """A process of the cluster that watches over one cell at a time, from a thread of its own. Methods are Ray calls.

    The processes of a cell, one for each rank, are forked from a child of it: they are on its node, and end with it.
    """

    def __init__(self, job: Job) -> None:
        import torch  # noqa: F401 (for `environment`, which asks it where it is loaded)

        self.job = job
        self.messages: queue.Queue[tuple[Any, ...]] = queue.Queue(maxsize=1)
        if job.folder.is_dir():
            os.chdir(job.folder)
        for name, value in job.variables.items():
            os.environ.setdefault(name, value)

    def place(self) -> Place:
        """Where this is, for the driver to judge."""
        try:
            mark = self.job.mark.read_text()
        except OSError:
            mark = None
        return Place(
            node_id=ray.get_runtime_context().get_node_id(),
            environment=environment(),
            mark=mark,
            missing=next((str(model) for model in self.job.models if not model.exists()), None),
        )

    def start(self, cell: Cell, files: Files | None, read: Mapping[str, Files]) -> tuple[Any, ...]:
        """Starts a cell: from the files where the runs folder is not shared, `read` being those of cells that it reads.
        Returns its first message."""
        threading.Thread(target=self._run, args=(cell, files, read), daemon=True).start()
        return self.next()

    def next(self) -> tuple[Any, ...]:
        """The next message of the cell: "progress", "files" with a checkpoint, or the last one, "done".

        The cell waits while a message of it lies here.
        """
        message = self.messages.get()
        if message[0] == "error":
            raise message[1]
        return message

    def _run(self, cell: Cell, files: Files | None, read: Mapping[str, Files]) -> None:
        try:
            self.messages.put(("done", *self._run_here(cell, files, read)))
        except BaseException as error:
            self.messages.put(("error", error))

    def _run_here(self, cell: Cell, files: Files | None, read: Mapping[str, Files]) -> tuple[str, Files]:
        """The cell's status, and its results where the driver has yet to get them."""
        with tempfile.TemporaryDirectory(prefix="gvpo-bench-") as name:
            scratch = Path(name)
            if self.job.base is not None:
                os.environ["GVPO_BENCH_CACHE"] = str(scratch / "cache")
                unpack(scratch / "cache", self.job.base)
            if files is None:
                return launch_cell(cell, self.job.runs, self.job.command, self._tell), {}
            folder = CellFolder(scratch / "runs" / cell.name)
            folder.unpack(files)
            for name, content in read.items():
                CellFolder(scratch / "runs" / name).unpack(content)
            sent = folder.progress()

            def tell(*progress: Any) -> None:
                nonlocal sent
                self._tell(*progress)
                if (now := folder.progress()) not in (None, sent):
                    self.messages.put(("files", folder.pack("to go on")))
                    sent = now

            status = launch_cell(cell, scratch / "runs", self.job.command, tell)
            return status, folder.pack("results")

    def _tell(self, stage: str, done: int, total: int, reward: float | None) -> None:
        self.messages.put(("progress", stage, done, total, reward))
