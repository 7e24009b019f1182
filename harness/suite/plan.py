"""A suite as cells: one run of one algorithm at one seed, and the base model's evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from algorithms import ALGORITHMS, Algorithm
from benchmarks import BENCHMARKS, Problem, load_benchmark
from benchmarks.templates import load_template
from harness.record.files import hash_of
from harness.suite.cell_config import COEFFICIENTS, OWN, CellConfig
from harness.suite.config import ConfigError, Model, Suite, Train
from harness.suite.given import GIVEN, group_size
from harness.suite.load import points_of
from harness.suite.protocols import default_optimizer
from harness.suite.recordings import check_replay, recorded_by
from harness.suite.user_code import declared, load_class, needs_of, parameters_of, refusal_of
from harness.suite.user_errors import reported

BASE = "base"
"""The label of the base model, which is evaluated and not trained."""


@dataclass(frozen=True)
class Cell:
    """One unit of work of a sweep."""

    config: CellConfig
    suite: Mapping[str, Any]
    """The suite's report and tuning settings, for the manifest."""
    source: bytes | None = None
    """The user's file, where the algorithm comes from one: what is run is what was hashed."""
    reads: tuple[Cell, ...] = ()
    """Of the comparison of gradient coefficients: the finished cells that it reads, the baseline's first."""

    @property
    def is_trained(self) -> bool:
        """Whether training is a part of it."""
        return self.config.optimizer is not None

    @property
    def keeps_checkpoint(self) -> bool:
        """Whether what it has trained stays when it is over: as its resources say, and where the comparison of gradient
        coefficients starts from it until the sweep is over."""
        compared = self.is_trained and self.config.seed == 0 and "ablation" not in self.suite
        is_baseline = self.config.label == self.suite["report"]["baseline"]
        return self.config.resources.keep_checkpoints or (compared and is_baseline)

    @property
    def name(self) -> str:
        """Of its folder, inside that of its point where the suite is an ablation."""
        point = self.config.suite.partition("/")[2]
        name = f"{self.config.run_label}-s{self.config.seed}" if self.is_trained else self.config.label
        return f"{point}/{name}" if point else name


def coefficients_job(finished: Sequence[Cell]) -> Cell:
    """The job that compares the algorithms' gradient coefficients on one batch, from finished cells of one seed, the
    baseline's first: a cell that trains nothing, on one rank."""
    config = finished[0].config
    resources = config.resources
    alone = resources.model_copy(update={"ranks": 1, "gpus": resources.gpus_of_rank})
    about: dict[str, Any] = {
        "label": COEFFICIENTS,
        "algorithm": COEFFICIENTS,
        "source_sha256": None,
        "parameters": {cell.config.label: cell.config.hashes().training for cell in finished},
        "optimizer": None,
        "resources": alone,
    }
    return Cell(config.model_copy(update=about), finished[0].suite, reads=tuple(finished))


def algorithm_of(cell: Cell, keep: Callable[[bytes], Path]) -> Algorithm:
    """The cell's algorithm; a user's file runs from the copy that `keep` makes of it, on whatever machine this is."""
    config, spec = cell.config, cell.config.algorithm
    if cell.source is not None:
        spec = f"{keep(cell.source)}:{spec.rpartition(':')[2]}"
    return build_algorithm(spec, config.parameters, where=f"algorithms.{config.label}")


def build_algorithm(spec: str, parameters: Mapping[str, Any], *, where: str) -> Algorithm:
    """An algorithm with the given hyper-parameters over its defaults.

    Raises ConfigError, which names `where`, for an unknown algorithm, an unknown key, a wrong type or range.
    """
    try:
        cls = load_class(spec)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in parameters:
        if key not in known:
            raise ConfigError(f"{where}.parameters.{key}: {cls.__name__} has no such hyper-parameter; it has {known}")
    with reported(lambda text: ConfigError(f"{where}: {cls.__name__} cannot be made: {text}")):
        refusal, algorithm = None, None
        try:
            algorithm = pydantic.TypeAdapter(cls).validate_json(json.dumps(dict(parameters), default=str), strict=True)
            parameters_of(algorithm)
        except pydantic.ValidationError as error:
            refusal = refusal_of(error)
        except ConfigError as error:
            refusal = str(error)
    if refusal is not None or algorithm is None:
        raise ConfigError(f"{where}.{refusal}")
    try:
        needs_of(algorithm)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return algorithm


def declared_algorithm(spec: str, parameters: Mapping[str, Any], *, where: str) -> Algorithm:
    """What `build_algorithm` makes, as far as planning goes: a user's file runs in a process of its own, and what
    comes of it has needs and hyper-parameters and no loss.

    Raises ConfigError as `build_algorithm` does.
    """
    if spec in ALGORITHMS:
        return build_algorithm(spec, parameters, where=where)
    return _declared(spec, _source(spec), json.dumps(dict(parameters), default=str), where)


@functools.lru_cache(maxsize=1024)
def _declared(spec: str, source: bytes | None, parameters: str, where: str) -> Algorithm:
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "algorithm.py"
        alone.write_bytes(source or b"")

        def build() -> Algorithm:
            made = build_algorithm(spec, json.loads(parameters), where=where)
            if source is not None:
                try:
                    build_algorithm(f"{alone}:{spec.rpartition(':')[2]}", json.loads(parameters), where=where)
                except ConfigError as error:
                    raise ConfigError(f"{error} (a cell runs a copy of {spec}, with nothing beside it)") from None
            return made

        return declared(build, where)


def plan(suite: Suite, seeds: Sequence[int] | None = None) -> list[Cell]:
    """The cells of a suite, the base first and then seed by seed; one that is trained on the rollouts of another comes
    after it. Everything that can be refused is refused here.

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
            if cell.is_trained or label == suite.ablation.reference
        ]
    if suite.tuning is not None and (name := suite.tuning.benchmark) not in BENCHMARKS:
        raise ConfigError(f"tuning.benchmark = {name!r}: choose from {', '.join(sorted(BENCHMARKS))}")
    try:
        load_template(suite.model.template)
        load_template(suite.model.teacher_template or suite.model.template)
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
    if suite.train.pass_rate is None:  # else nobody knows yet how many will be kept
        check_repeats(suite.train, len(problems))

    # Without defaults: so was a search recorded before there was a choice of samplers.
    tuning = None if suite.tuning is None else suite.tuning.model_dump(mode="json", exclude_defaults=True)
    about = {"report": suite.report.model_dump(mode="json"), "tuning": tuning}
    settings: dict[str, Any] = {
        "suite": suite.name,
        "model": without_teacher(suite.model),
        "train": suite.train,
        "rollout": suite.rollout,
        "evaluation": suite.evaluation,
        "resources": suite.resources,
    }
    base = CellConfig(label=BASE, seed=0, algorithm=BASE, source_sha256=None, parameters={}, optimizer=None, **settings)
    cells = [Cell(base, about)]
    made = []
    for protocol, (label, entry) in itertools.product(suite.protocols, suite.algorithms.items()):
        where, spec, tuned = f"algorithms.{label}", entry.algorithm or label, protocol == "tuned"
        algorithm = declared_algorithm(spec, entry.parameters if tuned else {}, where=where)
        _check_needs(suite, algorithm, where)
        _check_supply(suite, algorithm, problems, where)
        check_replay(suite.train, algorithm, where)
        source = _source(spec)
        taught = {"model": suite.model} if "teacher_logp_GK" in algorithm.needs.extras else {}
        config = CellConfig(
            label=label,
            seed=0,
            algorithm=spec,
            source_sha256=None if source is None else hashlib.sha256(source).hexdigest()[:16],
            parameters=parameters_of(algorithm),
            optimizer=entry.optimizer if tuned else default_optimizer(suite.model, critic=algorithm.needs.critic),
            protocol=protocol,
            **(settings | taught),
        )
        made.append(Cell(config, about if tuned and entry.tuned else {**about, "tuning": None}, source))
    for seed in range(suite.seeds) if seeds is None else seeds:
        cells += [dataclasses.replace(cell, config=cell.config.model_copy(update={"seed": seed})) for cell in made]
    return _with_recordings(cells) if suite.train.replay is not None else cells


def _with_recordings(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the hashes of the trainings that they replay, those that record first."""
    recorded = {cell.config.seed: cell.config.hashes().training for cell in cells if cell.config.records}

    def replays(config: CellConfig) -> str:
        return recorded_by(config) if config.train.replays_other_runs else recorded[config.seed]

    return [cell for cell in cells if not cell.is_trained or cell.config.records] + [
        dataclasses.replace(cell, config=cell.config.model_copy(update={"replays": replays(cell.config)}))
        for cell in cells
        if cell.is_trained and not cell.config.records
    ]


def without_teacher(model: Model) -> Model:
    """The model of a cell whose algorithm has no teacher: another teacher is no other cell."""
    return model.model_copy(update=dict.fromkeys(OWN))


def training_problems(settings: Train) -> list[Problem]:
    """Raises ValueError for an unknown benchmark, DataError where its problems are not to be had."""
    return load_benchmark(settings.benchmark).problems()[: settings.limit]


def check_repeats(settings: Train, problems: int) -> None:
    """Raises ConfigError where training is to reuse samples and meets none of so many problems twice."""
    if settings.history_share > 0 and settings.steps * settings.prompts <= problems:
        raise ConfigError(
            f"train.history_share = {settings.history_share}: {settings.steps} steps of {settings.prompts} prompts "
            f"meet none of the {problems} problems of {settings.benchmark} twice, so no sample would ever be "
            "historical; train longer or on fewer problems (train.limit)"
        )


def _check_needs(suite: Suite, algorithm: Algorithm, where: str) -> None:
    needs, train_settings = algorithm.needs, suite.train
    if (size := group_size(needs, train_settings)) < needs.min_group_size:
        raise ConfigError(
            f"{where}: {type(algorithm).__name__} needs groups of at least {needs.min_group_size} samples; "
            + (f"its groups of {needs.data} have {size}" if needs.data in GIVEN else f"train.samples is {size}")
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


def _check_supply(suite: Suite, algorithm: Algorithm, problems: Sequence[Problem], where: str) -> None:
    """Refuses what the harness cannot supply of what the algorithm needs beyond its loss."""
    needs, name, benchmark = algorithm.needs, type(algorithm).__name__, suite.train.benchmark
    if needs.data in GIVEN:
        for field, _ in GIVEN[needs.data]:
            lacking = sum(getattr(problem, field) is None for problem in problems)
            if lacking:
                raise ConfigError(
                    f"{where}: {name} is trained on given {needs.data}, and {lacking} of {len(problems)} problems of "
                    f"train.benchmark = {benchmark!r} give no {field}; the arithmetic benchmarks give both a solution "
                    "and a mistake, gsm8k-train and math-train a solution: train on one of those, or leave it out"
                )
    if suite.train.history_share > 0 and (needs.data in GIVEN or needs.refill is not None):
        why = f"is trained on given {needs.data}" if needs.data in GIVEN else "refills its groups with other prompts"
        raise ConfigError(
            f"{where}: {name} {why}, so that there are no earlier samples to fill a group with: leave out "
            f"train.history_share (now {suite.train.history_share}), or give it a suite of its own"
        )
    if needs.data in GIVEN and needs.refill is not None:
        raise ConfigError(
            f"{where}: {name} declares both needs.data = {needs.data!r} and needs.refill; given groups are not drawn "
            "again: declare one of the two"
        )
    if "teacher_logp_GK" in needs.extras and suite.model.teacher is None:
        raise ConfigError(
            f"{where}: {name} learns from a teacher: set model.teacher to a checkpoint, or to 'embedded-teacher' for "
            "the embedded base"
        )


def _source(spec: str) -> bytes | None:
    """Of a user's file; None where it is none, or cannot be read, of which loading it says more."""
    if ":" in spec:
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            path = Path(spec.rpartition(":")[0]).expanduser()
            return path.read_bytes() if path.is_file() else None  # a pipe or a device may have no end
    return None


def settings_hash(config: CellConfig) -> str:
    """Of what all cells of a suite share: only cells with the same one stand in one table."""
    shared = {"suite", "model", "train", "rollout", "evaluation"}
    # Which teacher a cell has is its algorithm's need; those without one stand in the same table. So do those whose
    # recorded rollouts were moved.
    replay = config.train.replay and Path(config.train.replay).name
    train = config.train.model_copy(update={"replay": replay})
    alike = config.model_copy(update={"model": without_teacher(config.model), "train": train})
    return hash_of(alike.decisive(without=CellConfig.model_fields.keys() - shared))
