"""Everything that decides the numbers of one run. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.record.files import hash_of
from harness.suite.config import Evaluation, Model, Optimizer, Rollout, Train, _Section


class CellConfig(_Section):
    """Everything that decides the numbers of one run: what its hash is taken of."""

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

    def hash(self) -> str:
        """Of all of it, but for the folder that a user's file lies in: its content counts."""
        values = self.model_dump(mode="json")
        if self.source_sha256 is not None:
            values["algorithm"] = Path(self.algorithm).name
        return hash_of(values)
