"""Starts the ranks of a cell on this machine, as torchrun would, and watches over them."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from harness.model.ranks import join_ranks
from harness.record.cell_folder import CellFolder
from harness.suite.plan import Cell
from harness.sweep.cell import OnProgress, bury_cell, run_cell

FAREWELL_SECONDS = 5.0
"""How long after the first rank that ended the others may take to say why, before they are killed."""


def launch_cell(cell: Cell, runs: Path, command: list[str], on_progress: OnProgress) -> str:
    """Runs a cell, or continues it: in this process, or in one for each of its ranks where it has several.

    Returns "finished" or "failed", as `run_cell` does. The ranks end with this process, whatever ends it.
    """
    size = cell.config.resources.ranks
    if size == 1:
        return run_cell(cell, runs, command, on_progress)
    import torch.distributed as dist
    import torch.multiprocessing as processes

    started, recorded = time.monotonic(), False
    # Ours to hold, so that no rank has to find a free port; torchrun's agent does the same.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    ours, theirs = Pipe()
    lifeline, held = Pipe(duplex=False)
    arguments = (size, store.port, cell, runs, command, theirs, lifeline)
    ranks = processes.start_processes(_rank, arguments, nprocs=size, join=False, start_method="spawn")
    try:
        while True:
            ready = wait([ours, *ranks.sentinels])
            if ours in ready:
                on_progress(*ours.recv())
                ours.send(None)
                recorded = True  # or will be: rank 0 tells nothing before the cell's folder is its own
            elif ranks.join(timeout=0, grace_period=FAREWELL_SECONDS):
                break
        reason = f"The ranks of {cell.name} ended without a result.\n"
    except processes.ProcessRaisedException as error:
        reason = f"{cell.name} failed on one of {size} ranks: {error}\n"
    except processes.ProcessExitedException as error:
        reason = f"A rank of {cell.name} died: {error} (SIGKILL often means out of memory).\n"
        recorded = False  # whatever the others have written, that is why
    finally:
        for rank in ranks.processes:
            rank.kill()
            rank.join()
        for connection in (ours, theirs, lifeline, held):
            connection.close()
    manifest = CellFolder(runs / cell.name).manifest() if recorded else None
    if manifest is not None:
        return str(manifest["status"])
    return bury_cell(cell, runs, command, reason, time.monotonic() - started)


def _rank(
    rank: int,
    size: int,
    port: int,
    cell: Cell,
    runs: Path,
    command: list[str],
    launcher: Connection,
    lifeline: Connection,
) -> None:
    import torch

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in place.items()})
    os.environ.update(MASTER_ADDR="localhost", TORCHELASTIC_USE_AGENT_STORE="True")
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()

    def on_progress(*progress: object) -> None:
        if rank == 0:
            launcher.send(progress)
            launcher.recv()  # so that a checkpoint stays as it is while the launcher looks at it

    with join_ranks(cell.config.model.device):
        run_cell(cell, runs, command, on_progress)


def _end_with(lifeline: Connection) -> None:
    """Ends this process when the other end of the line closes, without another word: the launcher is no more."""
    try:
        lifeline.recv()
    except EOFError:
        os._exit(1)
