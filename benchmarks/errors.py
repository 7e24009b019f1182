"""The errors that a user can mend, and the exit codes of the command. Below everything, so that all may raise them."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What `gvpo-bench` ends with, beside 0."""

    FAILED = 1
    """A cell failed, or the program that should have run it."""
    INPUT = 2
    """Wrong input."""
    REFUSED = 3
    """It would have mixed or overwritten runs."""
    INTERRUPTED = 130
    """Ctrl-C."""


class BenchError(Exception):
    """Base of what the command reports as one message, without a traceback: what is wrong, where, and what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.INPUT
