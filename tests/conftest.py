"""One thread a process; the real benchmark files, where the environment names none; who shares a worker; models."""

import os
from pathlib import Path

import pytest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# As in the workers of a sweep: two threads add up in another order, and two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "GVPO_BENCH_DATA" not in os.environ and _DATA.is_dir():
    os.environ["GVPO_BENCH_DATA"] = str(_DATA)

PROCESSES = {"test_rank_processes", "test_ranks", "test_ray_sweep", "test_sweep"}
"""Modules whose tests start process groups, clusters and sweeps, kill some of them and wait for the others."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`, a module stays together, for its fixtures, and PROCESSES do, so as not to disturb each
    other: they take the longest, and come first."""
    if config.pluginmanager.hasplugin("xdist"):
        items.sort(key=lambda item: item.path.stem not in PROCESSES)
        for item in items:
            group = "processes" if item.path.stem in PROCESSES else item.path.stem
            item.add_marker(pytest.mark.xdist_group(group))


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
