"""What the campaign asks of its zygote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Job:
    """A command to start."""

    id: int
    arguments: Sequence[str]
    """After `gvpo-bench`."""
    folder: str
    """To work in."""
    shown: str
    """The file that takes what it prints."""
    environment: Mapping[str, str]
    figures: bool
    """Whether a report draws its figures, which takes longer than all else of it."""

    def line(self) -> bytes:
        """For the standard input of this script."""
        return json.dumps(asdict(self)).encode() + b"\n"
