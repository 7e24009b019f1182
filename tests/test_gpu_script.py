"""perf/gpu.py on a tiny model on the CPU: its logic, not its figures."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import lean_environment

pytest_plugins = ["small_fixtures"]

ROOT = Path(__file__).parent.parent

WITHOUT = ["pydantic", "datasets", "pandas", "pyarrow", "scipy", "sklearn", "seaborn", "math_verify", "typer", "rich"]
WITHOUT += ["platformdirs", "tomli_w", "ray"]
"""What a machine with torch and transformers alone does not have."""


def script(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({WITHOUT})); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "perf" / "gpu.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=lean_environment(CUDA_VISIBLE_DEVICES=""),
        timeout=120,
    )


def test_every_figure_is_there_and_follows_from_the_times(tmp_path):
    done = script("--device", "cpu", "--tiny", "--rounds", 2, "--samples", 3, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cpu.json", "table.md"]
    found = json.loads((tmp_path / "out" / "cpu.json").read_text())
    names = ["one pass", "one pass, all logits at once", "two passes", "one pass, activations recomputed"]
    assert list(found["seconds"]) == names
    assert found["tokens"] == 3 * 64
    # Embedding 1024·64, and for each of 2 layers: q 64·64 + 64, k and v 32·64 + 32 each, o 64·64, MLP 3·64·64,
    # two norms of 64; a last norm of 64.
    parameters = 1024 * 64 + 2 * (64 * 64 + 64 + 2 * (32 * 64 + 32) + 64 * 64 + 3 * 64 * 64 + 2 * 64) + 64
    assert found["parameters"] == parameters
    # 6 a parameter and token; attention: 2 layers, 64 channels, 64 tokens.
    assert found["model_flops_of_a_step"] == 192 * (6 * parameters + 6 * 2 * 64 * 64)
    for name in names:
        median = sum(found["seconds"][name]) / 2  # of two
        assert found["tokens_per_second"][name] == pytest.approx(192 / median)
        share = found["model_flops_of_a_step"] / median / found["matrix_peak_flops"]
        assert found["share_of_matrix_peak"][name] == pytest.approx(share)
        assert found["mfu"][name] is None  # no vendor's peak is known
        assert found["peak_bytes"][name] is None  # the CPU doesn't count
    assert found["parity"]["dtype"] == "float32"
    assert 0 < found["parity"]["bfloat16_from_float32"]["max"] < 0.3
    assert found["parity"]["chunks_from_all_at_once"]["max"] < 0.05
    assert "two passes" in (tmp_path / "out" / "table.md").read_text()


HEAVY = ["datasets", "vllm", "lm_eval", "math_verify", "latex2sympy2_extended", "ray", "sklearn", "peft"]
"""What a machine with a GPU need not have to run the suite of `make gpu`."""


def test_suite_of_make_gpu_runs_to_its_table_without_what_others_need(reader, tmp_path):
    # Read by every Python process as it starts, the workers too.
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n")
    settings = [
        f"model.path={reader}", "model.precision=float32", "train.steps=1", "train.prompts=2", "train.samples=2",
        "train.mini_batches=1", "resources.gpus=0", "evaluation.limit=2", "evaluation.samples=1",
    ]  # fmt: skip
    sweep = [part for setting in settings for part in ("--set", setting)]
    sweep += ["--algorithm", "gvpo", "--algorithm", "grpo", "--seeds", "1", "--minutes", "10", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "sweep", "smollm2-arithmetic", *sweep, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=lean_environment(CUDA_VISIBLE_DEVICES="", PYTHONPATH=f"{tmp_path}:{ROOT}"),
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out" / "smollm2-arithmetic" / "README.md").read_text()
    assert "GVPO" in page
    assert "hardware: " in page


@pytest.fixture
def main(monkeypatch, tmp_path):
    """The script's main function, given its arguments, in this process."""
    namespace = runpy.run_path(str(ROOT / "perf" / "gpu.py"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
        return namespace["main"]()

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(main, tmp_path, capsys):
    assert main("--out", tmp_path / "out") == 1
    assert "finds no CUDA GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_trial_writes_only_where_it_is_told(main, tmp_path, capsys):
    assert main("--device", "cpu", "--tiny") == 2
    assert "--out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
