"""Runs one cell in processes of its own, one for each of its ranks, and watches over them until they have ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness.model.ranks import MEETING, join_ranks
from harness.processes.apart import end_group, ending, last_words
from harness.processes.fork_server import start
from harness.record.cell_folder import CellFolder
from harness.record.disk_errors import add_remedy
from harness.record.files import RecordError
from harness.suite.plan import Cell
from harness.sweep.cell import OnProgress, bury_cell, run_cell
from harness.sweep.events import CellProgress

FAREWELL_SECONDS = 5.0
"""How long after the first process of a cell that ended the others may take to say why, before they are killed."""

GRACE_SECONDS = 1.0
"""Between the signals TERM and KILL, to cells that are stopped."""


class RunningCell:
    """A cell that runs. Its holder waits for one of `signs`, or until `patience` is over, and asks for the `news`."""

    def __init__(self, cell: Cell, runs: Path, command: list[str], *, gpus: str | None = None) -> None:
        """Starts it, or continues it, on the GPUs that `gpus` names for CUDA_VISIBLE_DEVICES."""
        self.cell, self.runs, self.command = cell, runs, command
        self.status: str | None = None
        """"finished" or "failed", as `run_cell` has it, once the cell is over and no process of it is left."""
        self.started = self.heard = time.monotonic()
        self.stage = "its start"
        self.told = False
        """Whether it has reported progress, which it does not before the cell's folder is its own."""
        self.deadline: float | None = None
        """When those that are left are killed, once one of them has ended."""
        self.reason: str | None = None
        """Of a cell that is stopped from here."""
        self.processes: list[BaseProcess] = []
        self.pipes: dict[int, Connection] = {}
        self.words: dict[int, tuple[str, str]] = {}
        """The last ones of each rank: "done" and its status, or "error" and its traceback."""
        self.died: dict[int, str] = {}
        """Ranks that ended without such a word, and how."""
        self.stacks, stacks = Pipe(duplex=False)
        self.folder = tempfile.TemporaryDirectory(prefix="gvpo-bench-")
        size = cell.config.resources.ranks
        try:
            for rank in range(size):
                ours, theirs = Pipe()
                place = {} if size == 1 else _place(rank, size, Path(self.folder.name))
                variables = place if gpus is None else {**place, "CUDA_VISIBLE_DEVICES": gpus}
                self.processes.append(start(_serve, theirs, stacks, cell, runs, command, variables=variables))
                theirs.close()
                self.pipes[rank] = ours
        except (EOFError, OSError) as error:
            self.reason = f"No process could be started for {cell.name}: {type(error).__name__}: {error}\n"
            self._conclude()
        except BaseException:
            self.close()
            raise
        finally:
            stacks.close()

    @property
    def signs(self) -> list[Any]:
        """Of which one is ready, for `multiprocessing.connection.wait`, when there may be news."""
        return [*self.pipes.values(), *(process.sentinel for process in self.processes if process.exitcode is None)]

    @property
    def patience(self) -> float | None:
        """Seconds until there is news without a sign; None where there will be none."""
        if self.status is not None:
            return 0.0
        stall = self.cell.config.resources.stall_seconds
        due = self.heard + stall if stall and self.deadline is None else self.deadline
        return None if due is None else max(0.0, due - time.monotonic())

    def news(self) -> Iterator[CellProgress]:
        """What the cell has reported. It waits with its next steps until this has been taken."""
        for rank, pipe in list(self.pipes.items()):
            yield from self._listen(rank, pipe)
        if self.status is not None:
            return
        alive = [process for process in self.processes if process.exitcode is None]
        if not alive or (self.deadline is not None and self.patience == 0):
            self._conclude()
        elif self.patience == 0:
            self._give_up()
        elif self.deadline is None and min(len(alive), len(self.pipes)) < len(self.processes):
            self.deadline = time.monotonic() + FAREWELL_SECONDS

    def _listen(self, rank: int, pipe: Connection) -> Iterator[CellProgress]:
        while pipe.poll():
            try:
                kind, *message = pipe.recv()
                if kind == "progress":
                    self.stage = "{} {} of {}".format(*message)
                    self.told = True
                    yield CellProgress(self.cell, *message)
                    self.heard = time.monotonic()
                    pipe.send(None)
                    continue
                self.words[rank] = (kind, *message)
            except Exception:  # its end, or the user's code has written what is no message
                pass
            pipe.close()
            del self.pipes[rank]
            return

    def _give_up(self) -> None:
        """Stops a cell that reports nothing any more, and keeps where it was."""
        seconds = self.cell.config.resources.stall_seconds
        self.reason = (
            f"{self.cell.name} reported no progress for {seconds:g} s, after {self.stage}, and was stopped "
            f"(resources.stall_seconds = {seconds:g}). If a step or a part of its evaluation may take longer, raise "
            "that, or set it to 0, and run the same command again; if not, this is where it was"
        )
        signal_all([self], signal.SIGUSR1)
        stacks = b""
        while wait([self.stacks], 0.5) and (piece := os.read(self.stacks.fileno(), 65536)):
            stacks += piece
        self.reason += ":\n\n" + (stacks.decode(errors="replace") or "(it does not say)\n")
        self._conclude()

    def _conclude(self) -> None:
        """Ends what is left of the cell's processes, and says what became of the cell."""
        for rank, process in enumerate(self.processes):
            if process.exitcode is not None and rank not in self.words:
                self.died[rank] = ending(process)
        self.close()
        name, size = self.cell.name, len(self.processes)
        errors = [text for kind, text in self.words.values() if kind == "error"]
        if self.reason is None and self.died:
            rank, how = next(iter(self.died.items()))
            which = f"Rank {rank} of {size} of" if size > 1 else "The process that ran"
            self.reason = f"{which} {name} died: {how} (SIGKILL often means out of memory).\n"
        elif self.reason is None and len(self.words) == size and not errors:
            self.status = self.words[0][1]
            return
        elif self.reason is None:
            with contextlib.suppress(RecordError):
                if self.told and (manifest := CellFolder(self.runs / name).manifest()) is not None:
                    self.status = str(manifest["status"])
                    return
            self.reason = errors[0] if errors else f"The processes of {name} ended without a result.\n"
        self.status = bury_cell(self.cell, self.runs, self.command, self.reason, time.monotonic() - self.started)

    def close(self) -> None:
        """Ends the cell's processes at once, and all that they have started."""
        for process in self.processes:
            end_group(process)
        for connection in (*self.pipes.values(), self.stacks):
            connection.close()
        self.pipes.clear()
        self.folder.cleanup()


def stop(cells: Iterable[RunningCell]) -> None:
    """Ends cells that still run: first as the signal TERM asks for it, and a little later at once."""
    cells = list(cells)
    try:
        signal_all(cells, signal.SIGTERM)
        sentinels = [process.sentinel for cell in cells for process in cell.processes if process.exitcode is None]
        deadline = time.monotonic() + GRACE_SECONDS
        while sentinels and (rest := deadline - time.monotonic()) > 0:
            for sentinel in wait(sentinels, rest):
                sentinels.remove(sentinel)  # type: ignore[arg-type]
    finally:
        for cell in cells:
            cell.close()


def signal_all(cells: Iterable[RunningCell], which: signal.Signals) -> None:
    """Sends a signal to all processes of the cells."""
    for cell in cells:
        for process in cell.processes:
            end_group(process, which)


def launch_cell(cell: Cell, runs: Path, command: list[str], on_progress: OnProgress) -> str:
    """Runs a cell, or continues it, in processes of its own, which end with this one, whatever ends it.

    Returns "finished" or "failed", as `run_cell` does.
    """
    running = RunningCell(cell, runs, command)
    try:
        while running.status is None:
            wait(running.signs, running.patience)
            for news in running.news():
                on_progress(news.stage, news.done, news.total, news.reward)
    finally:
        stop([running])
    return running.status


def _place(rank: int, size: int, folder: Path) -> dict[str, str]:
    """What torchrun would tell a rank of one machine, but that nothing listens on more than loopback: the ranks meet in
    a file that only this user can read."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        **{name: str(number) for name, number in numbers.items()},
        MEETING: (folder / "meeting").as_uri(),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


def _serve(pipe: Connection, stacks: Connection, cell: Cell, runs: Path, command: list[str]) -> None:
    """A process of the cell: the only one, or one of its ranks."""
    import torch

    faulthandler.register(signal.SIGUSR1, file=stacks.fileno())
    torch.set_num_threads(1)

    def on_progress(*progress: object) -> None:
        if int(os.environ.get("RANK", "0")) > 0:
            return
        try:
            pipe.send(("progress", *progress))
            pipe.recv()  # so that a checkpoint stays as it is while it is looked at
        except (EOFError, OSError):
            os._exit(1)  # nobody listens any more: leave the cell for the next sweep

    try:
        with join_ranks(cell.config.model.device):
            word = ("done", run_cell(cell, runs, command, on_progress))
    except BaseException as error:
        add_remedy(error)  # of a disk that was too full for the cell's own traceback
        word = ("error", traceback.format_exc())
    last_words(pipe, pickle.dumps(word))
