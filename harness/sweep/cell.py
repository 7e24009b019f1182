"""A suite as cells: one run of one algorithm at one seed, and the base model's evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from algorithms import Algorithm, load_algorithm
from benchmarks import Problem, load_benchmark
from benchmarks.templates import load_template
from harness.evaluation.evaluate import evaluate
from harness.model.language import frozen_copy, load_model
from harness.model.policy import PolicyModel, Scorer, logprob_chunk, shard
from harness.model.ranks import Ranks, free_memory
from harness.record.cell_folder import CellFolder, RecordError, environment, new_folder, write
from harness.sampling.local import open_engine
from harness.suite.config import CellConfig, ConfigError, Resources, Suite, Train, hash_of, points_of
from harness.suite.rewards import judge_for
from harness.training.train import Spent, train

BASE = "base"


@dataclass(frozen=True)
class Cell:
    """One unit of work of a sweep."""

    config: CellConfig
    suite: Mapping[str, Any]
    """The suite's report, tuning and evaluation settings, for the manifest."""
    resources: Resources
    source: bytes | None = None
    """The user's file, where the algorithm comes from one: what is run is what was hashed."""

    @property
    def is_base(self) -> bool:
        return self.config.label == BASE

    @property
    def name(self) -> str:
        """Of its folder, inside that of its point where the suite is an ablation."""
        point = self.config.suite.partition("/")[2]
        name = BASE if self.is_base else f"{self.config.label}-s{self.config.seed}"
        return f"{point}/{name}" if point else name


def build_algorithm(spec: str, parameters: Mapping[str, Any], *, where: str) -> Algorithm:
    """An algorithm with the given hyper-parameters over its defaults.

    Raises ConfigError, which names `where`, for an unknown algorithm, an unknown key, a wrong type or range.
    """
    try:
        cls = load_algorithm(spec)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in parameters:
        if key not in known:
            raise ConfigError(f"{where}.parameters.{key}: {cls.__name__} has no such hyper-parameter; it has {known}")
    try:
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(dict(parameters), default=str), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["parameters", *map(str, first["loc"])])
        raise ConfigError(f"{where}.{key}: {first['msg'].removeprefix('Value error, ')}") from None


def plan(suite: Suite, seeds: Sequence[int] | None = None) -> list[Cell]:
    """The cells of a suite, the base first and then seed by seed. Everything that can be refused is refused here.

    `seeds` are the suite's, 0 to seeds − 1, unless given. An ablation has the cells of all of its points; the base,
    which is the same at each, is evaluated at the reference alone.

    Raises ConfigError, or DataError where a benchmark's problems are not to be had.
    """
    if suite.ablation is not None:
        ablation = suite.ablation.model_dump(mode="json")
        return [
            dataclasses.replace(cell, suite={**cell.suite, "ablation": ablation})
            for label, point in points_of(suite).items()
            for cell in plan(point, seeds)
            if not cell.is_base or label == suite.ablation.reference
        ]
    try:
        load_template(suite.model.template)
        for name in (*suite.evaluation.benchmarks, *suite.evaluation.hard_benchmarks):
            load_benchmark(name).problems()
        problems = training_problems(suite.train)
    except ValueError as error:
        raise ConfigError(f"suite {suite.name}: {error}") from None
    if suite.train.prompts > len(problems):
        raise ConfigError(
            f"train.prompts = {suite.train.prompts}: {suite.train.benchmark} has only {len(problems)} problems"
            + (f" within train.limit = {suite.train.limit}" if suite.train.limit else "")
        )
    if suite.train.history_share > 0 and suite.train.steps * suite.train.prompts <= len(problems):
        raise ConfigError(
            f"train.history_share = {suite.train.history_share}: {suite.train.steps} steps of {suite.train.prompts} "
            f"prompts meet none of the {len(problems)} problems of {suite.train.benchmark} twice, so no sample would "
            "ever be historical; train longer or on fewer problems (train.limit)"
        )

    shared = {"report": suite.report, "tuning": suite.tuning, "evaluation": suite.evaluation}
    about = {name: None if part is None else part.model_dump(mode="json") for name, part in shared.items()}
    settings: dict[str, Any] = {
        "suite": suite.name,
        "model": suite.model,
        "train": suite.train,
        "rollout": suite.rollout,
        "evaluation": suite.evaluation,
    }
    base = CellConfig(label=BASE, seed=0, algorithm=BASE, source_sha256=None, parameters={}, optimizer=None, **settings)
    cells = [Cell(base, about, suite.resources)]
    for seed in range(suite.seeds) if seeds is None else seeds:
        for label, entry in suite.algorithms.items():
            where = f"algorithms.{label}"
            spec = entry.algorithm or label
            algorithm = build_algorithm(spec, entry.parameters, where=where)
            source = _source(spec)
            _check_needs(suite, algorithm, where)
            config = CellConfig(
                label=label,
                seed=seed,
                algorithm=spec,
                source_sha256=None if source is None else hashlib.sha256(source).hexdigest()[:16],
                parameters=dataclasses.asdict(algorithm),  # type: ignore[call-overload]
                optimizer=entry.optimizer,
                **settings,
            )
            cells.append(Cell(config, about if entry.tuned else {**about, "tuning": None}, suite.resources, source))
    return cells


def training_problems(settings: Train) -> list[Problem]:
    """Raises ValueError for an unknown benchmark, DataError where its problems are not to be had."""
    return load_benchmark(settings.benchmark).problems()[: settings.limit]


def _check_needs(suite: Suite, algorithm: Algorithm, where: str) -> None:
    needs, train_settings = algorithm.needs, suite.train
    if train_settings.samples < needs.min_group_size:
        raise ConfigError(
            f"{where}: {type(algorithm).__name__} needs groups of at least {needs.min_group_size} samples; "
            f"train.samples is {train_settings.samples}"
        )
    if needs.off_policy and train_settings.sampler_ratio_cap is not None:
        raise ConfigError(
            f"{where}: {type(algorithm).__name__} is right whatever policy sampled, and importance weights would break "
            f"that: leave out train.sampler_ratio_cap (now {train_settings.sampler_ratio_cap}), or give the algorithms "
            "that take it a suite of their own"
        )
    if needs.anchor == "behaviour" and train_settings.history_share > 0:
        raise ConfigError(
            f"{where}: anchor 'behaviour' has no single anchor policy in a group of mixed age "
            f"(train.history_share = {train_settings.history_share}); use anchor 'old' or 'reference'"
        )


def _source(spec: str) -> bytes | None:
    path = Path(spec.rpartition(":")[0]).expanduser()
    return path.read_bytes() if ":" in spec and path.is_file() else None


def settings_hash(config: CellConfig) -> str:
    """Of what all cells of a suite share: only cells with the same one stand in one table."""
    return hash_of(config.model_dump(mode="json", include={"suite", "model", "train", "rollout", "evaluation"}))


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
    return {**resolved, **cell.suite, "resources": cell.resources.model_dump(), "algorithm": entry}


def _work(cell: Cell, folder: CellFolder, on_progress: OnProgress, ranks: Ranks) -> dict[str, Any]:
    config, settings = cell.config, cell.config.evaluation
    cpu = time.process_time()
    on_progress("load", 0, 1, None)
    free_memory()  # of this process's last cell
    lm = load_model(config.model)
    precision, budget = config.model.precision, config.train.token_budget
    chunk = logprob_chunk(lm.model, config.train.logprob_chunk, budget)
    base = Scorer(PolicyModel(frozen_copy(lm.model), chunk), precision=precision, ranks=ranks)
    shard(base.model, ranks)
    train_benchmark = load_benchmark(config.train.benchmark)
    scored = [load_benchmark(name) for name in (*settings.benchmarks, *settings.hard_benchmarks)]

    with (
        judge_for([train_benchmark, *scored]) as judges,
        open_engine(config.rollout, lm.model, eos_ids=lm.eos_ids, precision=precision) as engine,
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
            samples={benchmark.name: settings.samples_of(benchmark.name) for benchmark in scored},
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens or config.train.max_new_tokens,
            seed=config.seed,
            limit=settings.limit,
            scorer=Scorer(policy, precision=precision, ranks=ranks),
            base=base,
            token_budget=budget,
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
