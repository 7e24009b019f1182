"""The pipeline is not bound to the toy: a suite that trains on real GSM8K problems."""

import pandas as pd
from small import command, manifest, metrics, table

from benchmarks import load_benchmark

pytest_plugins = ["small_fixtures"]

SUITE = """
name = "gsm8k"
seeds = 1

[model]
path = "{model}"
template = "plain"

[train]
benchmark = "gsm8k-train"
steps = 2
prompts = 2
samples = 2
mini_batches = 2
max_new_tokens = 8

[evaluation]
benchmarks = ["gsm8k"]
samples = 2
limit = 2

[report]
baseline = "gvpo"

[algorithms.gvpo]
optimizer = {{ lr = 1e-3, max_norm = 1.0 }}

[algorithms.ppo]
optimizer = {{ lr = 1e-3, max_norm = 1.0, critic_lr = 1e-3 }}
"""


def test_suite_on_real_problems_trains_evaluates_and_reports(reader, tmp_path, quick_workers, no_figures):
    path = tmp_path / "gsm8k.toml"
    path.write_text(SUITE.format(model=reader), encoding="utf-8")
    assert command("sweep", path, "--workers", 1, "--out", tmp_path) == 0
    runs = tmp_path / "runs" / "gsm8k"
    asked = [problem.id for problem in load_benchmark("gsm8k").problems()[:2]]
    for name in ("base", "gvpo-s0", "ppo-s0"):
        assert manifest(runs / name)["status"] == "finished"
        assert manifest(runs / name)["template"] == "plain-v1"
        assert manifest(runs / name)["config"]["train"]["reward"] == "correct-v1"
        samples = pd.read_parquet(runs / name / "samples.parquet")
        assert samples["problem_id"].tolist() == [asked[0], asked[0], asked[1], asked[1]]
    for name in ("gvpo-s0", "ppo-s0"):
        assert [row["step"] for row in metrics(runs / name)] == [1, 2]
        assert all(row["grader_failures"] == 0 for row in metrics(runs / name))
    assert table(tmp_path, "gsm8k")["status"].tolist() == ["finished"] * 3
