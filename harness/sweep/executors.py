"""Which executor a command line asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

from harness.record.environment import cores
from harness.suite.config import ConfigError, Suite
from harness.sweep.events import Executor
from harness.sweep.pool import LocalPool


@contextlib.contextmanager
def open_executor(ray: str | None, workers: int | None, suite: Suite) -> Iterator[Executor]:
    """The local pool, or a connection to the Ray cluster at the address `ray` for as long as the block lasts.

    Raises ConfigError where Ray is not installed or not to be had, or `workers` are asked of it.
    """
    if ray is None:
        yield LocalPool(workers or room_for(suite))
        return
    if workers is not None:
        raise ConfigError("--workers is for this machine alone; with --ray, [resources] says what a cell takes")
    if not find_spec("ray"):
        raise ConfigError("--ray needs the package ray: pip install 'gvpo-bench[ray]', on every node")
    from harness.sweep.ray_sweep import connect

    with connect(ray) as cluster:
        yield cluster


def room_for(suite: Suite) -> int:
    """How many cells this machine's cores have room for."""
    return max(1, cores() // suite.resources.cpus)
