"""Runs the cells of a suite on a Ray cluster, each with the CPUs and GPUs that it asks for.

The driver, the process that runs the sweep, owns the runs folder. A worker that finds the very same folder at its own
path, on a shared file system, works in it. Any other works on its own disk and sends the driver each checkpoint, and in
the end the results, so that they lie where a local sweep's would. A cell whose node dies goes on elsewhere from the
last checkpoint that the driver has.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from harness.model.embedded import EMBEDDED, embedded_base
from harness.processes.fork_server import WORKER_ENVIRONMENT
from harness.record.cell_folder import CellFolder
from harness.record.environment import environment
from harness.record.files import write
from harness.record.travel import pack
from harness.suite.config import ConfigError
from harness.suite.plan import Cell
from harness.sweep.cell import bury_cell
from harness.sweep.events import CellEnd, CellEvent, CellNote, CellProgress
from harness.sweep.pool import most
from harness.sweep.ray_worker import PASSED_ON, Job, Place, Worker

INTERRUPTIONS = 3
"""How often a cell goes on after the death of a node, in one sweep; after that it counts as failed."""

NODE_SECONDS = 2.0
"""How long after a worker its node may be found dead."""


@contextlib.contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """Ray's cluster at `host:port`, "auto" for one that runs on this machine, "local" for a new one of this machine.

    Raises ConfigError where there is none.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"--ray {address}: a sweep writes its results beside its driver, so it runs on a node of the cluster. "
            "Log in to one, or use `ray job submit`, and give --ray auto"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"include_dashboard": False} if address == "local" else {}
    host, colon, port = address.rpartition(":")
    try:
        if colon:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="error", **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--ray {address}: {error}") from error
    try:
        yield RayCluster(address)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class RayCluster:
    """The cluster that this process is connected to."""

    address: str

    @property
    def workers(self) -> int:
        """A cell takes one CPU at least."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def __str__(self) -> str:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return f"Ray with {len(nodes)} nodes"

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        """See `Executor`."""
        with _Driver(cells, runs.resolve(), command) as driver:
            yield from driver.run()


@dataclass(eq=False)
class _Slot:
    """A worker, seen from the driver."""

    actor: Any
    place: Place | None = None
    """None until it has started."""
    cell: Cell | None = None
    lost_a_message: bool = False
    started: float = 0.0
    claim: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """The lock of the cell's folder, while the driver writes it for the worker."""


class _Driver:
    """Hands cells to workers, and takes what they send."""

    def __init__(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> None:
        self.waiting, self.runs, self.command = list(cells), runs, command
        self.resources = most(cells)
        models = {name for cell in cells for name in (cell.config.model.path, cell.config.model.teacher) if name}
        embedded = [embedded_base(EMBEDDED[name]) for name in sorted(models & EMBEDDED.keys())]
        self.text = uuid.uuid4().hex
        self.job = Job(
            runs=runs,
            command=command,
            mark=runs / f".mark-{self.text}",
            folder=Path.cwd(),
            variables={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            models=[Path(name).resolve() for name in sorted(models - EMBEDDED.keys()) if Path(name).exists()],
            base=pack(embedded[0].parent, [folder.name for folder in embedded]) if embedded else None,
        )
        trained = [cell.config.train for cell in cells if cell.is_trained]
        self.shared = [
            text
            for text, shares in {
                "train.pass_rate is measured once for all cells": any(train.pass_rate is not None for train in trained),
                "train.replay has cells read what another has recorded": any(train.replay for train in trained),
            }.items()
            if shares
        ]
        """Why cells need the folder of the runs."""
        here = environment()
        self.code, self.versions = here["code_sha256"], here["versions"]
        self.interruptions = dict.fromkeys([cell.name for cell in cells], 0)
        self.false_starts = 0
        self.slots: set[_Slot] = set()
        self.pending: dict[Any, _Slot] = {}
        """The open call of each worker."""

    def __enter__(self) -> _Driver:
        write(self.job.mark, self.text)
        return self

    def __exit__(self, *_: object) -> None:
        self.job.mark.unlink(missing_ok=True)
        for slot in self.slots:
            slot.claim.close()
            ray.kill(slot.actor)

    def run(self) -> Iterator[CellEvent]:
        job = ray.put(self.job)
        if not any(self._fits(node) for node in ray.nodes()):
            yield CellNote(self.waiting[0], f"waits for a node with {self.resources}; no node of the cluster has that")
        for _ in self.waiting:
            self._hire(job)
        while self.waiting or any(slot.cell for slot in self.slots):
            (ready,), _ = ray.wait(list(self.pending), num_returns=1)
            slot = self.pending.pop(ready)
            try:
                answer = ray.get(ready)
            except RayTaskError as error:
                raise error.cause from error
            except ActorUnavailableError:  # perhaps for good: Ray takes seconds to find a node dead
                slot.lost_a_message = True
                self.pending[slot.actor.place.remote()] = slot
                continue
            except RayError as error:
                yield from self._lose(slot, error)
                self._hire(job)
                continue
            if slot.lost_a_message:
                ray.kill(slot.actor)
                yield from self._lose(slot, None)
                self._hire(job)
                continue
            if slot.place is None:
                slot.place = self._accept(answer)
            elif slot.cell is not None:
                yield from self._take(slot, slot.cell, *answer)
            if slot.cell is not None:
                self.pending[slot.actor.next.remote()] = slot
            else:
                yield from self._give(slot)

    def _fits(self, node: Mapping[str, Any]) -> bool:
        has = node["Resources"]
        return node["Alive"] and has.get("CPU", 0) >= self.resources.cpus and has.get("GPU", 0) >= self.resources.gpus

    def _hire(self, job: Any) -> None:
        """Asks Ray for one more worker; it starts once a node has room."""
        variables = dict(WORKER_ENVIRONMENT)
        if self.resources.gpus == 0:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=self.resources.cpus,
                num_gpus=self.resources.gpus,
                runtime_env={"env_vars": variables},
            )
            .remote(job)
        )
        slot = _Slot(actor)
        self.slots.add(slot)
        self.pending[actor.place.remote()] = slot

    def _accept(self, place: Place) -> Place:
        """Raises ConfigError where a worker would not do what the driver would."""
        versions = place.environment["versions"]
        differences = [
            f"{name} {versions.get(name)} instead of {wanted}"
            for name, wanted in self.versions.items()
            if versions.get(name) != wanted
        ]
        if place.environment.get("code_sha256") != self.code:
            differences.append("other code of gvpo-bench")
        if differences:
            raise ConfigError(
                f"{place} has {', '.join(differences)}: install the same on every node as on the driver's"
            )
        if place.missing is not None:
            raise ConfigError(
                f"model.path = {place.missing}: {place} has no such folder or file; put it where every node sees it, "
                "or name a hub id"
            )
        if self.shared and place.mark != self.text:
            raise ConfigError(
                f"{self.shared[0]}, and {place} does not see {self.runs}: give an --out that every node shares"
            )
        self.false_starts = 0
        return place

    def _give(self, slot: _Slot) -> Iterator[CellEvent]:
        """The next cell to a worker that has none; where none is left, the worker goes."""
        while self.waiting:
            assert slot.place is not None
            cell = self.waiting.pop(0)
            files, read = None, {}
            if slot.place.mark != self.text:
                folder = CellFolder(self.runs / cell.name)
                state = slot.claim.enter_context(folder.claim(cell.config.hashes()))
                if state == "finished":  # by another sweep, a moment ago
                    slot.claim.close()
                    yield CellEnd(cell, "finished", 0.0)
                    continue
                files = folder.pack("to go on")
                read = {other.name: CellFolder(self.runs / other.name).pack("to go on") for other in cell.reads[:1]}
            slot.cell, slot.started = cell, time.monotonic()
            self.pending[slot.actor.start.remote(cell, files, read)] = slot
            yield CellNote(cell, f"runs on {slot.place}")
            return
        self.slots.remove(slot)

    def _take(self, slot: _Slot, cell: Cell, kind: str, *message: Any) -> Iterator[CellEvent]:
        folder = CellFolder(self.runs / cell.name)
        if kind == "progress":
            yield CellProgress(cell, *message)
        elif kind == "files":
            folder.unpack(*message)
        else:
            status, results = message
            folder.unpack(results)
            slot.claim.close()
            slot.cell = None
            yield CellEnd(cell, status, time.monotonic() - slot.started)

    def _lose(self, slot: _Slot, error: RayError | None) -> Iterator[CellEvent]:
        """A worker died of an error, or was out of reach for a while where there is none.

        If its node was to blame, the cell goes on elsewhere; if not, the cell has failed, as on one machine. Raises
        ConfigError where no worker can start.
        """
        self.slots.remove(slot)
        cell, place = slot.cell, slot.place
        if place is None:
            self.false_starts += 1
            if (isinstance(error, RayActorError) and error.actor_init_failed) or self.false_starts > INTERRUPTIONS:
                raise ConfigError(f"no worker can start; is gvpo-bench installed on every node? Ray says: {error}")
        if place is None or cell is None:
            return
        slot.claim.close()
        seconds = time.monotonic() - slot.started
        interrupted = error is None or self._is_dead(place.node_id)
        if interrupted and self.interruptions[cell.name] < INTERRUPTIONS:
            self.interruptions[cell.name] += 1
            self.waiting.insert(0, cell)
            yield CellNote(cell, f"{place} died or was out of reach; the cell goes on from its last checkpoint")
            return
        text = f"The process that ran {cell.name} on {place} died: {error}\n"
        status = bury_cell(cell, self.runs, self.command, text, seconds, place.environment)
        yield CellEnd(cell, status, seconds)

    def _is_dead(self, node_id: str) -> bool:
        """Whether a node is; the cluster may learn of it a little later than its workers' callers."""
        deadline = time.monotonic() + NODE_SECONDS
        while any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True
