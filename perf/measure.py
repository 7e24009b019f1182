"""`make perf`: what a step costs, side by side with TRL, against the machine's matrix peak and between our own choices.

Processes under comparison stay alive and take turns block by block, so that a change in the machine's load meets all
of them. A ratio is taken within each round; the table gives the median over rounds and the extremes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pandas as pd
import typer
from blocks import Child
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import load_benchmark
from harness.model.language import resolve_path
from harness.processes.fork_server import WORKER_ENVIRONMENT
from harness.record.environment import environment
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.suite.load import load_suite
from harness.suite.plan import Cell, plan
from harness.sweep.cells import run_cells
from harness.sweep.pool import LocalPool
from harness.training.schedule import prompts_of_step

HERE = Path(__file__).resolve().parent
LABELS = ("grpo", "gvpo", "ppo", "dpo", "kimi", "pg")
STANDING_STILL = 1e-12
"""The learning rate: every update is made, but responses stay as long as the base's, the same work for everyone."""
TOKEN_BUDGET = 4096
"""Two passes are taken only where a mini-batch does not fit: the 256 responses of a step must not, to be measured."""
ENVIRONMENT = {**WORKER_ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
"""Of every process that is measured, the peer's included: one thread, the same memory settings."""


class Section(StrEnum):
    """What is measured."""

    trl = "trl"
    parts = "parts"
    algorithms = "algorithms"
    workers = "workers"
    smollm2 = "smollm2"


@dataclass(frozen=True)
class Measurement:
    """One line of the table."""

    name: str
    values: list[float]
    """One a round."""
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def target(self) -> str:
        """As text; empty where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    @property
    def met(self) -> str:
        """yes or no; empty where there is no target."""
        if not self.target:
            return ""
        ok = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return "yes" if ok else "no"

    @property
    def spread(self) -> str:
        """The least and the most."""
        return f"{min(self.values):.4g} – {max(self.values):.4g}"

    def __str__(self) -> str:
        target = f", target {self.target}: {'met' if self.met == 'yes' else 'missed'}" if self.target else ""
        return f"{self.name}: {self.value:.4g} {self.unit} ({self.spread}){target}"

    def row(self) -> dict[str, Any]:
        """As a row of table.csv."""
        return {
            "measurement": self.name,
            "median": self.value,
            "min": min(self.values),
            "max": max(self.values),
            "unit": self.unit,
            "rounds": len(self.values),
            "target": self.target,
            "met": self.met,
        }


def cells(updates: int, seeds: int = 1, **train: int) -> dict[str, list[Cell]]:
    """The embedded suite's cells by label, at the algorithms' defaults (GRPO's beta is 0)."""
    overrides = [
        f"train.mini_batches={updates}",
        f"resources.token_budget={TOKEN_BUDGET}",
        "resources.checkpoint_every=0",
    ]
    overrides += [f"train.{key}={value}" for key, value in train.items()]
    for label in LABELS:
        overrides.append(f"algorithms.{label}.parameters={{}}")
        overrides.append(
            f"algorithms.{label}.optimizer={{lr={STANDING_STILL}, critic_lr={STANDING_STILL}, max_norm=1.0}}"
        )
    planned = [cell for cell in plan(load_suite("embedded", overrides), range(seeds)) if cell.is_trained]
    return {label: [cell for cell in planned if cell.config.label == label] for label in LABELS}


def pretrained_cell(precision: str) -> Cell:
    """GRPO of the suite smollm2-cpu, with a step of 16 responses."""
    overrides = ["train.prompts=2", "train.mini_batches=1", "resources.checkpoint_every=0"]
    planned = plan(load_suite("smollm2-cpu", [*overrides, f"model.precision={precision}"]), [0])
    return next(cell for cell in planned if cell.config.label == "grpo")


class Bench:
    """Starts the processes, gives them their turns, and keeps what they took."""

    def __init__(self, peer: Path, rounds: int, steps: int, scratch: Path, progress: Progress) -> None:
        self.peer, self.rounds, self.steps, self.scratch, self.progress = peer, rounds, steps, scratch, progress

    def _settings(self, name: str, text: str) -> str:
        path = self.scratch / f"{name}.json"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def harness(self, cell: Cell, script: str = "harness_child.py") -> Child:
        """A script of this folder at the settings of a cell."""
        name = f"{cell.name}-{cell.config.train.mini_batches}"
        settings = self._settings(name, cell.config.model_dump_json())
        return Child([sys.executable, str(HERE / script), settings], ENVIRONMENT)

    def trl(self, cell: Cell) -> Child:
        """TRL at the settings of a cell."""
        config, train = cell.config, cell.config.train
        assert config.optimizer is not None
        problems = load_benchmark(train.benchmark).problems()
        steps = len(problems) // train.prompts
        chosen = [p for step in range(steps) for p in prompts_of_step(problems, config.seed, step, train.prompts)]
        settings = {
            "model": resolve_path(config.model),
            "prompts": [problem.prompt for problem in chosen],
            "prompts_per_step": train.prompts,
            "samples": train.samples,
            "updates": train.mini_batches,
            "max_new_tokens": train.max_new_tokens,
            "lr": config.optimizer.lr,
            "max_norm": config.optimizer.max_norm,
            "betas": config.optimizer.betas,
        }
        path = self._settings(f"trl-{train.mini_batches}", json.dumps(settings))
        return Child([str(self.peer), str(HERE / "trl_child.py"), path], ENVIRONMENT)

    def take_turns(self, what: str, children: dict[str, Child]) -> dict[str, list[float]]:
        """Median seconds a step of each child's block in each round. A block's first step wakes the process up."""
        seconds: dict[str, list[float]] = {name: [] for name in children}
        task = self.progress.add_task(what, total=self.rounds * len(children))
        for _ in range(self.rounds):
            for name, child in children.items():
                seconds[name].append(median(child.block(self.steps + 1)[1:]))
                self.progress.advance(task)
        return seconds

    def against_trl(self, updates: int, target: float) -> Iterator[Measurement]:
        """The GRPO step of both, and TRL's seconds over ours."""
        grpo = cells(updates, steps=10**6)["grpo"][0]
        with closing({"gvpo-bench": self.harness(grpo), "TRL": self.trl(grpo)}) as children:
            seconds = self.take_turns(f"TRL, {updates} updates", children)
        where = f"GRPO step of 256 responses, {updates} update{'s' if updates > 1 else ''}"
        for name, values in seconds.items():
            yield Measurement(f"{where}: {name}", values, "s")
        yield Measurement(f"{where}: TRL / gvpo-bench", ratios(seconds["TRL"], seconds["gvpo-bench"]), "×", target)

    def timed_parts(self, cell: Cell, rounds: int, what: str) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """What parts_child.py says of its parts, and their seconds."""
        with closing({"parts": self.harness(cell, "parts_child.py")}) as children:
            about = json.loads(Path(children["parts"].command[-1]).with_suffix(".about.json").read_text("utf-8"))
            seconds: dict[str, list[float]] = {name: [] for name in about["parts"]}
            for _ in self.progress.track(range(rounds), description=what):
                for name, value in zip(seconds, children["parts"].block(len(seconds)), strict=True):
                    seconds[name].append(value)
        return about, seconds

    def parts(self) -> Iterator[Measurement]:
        """The parts of a step, and their share of the machine's peak."""
        about, seconds = self.timed_parts(cells(1)["grpo"][0], 3 * self.rounds, "parts of a step")
        rate = {name: [flops / s for s in seconds[name]] for name, flops in about["flops"].items()}
        yield Measurement("Matrix peak, float32, one thread", [r / 1e9 for r in rate["peak"]], "GFLOP/s")
        for part, name, target in (
            ("generation", "Generation", 0.15),
            ("one pass", "Training, forward and backward in one pass", 0.35),
        ):
            yield Measurement(f"{name}: share of the peak", ratios(rate[part], rate["peak"]), "", target)
            for kind, share in about["where"][part].items():
                yield Measurement(f"{name}: time in {kind}", [share], "")
        name = "Forward and backward: two passes / one pass"
        yield Measurement(name, ratios(seconds["two passes"], seconds["one pass"]), "×", at_most=1.45)
        yield from bare_loop_ratios("Embedded", about, seconds)

    def against_a_bare_loop(self, precision: str) -> Iterator[Measurement]:
        """Both halves of a step on SmolLM2-135M, and a bare loop's seconds over ours."""
        cell = pretrained_cell(precision)
        about, seconds = self.timed_parts(cell, max(1, self.rounds // 2), f"SmolLM2-135M, {precision}")
        yield from bare_loop_ratios(f"SmolLM2-135M in {precision}", about, seconds)

    def algorithms(self, updates: int = 16) -> Iterator[Measurement]:
        """The step of each algorithm, and its seconds over GRPO's."""
        planned = cells(updates, steps=10**6)
        with closing({label: self.harness(planned[label][0]) for label in LABELS}) as children:
            seconds = self.take_turns("algorithms", children)
        for label, values in seconds.items():
            yield Measurement(f"Step at {updates} updates: {label}", values, "s")
            if label != "grpo":
                yield Measurement(f"Step at {updates} updates: {label} / grpo", ratios(values, seconds["grpo"]), "×")

    def workers(self, count: int, steps: int) -> Iterator[Measurement]:
        """The same GRPO cells, evaluation included, from the start of the processes to the last cell's end."""
        planned = cells(16, seeds=count, steps=steps)["grpo"]
        rounds = max(1, self.rounds // 2)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        task = self.progress.add_task("worker processes", total=2 * rounds)
        for _ in range(rounds):
            for workers, values in seconds.items():
                with tempfile.TemporaryDirectory(dir=self.scratch) as runs:
                    started = time.perf_counter()
                    outcome = run_cells(
                        planned, Path(runs), executor=LocalPool(workers), command=sys.argv, console=Console(quiet=True)
                    )
                    values.append(time.perf_counter() - started)
                if outcome.failed:
                    raise RuntimeError(f"cells failed: {outcome.failed}")
                self.progress.advance(task)
        for workers, values in seconds.items():
            yield Measurement(f"Sweep of {count} cells, {workers} worker{'s' if workers > 1 else ''}", values, "s")
        yield Measurement("Two workers against one", ratios(seconds[1], seconds[2]), "×", 1.7)


def bare_loop_ratios(where: str, about: dict[str, Any], seconds: dict[str, list[float]]) -> Iterator[Measurement]:
    """Tokens a second of both halves of a step, and a bare loop's seconds over ours."""
    for name, count, ours, compared in (
        ("generation", about["response tokens"], "generation", "endless generation"),
        ("training", about["tokens"], "one pass", "one pass"),
    ):
        yield Measurement(f"{where}, {name}: tokens", [count / s for s in seconds[ours]], "tokens/s")
        against = ratios(seconds[f"bare {name}"], seconds[compared])
        yield Measurement(f"{where}, {name}: bare loop / gvpo-bench", against, "×", 0.8)


@contextlib.contextmanager
def closing(children: dict[str, Child]) -> Iterator[dict[str, Child]]:
    """Ends the children afterwards."""
    try:
        yield children
    finally:
        for child in children.values():
            child.close()


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def peer_versions(peer: Path) -> dict[str, str]:
    """Raises FileNotFoundError where the peer's environment has not been made."""
    code = "import json, importlib.metadata as m; print(json.dumps({p: m.version(p) for p in %r}))"
    packages = ["trl", "torch", "transformers", "accelerate"]
    out = subprocess.run([str(peer), "-c", code % packages], capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def write_table(measurements: Sequence[Measurement], out: Path, about: dict[str, str]) -> None:
    """Writes table.csv and table.md."""
    frame = pd.DataFrame([m.row() for m in measurements])
    write(out / "table.csv", frame.to_csv(index=False))
    lines = ["# Speed", ""]
    lines += [f"- {name}: {text}" for name, text in about.items()]
    headings = ["measurement", "median", "min – max", "target", "met"]
    rows = [[m.name, f"{m.value:.4g} {m.unit}".rstrip(), m.spread, m.target, m.met] for m in measurements]
    lines += ["", markdown_table(headings, rows), "", NOTES]
    write(out / "table.md", "\n".join(lines))


NOTES = f"""\
Medians over rounds in which the compared processes take turns; a ratio is taken within its round. Each process has one
thread and keeps freed memory (glibc's thresholds), TRL's too. The learning rate is {STANDING_STILL:g}, so that
responses stay as long as the base's and every process does the same work.

- TRL: GRPOTrainer with transformers' generate, the same checkpoint, prompts in the same order, 32 × 8 responses of at
  most 16 tokens, beta 0, fused AdamW, clipping at 1, no logging, no saving, and a reward that costs nothing (gvpo-bench
  grades). 16 updates are per_device_train_batch_size 16 and steps_per_generation 16: one generation of 256 responses,
  each trained on once.
- Share of the peak: 6 FLOPs per parameter and token of prompt and response in training, 2 per parameter and generated
  token in generation; padding and prefill count as no work done. Training is the 256 responses of a step at a token
  budget of {TOKEN_BUDGET}, without the optimiser.
- Bare loop: transformers' forward passes with a DynamicCache and multinomial, each prompt prefilled once, against our
  engine, both to the length limit in every response; and transformers' loss with its backward pass, on the same
  micro-batches.
- Time in matrix products, attention, other operators, Python and dispatch: shares by torch's profiler, which itself
  makes the last one larger than it is.
- Algorithms run at their defaults on the same rollouts.
- Workers: wall time of whole GRPO cells with their evaluation, start of the processes included.
"""


def main(
    peer: Annotated[Path, typer.Option(help="Python of the environment that TRL is installed in.")] = Path(
        ".venv-trl/bin/python"
    ),
    out: Annotated[Path, typer.Option(help="Where table.md and table.csv go.")] = Path("results/perf"),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each process.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Counted steps of a turn.")] = 3,
    sweep_cells: Annotated[int, typer.Option(min=2, help="Cells of the sweep with one and two workers.")] = 8,
    cell_steps: Annotated[int, typer.Option(min=1, help="Training steps of each of them.")] = 20,
    section: Annotated[
        list[Section] | None,
        typer.Option(help="What to measure; by default all but smollm2, which compares SmolLM2-135M with a bare loop."),
    ] = None,
) -> None:
    """Measures the step of training beside TRL's, its parts, and the algorithms beside each other."""
    console = Console()
    if not peer.is_file():
        console.print(f"[red]There is no {peer}: run make perf, which sets it up, or give --peer[/]")
        raise typer.Exit(2)
    sections = section or [chosen for chosen in Section if chosen != Section.smollm2]
    if Section.smollm2 in sections:
        resolve_path(pretrained_cell("float32").config.model)  # refuses now what would fail at the end
    env, load, theirs = environment(), os.getloadavg()[0], peer_versions(peer)
    if load > 0.5:
        console.print(f"[yellow]The machine is not quiet (load {load:.1f}): only ratios mean something[/]")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory() as scratch:
        bench = Bench(peer, rounds, steps, Path(scratch), progress)
        measurements = []
        taken = {
            Section.trl: lambda: itertools.chain(bench.against_trl(1, 1.5), bench.against_trl(16, 2.0)),
            Section.parts: bench.parts,
            Section.algorithms: bench.algorithms,
            Section.workers: lambda: bench.workers(sweep_cells, cell_steps),
            Section.smollm2: lambda: itertools.chain(*map(bench.against_a_bare_loop, ("float32", "bfloat16"))),
        }
        for measurement in itertools.chain.from_iterable(taken[chosen]() for chosen in sections):
            measurements.append(measurement)
            colour = {"yes": "green", "no": "red"}.get(measurement.met, "default")
            console.print(f"[{colour}]{measurement}[/]", highlight=False)
    ours = {name: version for name, version in env["versions"].items() if name in ("python", "torch", "transformers")}
    git = env["git"] or {}
    about = {
        "Hardware": f"{env['hardware']['cpu']}, {env['hardware']['cores']} cores, {platform.system()}; load before "
        f"the start {load:.2f}",
        "gvpo-bench": ", ".join(f"{k} {v}" for k, v in ours.items())
        + f"; commit {git.get('commit', 'unknown')[:12]}{' with local changes' if git.get('dirty') else ''}",
        "TRL": ", ".join(f"{k} {v}" for k, v in theirs.items()),
        "Command": f"`python perf/measure.py {' '.join(sys.argv[1:])}".rstrip() + "`",
        "Date": env["date"],
    }
    write_table(measurements, out, about)
    console.print(f"Written to {out}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
