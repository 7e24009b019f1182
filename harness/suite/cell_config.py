"""What one run is told, and the hash of what decides its numbers. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.record.files import hash_of
from harness.suite.config import Evaluation, Model, Optimizer, Resources, Rollout, Train
from harness.suite.points import Section


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

    def hash(self) -> str:
        """Of all that decides its numbers: not of `resources`, nor of a user's file's folder."""
        values = self.model_dump(mode="json", exclude={"resources"})
        if self.source_sha256 is not None:
            values["algorithm"] = Path(self.algorithm).name
        return hash_of(values)
