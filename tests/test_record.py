"""What a run leaves behind: whole or not at all, and never overwritten."""

import fcntl
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import harness
import harness.record.cell_folder
from harness.record.cell_folder import CellFolder
from harness.record.cell_state import Hashes
from harness.record.environment import _git, environment
from harness.record.files import RecordError, new_folder, write, write_json


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


def hashes(training, evaluation="e"):
    return Hashes(training, evaluation)


def ended(status, training="h", evaluation="e"):
    return {"status": status, "hash": training, "evaluation_hash": evaluation}


def finish(cell, training="h", status="finished"):
    with cell.claim(hashes(training)):
        cell.finish(ended(status, training))


def test_cell_is_finished_once_its_manifest_says_so(cell):
    assert cell.state(hashes("h")) == "new"
    finish(cell)
    assert cell.state(hashes("h")) == "finished"


def test_finished_cell_with_other_settings_is_refused_with_both_ways_out(cell):
    finish(cell, "old")
    with pytest.raises(
        RecordError, match=r"gvpo-s0 was finished with other settings \(hash old, now new.*--out.*remove"
    ):
        cell.state(hashes("new"))


def test_failed_cell_is_not_finished_and_may_be_run_with_other_settings(cell):
    finish(cell, "old", status="failed")
    assert cell.state(hashes("old")) == cell.state(hashes("new")) == "new"


def test_claim_touches_nothing_of_a_finished_cell(cell):
    with cell.claim(hashes("h")):
        (cell.path / "samples.parquet").write_text("rows")
        cell.add_metrics({"step": 1})
        cell.finish(ended("finished"))
    before = {name: (cell.path / name).stat().st_mtime_ns for name in names(cell.path) if name != ".lock"}
    with cell.claim(hashes("h")):
        pass
    assert {name: (cell.path / name).stat().st_mtime_ns for name in before} == before


def checkpoint(cell, text, training="h"):
    """A resumable state, as training leaves one."""
    with new_folder(cell.resume_path) as folder:
        (folder / "state.pt").write_text(text)
        cell.seal_resume(folder, training)


def interrupted(cell):
    """What a kill can leave behind."""
    with cell.claim(hashes("old")):
        cell.add_metrics({"step": 1})
        checkpoint(cell, "weights", "old")
        cell.checkpoint_path.mkdir()
        (cell.path / "samples.parquet").write_text("rows")
        (cell.path / "traceback.txt").write_text("an earlier failure")
        (cell.path / ".checkpoint-x1y2").mkdir()
        (cell.path / ".checkpoint-x1y2" / "half").write_text("half a file")
        (cell.path / ".tmpscratch").write_text("half a file")


def test_claim_with_the_same_settings_keeps_what_a_resumption_needs_and_clears_the_rest(cell):
    interrupted(cell)
    with cell.claim(hashes("old")):
        assert names(cell.path) == [".lock", "checkpoint", "hash", "metrics.jsonl", "resume"]


def test_claim_with_other_settings_starts_afresh(cell):
    interrupted(cell)
    with cell.claim(hashes("new")):
        assert names(cell.path) == [".lock", "hash"]


def test_claim_waits_for_another_process_and_then_gives_up(cell, monkeypatch):
    monkeypatch.setattr(harness.record.cell_folder, "LOCK_SECONDS", 0.3)
    cell.path.mkdir()
    with (cell.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecordError, match="gvpo-s0 is in use by another process"), cell.claim(hashes("h")):
            pass
    with cell.claim(hashes("h")):  # it was let go
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


def test_resumable_state_goes_when_the_training_is_over_and_stays_when_the_cell_failed(cell):
    with cell.claim(hashes("h")):
        cell.resume_path.mkdir()
        cell.finish(ended("failed"))
        assert cell.resume_path.exists()
        cell.finish_training("h", {"tokens": 3}, lambda folder: (folder / "weights").write_text("w"))
        assert not cell.resume_path.exists()
    assert cell.training() == {"hash": "h", "tokens": 3}
    assert names(cell.checkpoint_path) == ["weights"]


def trained(cell, *, keep_checkpoint=True):
    """A finished cell, evaluated under "e"."""
    with cell.claim(hashes("h")):
        cell.finish_training("h", {}, lambda folder: (folder / "weights").write_text("w"))
        (cell.path / "samples.parquet").write_text("of e")
        cell.finish(ended("finished"), keep_checkpoint=keep_checkpoint)


def test_other_evaluation_settings_leave_the_training_and_put_the_evaluation_aside(cell):
    trained(cell)
    weights = (cell.checkpoint_path / "weights").stat()
    assert cell.state(hashes("h", "other")) == "trained"
    with cell.claim(hashes("h", "other")) as state:
        assert state == "trained"
        assert cell.manifest() is None
        (cell.path / "samples.parquet").write_text("of other")
        cell.finish(ended("finished", "h", "other"))
    assert (cell.checkpoint_path / "weights").stat() == weights
    with cell.claim(hashes("h")) as state:  # nothing finished is lost, and nothing is evaluated twice
        assert state == "finished"
        assert (cell.path / "samples.parquet").read_text() == "of e"
    assert cell.state(hashes("h", "other")) == "trained"
    with cell.claim(hashes("h", "other")) as state:
        assert (state, (cell.path / "samples.parquet").read_text()) == ("finished", "of other")


@pytest.mark.parametrize("killed_before", ["_clear", "_take_back"])
def test_kill_while_an_evaluation_is_put_aside_loses_it_in_neither_place(cell, monkeypatch, killed_before):
    def killed(*_):
        raise KeyboardInterrupt

    trained(cell)
    with monkeypatch.context() as patch:
        patch.setattr(CellFolder, killed_before, killed)
        with pytest.raises(KeyboardInterrupt), cell.claim(hashes("h", "other")):
            pass
    with cell.claim(hashes("h")) as state:
        assert (state, (cell.path / "samples.parquet").read_text()) == ("finished", "of e")


def test_cell_that_kept_no_checkpoint_is_not_evaluated_again_and_says_so(cell):
    trained(cell, keep_checkpoint=False)
    assert cell.state(hashes("h")) == "finished"
    with pytest.raises(RecordError, match=r"kept no checkpoint .*resources\.keep_checkpoints.*--out.*remove"):
        cell.state(hashes("h", "other"))


def test_trained_cell_is_refused_under_other_training_settings_before_it_is_evaluated(cell):
    with cell.claim(hashes("h")):
        cell.finish_training("h", {}, lambda folder: None)
    with pytest.raises(RecordError, match="gvpo-s0 was trained with other settings"), cell.claim(hashes("new")):
        pass
    assert cell.checkpoint_path.is_dir()


def test_kill_between_the_two_renames_of_a_new_checkpoint_leaves_the_old_one_to_go_on_from(cell, monkeypatch):
    with cell.claim(hashes("h")):
        checkpoint(cell, "old")
    rename = Path.rename
    renamed: list[Path] = []

    def killed(self, target):
        if len(renamed) == 1:
            raise KeyboardInterrupt
        renamed.append(target)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt), new_folder(cell.resume_path) as folder:
            (folder / "state.pt").write_text("new")
    assert not cell.resume_path.exists()
    with cell.claim(hashes("h")):
        assert (cell.resume_path / "state.pt").read_text() == "old"
    assert names(cell.path) == [".lock", "hash", "resume"]


def test_line_of_the_metrics_that_is_no_json_is_named_and_not_dropped(cell):
    cell.path.mkdir()
    for step in (1, 2):
        cell.add_metrics({"step": step})
    path = cell.path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 1', '"step: 1'))
    with pytest.raises(RecordError, match=r"metrics\.jsonl, line 1, is not the row of step 1"):
        cell.metrics()


def test_environment_names_versions_hardware_and_commit_and_is_json():
    found = json.loads(json.dumps(environment()))
    assert {"python", "torch", "transformers", "math-verify"} <= set(found["versions"])
    assert found["hardware"]["cores"] >= 1
    assert found["git"] is None or len(found["git"]["commit"]) == 40


def test_manifest_names_the_gpus_that_the_process_sees_with_driver_and_cuda(monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_device_properties=lambda i: SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=85_017_493_504),
    )
    cpu = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512"))
    fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"), backends=cpu)
    monkeypatch.setitem(sys.modules, "torch", fake)
    asked = []

    def nvidia_smi(command, **options):
        asked.append(command[0])
        if command[0] != "nvidia-smi":
            raise OSError
        return SimpleNamespace(stdout="590.44.01\n590.44.01\n")

    monkeypatch.setattr("harness.record.environment.subprocess.run", nvidia_smi)
    found = environment()["hardware"]
    assert found["gpus"] == ["NVIDIA H100 80GB HBM3 (85 GB)"] * 2
    assert (found["driver"], found["cuda"], found["kernels"]) == ("590.44.01", "13.0", "AVX512")
    assert "nvidia-smi" in asked
    json.dumps(found)


def test_gpu_that_cannot_be_opened_is_named_so_and_keeps_no_cell_from_being_recorded(monkeypatch):
    def full(i):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")

    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_properties=full)
    cpu = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512"))
    fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"), backends=cpu)
    monkeypatch.setitem(sys.modules, "torch", fake)
    assert environment()["hardware"]["gpus"] == ["1 that cannot be opened: CUDA error: out of memory"]


def test_machine_without_a_gpu_names_none(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = environment()["hardware"]
    assert (found["gpus"], found["driver"], found["cuda"]) == ([], None, None)


def test_the_commit_of_a_project_that_has_installed_this_one_is_not_recorded(tmp_path, monkeypatch):
    def git(*arguments):
        author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        done = subprocess.run(["git", *author, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    module = tmp_path / "harness" / "__init__.py"
    module.parent.mkdir()
    module.write_text("")
    monkeypatch.setattr(harness, "__file__", str(module))
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "another project")
    assert _git() is None
    git("add", ".")
    git("commit", "--quiet", "--message", "a checkout")
    assert _git() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
