"""The responses that training keeps: what stands there, and that nothing else changes for it, killed or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from training_runs import Interrupted, Spy, assert_same_run, config_of, is_correct, run

from algorithms.grpo import GRPO
from algorithms.ppo import PPO
from algorithms.sft import SFT
from benchmarks import load_benchmark
from harness.record.cell_folder import CellFolder
from harness.record.cell_state import Hashes
from harness.record.files import RecordError, new_folder, remove
from harness.record.kept_samples import KEPT, KEPT_COLUMNS
from harness.sweep.cells import unfinished

HASHES = Hashes("h", "e")
KEEPING: dict[str, Any] = {"benchmark": "arithmetic-train", "keep_samples_every": 2}


def contents(cell: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cell / KEPT).iterdir()}


def test_a_kept_step_has_every_response_with_its_verdict_reward_and_log_prob(tmp_path):
    spy = Spy(GRPO())
    found = run(tmp_path, spy, **KEEPING)
    kept = CellFolder(tmp_path).kept
    assert kept.steps() == [2, 4]  # of four
    rows = kept.read(2)
    assert tuple(rows.columns) == KEPT_COLUMNS
    shown, batch = found.judge.shown[1], spy.prepared[1]
    assert list(zip(rows["problem_id"], rows["response"], strict=True)) == shown
    assert rows["sample"].tolist() == [0, 1, 2, 3] * 2
    assert rows["verdict"].tolist() == ["correct" if is_correct(text) else "wrong" for _, text in shown]
    assert rows["answer"].tolist() == [load_benchmark("arithmetic-train").answer_of(text) for _, text in shown]
    assert rows["reward"].tolist() == batch.rewards_GK.flatten().tolist()
    assert rows["reward"].mean() == found.rows[1]["reward"]
    assert rows["tokens"].tolist() == batch.mask_GKT.sum(-1).flatten().tolist()
    assert rows["truncated"].tolist() == batch.truncated_GK.flatten().tolist()
    logp = batch.sampler_logp_GKT.double().sum(-1).flatten().tolist()
    assert rows["logp"].tolist() == pytest.approx(logp, abs=1e-5)


def test_of_given_answers_the_log_prob_is_kept_and_no_verdict(tmp_path):
    run(tmp_path, SFT(), **KEEPING, max_new_tokens=40)
    rows = CellFolder(tmp_path).kept.read(2)
    assert rows["verdict"].isna().all()
    assert (rows["reward"] == 1).all()
    assert (rows["logp"] < 0).all()


def test_keeping_samples_changes_no_number_and_no_identity_of_a_cell(tmp_path):
    assert_same_run(run(tmp_path / "off", PPO(), steps=2), run(tmp_path / "on", PPO(), steps=2, **KEEPING))
    off, on = config_of(benchmark="arithmetic-train"), config_of(**KEEPING)
    assert off.hashes() == on.hashes()
    assert "keep_samples_every" not in off.stated()["train"]
    assert on.stated()["train"]["keep_samples_every"] == 2
    assert "keep_samples_every" not in on.decisive()["train"]


def test_a_resumed_run_leaves_the_very_same_files(tmp_path):
    settings = {"steps": 5, "checkpoint_every": 3} | KEEPING | {"keep_samples_every": 1}
    run(tmp_path / "a", GRPO(), **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", GRPO(), **settings, interrupt_at=4)
    half = tmp_path / "b" / KEPT / ".step-0000005.parquet-x1-1-00000000"
    half.write_bytes(b"half a file")
    run(tmp_path / "b", GRPO(), **settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "b")) == [f"step-000000{step}.parquet" for step in range(1, 6)]


SAMPLES = pd.DataFrame([("p", 0, "=3", "3", "correct", 1.0, 3, False, -0.5)], columns=list(KEPT_COLUMNS))


def killed(cell: CellFolder) -> None:
    """A training that was killed after its third step, whose checkpoint is that of the second."""
    with cell.claim(HASHES):
        for step in (1, 2, 3):
            cell.kept.write(step, SAMPLES)
            cell.add_metrics({"step": step})
            if step == 2:
                with new_folder(cell.resume_path) as folder:
                    (folder / "progress.json").write_text("{}")
                    cell.seal_resume(folder, "h")


@pytest.mark.parametrize(("step", "fits"), [(1, False), (2, False), (3, True)])
def test_a_damaged_file_costs_what_follows_from_it_and_no_more(tmp_path, step, fits):
    cell = CellFolder(tmp_path / "runs" / "gvpo-s0")
    killed(cell)
    path = cell.path / KEPT / f"step-000000{step}.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    said = cell.mend(HASHES)
    assert (said is None) == fits  # step 3 will be run again
    if said is not None:
        assert said.startswith(f"{KEPT}/step-000000{step}.parquet is not what was recorded")
        return
    with cell.claim(HASHES):
        cell.keep_metrics(2)
        assert cell.kept.steps() == [1, 2]
        cell.kept.write(3, SAMPLES)
        cell.add_metrics({"step": 3})
        cell.finish_training("h", {}, lambda folder: None)
    assert cell.faults() == []
    path.write_bytes(b"PAR1")
    assert cell.faults() == [f"{KEPT}/step-0000003.parquet is not what was recorded (its SHA-256 differs)"]
    with pytest.raises(RecordError, match="step-0000003"):
        cell.training()


def test_other_settings_clear_what_was_kept(tmp_path):
    cell = CellFolder(tmp_path / "gvpo-s0")
    killed(cell)
    with cell.claim(Hashes("other", "e")):
        assert cell.kept.steps() == []


def keeping(every: int) -> Any:
    """The cell of gvpo-s0, as a sweep asks whether it is finished."""
    config = SimpleNamespace(hashes=lambda: HASHES, train=SimpleNamespace(keep_samples_every=every))
    return SimpleNamespace(name="gvpo-s0", is_trained=True, config=config, reads=(None,))


def test_cells_that_were_trained_without_it_are_named_and_left_as_they_are(tmp_path, capsys):
    cell = CellFolder(tmp_path / "gvpo-s0")
    with cell.claim(HASHES):
        for step in (1, 2, 3):
            cell.add_metrics({"step": step})
        cell.finish_training("h", {}, lambda folder: None)
        cell.finish({"status": "finished", "hash": "h", "evaluation_hash": "e"})
    for every, said in ((0, False), (4, False), (2, True)):  # with 4 none of the three steps would have been kept
        outcome, waiting = unfinished([keeping(every)], tmp_path, Console(width=300))
        assert (outcome.reused, waiting) == (["gvpo-s0"], [])
        assert ("1 of 1 cells keep no responses of steps that they" in capsys.readouterr().out) == said


def test_steps_that_are_trained_again_are_not_missed(tmp_path, capsys):
    """Of a training that was killed after three steps, those that its checkpoint follows stay: two."""
    cell, console = CellFolder(tmp_path / "gvpo-s0"), Console(width=300)
    killed(cell)

    def missed(every: int) -> bool:
        assert len(unfinished([keeping(every)], tmp_path, console)[1]) == 1
        return "1 of 1 cells keep no responses" in capsys.readouterr().out

    (cell.path / KEPT / "step-0000003.parquet").unlink()
    assert not missed(1)
    with (cell.path / "metrics.jsonl").open("a") as rows:
        rows.write("damaged\n")
    assert not missed(1)
    remove(cell.resume_path)
    (cell.path / "metrics.jsonl").write_text("damaged\n" * 4)
    assert not missed(4)


def test_steps_that_an_interrupted_training_goes_on_after_are_missed(tmp_path, capsys):
    cell = CellFolder(tmp_path / "gvpo-s0")
    with cell.claim(HASHES):
        cell.add_metrics({"step": 1})
        with new_folder(cell.resume_path) as folder:
            cell.seal_resume(folder, "h")
    for hashes, said in ((HASHES, True), (Hashes("other", "e"), False)):
        one = keeping(1)
        one.config.hashes = lambda hashes=hashes: hashes
        unfinished([one], tmp_path, Console(width=300))
        assert ("1 of 1 cells keep no responses" in capsys.readouterr().out) == said
