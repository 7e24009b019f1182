"""Suites whose algorithms are trained on the same rollouts: what is planned, refused, run, charged and reported."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small import command, manifest, metrics

from harness.preflight.costs import count_tokens, needs_of
from harness.preflight.doctor import recordings
from harness.record.rollouts_file import step_path
from harness.report.suite_report import write_report
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import plan, settings_hash
from harness.sweep.cell import run_cell
from harness.sweep.cells import waves

pytest_plugins = ["small_fixtures"]

REPLAY = "train.replay=gvpo"


def planned(suite_file, *settings):
    return plan(load_suite(str(suite_file), ["seeds=2", "train.steps=2", *settings]))


def by_name(cells):
    return {cell.name: cell.config for cell in cells}


def test_cells_are_trained_on_what_the_named_algorithm_records_at_their_seed(suite_file, tmp_path):
    cells = planned(suite_file, REPLAY)
    configs = by_name(cells)
    assert [cell.name for cell in cells] == ["base", "gvpo-s0", "gvpo-s1", "ppo-s0", "ppo-s1"]
    assert [name for name, config in configs.items() if config.records] == ["gvpo-s0", "gvpo-s1"]
    for seed in (0, 1):
        config = configs[f"ppo-s{seed}"]
        assert config.replays == configs[f"gvpo-s{seed}"].hashes().training
        assert config.recording(tmp_path) == tmp_path / f"gvpo-s{seed}"
        assert configs[f"gvpo-s{seed}"].recording(tmp_path) is None
    assert len({settings_hash(config) for config in configs.values()}) == 1  # one table
    assert [[cell.name for cell in wave] for wave in waves(cells)] == [
        ["base", "gvpo-s0", "gvpo-s1"],
        ["ppo-s0", "ppo-s1"],
    ]
    assert waves(cells[1:3]) == [cells[1:3]]


def test_no_cell_is_another_for_settings_that_it_does_not_make(suite_file):
    for cell in planned(suite_file):
        stated = cell.config.stated()
        assert {"record_rollouts", "replay"}.isdisjoint(stated["train"])
        assert "replays" not in stated


def test_another_recording_is_another_cell_and_its_folder_is_none(suite_file):
    first, other = (by_name(planned(suite_file, REPLAY, f"algorithms.gvpo.optimizer.lr={lr}")) for lr in (0.1, 0.2))
    assert first["ppo-s0"].hashes().training != other["ppo-s0"].hashes().training
    near, far = (
        first["ppo-s0"].model_copy(update={"train": first["ppo-s0"].train.model_copy(update={"replay": replay})})
        for replay in ("here/runs/small/gvpo", "there/gvpo")
    )
    assert near.hashes() == far.hashes()
    assert settings_hash(near) == settings_hash(far)


def test_recorder_of_a_point_lies_in_the_folder_of_that_point(suite_file, tmp_path):
    text = suite_file.read_text() + (
        '[ablation]\nquantity = "rollouts of"\nreference = "own"\n'
        'points = [{ label = "own" }, { label = "GVPO", set = ["train.replay=gvpo"] }]\n'
    )
    suite_file.write_text(text)
    configs = by_name(planned(suite_file))
    assert configs["GVPO/ppo-s1"].recording(tmp_path) == tmp_path / "GVPO" / "gvpo-s1"
    assert configs["own/ppo-s1"].replays is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.replay=grpo"], "train.replay = 'grpo' is not one of the algorithms: gvpo, ppo"),
        (["train.replay=/"], "train.replay"),
        ([REPLAY, "train.record_rollouts=true"], "what is replayed is recorded already"),
        ([REPLAY, "algorithms.ppo.algorithm=sft"], "SFT is trained on given demonstrations and draws nothing"),
        (["train.record_rollouts=true", "algorithms.ppo.algorithm=sft"], "draws nothing, and train.record_rollouts"),
        (["train.replay=nowhere/gvpo"], "nowhere/gvpo-s0 holds no finished cell, and seed 0 is to be trained on it"),
    ],
)
def test_what_cannot_be_replayed_is_refused_when_it_is_planned(suite_file, settings, message):
    with pytest.raises(ConfigError) as refused:
        planned(suite_file, *settings)
    assert message in str(refused.value)


def test_tuning_a_suite_that_replays_itself_is_refused(suite_file, tmp_path, capsys):
    assert command("tune", suite_file, "--set", REPLAY, "--out", tmp_path) == 2
    assert "replays the rollouts of 'gvpo', of which there is one for each trial" in capsys.readouterr().err


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "out" / "runs" / "small"


def run(cells, runs):
    for cell in cells:
        status = run_cell(cell, runs, ["gvpo-bench", "sweep"], lambda *_: None)
        assert status == "finished", (runs / cell.name / "traceback.txt").read_text()


def test_replayed_suite_charges_its_recorder_and_can_be_replayed_from_elsewhere(
    suite_file, runs, tmp_path, one_thread, no_figures
):
    run(planned(suite_file, REPLAY, "seeds=1"), runs)
    own, other = manifest(runs / "gvpo-s0"), manifest(runs / "ppo-s0")
    assert (own["tokens"]["replayed"], other["tokens"]["generated"]) == (0, 0)
    assert other["tokens"]["replayed"] == own["tokens"]["generated"] > 0
    assert own["replay"] is None
    assert other["replay"] == {"cell": "gvpo-s0", "off_policy": False}
    assert [row["reward"] for row in metrics(runs / "ppo-s0")] == [row["reward"] for row in metrics(runs / "gvpo-s0")]
    assert not (runs / "ppo-s0" / "rollouts").exists()

    report = write_report(runs, tmp_path / "out" / "small")
    table = report.table.set_index("algorithm")
    assert table["replayed_tokens"].to_dict()["ppo"] == table["generated_tokens"].to_dict()["gvpo"]
    text = (tmp_path / "out" / "small" / "table.md").read_text()
    assert "PPO were trained on the rollouts that GVPO drew at the same seed: off-policy data" in text
    assert "replayed tokens" in text

    # The recorder itself, and one with more seeds, from the folder of those runs.
    again = planned(suite_file, f"train.replay={runs}/gvpo", "seeds=1")
    (found,) = recordings(again)
    assert (found.status, found.found) == ("ok", f"those of 1 cells in {runs}")
    elsewhere = tmp_path / "again"
    run([cell for cell in again if cell.config.label == "gvpo"], elsewhere)
    weights = [
        load_file(cell / "checkpoint" / "model.safetensors") for cell in (runs / "gvpo-s0", elsewhere / "gvpo-s0")
    ]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    samples = [pd.read_parquet(cell / "samples.parquet") for cell in (runs / "gvpo-s0", elsewhere / "gvpo-s0")]
    pd.testing.assert_frame_equal(samples[0], samples[1], check_exact=True)
    for setting, message in {
        "train.samples=4": "was recorded with train.samples = 8, and this suite has 4",
        "train.steps=9": "holds the rollouts of 2 steps, and train.steps = 9",
        "model.template=plain": "was recorded with model.template = 'none', and this suite has 'plain'",
        "train.limit=100": "was recorded with train.limit = None, and this suite has 100",
        "seeds=2": "gvpo-s1 holds no finished cell",
    }.items():
        with pytest.raises(ConfigError) as refused:
            planned(suite_file, f"train.replay={runs}/gvpo", "seeds=1", setting)
        assert message in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        planned(suite_file, f"train.replay={runs}/ppo", "seeds=1")
    assert "ppo-s0 holds no rollouts (train.record_rollouts), and train.steps = 2" in str(refused.value)

    step_path(runs / "gvpo-s0", 2).write_bytes(b"")
    (found,) = recordings(again)
    assert (found.status, found.name) == ("fail", "recorded rollouts")
    assert "gvpo-s0: rollouts/000002.parquet is not what was recorded" in found.found
    assert run_cell(again[1], tmp_path / "third", ["gvpo-bench"], lambda *_: None) == "failed"
    assert "cannot be replayed" in (tmp_path / "third" / again[1].name / "traceback.txt").read_text()


def test_plan_counts_what_is_replayed_apart_from_what_is_drawn(suite_file):
    configs = {cell.name: cell for cell in planned(suite_file, REPLAY)}
    lengths = [10] * 20_000
    own, other = (
        count_tokens(cell.config, needs_of(cell), lengths, 4.0, 0.0) for cell in (configs["gvpo-s0"], configs["ppo-s0"])
    )
    # 2 steps of 8 prompts with 8 samples each, of 4 tokens
    assert (own.generated, own.replayed) == (2 * 8 * 8 * 4, 0)
    assert (other.generated, other.replayed) == (0, 2 * 8 * 8 * 4)
    assert other.trained == own.trained
