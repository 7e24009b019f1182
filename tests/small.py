"""A suite that takes seconds, an in-process command line, and what two runs must have in common."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from harness.cli import main

needs_data = pytest.mark.skipif(
    not os.environ.get("GVPO_BENCH_DATA"), reason="needs the real files; set GVPO_BENCH_DATA to their folder"
)
"""For a test that reads benchmark, training or grader files (conftest.py finds them beside the repository)."""

SUITE = """
name = "small"
seeds = 2

[model]
path = "{model}"

[train]
benchmark = "arithmetic-train"
steps = 6
prompts = 8
samples = 8
mini_batches = 2
max_new_tokens = 4

[resources]
checkpoint_every = 2

[evaluation]
benchmarks = ["arithmetic"]
hard_benchmarks = ["arithmetic-hard"]
samples = 2
limit = 12

[report]
baseline = "gvpo"

[tuning]
trials = 2
benchmark = "arithmetic-tune"
seeds = [1000]
lr = [1e-4, 1e-2]
max_norm = [0.1, 10.0]
critic_lr = [1e-4, 1e-2]

[algorithms.gvpo]
optimizer = {{ lr = 3e-3, max_norm = 1.0 }}

[algorithms.ppo]
optimizer = {{ lr = 3e-3, max_norm = 1.0, critic_lr = 1e-2 }}
"""

FAULTY = """
import os, signal
from dataclasses import dataclass
from typing import ClassVar

from algorithms import Algorithm, LossOutput


@dataclass(frozen=True, kw_only=True)
class Raises(Algorithm):
    name: ClassVar[str] = "Raises"

    def loss(self, policy, batch):
        raise ArithmeticError("the moon is in the wrong house")


@dataclass(frozen=True, kw_only=True)
class NotANumber(Algorithm):
    name: ClassVar[str] = "NotANumber"

    def loss(self, policy, batch):
        return LossOutput(loss=policy.logp_GKT.sum() * float("nan"))


@dataclass(frozen=True, kw_only=True)
class Dies(Algorithm):
    name: ClassVar[str] = "Dies"

    def loss(self, policy, batch):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Late(Algorithm):
    '''Fine near the base, where all log-ratios are small.'''

    name: ClassVar[str] = "Late"

    def loss(self, policy, batch):
        if (policy.logp_GKT - batch.old_logp_GKT).abs().max() > 1e-4:
            raise ArithmeticError("too far from the base")
        return LossOutput(loss=policy.logp_GKT.sum() * 0)
"""


def write_suite(folder: Path, base: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(SUITE.format(model=base), encoding="utf-8")
    return path


def command(*arguments: object) -> int:
    """Runs `gvpo-bench …` in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gvpo-bench", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as done:
            main()
    return int(done.value.code or 0)


def installed_command() -> str:
    """The entry point that pip put beside this Python."""
    return str(Path(sys.executable).with_name("gvpo-bench"))


def lean_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def ended(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process is gone, or a zombie, within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def manifest(cell: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cell / "manifest.json").read_text(encoding="utf-8"))
    return found


def metrics(cell: Path) -> list[dict[str, float]]:
    """The rows of a cell, without the seconds."""
    rows = [json.loads(line) for line in (cell / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def table(out: Path, suite: str = "small") -> pd.DataFrame:
    return pd.read_csv(out / suite / "table.csv").set_index("algorithm")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its time of change and inode: equal means that nothing was touched."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(path.relative_to(folder)): (stat.st_mtime_ns, stat.st_ino) for path, stat in found.items()}


def assert_same_cell(left: Path, right: Path) -> None:
    """Two runs of one cell agree to the last digit; only times, dates and the command may differ."""
    a, b = manifest(left), manifest(right)
    assert a["status"] == b["status"] == "finished"
    for key in ("cell", "algorithm", "display", "seed", "hash", "suite_hash", "tokens"):
        assert a[key] == b[key], key
    pd.testing.assert_frame_equal(
        pd.read_parquet(left / "samples.parquet"), pd.read_parquet(right / "samples.parquet"), check_exact=True
    )
    if a["algorithm"] == "base":
        return
    assert metrics(left) == metrics(right)
    weights = [load_file(cell / "checkpoint" / "model.safetensors") for cell in (left, right)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def assert_close_cell(left: Path, right: Path) -> None:
    """Two runs of one cell, on different numbers of ranks, agree but for rounding."""
    a, b = manifest(left), manifest(right)
    assert a["status"] == b["status"] == "finished"
    assert (a["hash"], a["tokens"]) == (b["hash"], b["tokens"])
    for row, other in zip(metrics(left), metrics(right), strict=True):
        for column in row.keys() - {"padding", "coefficient_zero"}:  # rounding decides what is exactly zero
            assert row[column] == pytest.approx(other[column], abs=1e-4, rel=1e-4), column
    samples = [pd.read_parquet(cell / "samples.parquet") for cell in (left, right)]
    pd.testing.assert_frame_equal(samples[0], samples[1], atol=1e-4)
    weights = [load_file(cell / "checkpoint" / "model.safetensors") for cell in (left, right)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-5, rtol=0)


def assert_same_sweep(left: Path, right: Path, suite: str = "small") -> None:
    """Two result folders hold the same cells and the same table, seconds and commands aside."""
    cells = [sorted(path.name for path in (out / "runs" / suite).iterdir() if path.is_dir()) for out in (left, right)]
    assert cells[0] == cells[1]
    for name in cells[0]:
        if name == "coefficients":
            a, b = (pd.read_parquet(out / "runs" / suite / name / "coefficients.parquet") for out in (left, right))
            pd.testing.assert_frame_equal(a, b, check_exact=True)
        else:
            assert_same_cell(left / "runs" / suite / name, right / "runs" / suite / name)
    tables = [table(out, suite).drop(columns=["seconds", "command"]) for out in (left, right)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
