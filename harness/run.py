"""A sweep from suite to report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import load_benchmark
from harness.cells import plan
from harness.coefficients import write_coefficients
from harness.config import Suite
from harness.embedded import embedded_base
from harness.models import check_model, device_of
from harness.report import write_report
from harness.rollout import check_engine
from harness.sweep import run_cells


def run_sweep(suite: Suite, out: Path, *, workers: int, command: list[str], console: Console) -> bool:
    """Runs what isn't finished, writes the report, and prints the table. Returns whether a cell failed.

    Raises ConfigError, DataError or RecordError before any work begins.
    """
    cells = plan(suite)
    console.print(f"suite {suite.name}: {len(suite.algorithms)} algorithms × {suite.seeds} seeds, {workers} workers")
    prepare_model(suite, console)
    runs = out / "runs" / suite.name
    outcome = run_cells(cells, runs, workers=workers, command=command, console=console)
    for label, reason in write_coefficients(suite, cells, runs).items():
        console.print(f"no gradient coefficients of {label}: {reason}", highlight=False)
    report = write_report(runs, out / suite.name, baseline=suite.report.baseline)
    console.print(report.render())
    for name, where in outcome.failed.items():
        console.print(f"[red]failed[/] {name}: {where}", highlight=False)
    console.print(f"report: {report.path}", soft_wrap=True, highlight=False)
    return bool(outcome.failed)


def prepare_model(suite: Suite, console: Console) -> None:
    """Trains the embedded base, with progress, where the suite uses it and it isn't cached.

    Raises ConfigError where the model is not to be had or has too few positions, or the rollout engine cannot run here,
    before any cell starts.
    """
    check_engine(suite.rollout, device_of(suite.model))
    if suite.model.path == "embedded":
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("training the embedded base", total=None)
            embedded_base(progress=lambda done, total, _: progress.update(task, completed=done, total=total))
    train, evaluation = suite.train, suite.evaluation
    uses = {f"train.benchmark {train.benchmark}": (load_benchmark(train.benchmark).problems(), train.max_new_tokens)}
    for name in (*evaluation.benchmarks, *evaluation.hard_benchmarks):
        problems = load_benchmark(name).problems()[: evaluation.limit]
        uses[f"evaluation on {name}"] = (problems, evaluation.max_new_tokens or train.max_new_tokens)
    check_model(suite.model, uses, max_model_len=suite.rollout.vllm_or_default.max_model_len)
