"""A suite as cells: one run of one algorithm at one seed, and the base model's evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from algorithms import Algorithm, load_algorithm
from benchmarks import Problem, load_benchmark
from benchmarks.templates import load_template
from harness.record.files import hash_of
from harness.suite.cell_config import CellConfig
from harness.suite.config import ConfigError, Suite, Train
from harness.suite.load import points_of

BASE = "base"


@dataclass(frozen=True)
class Cell:
    """One unit of work of a sweep."""

    config: CellConfig
    suite: Mapping[str, Any]
    """The suite's report, tuning and evaluation settings, for the manifest."""
    source: bytes | None = None
    """The user's file, where the algorithm comes from one: what is run is what was hashed."""

    @property
    def is_base(self) -> bool:
        """Whether it scores the base model and trains nothing."""
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
        "resources": suite.resources,
    }
    base = CellConfig(label=BASE, seed=0, algorithm=BASE, source_sha256=None, parameters={}, optimizer=None, **settings)
    cells = [Cell(base, about)]
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
            cells.append(Cell(config, about if entry.tuned else {**about, "tuning": None}, source))
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
