"""Which recorded rollouts a cell is trained on (`train.replay`), and whether they are of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algorithms import Algorithm
from harness.record.cell_folder import CellFolder
from harness.record.files import RecordError
from harness.record.rollouts_file import recorded_steps
from harness.suite.cell_config import CellConfig
from harness.suite.config import ConfigError, Train
from harness.suite.given import GIVEN

ALIKE = {
    "model": ("path", "revision", "template"),
    "train": (
        *("benchmark", "limit", "pass_rate", "pass_rate_samples", "prompts", "samples", "history_share"),
        *("temperature", "max_new_tokens", "reward"),
    ),
}
"""Settings that a cell shares with the one that recorded what it is trained on."""


def check_replay(train: Train, algorithm: Algorithm, where: str) -> None:
    """Raises ConfigError where an algorithm has no use for recorded rollouts, or none to record."""
    data = algorithm.needs.data
    for key, value in (("replay", train.replay), ("record_rollouts", train.record_rollouts)):
        if value and data in GIVEN:
            raise ConfigError(
                f"{where}: {type(algorithm).__name__} is trained on given {data} and draws nothing, and train.{key} = "
                f"{value!r} is for algorithms that are trained on rollouts: leave it out, or give it a suite of its own"
            )


def recorded_by(config: CellConfig) -> str:
    """The hash of the training of other runs whose rollouts a cell is to be trained on.

    Raises ConfigError where there are none, or they are of another kind: of another model, other problems, other
    samples of each, or fewer steps.
    """
    where = Path(f"{config.train.replay}-s{config.seed}")
    key = f"train.replay = {config.train.replay!r}"
    try:
        record = CellFolder(where).manifest()
        steps = len(recorded_steps(where))
    except RecordError as error:
        raise ConfigError(f"{key}: {error}") from None
    if record is None or record["status"] != "finished":
        raise ConfigError(f"{key}: {where} holds no finished cell, and seed {config.seed} is to be trained on it")
    own = config.stated()
    for section, names in ALIKE.items():
        recorded: Mapping[str, Any] = record["config"][section]
        for name in names:
            if own[section].get(name) != recorded.get(name):
                raise ConfigError(
                    f"{key}: {where} was recorded with {section}.{name} = {recorded.get(name)!r}, and this suite has "
                    f"{own[section].get(name)!r}; what is trained on them shares {section}.{name} with them"
                )
    if steps < config.train.steps:
        of = f"the rollouts of {steps} steps" if steps else "no rollouts (train.record_rollouts)"
        raise ConfigError(f"{key}: {where} holds {of}, and train.steps = {config.train.steps}")
    return str(record["hash"])
