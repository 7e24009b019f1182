"""`gvpo-bench eval`: one checkpoint on one or more benchmarks, or on tasks of lm-eval."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import rich.box
from pydantic import ValidationError
from rich.progress import Progress
from rich.table import Table

from benchmarks import load_benchmark
from benchmarks.judges import judge_for
from benchmarks.templates import load_template
from harness.evaluation.eval_settings import EvalSettings, Output
from harness.evaluation.evaluate import evaluate
from harness.model.language import load_model
from harness.record.environment import environment
from harness.record.files import RecordError, write, write_json
from harness.record.text import say, terminal, to_csv
from harness.sampling.engine import open_engine
from harness.statistics.intervals import crossed_interval
from harness.statistics.scores import OUTCOMES, pass_ks, problem_scores
from harness.suite.config import ConfigError, Model, Resources
from harness.suite.rollout_settings import Rollout


@dataclass(frozen=True)
class ResultFolder:
    """What an evaluation leaves: manifest.json, and a file for each benchmark or task that is finished.

    A folder goes on where it was: what is finished in it is not evaluated again, and only the same settings join it.
    """

    path: Path
    settings: Mapping[str, Any]

    def check(self) -> None:
        """Raises RecordError where the folder holds something else than an evaluation with these settings."""
        manifest = self.path / "manifest.json"
        if not manifest.is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise RecordError(f"--out {self.path} exists already and is no evaluation; choose a new folder")
            return
        recorded = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
        differing = [
            f"{key} was {recorded.get(key)!r}, now {self.settings.get(key)!r}"
            for key in {**recorded, **self.settings}
            if recorded.get(key) != self.settings.get(key)
        ]
        if differing:
            raise RecordError(
                f"--out {self.path} holds an evaluation with other settings ({'; '.join(differing)}), and nothing "
                "finished is mixed or overwritten; choose a new folder"
            )

    def begin(self, command: list[str], **more: Any) -> None:
        """Writes the manifest, unless an earlier run did."""
        if not (self.path / "manifest.json").is_file():
            about = {"command": command, "settings": self.settings, **more, **environment()}
            write_json(self.path / "manifest.json", about)


def run_evaluation(
    model: Model,
    benchmark_names: Sequence[str],
    settings: EvalSettings,
    *,
    engine: str,
    batch: int,
    workers: int,
    output: Output,
) -> pd.DataFrame:
    """Evaluates and prints a table; returns a row a sample. `batch` sequences are generated side by side.

    With a folder for the output, leaves there manifest.json, samples/<benchmark>.parquet as soon as a benchmark is
    finished, and scores.csv. Benchmarks that are finished there are not evaluated again.

    Raises ConfigError for anything unknown, DataError for missing problems, RecordError where the folder holds
    something else; all of them before sampling.
    """
    out, console, samples = output.folder, output.console, settings.samples
    assert isinstance(samples, int)
    temperature, max_new_tokens = settings.decoding
    rollout, resources = engine_settings(engine, batch)
    if temperature == 0 and samples > 1:
        raise ConfigError(f"--samples {samples} at --temperature 0: greedy decoding gives the same response each time")
    try:
        label = load_template(model.template).label
    except ValueError as error:
        raise ConfigError(f"--template: {error}") from None
    try:
        benchmarks = [load_benchmark(name) for name in dict.fromkeys(benchmark_names)]
    except ValueError as error:
        raise ConfigError(f"--benchmark: {error}") from None
    totals = {benchmark.name: len(benchmark.problems()[: settings.limit]) for benchmark in benchmarks}
    recorded = {
        "model": model.path,
        "revision": model.revision,
        "template": label,
        "samples": samples,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "limit": settings.limit,
        "seed": settings.seed,
        "engine": engine,
    }
    folder = None if out is None else ResultFolder(out, recorded)
    if folder is not None:
        folder.check()
    tables = {
        name: pd.read_parquet(found)
        for name in totals
        if out is not None and (found := out / "samples" / f"{name}.parquet").is_file()
    }
    missing = [benchmark for benchmark in benchmarks if benchmark.name not in tables]
    if tables:
        say(console, f"finished before: {', '.join(tables)}")

    def keep(name: str, table: pd.DataFrame) -> None:
        tables[name] = table
        if out is not None and folder is not None:
            folder.begin(output.command, **lm.about)
            write(out / "samples" / f"{name}.parquet", table.to_parquet(index=False))

    if missing:
        with console.status(terminal(f"loading {model.path}")):
            lm = load_model(model)
        with (
            Progress(console=console) as progress,
            judge_for(missing, workers=workers) as judges,
            open_engine(rollout, resources, lm.model, eos_ids=lm.eos_ids, precision=model.precision) as sampler,
        ):
            bars = {
                benchmark.name: progress.add_task(benchmark.name, total=totals[benchmark.name]) for benchmark in missing
            }
            evaluate(
                lm,
                sampler,
                missing,
                judges,
                dataclasses.replace(settings, chunk=max(1, batch // samples)),
                on_progress=lambda name, done, total: progress.update(bars[name], completed=done),
                on_benchmark=keep,
            )
    result = pd.concat([tables[name] for name in totals], ignore_index=True)
    scores = score_table(result)
    if out is not None:
        write(out / "scores.csv", to_csv(scores))
    console.print(render(scores, samples))
    return result


def engine_settings(engine: str, batch: int) -> tuple[Rollout, Resources]:
    """Raises ConfigError for an engine that does not exist."""
    try:
        return Rollout.model_validate({"engine": engine}), Resources(rollout_batch=batch)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None


def score_table(samples: pd.DataFrame) -> pd.DataFrame:
    """A row a benchmark: avg@k, pass@j and maj@k, each with its 95% interval over problems, and shares of the samples
    that were not correct, as fractions of 1."""
    rows = []
    for benchmark, problems in problem_scores(samples).groupby(level="benchmark", sort=False):
        row: dict[str, Any] = {"benchmark": benchmark, "problems": len(problems)}
        row["samples"] = int(problems["samples"].sum())
        chances = ["score", *(str(name) for name in problems if str(name).startswith(("pass_at_", "maj_at_")))]
        for name in chances:
            interval = crossed_interval([problems[name].to_numpy(dtype=float)[None, :]])
            column = "avg_at_k" if name == "score" else name
            row |= {column: interval.mean, f"{column}_low": interval.low, f"{column}_high": interval.high}
        row |= {name: problems[name].mean() for name in (*OUTCOMES, "tokens")}
        rows.append(row)
    return pd.DataFrame(rows)


def render(scores: pd.DataFrame, samples: int) -> Table:
    """The scores for a terminal of 80 columns, in percent; of pass@j the largest j."""
    chances = {f"avg@{samples}": "avg_at_k"}
    if samples > 1:
        chances |= {f"pass@{samples}": f"pass_at_{pass_ks(samples)[-1]}", f"maj@{samples}": "maj_at_k"}
    average, *others = chances
    shown = Table(title="percent, and tokens of a response", box=rich.box.SIMPLE_HEAD, padding=0)
    shown.add_column("benchmark", overflow="fold")
    outcomes = ("wrong", "no answer", "trun- cated", "not graded")
    for name in ("n", average, "95% CI", *others, *outcomes, "tokens"):
        shown.add_column(name.replace(" ", "\n").replace("@", "\n@"), justify="right", no_wrap=True)
    for _, row in scores.iterrows():
        low, high = row["avg_at_k_low"], row["avg_at_k_high"]
        shown.add_row(
            terminal(row["benchmark"]),
            str(row["problems"]),
            f"{100 * row['avg_at_k']:.1f}",
            "none" if pd.isna(low) else f"{100 * low:.1f}–{100 * high:.1f}",
            *(f"{100 * row[chances[name]]:.1f}" for name in others),
            *(f"{100 * row[name]:.1f}" for name in OUTCOMES),
            f"{row['tokens']:.4g}",
        )
    return shown
