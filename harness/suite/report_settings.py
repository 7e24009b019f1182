"""The section [report] of a suite. Does not import torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from harness.suite.points import Section


class Published(Section):
    """Scores that others have published: shown apart from ours, since no protocol is quite another's."""

    label: str
    """What the row is called."""
    source: str
    """Paper and table."""
    protocol: str
    """How they were measured, as far as it is known."""
    scores: dict[str, Annotated[float, Field(ge=0.0, le=100.0)]] = Field(min_length=1)
    """By our name of the benchmark, in percent."""


class Report(Section):
    """[report]: what the table compares with."""

    baseline: str
    """The label that differences are taken from."""
    published: list[Published] = Field([])
    """Reference rows below the table, each with a label of its own."""

    @field_validator("published")
    @classmethod
    def _each_label_once(cls, published: list[Published]) -> list[Published]:
        labels = [row.label for row in published]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two rows have the label {label!r}; give each a label of its own")
        return published
