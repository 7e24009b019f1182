"""The part of a Ray sweep that runs on the nodes, and what travels between them and the driver."""

from __future__ import annotations

import hashlib
import os
import queue
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

import harness
from harness.record.cell_folder import CellFolder
from harness.record.environment import environment
from harness.record.files import new_folder, write
from harness.suite.plan import Cell
from harness.sweep.launch import launch_cell

PASSED_ON = ("GVPO_BENCH_DATA", "HF_HUB_OFFLINE")
"""Environment variables of the driver that a node has too, where it does not set its own."""


Files = dict[str, bytes]
"""Contents by path, relative to a folder."""


RESUMED_FROM = ("hash", "metrics.jsonl", "resume")


CHECKPOINT = ("metrics.jsonl", "resume")


RESULTS = ("algorithm.py", "metrics.jsonl", "resume", "checkpoint", "samples.parquet", "traceback.txt")
"""What of a cell's folder travels: to the worker, with each checkpoint, and in the end, before the manifest."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    node_id: str
    environment: Mapping[str, Any]
    """As a manifest has it."""
    code: str
    mark: str | None
    """What the worker finds in the driver's mark: the driver's own text where they share the runs folder."""
    missing: str | None
    """The folder of a model, where the driver has it and this node doesn't."""

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
    """Those that are folders of the driver's."""
    base: Files | None
    """The driver's embedded base: one that was trained on another processor need not be the same to the last bit."""


class Worker:
    """A process of the cluster that runs one cell at a time, in a thread of its own. Methods are Ray calls.

    The ranks of a cell are children of it, and so on one node.
    """

    def __init__(self, job: Job) -> None:
        import torch

        torch.set_num_threads(1)
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
            code=code_hash(),
            mark=mark,
            missing=next((str(model) for model in self.job.models if not model.is_dir()), None),
        )

    def start(self, cell: Cell, files: Files | None) -> tuple[Any, ...]:
        """Starts a cell: from the files where the runs folder is not shared. Returns its first message."""
        threading.Thread(target=self._run, args=(cell, files), daemon=True).start()
        return self.next()

    def next(self) -> tuple[Any, ...]:
        """The next message of the cell: "progress", "files" with a checkpoint, or the last one, "done".

        The cell waits while a message of it lies here.
        """
        message = self.messages.get()
        if message[0] == "error":
            raise message[1]
        return message

    def _run(self, cell: Cell, files: Files | None) -> None:
        try:
            self.messages.put(("done", *self._run_here(cell, files)))
        except BaseException as error:
            self.messages.put(("error", error))

    def _run_here(self, cell: Cell, files: Files | None) -> tuple[str, Files]:
        """The cell's status, and its results where the driver has yet to get them."""
        with tempfile.TemporaryDirectory(prefix="gvpo-bench-") as name:
            scratch = Path(name)
            if self.job.base is not None:
                os.environ["GVPO_BENCH_CACHE"] = str(scratch / "cache")
                unpack(scratch / "cache", self.job.base)
            if files is None:
                return launch_cell(cell, self.job.runs, self.job.command, self._tell), {}
            folder = CellFolder(scratch / "runs" / cell.name)
            unpack(folder.path, files)
            sent = _version(folder.resume_path)

            def tell(*progress: Any) -> None:
                nonlocal sent
                self._tell(*progress)
                if (now := _version(folder.resume_path)) not in (None, sent):
                    self.messages.put(("files", pack(folder.path, CHECKPOINT)))
                    sent = now

            status = launch_cell(cell, scratch / "runs", self.job.command, tell)
            return status, pack(folder.path, (*RESULTS, "manifest.json"))

    def _tell(self, stage: str, done: int, total: int, reward: float | None) -> None:
        self.messages.put(("progress", stage, done, total, reward))


def _version(folder: Path) -> tuple[int, int] | None:
    """Another one each time that the folder is replaced."""
    try:
        stat = folder.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def pack(folder: Path, names: Sequence[str]) -> Files:
    """The named files below a folder, and all files of the named folders; what isn't there is left out."""
    paths = [path for name in names for path in (folder / name, *sorted((folder / name).rglob("*")))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def unpack(folder: Path, files: Files) -> None:
    """Writes what `pack` read: each file, and each folder of files, in one step."""
    for top in dict.fromkeys(name.partition("/")[0] for name in files):
        if top in files:
            write(folder / top, files[top])
            continue
        with new_folder(folder / top) as scratch:
            for name, content in files.items():
                if name.startswith(f"{top}/"):
                    write(scratch / name.removeprefix(f"{top}/"), content)


def code_hash() -> str:
    """Of the text of gvpo-bench: it must be the same wherever cells of one table run."""
    root = Path(harness.__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in ("algorithms", "benchmarks", "harness"):
        paths = sorted((root / package).rglob("*.py"))
        assert paths, f"{root / package} holds no code: a hash of nothing would agree everywhere"
        for path in paths:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
