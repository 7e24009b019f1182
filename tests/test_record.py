"""What a run leaves behind: whole or not at all, and never overwritten."""

import fcntl
import json
import math

import pytest

import harness.record.cell_folder
from harness.record.cell_folder import CellFolder, RecordError
from harness.record.environment import environment
from harness.record.files import new_folder, write, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_replaced_in_one_step_and_leaves_no_scratch(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write(path, "one")
    write(path, "β")
    assert path.read_bytes() == b"\xce\xb2"
    write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_that_json_does_not_have_is_refused_and_the_old_file_stays(tmp_path, number):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": number})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert names(tmp_path) == ["a.json"]


def test_new_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    for text in ("one", "two"):
        with new_folder(tmp_path / "made") as scratch:
            (scratch / text).write_text(text)
            assert not (tmp_path / "made" / text).exists()
    assert names(tmp_path / "made") == ["two"]
    assert names(tmp_path) == ["made"]


def test_new_folder_that_fails_leaves_the_old_one_and_no_scratch(tmp_path):
    with new_folder(tmp_path / "made") as scratch:
        (scratch / "one").write_text("one")

    def fail(folder):
        (folder / "two").write_text("two")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), new_folder(tmp_path / "made") as scratch:
        fail(scratch)
    assert names(tmp_path / "made") == ["one"]
    assert names(tmp_path) == ["made"]


@pytest.fixture
def cell(tmp_path):
    return CellFolder(tmp_path / "gvpo-s0")


def finish(cell, cell_hash="h", status="finished"):
    with cell.claim(cell_hash):
        cell.finish({"status": status, "hash": cell_hash})


def test_cell_is_finished_once_its_manifest_says_so(cell):
    assert not cell.is_finished("h")
    finish(cell)
    assert cell.is_finished("h")


def test_finished_cell_with_other_settings_is_refused_with_both_ways_out(cell):
    finish(cell, "old")
    with pytest.raises(
        RecordError, match=r"gvpo-s0 was finished with other settings \(hash old, now new.*--out.*remove"
    ):
        cell.is_finished("new")


def test_failed_cell_is_not_finished_and_may_be_run_with_other_settings(cell):
    finish(cell, "old", status="failed")
    assert not cell.is_finished("old")
    assert not cell.is_finished("new")


def test_claim_touches_nothing_of_a_finished_cell(cell):
    with cell.claim("h"):
        (cell.path / "samples.parquet").write_text("rows")
        cell.add_metrics({"step": 1})
        cell.finish({"status": "finished", "hash": "h"})
    before = {name: (cell.path / name).stat().st_mtime_ns for name in names(cell.path) if name != ".lock"}
    with cell.claim("h"):
        pass
    assert {name: (cell.path / name).stat().st_mtime_ns for name in before} == before


def interrupted(cell):
    """What a kill can leave behind."""
    with cell.claim("old"):
        cell.add_metrics({"step": 1})
        cell.resume_path.mkdir()
        cell.checkpoint_path.mkdir()
        (cell.path / "samples.parquet").write_text("rows")
        (cell.path / "traceback.txt").write_text("an earlier failure")
        (cell.path / ".checkpoint-x1y2").mkdir()
        (cell.path / ".checkpoint-x1y2" / "half").write_text("half a file")
        (cell.path / ".tmpscratch").write_text("half a file")


def test_claim_with_the_same_settings_keeps_what_a_resumption_needs_and_clears_the_rest(cell):
    interrupted(cell)
    with cell.claim("old"):
        assert names(cell.path) == [".lock", "checkpoint", "hash", "metrics.jsonl", "resume"]


def test_claim_with_other_settings_starts_afresh(cell):
    interrupted(cell)
    with cell.claim("new"):
        assert names(cell.path) == [".lock", "hash"]


def test_claim_waits_for_another_process_and_then_gives_up(cell, monkeypatch):
    monkeypatch.setattr(harness.record.cell_folder, "LOCK_SECONDS", 0.3)
    cell.path.mkdir()
    with (cell.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecordError, match="gvpo-s0 is in use by another process"), cell.claim("h"):
            pass
    with cell.claim("h"):  # it was let go
        pass


def test_line_that_a_kill_cut_short_is_left_out_and_rows_after_the_resumed_step_are_dropped(cell):
    cell.path.mkdir()
    for step in (1, 2, 3):
        cell.add_metrics({"step": step, "reward": 0.1 + 0.2})
    with (cell.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    assert [row["step"] for row in cell.metrics()] == [1, 2, 3]
    cell.keep_metrics(2)
    cell.add_metrics({"step": 3, "reward": 0.5})
    # 0.1 + 0.2 is 0.30000000000000004: every digit survives
    assert cell.metrics() == [
        {"step": 1, "reward": 0.30000000000000004},
        {"step": 2, "reward": 0.30000000000000004},
        {"step": 3, "reward": 0.5},
    ]


def test_metric_that_is_nan_is_refused(cell):
    cell.path.mkdir()
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell.add_metrics({"step": 1, "loss": math.nan})


def test_resumable_state_goes_when_the_cell_is_finished_and_stays_when_it_failed(cell):
    with cell.claim("h"):
        cell.resume_path.mkdir()
        cell.finish({"status": "failed", "hash": "h"})
        assert cell.resume_path.exists()
        cell.finish({"status": "finished", "hash": "h"})
        assert not cell.resume_path.exists()


def test_environment_names_versions_hardware_and_commit_and_is_json():
    found = json.loads(json.dumps(environment()))
    assert {"python", "torch", "transformers", "math-verify"} <= set(found["versions"])
    assert found["hardware"]["cores"] >= 1
    assert found["git"] is None or len(found["git"]["commit"]) == 40
