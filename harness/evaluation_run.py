"""`gvpo-bench eval`: one checkpoint on one or more benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import load_benchmark
from benchmarks.templates import TEMPLATES
from harness.config import ConfigError, Model
from harness.evaluate import evaluate
from harness.models import load_model
from harness.record import RecordError, environment, new_folder, write_json
from harness.reward import judge_for
from harness.rollout import ENGINES
from harness.statistics import crossed_interval


def run_evaluation(
    path: str,
    benchmark_names: Sequence[str],
    *,
    template: str,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    limit: int | None,
    seed: int,
    engine: str,
    batch: int,
    workers: int,
    out: Path | None,
    command: list[str],
    console: Console,
) -> pd.DataFrame:
    """Evaluates and prints a table; with `out`, leaves manifest.json and samples.parquet there.

    Raises ConfigError for anything unknown, DataError for missing problems, RecordError where `out` exists already.
    """
    if out is not None and out.exists():
        raise RecordError(f"--out {out} exists already, and nothing finished is overwritten; choose a new folder")
    if template not in TEMPLATES:
        raise ConfigError(f"--template {template!r}: choose from {', '.join(TEMPLATES)}")
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine!r}: choose from {', '.join(ENGINES)}")
    if temperature == 0 and samples > 1:
        raise ConfigError(f"--samples {samples} at --temperature 0: greedy decoding gives the same response each time")
    try:
        benchmarks = [load_benchmark(name) for name in benchmark_names]
    except ValueError as error:
        raise ConfigError(f"--benchmark: {error}") from None
    totals = {benchmark.name: len(benchmark.problems()[:limit]) for benchmark in benchmarks}
    lm = load_model(Model(path=path, template=template))

    with Progress(console=console) as progress, judge_for(benchmarks, workers=workers) as judges:
        bars = {name: progress.add_task(name, total=total) for name, total in totals.items()}
        table = evaluate(
            lm,
            ENGINES[engine](lm.model, eos_ids=lm.eos_ids, batch=batch),
            benchmarks,
            judges,
            samples=samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            limit=limit,
            on_progress=lambda name, done, total: progress.update(bars[name], completed=done),
            chunk=max(1, batch // samples),
        )
    if out is not None:
        with new_folder(out) as folder:
            table.to_parquet(folder / "samples.parquet", index=False)
            settings = {
                "model": path,
                "template": TEMPLATES[template].label,
                "samples": samples,
                "temperature": temperature,
                "max_new_tokens": max_new_tokens,
                "limit": limit,
                "seed": seed,
                "engine": engine,
            }
            write_json(folder / "manifest.json", {"command": command, "settings": settings, **environment()})
    console.print(summary(table, samples))
    return table


def summary(table: pd.DataFrame, samples: int) -> Table:
    """avg@k with its interval over problems, and what went wrong, in percent of the samples."""
    shown = Table(
        "benchmark", "problems", f"avg@{samples} (95% CI)", "truncated", "no answer", "grader failures", "tokens"
    )
    for name, rows in table.groupby("benchmark", sort=False):
        score_P = rows.groupby("problem_id", sort=False)["score"].mean().to_numpy()
        if len(score_P) > 1:
            interval = crossed_interval([score_P[None, :]])
            score = f"{100 * interval.mean:.2f}% [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
        else:
            score = f"{100 * score_P.mean():.2f}% (one problem: no interval)"
        failures = rows["verdict"].isin(["timeout", "error"]).mean()
        shown.add_row(
            str(name),
            str(len(score_P)),
            score,
            f"{100 * (rows['finish'] == 'length').mean():.1f}%",
            f"{100 * (rows['verdict'] == 'no_answer').mean():.1f}%",
            f"{100 * failures:.1f}%",
            f"{rows['tokens'].mean():.1f}",
        )
    return shown
