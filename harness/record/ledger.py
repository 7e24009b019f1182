"""What a run costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Spent:
    """What a run has cost so far. Tokens count prompt and response, padding not; `generated` counts responses only."""

    generated: int = 0
    trained: int = 0
    """Forward and backward through the policy."""
    scored: int = 0
    """Forward through the policy without gradient."""
    reference: int = 0
    critic: int = 0
    """Every pass through the critic, with or without gradient."""
    rollout_seconds: float = 0.0
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of rank 0 alone."""
