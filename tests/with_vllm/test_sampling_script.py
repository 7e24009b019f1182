"""perf/sampling.py on a tiny model on the CPU: its logic, not its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import lean_environment

SCRIPT = Path(__file__).parents[2] / "perf" / "sampling.py"


def test_parity_syncs_and_speeds_are_recorded(tmp_path):
    sizes = ["--prompts", "3", "--samples", "2", "--tokens", "24"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", *sizes, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env=lean_environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cpu.json").read_text())
    assert [row["temperature"] for row in found["parity"]] == [1.0, 0.7, 1.0, 0.7]  # after each of two syncs
    for row in found["parity"]:
        assert 0 < row["mean"] <= row["max"] < 0.25
        assert 0.9 < row["effective_share"] <= 1
    assert [len(found["seconds"][name]) for name in ("sync", "sleep", "vLLM draws")] == [2, 2, 4]
    # 3 prompts × 2 samples × 24 tokens, at the best of four draws
    assert found["tokens_per_second"]["vLLM"] == pytest.approx(144 / min(found["seconds"]["vLLM draws"]))
    assert set(found["memory"].values()) == {None}  # the CPU doesn't count
    assert "| sync 2 | 0.7 |" in (tmp_path / "table.md").read_text()
