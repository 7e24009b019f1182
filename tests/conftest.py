"""Finds the real benchmark files beside the repository, where the environment does not name them."""

import os
from pathlib import Path

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

if "GVPO_BENCH_DATA" not in os.environ and _DATA.is_dir():
    os.environ["GVPO_BENCH_DATA"] = str(_DATA)
