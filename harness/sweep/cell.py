"""Runs one cell: what is still to do of its training and its evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from algorithms import ALGORITHMS, Algorithm
from benchmarks import Benchmark, load_benchmark
from benchmarks.judges import Judge, judge_for
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.evaluate import evaluate
from harness.model.language import LanguageModel, frozen_base, load_model
from harness.model.lora import adapt, merged
from harness.model.policy import PolicyModel
from harness.model.ranks import ALONE, Ranks, free_memory
from harness.model.scorer import Scorer
from harness.processes.apart import ProcessError, call_forked
from harness.record.cell_folder import CellFolder
from harness.record.cell_state import State
from harness.record.disk_errors import add_remedy
from harness.record.environment import environment
from harness.record.files import RecordError
from harness.record.ledger import Spent
from harness.record.seeding import seed_of
from harness.sampling.engine import Engine, open_engine
from harness.suite.cell_config import CellConfig
from harness.suite.config import CUDA_CONTEXT, ConfigError, Resources
from harness.suite.plan import Cell, algorithm_of, settings_hash, training_problems
from harness.training.coefficients import COLUMNS, compare_coefficients
from harness.training.pass_rates import problems_within
from harness.training.train import train

OnProgress = Callable[[str, int, int, float | None], None]
"""Called with what is being done, how far it is, how far it goes, and the last training reward."""


def run_cell(cell: Cell, runs: Path, command: list[str], on_progress: OnProgress) -> str:
    """Runs a cell, or continues it. Returns "finished" or "failed"; a failure's traceback lies in the cell's folder.

    Within a process group of torch's (`join_ranks`) the cell runs on all of its ranks, each of which must call this
    with the same arguments and the same folder on a shared disk; what lies there is rank 0's to judge. There a failure
    is raised, once it is recorded: the others may wait for this rank, and it has to end for them to end.
    """
    ranks, runs = Ranks.of_group(), runs.absolute()  # a loss may change the working directory
    folder = CellFolder(runs / cell.name)
    with contextlib.ExitStack() as held:
        state = ranks.first(lambda: held.enter_context(folder.claim(cell.config.hashes())))
        if state == "finished":
            return "finished"
        torch.set_num_threads(_cores(cell))
        resources = cell.config.resources
        started = time.perf_counter()
        result: dict[str, Any] = {"seconds": {}}
        status, failure = "finished", None
        try:
            if ranks.alone:
                keep_to_share(resources)
            result = (
                _compare(cell, runs, folder, on_progress)
                if cell.reads
                else _work(cell, runs, folder, state, on_progress, ranks)
            )
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and resources.cells_on_gpu > 1:
                error.add_note(
                    f"The cell has {resources.gpus} of a GPU (resources.gpus) and no more, for others are on it: lower "
                    "resources.token_budget or rollout_batch, or give it a larger share; gvpo-bench plan says what it "
                    "takes."
                )
            add_remedy(error)
            # The first rank to fail has the reason; the others will only say that they lost it.
            if folder.traceback() is None:
                folder.write_traceback(traceback.format_exc())
            status, failure = "failed", error
        result["seconds"]["wall"] = time.perf_counter() - started
        if ranks.rank == 0 or failure is not None:
            folder.finish(
                {**_about(cell, command), **result, "ranks": ranks.size, "status": status},
                keep_checkpoint=cell.keeps_checkpoint,
            )
        if failure is not None and not ranks.alone:
            raise failure
        return status


def keep_to_share(resources: Resources) -> None:
    """Holds this process to its cell's share of a GPU's memory, where cells share one: what would starve the others
    fails instead.

    Raises ConfigError where the share is nothing beside what CUDA itself takes.
    """
    if resources.cells_on_gpu == 1 or not torch.cuda.is_available():
        return
    _, whole = torch.cuda.mem_get_info()
    room = resources.room_on_gpu(whole)
    if room <= 0:
        raise ConfigError(
            f"resources.gpus = {resources.gpus} of {whole / 1e9:.0f} GB: CUDA itself takes {CUDA_CONTEXT / 1e9:.0f} GB "
            "for each process; give each cell a larger share"
        )
    torch.cuda.set_per_process_memory_fraction(room / whole)


BURIAL_SECONDS = 2.0
"""How long a failure waits for its cell's folder, which the process that died has let go."""


def bury_cell(
    cell: Cell, runs: Path, command: list[str], reason: str, seconds: float, place: Mapping[str, Any] | None = None
) -> str:
    """Records that the process which ran a cell died before it could say so: the cell failed, unless it was over.

    Writes nothing into a folder that another process holds: the reason then lies beside it. `place` is the
    `environment` of the machine that the process ran on, where it was not this one.
    """
    folder = CellFolder(runs / cell.name)
    try:
        with folder.claim(cell.config.hashes(), BURIAL_SECONDS) as state:
            if state == "finished":
                return "finished"
            folder.write_traceback(reason)
            folder.finish({**_about(cell, command), **(place or {}), "seconds": {"wall": seconds}, "status": "failed"})
    except RecordError as error:
        folder.write_traceback(f"{reason.rstrip()}\n{error}\n", beside=True)
    return "failed"


def _about(cell: Cell, command: list[str]) -> dict[str, Any]:
    """What the manifest says of a cell before its results."""
    hashes = cell.config.hashes()
    return {
        "suite": cell.config.suite,
        "cell": cell.name,
        "algorithm": cell.config.label,
        "display": cell.config.label,
        "seed": cell.config.seed if cell.is_trained else None,
        "hash": hashes.training,
        "evaluation_hash": hashes.evaluation,
        "suite_hash": settings_hash(cell.config),
        "command": command,
        "config": _resolved(cell),
        **environment(),
    }


def _cores(cell: Cell) -> int:
    """Of each rank: for arithmetic while it computes, for graders while it waits for them."""
    return cell.config.resources.cpus // cell.config.resources.ranks


def _resolved(cell: Cell) -> dict[str, Any]:
    resolved = cell.config.stated()
    entry = {
        "name": resolved.pop("algorithm"),
        "optimizer": resolved.pop("optimizer"),
        "parameters": resolved.pop("parameters"),
        "source_sha256": resolved.pop("source_sha256"),
    }
    return {**resolved, **cell.suite, "algorithm": entry}


def _work(
    cell: Cell, runs: Path, folder: CellFolder, state: State, on_progress: OnProgress, ranks: Ranks
) -> dict[str, Any]:
    """Trains the cell, where that is still to do, and evaluates it. Returns what the manifest says of both."""
    cpu = time.process_time()
    on_progress("load", 0, 1, None)
    with _opened(cell, folder, state, ranks) as parts:
        lm = parts.lm
        record: dict[str, Any] = {"display": cell.config.label, "tokens": Spent().tokens(), "seconds": NO_SECONDS}
        if cell.is_trained and state == "new":
            lm, record = _train(cell, runs, folder, parts, on_progress)
        elif cell.is_trained:
            record = ranks.first(lambda: folder.training() or {})
        started = time.perf_counter()
        samples = _evaluate(cell.config, lm, parts, on_progress)
    evaluation_seconds = time.perf_counter() - started
    ranks.first(lambda: folder.write_samples(samples))
    seconds = {"cpu": time.process_time() - cpu, **record["seconds"]}
    return {
        "display": record["display"],
        "family": record.get("family"),
        "trained_with": record.get("made_with"),
        "pass_rate": record.get("pass_rate"),
        "replay": record.get("replay"),
        **ranks.first(lambda: lm.about),
        **({"packed_attention": parts.base.packing} if parts.base.packing else {}),
        "tokens": {**record["tokens"], "evaluation": int(samples["tokens"].sum())},
        "seconds": {**seconds, "evaluation": evaluation_seconds, "run": seconds["rollout"] + seconds["train"]},
    }


NO_SECONDS = {"rollout": 0.0, "train": 0.0}
"""Of a cell that trains nothing."""


@dataclass(frozen=True)
class _Parts:
    """What a cell works with."""

    lm: LanguageModel
    """To be trained, or evaluated as it is."""
    base: PolicyModel
    engine: Engine
    trainers: Mapping[str, Judge]
    """Of what is drawn in training, by benchmark."""
    judges: Mapping[str, Judge]
    """Of the evaluation, by benchmark."""
    ranks: Ranks
    holders: Ranks
    """The ranks that the weights are shared out to while nothing is trained."""


@contextlib.contextmanager
def _opened(cell: Cell, folder: CellFolder, state: State, ranks: Ranks) -> Iterator[_Parts]:
    """Loads the models; judges and sampling engine are there for as long as the block lasts."""
    config = cell.config
    free_memory()  # of this process's last cell
    holders = ALONE if config.rollout.shares_weights else ranks
    lm = load_model(config.model, holders)
    if cell.is_trained and state == "new":
        adapt(lm.model, config.model.lora, seed_of("adapter", config.seed))
    base = frozen_base(lm, config.resources, ranks, config.model.precision)
    if state == "trained":
        checkpoint = config.model.model_copy(update={"path": str(folder.checkpoint_path), "revision": None})
        lm = dataclasses.replace(lm, model=load_model(checkpoint, holders).model)
    trained_on = [load_benchmark(config.train.benchmark)] if cell.is_trained and state == "new" else []
    with (
        judge_for(trained_on, workers=_cores(cell), training=True) as trainers,
        judge_for(_scored(config), workers=_cores(cell)) as judges,
        open_engine(
            config.rollout,
            config.resources,
            lm.model if holders.alone else base,
            eos_ids=lm.eos_ids,
            precision=config.model.precision,
        ) as engine,
    ):
        yield _Parts(lm, base, engine, trainers, judges, ranks, holders)


def _scored(config: CellConfig) -> list[Benchmark]:
    settings = config.evaluation
    return [load_benchmark(name) for name in (*settings.benchmarks, *settings.hard_benchmarks)]


def _train(
    cell: Cell, runs: Path, folder: CellFolder, parts: _Parts, on_progress: OnProgress
) -> tuple[LanguageModel, dict[str, Any]]:
    """Trains the model, and keeps it. Returns it as it is evaluated, and what is recorded of its training."""
    config, lm, ranks = cell.config, parts.lm, parts.ranks
    recording = config.recording(runs)
    algorithm = algorithm_of(cell, folder.write_algorithm)

    def on_step(step: int, row: Mapping[str, float]) -> None:
        on_progress("train", step, config.train.steps, row.get("reward"))

    def on_measured(done: int, total: int) -> None:
        on_progress("measure pass rates", done, total, None)

    problems, judge = training_problems(config.train), parts.trainers[config.train.benchmark]
    kept: dict[str, Any] | None = None
    if config.train.pass_rate is not None:
        problems, kept = problems_within(config, lm, parts.engine, judge, runs, folder, on_measured, ranks)
    spent = Spent(generated=kept["tokens"] if kept else 0)
    spent = train(
        *(config, algorithm, lm, parts.base, parts.engine, problems, judge, folder, on_step, ranks, spent, recording)
    )

    adapted, lm = lm.model, dataclasses.replace(lm, model=merged(lm.model))

    def save(target: Path) -> None:
        (lm.model if config.resources.merge_adapter else adapted).save_pretrained(target)
        lm.tokenizer.save_pretrained(target)

    record = {
        "display": getattr(algorithm, "name", config.label),
        "family": algorithm.family,
        "tokens": spent.tokens(),
        "pass_rate": kept,
        "replay": _replayed(recording, algorithm),
        "seconds": {"rollout": spent.rollout_seconds, "train": spent.train_seconds, "cpu": spent.cpu_seconds},
        "made_with": environment(),
    }
    ranks.first(lambda: folder.finish_training(config.hashes().training, record, save))
    free_memory()
    return lm, record


def _replayed(recording: Path | None, algorithm: Algorithm) -> dict[str, Any] | None:
    """What the manifest says of the rollouts of another cell that this one was trained on."""
    return None if recording is None else {"cell": recording.name, "off_policy": algorithm.needs.off_policy}


def _evaluate(config: CellConfig, lm: LanguageModel, parts: _Parts, on_progress: OnProgress) -> pd.DataFrame:
    """A row an evaluated sample."""
    settings, precision, ranks = config.evaluation, config.model.precision, parts.ranks
    policy = parts.base.of(lm.model) if parts.holders.alone else frozen_base(lm, config.resources, ranks, precision)
    parts.engine.sync(policy)
    scored = _scored(config)
    return evaluate(
        lm,
        parts.engine,
        scored,
        parts.judges,
        EvalSettings(
            samples={benchmark.name: settings.samples_of(benchmark.name) for benchmark in scored},
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens or config.train.max_new_tokens,
            seed=config.seed,
            limit=settings.limit,
            token_budget=config.resources.token_budget,
        ),
        scorer=Scorer(policy, precision=precision, ranks=ranks),
        base=Scorer(parts.base, precision=precision, ranks=ranks),
        on_progress=lambda name, done, total: on_progress(f"evaluate {name}", done, total, None),
        ranks=ranks,
    )


def _compare(cell: Cell, runs: Path, folder: CellFolder, on_progress: OnProgress) -> dict[str, Any]:
    """The job behind the figure of gradient coefficients. Returns what the manifest says of it."""
    on_progress("compare", 0, 1, None)
    trained = CellFolder(runs / cell.reads[0].name)
    trained.require_checkpoint()
    # A user's code shares its process with no other algorithm.
    ours = [other for other in cell.reads if other.config.algorithm in ALGORITHMS]
    parts = [part for part in (ours, *([other] for other in cell.reads if other not in ours)) if part]
    compare = compare_coefficients if len(parts) == 1 else partial(call_forked, compare_coefficients)
    frames, left_out = [pd.DataFrame(columns=COLUMNS)], dict[str, str]()
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            try:
                frame, without = compare(part, cell.reads[0], trained, Path(scratch))
            except ProcessError as error:
                if part is ours:
                    raise
                frame, without = frames[0], {part[0].config.label: str(error)}
            frames.append(frame)
            left_out |= without
    order = [other.config.label for other in cell.reads]
    coefficients = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True).sort_values(
        "algorithm", key=lambda column: column.map(order.index), kind="stable", ignore_index=True
    )
    folder.write_coefficients(coefficients)
    return {"left_out": left_out, "seconds": {}}
