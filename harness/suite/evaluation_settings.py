"""What a checkpoint is scored on: the section [evaluation] of a suite. Does not import torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from harness.suite.points import Count, Section


class Evaluation(Section):
    """[evaluation]: what a checkpoint is scored on."""

    benchmarks: list[str] = Field(min_length=1)
    """The problems of the main score."""
    hard_benchmarks: list[str] = Field([])
    """The hard split: scored beside the main score, never mixed into it."""
    samples: Annotated[
        Annotated[Count, Tag("number")] | Annotated[dict[str, Count], Tag("table")],
        Discriminator(lambda value: "table" if isinstance(value, dict) else "number"),
    ] = 8
    """k of avg@k: one number, or one for each benchmark by name."""
    temperature: float = Field(1.0, ge=0.0)
    """0 is greedy; any other is 0.001 at least."""
    max_new_tokens: Count | None = None
    """Limit of a response, in tokens; by default training's."""
    limit: Count | None = None
    """Only the first so many problems of each benchmark."""

    @field_validator("temperature")
    @classmethod
    def _greedy_or_not(cls, temperature: float) -> float:
        if 0 < temperature < 1e-3:
            raise ValueError(f"{temperature} is too low to divide by; set 0, which is greedy, or 0.001 or more")
        return temperature

    @model_validator(mode="after")
    def _samples_differ(self) -> Evaluation:
        counts = [self.samples] if isinstance(self.samples, int) else list(self.samples.values())
        if self.temperature == 0 and max(counts, default=1) > 1:
            raise ValueError(
                f"samples = {self.samples} at temperature = 0: greedy decoding gives the same response each time"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Evaluation:
        names = [*self.benchmarks, *self.hard_benchmarks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is named twice: name it once, in benchmarks or in hard_benchmarks")
        return self

    @model_validator(mode="after")
    def _samples_of_each(self) -> Evaluation:
        names = [*self.benchmarks, *self.hard_benchmarks]
        if not isinstance(self.samples, int) and sorted(self.samples) != sorted(set(names)):
            raise ValueError(
                f"samples names {', '.join(self.samples) or 'no benchmark'}; it must name each of {', '.join(names)}"
            )
        return self

    def samples_of(self, benchmark: str) -> int:
        """k of a benchmark."""
        return self.samples if isinstance(self.samples, int) else self.samples[benchmark]
