"""What a run costs, in tokens and seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Tokens:
    """Tokens of prompts and responses, padding not counted; where they are drawn, of responses alone."""

    generated: float = 0
    """Drawn for training."""
    replayed: float = 0
    """Trained on and drawn by another run, which they are charged to."""
    trained: float = 0
    """Forward and backward through the policy."""
    scored: float = 0
    """Forward through the policy without gradient."""
    reference: float = 0
    """Forward through the frozen reference."""
    teacher: float = 0
    """Forward through the frozen teacher, in its own tokens."""
    critic: float = 0
    """Every pass through the critic, with or without gradient."""
    evaluation: float = 0
    """Drawn for evaluation."""

    @property
    def extra(self) -> float:
        """Of the passes beside those that draw and train: see EXTRA_PASSES."""
        return sum(getattr(self, name) for name in EXTRA_PASSES)

    def tokens(self) -> dict[str, float]:
        """The counts by name, as manifests have them."""
        return {field.name: getattr(self, field.name) for field in fields(Tokens)}


EXTRA_PASSES = ("reference", "teacher", "critic", "scored")
"""Passes that neither draw nor train, and that algorithms need in different numbers."""


@dataclass
class Spent(Tokens):
    """What a run has cost so far."""

    rollout_seconds: float = 0.0
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of rank 0 alone."""
