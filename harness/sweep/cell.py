"""A suite as cells: one run of one algorithm at one seed, and the base model's evaluation."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from algorithms import Algorithm
from benchmarks import load_benchmark
from benchmarks.judges import judge_for
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.evaluate import evaluate
from harness.model.language import frozen_copy, load_model
from harness.model.policy import PolicyModel, logprob_chunk, shard
from harness.model.ranks import Ranks, free_memory
from harness.model.scorer import Scorer
from harness.record.cell_folder import CellFolder, RecordError
from harness.record.environment import environment
from harness.record.files import new_folder, write
from harness.record.ledger import Spent
from harness.sampling.engine import open_engine
from harness.suite.plan import Cell, build_algorithm, settings_hash, training_problems
from harness.training.train import train

OnProgress = Callable[[str, int, int, float | None], None]
"""Called with what is being done, how far it is, how far it goes, and the last training reward."""


def run_cell(cell: Cell, runs: Path, command: list[str], on_progress: OnProgress) -> str:
    """Runs a cell, or continues it. Returns "finished" or "failed"; a failure's traceback lies in the cell's folder.

    Within a process group of torch's (`join_ranks`) the cell runs on all of its ranks, each of which must call this
    with the same arguments and the same folder on a shared disk. There a failure is raised, once it is recorded: the
    others may wait for this rank, and it has to end for them to end.
    """
    ranks = Ranks.of_group()
    folder = CellFolder(runs / cell.name)
    cell_hash = cell.config.hash()
    with folder.claim(cell_hash) if ranks.rank == 0 else contextlib.nullcontext():
        if ranks.first(lambda: folder.is_finished(cell_hash)):
            return "finished"
        started = time.perf_counter()
        result: dict[str, Any] = {"seconds": {}}
        status, failure = "finished", None
        try:
            result = _work(cell, folder, on_progress, ranks)
        except Exception as error:
            # The first rank to fail has the reason; the others will only say that they lost it.
            if not folder.has_traceback():
                folder.write_traceback(traceback.format_exc())
            status, failure = "failed", error
        result["seconds"]["wall"] = time.perf_counter() - started
        if ranks.rank == 0 or failure is not None:
            folder.finish({**_about(cell, command), **result, "ranks": ranks.size, "status": status})
        if failure is not None and not ranks.alone:
            raise failure
        return status


def bury_cell(
    cell: Cell, runs: Path, command: list[str], reason: str, seconds: float, place: Mapping[str, Any] | None = None
) -> str:
    """Records that the process which ran a cell died before it could say so: the cell failed, unless it was over.

    Writes nothing into a folder that another process holds. `place` is the `environment` of the machine that the
    process ran on, where it was not this one.
    """
    folder, cell_hash = CellFolder(runs / cell.name), cell.config.hash()
    with contextlib.suppress(RecordError), folder.claim(cell_hash):
        if folder.is_finished(cell_hash):
            return "finished"
        folder.write_traceback(reason)
        folder.finish({**_about(cell, command), **(place or {}), "seconds": {"wall": seconds}, "status": "failed"})
    return "failed"


def _about(cell: Cell, command: list[str]) -> dict[str, Any]:
    """What the manifest says of a cell before its results."""
    return {
        "suite": cell.config.suite,
        "cell": cell.name,
        "algorithm": cell.config.label,
        "display": cell.config.label,
        "seed": None if cell.is_base else cell.config.seed,
        "hash": cell.config.hash(),
        "suite_hash": settings_hash(cell.config),
        "command": command,
        "config": _resolved(cell),
        **environment(),
    }


def _algorithm(cell: Cell, folder: CellFolder) -> Algorithm:
    """The cell's algorithm; a user's file runs from the copy that the cell keeps of it, on whatever machine this is."""
    config, spec = cell.config, cell.config.algorithm
    if cell.source is not None:
        copy = folder.path / "algorithm.py"
        write(copy, cell.source)
        spec = f"{copy}:{spec.rpartition(':')[2]}"
    return build_algorithm(spec, config.parameters, where=f"algorithms.{config.label}")


def _resolved(cell: Cell) -> dict[str, Any]:
    resolved = cell.config.model_dump(mode="json")
    entry = {
        "name": resolved.pop("algorithm"),
        "optimizer": resolved.pop("optimizer"),
        "parameters": resolved.pop("parameters"),
        "source_sha256": resolved.pop("source_sha256"),
    }
    return {**resolved, **cell.suite, "resources": cell.config.resources.model_dump(), "algorithm": entry}


def _work(cell: Cell, folder: CellFolder, on_progress: OnProgress, ranks: Ranks) -> dict[str, Any]:
    config, settings = cell.config, cell.config.evaluation
    cpu = time.process_time()
    on_progress("load", 0, 1, None)
    free_memory()  # of this process's last cell
    lm = load_model(config.model)
    precision, budget = config.model.precision, config.resources.token_budget
    chunk = logprob_chunk(lm.model, config.resources.logprob_chunk, budget)
    base = Scorer(PolicyModel(frozen_copy(lm.model), chunk), precision=precision, ranks=ranks)
    shard(base.model, ranks)
    train_benchmark = load_benchmark(config.train.benchmark)
    scored = [load_benchmark(name) for name in (*settings.benchmarks, *settings.hard_benchmarks)]

    with (
        judge_for([train_benchmark, *scored]) as judges,
        open_engine(config.rollout, config.resources, lm.model, eos_ids=lm.eos_ids, precision=precision) as engine,
    ):
        spent, display = Spent(), "base"
        if not cell.is_base:
            algorithm = _algorithm(cell, folder)
            display = getattr(algorithm, "name", config.label)

            def on_step(step: int, row: Mapping[str, float]) -> None:
                on_progress("train", step, config.train.steps, row["reward"])

            problems, judge = training_problems(config.train), judges[train_benchmark.name]
            spent = train(config, algorithm, lm, engine, problems, judge, folder, on_step, ranks)
            free_memory()

        evaluation_started = time.perf_counter()
        policy = PolicyModel(lm.model, chunk)
        engine.sync(policy)
        samples = evaluate(
            lm,
            engine,
            scored,
            judges,
            EvalSettings(
                samples={benchmark.name: settings.samples_of(benchmark.name) for benchmark in scored},
                temperature=settings.temperature,
                max_new_tokens=settings.max_new_tokens or config.train.max_new_tokens,
                seed=config.seed,
                limit=settings.limit,
                token_budget=budget,
            ),
            scorer=Scorer(policy, precision=precision, ranks=ranks),
            base=base,
            on_progress=lambda name, done, total: on_progress(f"evaluate {name}", done, total, None),
            ranks=ranks,
        )
    evaluation_seconds = time.perf_counter() - evaluation_started

    def export() -> None:
        if not cell.is_base:
            with new_folder(folder.checkpoint_path) as scratch:
                lm.model.save_pretrained(scratch)
                lm.tokenizer.save_pretrained(scratch)
        write(folder.path / "samples.parquet", samples.to_parquet(index=False))

    ranks.first(export)
    return {
        "display": display,
        "template": lm.template_label,
        "tokens": {
            "generated": spent.generated,
            "trained": spent.trained,
            "scored": spent.scored,
            "reference": spent.reference,
            "critic": spent.critic,
            "evaluation": int(samples["tokens"].sum()),
        },
        "seconds": {
            "rollout": spent.rollout_seconds,
            "train": spent.train_seconds,
            "evaluation": evaluation_seconds,
            "cpu": spent.cpu_seconds or time.process_time() - cpu,
            "run": spent.rollout_seconds + spent.train_seconds,
        },
    }
