"""The pipeline is not bound to the toy: a sweep on the real files, from training to the table. Its model is random and
its output a fixture, which its name says wherever the output goes."""

import pandas as pd
from small import command, manifest, metrics, table

from benchmarks import load_benchmark

pytest_plugins = ["small_fixtures"]

SUITE = """
name = "fixture-gsm8k"
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
benchmarks = ["gsm8k", "aime24"]
samples = {{ gsm8k = 2, aime24 = 3 }}
limit = 2

[report]
baseline = "gvpo"

[[report.published]]
label = "GVPO"
source = "a paper"
protocol = "another one"
scores = {{ aime24 = 20.72 }}

[algorithms.gvpo]
optimizer = {{ lr = 1e-3, max_norm = 1.0 }}

[algorithms.ppo]
optimizer = {{ lr = 1e-3, max_norm = 1.0, critic_lr = 1e-3 }}
"""


def test_suite_on_real_problems_trains_evaluates_and_reports(reader, tmp_path, no_figures):
    path = tmp_path / "gsm8k.toml"
    path.write_text(SUITE.format(model=reader), encoding="utf-8")
    assert command("sweep", path, "--workers", 1, "--out", tmp_path) == 0
    runs = tmp_path / "runs" / "fixture-gsm8k"
    asked = [
        problem.id
        for name, k in (("gsm8k", 2), ("aime24", 3))
        for problem in load_benchmark(name).problems()[:2]
        for _ in range(k)
    ]
    for name in ("base", "gvpo-s0", "ppo-s0"):
        assert manifest(runs / name)["status"] == "finished"
        assert manifest(runs / name)["template"] == "plain-v1"
        assert manifest(runs / name)["config"]["train"]["reward"] == "correct-v1"
        samples = pd.read_parquet(runs / name / "samples.parquet")
        assert samples["problem_id"].tolist() == asked
    for name in ("gvpo-s0", "ppo-s0"):
        assert [row["step"] for row in metrics(runs / name)] == [1, 2]
        assert all(row["grader_failures"] == 0 for row in metrics(runs / name))
    assert table(tmp_path, "fixture-gsm8k")["status"].tolist() == ["finished"] * 3
    page = (tmp_path / "fixture-gsm8k" / "README.md").read_text()
    assert page.startswith("# fixture-gsm8k")
    assert "| gsm8k avg@2 | aime24 avg@3 |" in page
    assert "| GVPO | 20.72 | another one | a paper |" in page
