"""A function's result, from a process of its own: for users' code, which may do anything to the one that it runs in."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from benchmarks.errors import BenchError
from benchmarks.farewell import end_with_parent

A = TypeVar("A")


class ProcessError(RuntimeError):
    """A process that gave no result: it died, or raised what is no message for the user. The text says how."""


def call_forked(function: Callable[..., A], *arguments: Any) -> A:
    """What a function of a module returns in a fork of this process: one of `start`'s that has computed nothing yet, or
    the threads and the GPU of a fork would be unusable. The result can be pickled.

    Raises the BenchError that the function raises, and ProcessError where it raises anything else, SystemExit included,
    or its process dies.
    """
    ours, theirs = Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        failure, result = ours.recv()
    except EOFError:
        process.join()
        raise ProcessError(f"its process died: {ending(process)}") from None
    except Exception as error:  # of a class, say, that this process does not have
        raise ProcessError(f"its result cannot be read: {error}") from error
    finally:
        end_group(process)
        ours.close()
    if isinstance(failure, BenchError):
        raise failure
    if failure is not None:
        raise ProcessError(failure)
    return result


def ending(process: BaseProcess) -> str:
    """How a process ended."""
    code = process.exitcode or 0
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"exit code {code}"


def end_group(process: BaseProcess, by: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a process of `start`, where it still runs, and to all that it has left in its group."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, by)
    if process.exitcode is None:  # and perhaps not yet in a group of its own
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, by)
    if by == signal.SIGKILL:
        process.join()


def last_words(connection: Connection, message: bytes) -> None:
    """Sends what is pickled, and ends this process without what its libraries or its user would still have run."""
    with contextlib.suppress(OSError):  # whoever would have heard it has been killed
        connection.send_bytes(message)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    end_with_parent()
    try:
        answer = pickle.dumps((None, function(*arguments)))
    except BenchError as error:
        answer = pickle.dumps((error, None))
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        answer = pickle.dumps((text, None))
    last_words(connection, answer)
