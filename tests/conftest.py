"""One thread a process; the real benchmark files, where the environment names none; shared models."""

import os
from pathlib import Path

import pytest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# As in the workers of a sweep: two threads add up in another order, and two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "GVPO_BENCH_DATA" not in os.environ and _DATA.is_dir():
    os.environ["GVPO_BENCH_DATA"] = str(_DATA)


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
