"""One thread a process; the real benchmark files, where the environment names none; who shares a worker; models."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# As in the workers of a sweep: two threads add up in another order, and two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "GVPO_BENCH_DATA" not in os.environ and _DATA.is_dir():
    os.environ["GVPO_BENCH_DATA"] = str(_DATA)

# A shell ignores it for what it starts in the background, and a sweep's processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROCESSES = ("test_ray_sweep", "test_rank_processes", "test_ranks", "test_processes", "test_sweep")
"""Modules whose tests start clusters, process groups and sweeps, kill some of them and wait for the others. One of them
at a time, and they come first, since they take the longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in PROCESSES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A module stays on one worker, for its fixtures; all of PROCESSES stay on one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path: str = super()._split_scope(nodeid)
            return "processes" if Path(path).stem in PROCESSES else path

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def model32():
    """A small policy in float32. Tests share it: they do not change its weights."""
    from tiny import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def model64():
    """The same weights in float64."""
    import torch
    from tiny import tiny_model

    return tiny_model(torch.float64)


@pytest.fixture(scope="session")
def critic64(model64):
    from tiny import random_critic

    return random_critic(model64)
