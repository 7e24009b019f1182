"""How a checkpoint is asked, and where the answers go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What decides the responses of one checkpoint, and the portions in which they are computed."""

    samples: int | Mapping[str, int] = 1
    """k of avg@k: one number, or one for each benchmark by name."""
    temperature: float | None = None
    """0 is greedy. None is 0, but for a task of lm-eval the task's own."""
    max_new_tokens: int | None = None
    """Limit of a response, in tokens. None is 1024, but for a task of lm-eval the task's own."""
    limit: int | None = None
    """Only the first so many problems."""
    seed: int = 0
    """Of the sampler."""
    chunk: int = 64
    """Problems that are sampled at a time, on each rank; with the cached engine it does not decide the responses."""
    token_budget: int = 16384
    """Tokens of one forward pass, where the KL is taken."""

    def samples_of(self, benchmark: str) -> int:
        """k of a benchmark."""
        return self.samples if isinstance(self.samples, int) else self.samples[benchmark]

    @property
    def decoding(self) -> tuple[float, int]:
        """Temperature and limit of a response, on benchmarks of ours."""
        return self.temperature or 0.0, self.max_new_tokens or 1024


@dataclass(frozen=True)
class Output:
    """Where `gvpo-bench eval` leaves what it finds."""

    folder: Path | None
    """None where it is only printed."""
    command: list[str]
    """What was typed, for the manifest."""
    console: Console
