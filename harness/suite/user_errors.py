"""What users' code raises, as one sentence. For the training step too, where little is installed."""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import algorithms

HELPERS = {Path(str(module.__file__)) for module in (algorithms, algorithms.base, algorithms.spaces)}
HOUSE = Path(__file__).parent.parent
LIBRARIES = {"torch", "pydantic"}
"""Where an error may come from that a user's code makes: neither is the place to mend it."""


def described(error: BaseException) -> str:
    """The error's kind, its first line, and the last place that it came from outside of the code around a user's."""
    try:
        text = (str(error).splitlines() or [""])[0]
    except BaseException as second:
        text = f"(its text cannot be had: __str__ raises {type(second).__name__})"
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        inside = path in HELPERS or HOUSE in path.parents or LIBRARIES & set(path.parts)
        if not (frame.filename.startswith("<") or inside):
            place = f" ({path.name}, line {frame.lineno})"
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def is_interruption(error: BaseException) -> bool:
    """Whether it is Ctrl-C, and no error of a user's code: where the signal is ignored, nothing else can raise it."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@contextlib.contextmanager
def reported(report: Callable[[str], Exception]) -> Iterator[None]:
    """Whatever a user's code raises within it, an attempt to end the process too, as an error with these words."""
    try:
        yield
    except BaseException as error:
        if is_interruption(error):
            raise
        raise report(described(error)) from error
