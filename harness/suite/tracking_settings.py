"""The section [tracking] of a suite. Does not import torch."""

from __future__ import annotations

from harness.suite.points import Section

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Keys of the section, and the packages that they need."""


class Tracking(Section):
    """[tracking]: who is told the rows of metrics.jsonl beside the cell's folder. No number depends on it.

    Each training is a run that has the cell's name, each row a step. A sweep that goes on tells no step twice, and what
    was finished before is told too.
    """

    tensorboard: bool = False
    """Event files in OUT/tracking/<suite>/tensorboard, a folder a cell."""
    wandb: bool = False
    """Weights & Biases, which reads its own settings (WANDB_MODE, WANDB_DIR, WANDB_API_KEY)."""
    trackio: bool = False
    """trackio, which reads its own settings (TRACKIO_DIR)."""
    project: str | None = None
    """Of Weights & Biases and trackio; by default the suite's name."""

    @property
    def chosen(self) -> list[str]:
        """The trackers that are asked for."""
        return [name for name in TRACKERS if getattr(self, name)]
