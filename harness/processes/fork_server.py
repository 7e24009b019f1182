"""Processes that are forked from a server, which has imported torch, transformers and this project, and runs nothing.

Started from nothing, a process takes seconds for these imports; a fork takes milliseconds and is as clean, since the
server has one thread, has never touched CUDA, and has seen no code of a user. It is started when it is first needed,
once for all processes that this one starts, and ends with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import harness
from benchmarks.farewell import end_with_parent

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc would give every large tensor's memory back to the kernel and fault it in anew: half of a scoring pass.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""Of every process that runs a cell."""

_SERVER_ENVIRONMENT = {
    **WORKER_ENVIRONMENT,
    "PYTHONSAFEPATH": "1",  # or it would import what lies in the working directory
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator: no fork of two threads is sound
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # a library that asks for GPUs while it is imported must not start CUDA
}
"""Of the server, where libraries and glibc read theirs: before any code of a fork runs."""

PRELOADED = ["harness.sweep.launch", "pyarrow.parquet", "typer"]
"""What the server imports: by name, since it stands above. Its own imports are all that a cell needs."""


def start(target: Callable[..., None], *arguments: Any, variables: Mapping[str, str] | None = None) -> BaseProcess:
    """Starts a process that calls `target`, a function of a module, with arguments that can be pickled.

    It has this one's environment, working directory and import path as they are now, with WORKER_ENVIRONMENT and
    `variables` over it. It leads a process group of its own, does not hear Ctrl-C, and ends with this process, whatever
    ends that.

    Raises OSError or EOFError where the machine can start none.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    environment = {**os.environ, **WORKER_ENVIRONMENT, **(variables or {})}
    process = context.Process(target=_begin, args=(environment, target, arguments))
    paths = [str(Path(harness.__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with _environment({**_SERVER_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}):
        process.start()
    return process


def _begin(environment: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what Ctrl-C means is for the process that started this one to say
    # Whoever holds this pipe keeps the server running, and multiprocessing gives it to every process of the server's.
    # Without it the server ends with the process that started it, and by end_with_parent all that it has forked.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]
    if not end_with_parent():
        threading.Thread(target=_end_with_starter, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def _end_with_starter() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block, and as they were after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
