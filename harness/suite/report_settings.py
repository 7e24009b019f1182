"""The section [report] of a suite. Does not import torch."""

from __future__ import annotations

from pydantic import Field

from harness.suite.points import Section


class Published(Section):
    """Scores that others have published: shown apart from ours, since no protocol is quite another's."""

    label: str
    """What the row is called."""
    source: str
    """Paper and table."""
    protocol: str
    """How they were measured, as far as it is known."""
    scores: dict[str, float] = Field(min_length=1)
    """By our name of the benchmark, in percent."""


class Report(Section):
    """[report]: what the table compares with."""

    baseline: str
    """The label that differences are taken from."""
    published: list[Published] = Field([])
    """Reference rows below the table."""
