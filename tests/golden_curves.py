"""Five steps of every algorithm on the embedded model, as committed in tests/golden/: what a refactoring must not move.

    python tests/golden_curves.py     # writes tests/golden/curves.json anew; CHANGELOG says why

The base's weights are committed too, since one that is trained elsewhere is another to the last digits.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from algorithms import ALGORITHMS
from harness.suite.load import load_suite
from harness.suite.plan import plan
from harness.sweep.cell import run_cell

HERE = Path(__file__).parent / "golden"
CURVES = HERE / "curves.json"

SUITE = f"""
name = "golden"
seeds = 1

[model]
path = "{HERE / "base"}"
teacher = "{HERE / "base"}"

[train]
benchmark = "arithmetic-train"
steps = 5
prompts = 16
samples = 8
mini_batches = 4
refresh_every = 2         # old and behaviour log-probs differ
max_new_tokens = 16

[resources]
token_budget = 512        # groups fit, mini-batches don't

[evaluation]
benchmarks = ["arithmetic"]
samples = 2
limit = 32

[report]
baseline = "gvpo"
"""


def suite_text() -> str:
    """Every registered algorithm at its defaults, with one learning rate."""
    entries = [f"[algorithms.{label}]\noptimizer = {{ lr = 2e-4, max_norm = 1.0 }}\n" for label in ALGORITHMS]
    return "\n".join([SUITE, *entries])


def run(label: str) -> dict[str, Any]:
    """Five steps of one algorithm in this process: its metrics by column, its tokens, and its evaluation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "golden.toml").write_text(suite_text(), encoding="utf-8")
            cells = {cell.config.label: cell for cell in plan(load_suite(str(folder / "golden.toml")))}
            status = run_cell(cells[label], folder, [], lambda *_: None)
            cell = folder / cells[label].name
            if status != "finished":
                raise RuntimeError((cell / "traceback.txt").read_text(encoding="utf-8"))
            rows = [json.loads(line) for line in (cell / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            manifest = json.loads((cell / "manifest.json").read_text(encoding="utf-8"))
            samples = pd.read_parquet(cell / "samples.parquet")
    finally:
        torch.set_num_threads(before)
    return {
        "metrics": {name: [row[name] for row in rows] for name in rows[0] if name != "seconds"},
        "tokens": manifest["tokens"],
        "evaluation": {name: float(samples[name].mean()) for name in ("score", "tokens", "kl")},
    }


def machine() -> dict[str, str]:
    """What the last digits depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [platform.processor()]
    named = [line for line in lines if line.startswith(("vendor_id", "cpu family", "model", "stepping"))]
    return {
        "cpu": "; ".join(" ".join(line.split()) for line in dict.fromkeys(named)),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def recorded() -> dict[str, Any]:
    """The committed curves, and the machine that made them."""
    found: dict[str, Any] = json.loads(CURVES.read_text(encoding="utf-8"))
    return found


def main() -> None:
    curves = {}
    for label in ALGORITHMS:
        print(label, file=sys.stderr)
        curves[label] = run(label)
    CURVES.write_text(json.dumps({"machine": machine(), "curves": curves}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
