"""Recorded rollouts: what is recorded, and that whoever is trained on them is trained on just those."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet
import pytest
import torch
from test_supply import Asks, mixed
from training_runs import PROBLEMS, Interrupted, Run, Spy, config_of, is_correct, run, without_times

from algorithms import Algorithm
from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.gvpo import GVPO
from algorithms.kimi import Kimi
from harness.record.cell_folder import CellFolder
from harness.record.cell_state import all_faults
from harness.record.files import RecordError
from harness.record.rollouts_file import read_rollouts, recorded_steps, rollout_faults, step_path
from harness.training.schedule import prompts_of_step

SETTINGS: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "grpo": (GRPO(beta=0.1), {"mini_batches": 2, "steps": 3}),
    "gvpo-with-a-stale-sampler": (GVPO(), {"refresh_every": 2, "sampler_ratio_cap": None}),
    "grpo-with-a-stale-sampler-and-weights": (GRPO(), {"refresh_every": 3, "sampler_ratio_cap": 2.0}),
    "kimi-with-history": (Kimi(), {"history_share": 0.5, "prompts": 3, "steps": 6}),
    "dynamic-sampling": (Asks(refill=mixed), {"steps": 3, "prompts": 3}),
    "samples-of-the-base": (Asks(data="base"), {"steps": 3}),
    "greedy-and-reference-samples": (
        Asks(extras=("greedy_reward_G", "reference_reward_GN"), reference_samples=2),
        {"steps": 3},
    ),
}


def recorded(path, algorithm, **settings) -> tuple[Run, str]:
    """A run that records its rollouts, and the hash of its training."""
    found = run(path, algorithm, record_rollouts=True, **settings)
    training = config_of(record_rollouts=True, **settings).hashes().training
    CellFolder(path).seal_training({"hash": training, "display": "", "tokens": {}, "seconds": {}})
    return found, training


def replayed(path, algorithm, recording, training, **settings) -> Run:
    return run(path, algorithm, replay="x", replays=training, recording=recording, **settings)


def of_training(run: Run):
    """The rows without what says who drew."""
    drawn = ("generated_tokens", "replayed_tokens")
    return [{name: x for name, x in row.items() if name not in drawn} for row in without_times(run.rows)]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_algorithm_that_recorded_ends_with_the_same_weights_and_rows_bit_for_bit(name, tmp_path):
    algorithm, settings = SETTINGS[name]
    own, training = recorded(tmp_path / "own", algorithm, **settings)
    again = replayed(tmp_path / "again", algorithm, tmp_path / "own", training, **settings)
    assert of_training(again) == of_training(own)
    for key, weight in own.weights.items():
        assert torch.equal(weight, again.weights[key]), key
    assert again.judge.shown == own.judge.shown[:0] or algorithm.needs.extras
    beside = 0 if not algorithm.needs.extras else own.spent.generated - again.spent.replayed
    assert (again.spent.generated, again.spent.replayed) == (beside, own.spent.generated - beside)
    assert again.spent.trained == own.spent.trained
    assert again.rows[-1]["replayed_tokens"] == again.spent.replayed
    assert "replayed_tokens" not in own.rows[-1]


def test_recording_changes_no_number(tmp_path):
    own, _ = recorded(tmp_path / "own", GRPO(), steps=2)
    plain = run(tmp_path / "plain", GRPO(), steps=2)
    assert without_times(plain.rows) == without_times(own.rows)
    assert not (tmp_path / "plain" / "rollouts").exists()


def test_other_algorithms_see_the_very_samples_with_the_log_probs_of_the_policy_that_drew_them(tmp_path):
    recorder, other = Spy(GRPO()), Spy(Kimi(beta=0.3))
    _, training = recorded(tmp_path / "own", recorder, steps=3, mini_batches=2)
    replayed(tmp_path / "other", other, tmp_path / "own", training, steps=3, mini_batches=2)
    for step, (own, seen) in enumerate(zip(recorder.prepared, other.prepared, strict=True)):
        for name in ("mask_GKT", "rewards_GK", "behaviour_logp_GKT", "sampler_logp_GKT", "truncated_GK"):
            assert torch.equal(getattr(own, name), getattr(seen, name)), (step, name)
        # The first step's policy is the base in both; then each has its own, and the samples are off-policy.
        assert torch.equal(own.old_logp_GKT, seen.old_logp_GKT) == (step == 0)


def test_a_step_is_a_row_a_sample_with_all_that_is_known_of_it(tmp_path):
    own, _ = recorded(tmp_path, GRPO(), steps=2)
    rows = read_rollouts(tmp_path, 2)
    asked = [problem.id for problem in prompts_of_step(PROBLEMS, 0, 1, 2)]
    assert [row["problem_id"] for row in rows] == [problem for problem in asked for _ in range(4)]
    assert [row["group"] for row in rows] == [0] * 4 + [1] * 4
    shown = [response for _, response in own.judge.shown[1]]
    assert [row["reward"] for row in rows] == [float(is_correct(response)) for response in shown]
    assert [row["verdict"] for row in rows] == ["correct" if row["reward"] else "wrong" for row in rows]
    assert all(len(row["tokens"]) == len(row["sampler_logp"]) == len(row["behaviour_logp"]) for row in rows)
    tokens = sum(len(row["tokens"]) for step in (1, 2) for row in read_rollouts(tmp_path, step))
    assert tokens == own.spent.generated == sum(row["drawn"] for row in recorded_steps(tmp_path))


def test_groups_that_refilling_replaced_are_recorded_too_and_their_draws_charged(tmp_path):
    own, _ = recorded(tmp_path, Asks(refill=lambda rewards_K: bool(rewards_K.sum() == 2)), steps=1, prompts=3)
    rows = read_rollouts(tmp_path, 1)
    first, trained = ([row for row in rows if row[kind]] for kind in ("first", "trained"))
    assert len(first) == len(trained) == 12
    replaced = [row for row in rows if row["first"] and not row["trained"]]
    assert replaced
    assert all(row["behaviour_logp"] == [] for row in replaced)  # nobody was trained on them
    assert recorded_steps(tmp_path)[0]["drawn"] == own.spent.generated > sum(len(row["tokens"]) for row in rows)


def test_a_recording_goes_on_after_a_kill_and_is_the_same_byte_for_byte(tmp_path):
    recorded(tmp_path / "whole", DPO(), steps=4)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", DPO(), steps=4, record_rollouts=True, checkpoint_every=2, interrupt_at=3)
    assert len(recorded_steps(tmp_path / "cut")) == 3  # one more than the checkpoint of step 2 follows
    run(tmp_path / "cut", DPO(), steps=4, record_rollouts=True, checkpoint_every=2)
    assert recorded_steps(tmp_path / "cut") == recorded_steps(tmp_path / "whole")
    for step in range(1, 5):
        assert step_path(tmp_path / "cut", step).read_bytes() == step_path(tmp_path / "whole", step).read_bytes()


def test_a_replaying_run_goes_on_after_a_kill_with_the_numbers_of_an_undisturbed_one(tmp_path):
    _, training = recorded(tmp_path / "own", GRPO(), steps=4)
    settings = {"recording": tmp_path / "own", "training": training, "steps": 4, "checkpoint_every": 2}
    undisturbed = replayed(tmp_path / "a", Kimi(), **settings)
    with pytest.raises(Interrupted):
        replayed(tmp_path / "b", Kimi(), interrupt_at=3, **settings)
    resumed = replayed(tmp_path / "b", Kimi(), **settings)
    assert without_times(resumed.rows) == without_times(undisturbed.rows)
    assert resumed.spent.tokens() == undisturbed.spent.tokens()


def test_what_was_recorded_before_a_kill_is_kept_only_where_it_is_sound(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, DPO(), record_rollouts=True, checkpoint_every=2, interrupt_at=3)
    step_path(tmp_path, 1).unlink()
    with pytest.raises(
        RecordError, match=r"rollouts before step 3 cannot be kept \(rollouts/000001.parquet is missing"
    ):
        run(tmp_path, DPO(), record_rollouts=True, checkpoint_every=2)
    (tmp_path / "rollouts.jsonl").unlink()
    with pytest.raises(RecordError, match=r"rollouts\.jsonl has 0 of 2 steps"):
        run(tmp_path, DPO(), record_rollouts=True, checkpoint_every=2)


@dataclass
class Never:
    """An algorithm that must not come to its first batch."""

    needs = GRPO().needs

    def prepare(self, batch):
        raise AssertionError("trained")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3}, r"it holds the rollouts of 2 steps, and train.steps = 3"),
        ({"seed": 1}, "its step 1 asks other problems"),
        ({"prompts": 3}, "its step 1 asks other problems"),
        ({"training": "another"}, r"trained with other settings \(hash \w+, not another\)"),
    ],
)
def test_rollouts_that_do_not_fit_are_refused_before_any_work(settings, message, tmp_path):
    _, training = recorded(tmp_path / "own", GRPO(), steps=2)
    settings = {"training": training, "steps": 2} | settings
    with pytest.raises(RecordError, match=message):
        replayed(tmp_path / "other", Never(), recording=tmp_path / "own", **settings)


def test_other_problems_under_the_same_names_are_refused(tmp_path):
    _, training = recorded(tmp_path / "own", GRPO(), steps=1)
    other = [replace(problem, prompt=problem.prompt[::-1]) for problem in PROBLEMS]
    with pytest.raises(RecordError, match="its step 1 asks them in other words, or in the tokens of another model"):
        replayed(tmp_path / "b", Never(), tmp_path / "own", training, steps=1, problems=other)


def test_damaged_or_unfinished_rollouts_are_refused(tmp_path):
    own = tmp_path / "own"
    run(own, GRPO(), steps=2, record_rollouts=True)
    with pytest.raises(RecordError, match="own cannot be replayed: its training is not over"):
        replayed(tmp_path / "b", Never(), own, "", steps=2)
    _, training = recorded(own, GRPO(), steps=2)
    path = step_path(own, 2)
    rows = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(rows.slice(1), path)
    assert rollout_faults(own) == ["rollouts/000002.parquet is not what was recorded (its SHA-256 differs)"]
    assert rollout_faults(own)[0] in all_faults(own)  # gvpo-bench verify finds it
    with pytest.raises(RecordError, match=r"000002.parquet is not what was recorded.*Record it again"):
        replayed(tmp_path / "b", Never(), own, training, steps=2)
