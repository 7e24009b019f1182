"""Runs the cells of a suite that are not finished, wherever an executor puts them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.model.ranks import Ranks
from harness.record.cell_folder import CellFolder
from harness.record.files import refuse_links
from harness.record.standing import PlannedCell, write_plan
from harness.record.text import say
from harness.suite.config import ConfigError
from harness.suite.plan import Cell
from harness.sweep.cell import run_cell
from harness.sweep.display import _Display
from harness.sweep.events import CellEnd, CellProgress, Executor, Outcome
from harness.sweep.pool import most


def run_cells(
    cells: Sequence[Cell], runs: Path, *, executor: Executor, command: list[str], console: Console
) -> Outcome:
    """Runs every cell that isn't finished. A cell that fails does not stop the others.

    Raises RecordError where a cell was finished with other settings, and ConfigError where it would have no GPU for a
    model that must be on one, or under torchrun, whose processes would all do it, before anything starts.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("only `gvpo-bench sweep` runs under torchrun, its cells one after another on all ranks")
    if any(cell.config.model.device == "cuda" and cell.config.resources.gpus == 0 for cell in cells):
        raise ConfigError(
            "model.device = 'cuda' with resources.gpus = 0: a cell would see no GPU; set resources.gpus = "
            f"{most(cells).ranks}"
        )
    outcome, waiting = unfinished(cells, runs, console)
    if not waiting:
        return outcome
    with _Display(waiting, console) as display:
        for wave in waves(waiting):
            with contextlib.closing(executor.run(wave, runs, command)) as events:
                for event in events:
                    display.show(event)
                    if isinstance(event, CellEnd) and event.status == "finished":
                        outcome.finished.append(event.cell.name)
                    elif isinstance(event, CellEnd):
                        outcome.failed[event.cell.name] = str(CellFolder(runs / event.cell.name).traceback_path)
    return outcome


def waves(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in the order in which they may run: those that are trained on what another of these cells records wait
    for all others."""
    replaying = [cell.config.replays is not None and not cell.config.train.replays_other_runs for cell in cells]
    found = [[cell for cell, later in zip(cells, replaying, strict=True) if later == wave] for wave in (False, True)]
    return [wave for wave in found if wave]


def run_cells_on_ranks(
    cells: Sequence[Cell], runs: Path, *, ranks: Ranks, command: list[str], console: Console
) -> Outcome:
    """Runs every cell that isn't finished, one after another, each on all ranks of the process group.

    Every rank must call it. A cell that fails is recorded and ends the sweep by its exception, since it must end every
    rank.

    Raises RecordError where a cell was finished with other settings, before anything starts.
    """
    # Rank 0 judges for all: a file system that lags behind on one of them would pair different cells.
    outcome, waiting = ranks.first(lambda: unfinished(cells, runs, console))
    with _Display(waiting, console) as display:
        for cell in waiting:

            def on_progress(stage: str, done: int, total: int, reward: float | None, cell: Cell = cell) -> None:
                display.show(CellProgress(cell, stage, done, total, reward))

            started = time.monotonic()
            status = run_cell(cell, runs, command, on_progress)
            display.show(CellEnd(cell, status, time.monotonic() - started))
            outcome.finished.append(cell.name)
    return outcome


def unfinished(cells: Sequence[Cell], runs: Path, console: Console) -> tuple[Outcome, list[Cell]]:
    """The outcome so far, and the cells still to run. Sets aside what does not fit its checksums, and says so; leaves
    beside the cells which they are, for whoever watches.

    Raises RecordError where a cell was finished with other settings, or a link or something of the wrong kind is there.
    """
    outcome, unsealed, without_samples = Outcome(), 0, 0
    waiting: list[Cell] = []
    for cell in cells:
        folder, hashes = CellFolder(runs / cell.name), cell.config.hashes()
        for above in folder.path.relative_to(runs).parents:  # the point of an ablation
            if above != Path() and (runs / above).is_symlink():
                refuse_links(runs / above)
        if said := folder.mend(hashes):
            say(console, f"{cell.name}: {said}")
        state = folder.state(hashes)
        if (every := cell.config.train.keep_samples_every) and cell.is_trained:
            without_samples += folder.kept.missing(every, folder.lasting_steps(hashes, state))
        if state == "finished":
            outcome.reused.append(cell.name)
            unsealed += not folder.is_sealed()
            folder.tidy()
        else:
            waiting.append(cell)
    if outcome.reused:
        without = f", {unsealed} of them recorded without checksums" if unsealed else ""
        console.print(f"{len(outcome.reused)} of {len(cells)} cells were finished before{without}")
    if without_samples:
        console.print(
            f"train.keep_samples_every: {without_samples} of {len(cells)} cells keep no responses of steps that they "
            "were trained before it was set, and are not trained again for it; remove a cell's folder to have them"
        )
    if waiting and not any(cell.reads for cell in cells):
        write_plan(runs, planned(cells))
    return outcome, waiting


def planned(cells: Sequence[Cell]) -> list[PlannedCell]:
    """The cells as whoever watches the sweep is told of them."""
    return [
        PlannedCell(
            cell=cell.name,
            algorithm=cell.config.run_label,
            seed=cell.config.seed if cell.is_trained else None,
            steps=cell.config.train.steps if cell.is_trained else 0,
            benchmark=cell.config.train.benchmark,
        )
        for cell in cells
    ]
