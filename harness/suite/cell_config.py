"""What one run is told, and the hash of what decides its numbers. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.record.cell_state import Hashes
from harness.record.files import hash_of
from harness.suite.config import Evaluation, Model, Optimizer, Protocol, Resources, Train
from harness.suite.points import Section
from harness.suite.protocols import run_label
from harness.suite.rollout_settings import Rollout

OWN = ("teacher", "teacher_template")
"""Of a model: what only the cells of some algorithms have. Cells that differ in it stand in one table."""

UNSAID: dict[str, tuple[type[Section], tuple[str, ...]]] = {
    "model": (Model, (*OWN, "weights", "lora")),
    "train": (
        Train,
        ("refill_rounds", "pass_rate", "pass_rate_samples", "record_rollouts", "replay", "keep_samples_every"),
    ),
}
"""Settings that few algorithms read or few suites make, by section: at its default none is in a hash or a manifest, so
that cells that were recorded before there was such a setting stay what they are."""

NO_NUMBER: dict[str, Any] = {"resources": True, "train": {"keep_samples_every"}}
"""What decides no number, and so is in no hash, by section."""

COEFFICIENTS = "coefficients"
"""The label of the job that compares the algorithms' gradient coefficients."""


class CellConfig(Section):
    """Everything that one run is told."""

    suite: str
    label: str
    seed: int
    algorithm: str
    source_sha256: str | None
    """Of the user's file, where the algorithm comes from one."""
    parameters: dict[str, Any]
    """All hyper-parameters, defaults included."""
    optimizer: Optimizer | None
    """None for the base, which is not trained."""
    model: Model
    train: Train
    rollout: Rollout
    evaluation: Evaluation
    resources: Resources = Resources()
    protocol: Protocol = "tuned"
    """Which is in no hash or manifest where it is "tuned", as it was in every cell before there was another."""

    @property
    def run_label(self) -> str:
        """See `protocols.run_label`."""
        return run_label(self.label, self.protocol)

    replays: str | None = None
    """The hash of the training whose rollouts it is trained on (`train.replay`); None where it draws its own."""

    @property
    def records(self) -> bool:
        """Whether the rollouts of its training are kept."""
        return self.train.record_rollouts or self.train.replay == self.label

    def recording(self, runs: Path) -> Path | None:
        """The folder of the cell whose rollouts it is trained on; None where it draws its own."""
        if self.replays is None:
            return None
        cell = f"{self.train.replay}-s{self.seed}"
        return Path(cell).absolute() if self.train.replays_other_runs else runs / self.suite.partition("/")[2] / cell

    def hashes(self) -> Hashes:
        """Of all that decides numbers: not of what is NO_NUMBER, nor of the folder of a user's file or of other runs.

        What is trained and how it is evaluated are apart, so that a change of [evaluation] trains nothing again.
        """
        values = self.decisive()
        if self.source_sha256 is not None:
            values["algorithm"] = Path(self.algorithm).name
        if self.train.replay is not None:
            values["train"]["replay"] = Path(self.train.replay).name
        evaluation = values.pop("evaluation")
        return Hashes(hash_of(values), "" if self.label == COEFFICIENTS else hash_of(evaluation))

    def decisive(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """What `stated` gives of all that decides numbers, without some sections."""
        return self._stated(NO_NUMBER | dict.fromkeys(without, True))

    def stated(self) -> dict[str, Any]:
        """Every field as JSON, without what is UNSAID."""
        return self._stated({})

    def _stated(self, exclude: dict[str, Any]) -> dict[str, Any]:
        values = self.model_dump(mode="json", exclude=exclude)
        for section, (kind, keys) in UNSAID.items():
            for key in values.get(section, {}).keys() & keys:
                if values[section][key] == kind.model_fields[key].default:
                    del values[section][key]
        if values.get("protocol") == "tuned":
            del values["protocol"]
        if values.get("replays", "") is None:
            del values["replays"]
        return values
