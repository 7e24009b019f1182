"""A sweep from suite to report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import Timeout
from rich.console import Console

from benchmarks import Problem, load_benchmark
from benchmarks.errors import BenchError
from harness.model.language import check_adapter, check_model, resolve_path
from harness.model.ranks import join_ranks
from harness.model.teacher import teacher_settings
from harness.preflight.doctor import examine, require_health, shown, trains_on_gpu
from harness.record.cell_folder import CellFolder
from harness.record.disk_errors import MAKE_ROOM
from harness.record.files import remove
from harness.record.text import say, terminal
from harness.report.ablation import AblationReport, write_ablation
from harness.report.suite_report import Report, write_report
from harness.sampling.engine import check_engine
from harness.suite.cell_config import COEFFICIENTS
from harness.suite.config import ConfigError, Suite
from harness.suite.load import points_of
from harness.suite.plan import Cell, coefficients_job, plan, training_problems
from harness.suite.tracking_settings import Tracking
from harness.sweep.cells import run_cells, run_cells_on_ranks
from harness.sweep.events import Executor, Outcome
from harness.sweep.pool import LocalPool
from harness.tracking.tracked import check_trackers, tracked


def run_sweep(suite: Suite, out: Path, *, executor: Executor, command: list[str], console: Console) -> bool:
    """Runs what isn't finished, writes the report, and prints the table. Returns whether a cell failed.

    Where the executor stops before all cells are over (`Until`), the report is of the seeds that all algorithms have.
    Started by torchrun, it runs each cell on all ranks; rank 0 alone writes and prints.

    Raises ConfigError, DataError, RecordError or DoctorError before any work begins.
    """
    cells, runs = plan(suite), out / "runs" / suite.name
    points = f" × {len(suite.ablation.points)} points" if suite.ablation is not None else ""
    protocols = f" × {len(suite.protocols)} protocols" if len(suite.protocols) > 1 else ""
    about = f"suite {suite.name}: {len(suite.algorithms)} algorithms × {suite.seeds} seeds{points}{protocols}"
    with join_ranks(suite.model.device) as ranks:
        if ranks.alone:
            say(console, f"{about}; {executor}, {suite.resources} a cell")
            prepare_model(suite, console)
            check_health(suite, cells, out, executor.workers, console)
            with tracked(suite.tracking, suite.name, cells, runs, out / "tracking" / suite.name, console):
                outcome = run_cells(cells, runs, executor=executor, command=command, console=console)
        else:
            if not isinstance(executor, LocalPool):
                raise ConfigError(f"{executor}: under torchrun, cells run on its ranks; leave --ray and --minutes out")
            console = console if ranks.rank == 0 else Console(quiet=True)
            say(console, f"{about}; each on {ranks.size} ranks")
            ranks.first(lambda: prepare_model(suite, console))
            ranks.first(lambda: check_health(suite, cells, out, 1, console))
            tracking = suite.tracking if ranks.rank == 0 else Tracking()
            with tracked(tracking, suite.name, cells, runs, out / "tracking" / suite.name, console):
                outcome = run_cells_on_ranks(cells, runs, ranks=ranks, command=command, console=console)
    if ranks.rank > 0:
        return False
    report: Report | AblationReport
    left, seeds = still_to_run(cells, outcome)
    if left:
        whole = f"{len(seeds)} of {suite.seeds} seeds are whole" if seeds else "no seed is whole yet, so no report"
        console.print(f"time is up, {len(left)} of {len(cells)} cells are left: {whole}; the same command goes on")
    if left and (not seeds or suite.ablation is not None):
        return bool(outcome.failed)
    mend_comparison(runs, console)
    if suite.ablation is not None:
        report = write_ablation(runs, out / suite.name, ablation=suite.ablation, baseline=suite.report.baseline)
        console.print(report.render())
    else:
        report = write_report(
            runs,
            out / suite.name,
            baseline=suite.report.baseline,
            published=suite.report.published,
            seeds=seeds if left else None,
        )
        console.print(report.render())
        try:
            ran = (
                ranks.alone
                and not left
                and run_comparison(
                    suite.report.baseline,
                    [cell for cell in cells if cell.config.protocol == report.protocol],
                    runs,
                    executor=executor,
                    command=command,
                    console=console,
                )
            )
        except BenchError as error:  # the cells and their report are there, whatever becomes of one figure
            ran = False
            say(console, f"no gradient coefficients: {error}")
        if ran:
            report = write_report(
                runs, out / suite.name, baseline=suite.report.baseline, published=suite.report.published
            )
    if not left:
        drop_checkpoints(cells, runs)
    for name, where in outcome.failed.items():
        reason = CellFolder(runs / name).error()
        say(console, ("failed", "red"), f" {name}: {reason if reason.endswith(MAKE_ROOM) else where}")
    say(console, f"report: {report.path}")
    return bool(outcome.failed)


def still_to_run(cells: Sequence[Cell], outcome: Outcome) -> tuple[list[Cell], list[int]]:
    """The cells that are neither finished nor failed, and the seeds that have none of them."""
    over = {*outcome.finished, *outcome.reused, *outcome.failed}
    left = [cell for cell in cells if cell.name not in over]
    seeds = {cell.config.seed for cell in cells if cell.is_trained}
    return left, sorted(seeds - {cell.config.seed for cell in left if cell.is_trained})


def run_comparison(
    baseline: str, cells: Sequence[Cell], runs: Path, *, executor: Executor, command: list[str], console: Console
) -> bool:
    """Runs the job behind the figure of gradient coefficients, where it has something to do, after the report.

    It may fail where the cells did not, since it holds two models: why is in its folder, and the report says it.
    `cells` are of one protocol, that of the report's first table. Returns whether it ran.
    """
    finished = [
        cell
        for cell in cells
        if cell.is_trained
        and cell.config.seed == 0
        and CellFolder(runs / cell.name).state(cell.config.hashes()) == "finished"
    ]
    finished.sort(key=lambda cell: cell.config.label != baseline)
    if not finished or finished[0].config.label != baseline:
        return False
    job = coefficients_job(finished)
    folder = CellFolder(runs / job.name)
    if (manifest := folder.manifest()) is not None and manifest["hash"] != job.config.hashes().training:
        remove(folder.path)  # of fewer or other algorithms: it is derived from the cells, as the report is
    if folder.state(job.config.hashes()) == "finished":
        return False
    outcome = run_cells([job], runs, executor=executor, command=command, console=console)
    for label, reason in ((folder.manifest() or {}).get("left_out") or {}).items():
        say(console, f"no gradient coefficients of {label}: {reason}")
    if job.name in outcome.failed:
        say(console, f"no gradient coefficients: {folder.error()}")
    return True


def mend_comparison(runs: Path, console: Console) -> None:
    """Sets the comparison of gradient coefficients aside where it does not fit its checksums, and says so."""
    folder = CellFolder(runs / COEFFICIENTS)
    with contextlib.suppress(Timeout), folder.hold() if folder.faults() else contextlib.nullcontext():
        if faults := folder.faults():
            where = folder.set_aside(faults)
            say(console, f"{COEFFICIENTS}: {'; '.join(faults)}. Set aside in {where}; it is made again")


def drop_checkpoints(cells: Sequence[Cell], runs: Path) -> None:
    """Removes the trained model that was kept for the comparison of gradient coefficients and for nothing else."""
    for cell in cells:
        folder = CellFolder(runs / cell.name)
        kept_until_now = cell.keeps_checkpoint and not cell.config.resources.keep_checkpoints
        if kept_until_now and folder.state(cell.config.hashes()) == "finished":
            folder.drop_checkpoint()


def check_health(suite: Suite, cells: Sequence[Cell], out: Path, workers: int, console: Console) -> None:
    """Has the doctor look at a sweep that has something to run, and prints what it warns of. Raises DoctorError."""
    runs = out / "runs" / suite.name
    if all(CellFolder(runs / cell.name).state(cell.config.hashes()) == "finished" for cell in cells):
        return
    with shown(console) as tell:
        checks = examine(suite, cells, out, workers=workers, say=tell)
    require_health(checks, lambda line: say(console, line))


def prepare_model(suite: Suite, console: Console) -> None:
    """Checks the suite's model against its problems; a GGUF file is converted first, where it isn't cached.

    Raises ConfigError where the model is not to be had or has too few positions, or the rollout engine or a tracker
    cannot run here, before any cell starts.
    """
    check_trackers(suite.tracking)
    points = points_of(suite).values() or [suite]
    for point in points:
        check_adapter(point.model)
        check_engine(point.rollout, torch.device("cuda" if trains_on_gpu(suite) else "cpu"))
    for path in filter(None, (suite.model.path, suite.model.teacher)):
        with console.status(terminal(f"loading {path}")):
            resolve_path(suite.model.model_copy(update={"path": path}))
    lengths = [length for point in points if (length := point.rollout.vllm_or_default.max_model_len) is not None]
    uses: dict[str, tuple[Sequence[Problem], int]] = {}
    # The points of an ablation mostly share their problems, of which each is tokenised once, for the longest response.
    for point in sorted(points, key=lambda point: point.train.max_new_tokens):
        train, evaluation = point.train, point.evaluation
        uses[f"train.benchmark {train.benchmark}"] = (training_problems(train), train.max_new_tokens)
        for name in (*evaluation.benchmarks, *evaluation.hard_benchmarks):
            problems = load_benchmark(name).problems()[: evaluation.limit]
            uses[f"evaluation on {name}"] = (problems, evaluation.max_new_tokens or train.max_new_tokens)
    check_model(suite.model, uses, max_model_len=min(lengths, default=None))
    if suite.model.teacher is not None:
        try:
            check_model(teacher_settings(suite.model), {use: x for use, x in uses.items() if use.startswith("train")})
        except ConfigError as error:
            raise ConfigError(f"model.teacher: {error}") from None
