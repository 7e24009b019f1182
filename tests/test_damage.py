"""What lies on the disk is not believed: every kind of damage to every kind of file is found, named, and set aside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from small import command, files
from synthetic_runs import write_runs

from harness.record.base_answers import answers_path, read_answers, write_answers
from harness.record.cell_folder import CellFolder
from harness.record.cell_state import Hashes
from harness.record.files import RecordError, new_folder, remove_scratch, write, write_json
from harness.record.rollouts_file import add_rollouts
from harness.record.runs_folder import recorded_cells
from harness.record.sums import SEAL, SUMS, read_record, seal, unfit
from harness.record.verify import record_sums, verify, verify_runs
from harness.report.recorded_cells import load_cells, load_coefficients
from harness.sweep.cells import unfinished

pytest_plugins = ["small_fixtures"]
pytestmark = pytest.mark.usefixtures("no_figures")

HASHES = Hashes("h", "e")
SAMPLES = pd.DataFrame({"benchmark": ["b"] * 4, "score": [0.0, 1.0, 1.0, 0.0]})


def checkpoint(cell: CellFolder, training: str = "h") -> None:
    """A resumable state, as training leaves one."""
    with new_folder(cell.resume_path) as folder:
        (folder / "shard.safetensors").write_bytes(bytes(range(64)))
        (folder / "progress.json").write_text('{"step": 2}')
        cell.seal_resume(folder, training)


def begin(cell: CellFolder) -> None:
    """A training that was killed after three steps and a checkpoint at the second."""
    with cell.claim(HASHES):
        cell.write_problems(["p-1", "p-2"], {"p-1": 0.5, "p-2": 0.25})
        cell.write_algorithm(b"class Mine: ...\n")
        for step in (1, 2):
            cell.add_metrics({"step": step, "reward": step / 8})
        checkpoint(cell)
        cell.add_metrics({"step": 3, "reward": 3 / 8})


def save(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(range(100, 164)))
    (folder / "config.json").write_text('{"hidden": 16}')


def end_training(cell: CellFolder) -> None:
    begin(cell)
    with cell.claim(HASHES):
        cell.finish_training("h", {"tokens": 3}, save)


def finish(cell: CellFolder, samples: pd.DataFrame = SAMPLES, evaluation: str = "e", **options: bool) -> None:
    with cell.claim(Hashes("h", evaluation)) as state:
        assert state == "trained"
        cell.write_samples(samples)
        about = {"status": "finished", "hash": "h", "evaluation_hash": evaluation, "cell": cell.path.name}
        cell.finish(about, **options)


@pytest.fixture
def cell(tmp_path: Path) -> CellFolder:
    """A finished cell."""
    made = CellFolder(tmp_path / "runs" / "gvpo-s0")
    end_training(made)
    finish(made)
    return made


def parts(cell: CellFolder) -> list[Path]:
    """Every file of the cell that says something."""
    found = [path for path in sorted(cell.path.rglob("*")) if path.is_file()]
    return [path for path in found if path.name not in (".lock", "hash")]


def content(folder: Path) -> list[bytes]:
    """What its files hold, but for the locks and what is said about them."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "why.txt", "hash")]
    return sorted(path.read_bytes() for path in found)


def damages(whole: bytes) -> dict[str, bytes | None]:
    """A bit at ten places, the second half, everything, and the file itself."""
    flipped: dict[str, bytes | None] = {}
    for i in range(10):
        at = i * (len(whole) - 1) // 9
        flipped[f"bit {i % 8} of byte {at}"] = whole[:at] + bytes([whole[at] ^ 1 << i % 8]) + whole[at + 1 :]
    return flipped | {"cut": whole[: len(whole) // 2], "emptied": b"", "deleted": None}


def put(path: Path, damaged: bytes | None) -> None:
    path.unlink() if damaged is None else path.write_bytes(damaged)


def flip(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def same_json(path: Path, whole: bytes) -> bool:
    """Whether a record says what it said, as a last digit beyond a double's does."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        return path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(whole)
    return False


def test_every_damage_to_every_file_of_a_finished_cell_is_found_and_named(cell):
    assert cell.faults(checkpoints=True) == []
    kinds = {path.relative_to(cell.path).as_posix() for path in parts(cell)}
    assert kinds == {
        *("algorithm.py", "checkpoint/config.json", "checkpoint/model.safetensors", "manifest.json", "metrics.jsonl"),
        *("problems.json", "samples.parquet", "training.json"),
    }
    for path in parts(cell):
        whole, name = path.read_bytes(), path.relative_to(cell.path).as_posix()
        for what, damaged in damages(whole).items():
            if name == "manifest.json" and damaged is None:
                continue  # then the cell is not finished
            put(path, damaged)
            if not same_json(path, whole):
                assert any(name in fault for fault in cell.faults(checkpoints=True)), (name, what)
        path.write_bytes(whole)
    (cell.checkpoint_path / "adapter_config.json").write_text("{}")  # which transformers would read
    assert cell.faults(checkpoints=True) == ["checkpoint/adapter_config.json was added"]


def test_every_damage_to_what_a_training_goes_on_from_is_found_set_aside_and_begun_anew(tmp_path):
    template = CellFolder(tmp_path / "template" / "gvpo-s0")
    begin(template)
    count = 0
    for path in [
        *sorted(template.resume_path.iterdir()),
        template.path / "metrics.jsonl",
        template.path / "problems.json",
    ]:
        whole = path.read_bytes()
        if path.name == "metrics.jsonl":  # of which two rows belong to the checkpoint
            whole = b"".join(whole.splitlines(keepends=True)[:2])
        for what, damaged in damages(whole).items():
            runs = tmp_path / f"runs{(count := count + 1)}"
            cell = CellFolder(runs / "gvpo-s0")
            shutil.copytree(template.path, cell.path)
            put(cell.path / path.relative_to(template.path), damaged)
            before = content(cell.path)
            if same_json(cell.path / path.relative_to(template.path), whole):
                continue
            said = cell.mend(HASHES)
            assert said is not None, (path.name, what)
            assert said.endswith("the cell is run again")
            assert path.name in said, (path.name, what)
            with cell.claim(HASHES) as state:
                assert (state, cell.metrics(), cell.resume_path.exists()) == ("new", [], False), (path.name, what)
            assert content(runs) == before  # set aside, and nothing deleted


def test_rows_after_the_checkpoint_may_hold_anything_since_they_are_run_again(tmp_path):
    cell = CellFolder(tmp_path / "gvpo-s0")
    begin(cell)
    path = cell.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"step": 3', b'{"st\xffp": 3'))
    assert cell.mend(HASHES) is None
    with cell.claim(HASHES) as state:
        cell.keep_metrics(2)
        assert (state, [row["step"] for row in cell.metrics()]) == ("new", [1, 2])
        assert cell.resume_path.is_dir()


@pytest.mark.parametrize("name", ["samples.parquet", "manifest.json"])
def test_damaged_evaluation_is_set_aside_and_the_checkpoint_evaluated_again(cell, name):
    whole = (cell.path / name).read_bytes()
    (cell.path / name).write_bytes(whole[:-9])
    before = content(cell.path)
    said = cell.mend(HASHES)
    assert said.startswith(name)
    assert said.endswith("gvpo-s0-1; its checkpoint is evaluated again")
    aside = cell.path.parent / ".set-aside" / "gvpo-s0-1"
    assert sorted(path.name for path in aside.iterdir()) == ["manifest.json", "samples.parquet", "why.txt"]
    assert name in (aside / "why.txt").read_text()
    assert content(cell.path.parent) == before
    finish(cell)
    assert cell.state(HASHES) == "finished"
    assert cell.faults(checkpoints=True) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "training.json", "problems.json", "algorithm.py"])
def test_cell_whose_training_is_damaged_is_set_aside_as_a_whole(cell, name):
    (cell.path / name).write_bytes((cell.path / name).read_bytes()[:-9])
    before = content(cell.path)
    with cell.claim(HASHES) as state:
        assert state == "new"
        assert sorted(path.name for path in cell.path.iterdir()) == [".lock", "hash"]
    assert content(cell.path.parent) == before
    end_training(cell)
    finish(cell)
    assert cell.faults(checkpoints=True) == []


def test_damaged_checkpoint_leaves_the_numbers_and_is_found_when_it_is_to_be_evaluated_again(cell):
    path = cell.checkpoint_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert cell.state(HASHES) == "finished"
    with pytest.raises(RecordError, match=r"checkpoint/model\.safetensors is not what was recorded"):
        cell.require_checkpoint()
    assert "checkpoint/model.safetensors" in (cell.mend(Hashes("h", "other")) or "")
    assert cell.state(Hashes("h", "other")) == "new"


def test_checkpoint_that_is_gone_before_it_was_evaluated_is_trained_again(tmp_path):
    cell = CellFolder(tmp_path / "runs" / "gvpo-s0")
    end_training(cell)
    shutil.rmtree(cell.checkpoint_path)
    assert (cell.mend(HASHES) or "").startswith("checkpoint/ is missing")
    assert cell.state(HASHES) == "new"


def test_cell_without_its_checkpoint_that_was_not_to_be_kept_is_sound_and_run_again_where_it_is_damaged(tmp_path):
    cell = CellFolder(tmp_path / "runs" / "gvpo-s0")
    end_training(cell)
    finish(cell, keep_checkpoint=False)
    assert cell.faults(checkpoints=True) == []
    (cell.path / "samples.parquet").write_bytes(b"PAR1")
    assert (cell.mend(HASHES) or "").endswith("the cell is run again")
    assert cell.state(HASHES) == "new"


def test_evaluation_that_was_put_aside_is_taken_back_only_where_it_is_sound(cell):
    finish(cell, SAMPLES.assign(score=0.5), "other")
    earlier = cell.path / "earlier" / "e"
    (earlier / "samples.parquet").write_bytes((earlier / "samples.parquet").read_bytes()[:-1])
    assert cell.faults(checkpoints=True) == ["earlier/e/samples.parquet is not what was recorded (its SHA-256 differs)"]
    with cell.claim(HASHES) as state:
        assert state == "trained"
    assert (cell.path.parent / ".set-aside" / "gvpo-s0-1" / "earlier" / "e" / "samples.parquet").is_file()
    finish(cell)
    with cell.claim(Hashes("h", "other")) as state:
        assert state == "finished"
    assert cell.samples(["score"])["score"].tolist() == [0.5] * 4


def test_evaluation_that_was_put_aside_under_the_hash_of_another_is_found_and_not_taken_back(cell):
    for number, evaluation in enumerate(("e1", "e2")):
        finish(cell, SAMPLES.assign(score=number / 4), evaluation)
    finish(cell, SAMPLES.assign(score=1.0), "e3")
    earlier = cell.path / "earlier"
    for old, new in (("e1", "x"), ("e2", "e1"), ("x", "e2")):
        (earlier / old).rename(earlier / new)
    assert cell.faults(checkpoints=True) == [
        "earlier/e1/manifest.json is that of evaluation e2",
        "earlier/e2/manifest.json is that of evaluation e1",
    ]
    before = content(cell.path.parent)
    with cell.claim(Hashes("h", "e1")) as state:
        assert state == "trained"
    assert set(before) <= set(content(cell.path.parent))


@pytest.mark.parametrize("swapped", ["samples.parquet", "manifest.json", "both", "folder"])
def test_what_belongs_to_another_cell_is_found(cell, swapped):
    other = CellFolder(cell.path.parent / "grpo-s0")
    end_training(other)
    finish(other, SAMPLES.assign(score=1.0))
    if swapped == "folder":
        shutil.rmtree(cell.path)
        shutil.copytree(other.path, cell.path)
    for name in {"both": ("samples.parquet", "manifest.json"), "folder": ()}.get(swapped, (swapped,)):
        shutil.copy(other.path / name, cell.path / name)
    said = cell.mend(HASHES)
    assert (
        "samples.parquet is not" if swapped == "samples.parquet" else "manifest.json is that of cell grpo-s0"
    ) in said


def test_recording_that_was_interrupted_is_set_aside_where_rollouts_before_its_checkpoint_are_damaged(tmp_path):
    cell = CellFolder(tmp_path / "runs" / "gvpo-s0")
    begin(cell)
    for step in (1, 2, 3):
        add_rollouts(cell.path, step, [], 0)
    (cell.path / "rollouts" / "000003.parquet").write_bytes(b"PAR1")  # after the checkpoint: drawn again
    assert cell.mend(HASHES) is None
    (cell.path / "rollouts" / "000001.parquet").write_bytes(b"PAR1")
    said = "rollouts/000001.parquet is not what was recorded (its SHA-256 differs)"
    assert cell.faults(checkpoints=True).count(said) == 1
    assert (cell.mend(HASHES) or "").startswith(said)
    assert cell.state(HASHES) == "new"
    assert not cell.resume_path.exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"sha256"', '"sha25v"', "rollouts/000001.parquet is not what was recorded"),
        ('{"step"', "[" * 100_000 + '{"step"', "line 1, is not the row of step 1"),
        ('"step": 1', '"step": 1.0', "line 1, is not the row of step 1 (but of step 1.0)"),
    ],
)
def test_checksums_of_rollouts_that_hold_anything_are_named(tmp_path, old, new, said):
    cell = CellFolder(tmp_path / "runs" / "gvpo-s0")
    begin(cell)
    add_rollouts(cell.path, 1, [], 0)
    sums = cell.path / "rollouts.jsonl"
    assert cell.faults(checkpoints=True) == []
    sums.write_text(sums.read_text().replace(old, new))
    (fault,) = cell.faults(checkpoints=True)
    assert said in fault


def test_attempt_of_another_cell_is_not_gone_on_from(tmp_path):
    cell, other = (CellFolder(tmp_path / "runs" / name) for name in ("gvpo-s0", "grpo-s0"))
    begin(cell)
    with other.claim(Hashes("other", "e")):
        other.add_metrics({"step": 1, "reward": 1.0})
        checkpoint(other, "other")
    shutil.rmtree(cell.resume_path)
    shutil.copytree(other.resume_path, cell.resume_path)
    assert "metrics.jsonl does not hold the rows that resume/ follows" in (cell.mend(HASHES) or "")


def test_damaged_hash_of_the_attempt_costs_a_trained_cell_and_its_checkpoint_nothing(tmp_path):
    for make, expected in ((begin, "new"), (end_training, "trained")):
        cell = CellFolder(tmp_path / make.__name__ / "gvpo-s0")
        make(cell)
        before = files(cell.path)
        (cell.path / "hash").write_text("\x00nonsense")
        with cell.claim(HASHES) as state:
            assert state == expected
        assert files(cell.path).keys() == before.keys()


LEGACY = {
    "suite": "small",
    "cell": "gvpo-s0",
    "algorithm": "gvpo",
    "seed": 0,
    "hash": "h",
    "evaluation_hash": "e",
    "suite_hash": "s",
    "status": "finished",
    "command": [],
    "config": {},
    "versions": {},
    "hardware": {},
    "git": None,
    "seconds": {},
}


def without_sums(cell: CellFolder) -> None:
    """As version 0.1 recorded it."""
    training = cell.training()
    assert training is not None
    training |= {"display": "GVPO", "tokens": {}, "seconds": {}}
    (cell.path / "training.json").write_text(json.dumps(training))
    (cell.path / "manifest.json").write_text(json.dumps(LEGACY))


def test_cell_without_checksums_is_taken_as_it_is_counted_and_given_some_when_asked(cell):
    without_sums(cell)
    runs = cell.path.parent
    assert cell.state(HASHES) == "finished"
    assert verify_runs(runs) == (["gvpo-s0: without checksums", "1 without checksums"], False)
    assert verify_runs(runs, record=True) == (["1 given checksums"], False)
    assert verify_runs(runs) == (["1 sound"], False)
    assert cell.manifest() == LEGACY
    (cell.path / "metrics.jsonl").write_bytes(b"")
    lines, damaged = verify_runs(runs)
    assert damaged
    assert lines[0] == "gvpo-s0: metrics.jsonl is not what was recorded (its SHA-256 differs)"
    with pytest.raises(RecordError, match=r"metrics\.jsonl is not what was recorded"):
        record_sums(cell)


def test_cell_that_another_process_is_at_is_neither_judged_nor_set_aside(tmp_path):
    cell = CellFolder(tmp_path / "runs" / "gvpo-s0")
    begin(cell)
    flip(cell.resume_path / "shard.safetensors")
    with cell.hold():
        assert [verdict.kind for verdict in verify(tmp_path / "runs")] == ["in use"]
        assert cell.mend(HASHES) is None
    assert [verdict.kind for verdict in verify(tmp_path / "runs")] == ["damaged"]


def test_record_that_has_lost_one_of_its_two_checksums_is_no_old_one(cell):
    record = json.loads((cell.path / "manifest.json").read_text())
    for lost in (SEAL, SUMS):
        (cell.path / "manifest.json").write_text(json.dumps({key: x for key, x in record.items() if key != lost}))
        assert cell.faults() == ["manifest.json is not what was recorded (its own SHA-256 differs)"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "manifest.json is empty"),
        ('{"status": "fini', "manifest.json is damaged (JSONDecodeError"),
        ("[]", "manifest.json is damaged (no JSON object)"),
        (json.dumps({**LEGACY, "hash": None} | {"status": "finished"}).replace('"hash"', '"hish"'), "lacks hash"),
        ("[" * 100_000, "manifest.json is damaged (RecursionError"),
    ],
)
def test_manifest_that_is_none_is_named_with_the_way_out(cell, text, said, capsys):
    (cell.path / "manifest.json").write_text(text)
    with pytest.raises(
        RecordError, match=r"gvpo-s0: manifest\.json .*\. The sweep of this suite sets such a cell aside"
    ):
        cell.manifest()
    assert said in cell.faults()[0]
    assert command("report", cell.path.parent) == 3
    message = capsys.readouterr().err
    assert said in message
    assert "gvpo-bench verify" in message


@pytest.mark.parametrize("name", ["samples.parquet", "coefficients.parquet"])
def test_corrupt_parquet_of_a_cell_without_checksums_is_named_with_the_way_out(cell, name):
    without_sums(cell)
    read: Callable[[], object] = cell.samples if name.startswith("samples") else cell.coefficients
    for text in (None, b"", b"PAR1", (cell.path / "samples.parquet").read_bytes()[:-20] + b"x" * 20):
        if text is None:
            (cell.path / name).unlink(missing_ok=True)
        else:
            (cell.path / name).write_bytes(text)
        with pytest.raises(
            RecordError, match=rf"gvpo-s0/{name} cannot be read .*Remove .*gvpo-s0 to run the cell again"
        ):
            read()


def test_row_that_is_missing_is_found_without_checksums_too(cell):
    path = cell.path / "metrics.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(rows[0] + rows[2])
    with pytest.raises(RecordError, match=r"line 2, is not the row of step 2 \(but of step 3\)"):
        cell.metrics()


@pytest.mark.parametrize(
    "where", [".", ".lock", "metrics.jsonl", "resume", "checkpoint", "checkpoint/model.safetensors"]
)
def test_link_in_a_runs_folder_is_refused_and_what_it_points_to_stays(cell, tmp_path, where):
    link, elsewhere = cell.path / where, tmp_path / "elsewhere"
    if link.exists():
        link.rename(elsewhere)
    else:
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("precious")
    link.symlink_to(elsewhere)
    before = content(tmp_path)
    for act in (lambda: cell.state(HASHES), lambda: cell.mend(HASHES), lambda: cell.claim(HASHES).__enter__()):
        with pytest.raises(RecordError, match=r"is a link, .*put what it points to in its place, or remove it"):
            act()
    assert content(tmp_path) == before
    assert [verdict.kind for verdict in verify(cell.path.parent)] == ["damaged"] if where != "." else True


def test_point_of_an_ablation_that_is_a_link_is_refused(tmp_path):
    cell: Any = SimpleNamespace(name="k8/gvpo-s0", config=SimpleNamespace(hashes=lambda: HASHES))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "k8").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match="k8 is a link"):
        unfinished([cell], tmp_path / "runs", Console())
    with pytest.raises(RecordError, match="k8 is a link"):
        recorded_cells(tmp_path / "runs")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_link_that_stands_elsewhere_is_not_written_through_or_removed_with_what_it_points_to(cell, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("precious")
    for name in (".scratch", ".resume-replaced"):
        (cell.path / name).symlink_to(tmp_path / "elsewhere")
    cell.path.joinpath("metrics.jsonl").unlink()
    cell.path.joinpath("metrics.jsonl").symlink_to(tmp_path / "elsewhere" / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        cell.add_metrics({"step": 1})
    with pytest.raises(RecordError, match="is a link"):
        cell.tidy()
    (tmp_path / "runs" / ".set-aside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match=r"\.set-aside is a link"):
        cell.set_aside(["damaged"])
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]
    assert (tmp_path / "elsewhere" / "precious").read_text() == "precious"


def test_folder_of_runs_that_is_a_link_itself_is_fine(cell, tmp_path):
    (tmp_path / "big disk").symlink_to(tmp_path / "runs")
    there = CellFolder(tmp_path / "big disk" / "gvpo-s0")
    assert there.state(HASHES) == "finished"
    assert [verdict.kind for verdict in verify(tmp_path / "big disk")] == ["sound"]


@pytest.mark.parametrize(
    ("name", "kind"), [("", "file"), ("resume", "file"), (".lock", "folder"), ("manifest.json", "folder")]
)
def test_file_for_a_folder_and_folder_for_a_file_are_refused(tmp_path, name, kind):
    cell = CellFolder(tmp_path / "gvpo-s0")
    if kind == "file":
        write(cell.path / name if name else cell.path, "text")
    else:
        (cell.path / name).mkdir(parents=True)
    for act in (lambda: cell.state(HASHES), lambda: cell.claim(HASHES).__enter__()):
        with pytest.raises(RecordError, match=rf"{name or 'gvpo-s0'} is a {kind}, where .*(move it away|remove it)"):
            act()


def test_what_a_kill_left_in_a_finished_cell_is_cleaned_up_and_nothing_else_touched(cell):
    before = files(cell.path)
    checkpoint(cell)
    (cell.path / ".samples.parquet-x").write_text("half")
    (cell.path / ".checkpoint-y").mkdir()
    cell.tidy()
    assert files(cell.path) == before


def test_scratch_of_a_writer_that_is_gone_is_removed_and_that_of_one_that_lives_stays(tmp_path):
    killed = "import os, pathlib, signal, sys; from harness.record import files;"
    killed += "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
    killed += "files.write(pathlib.Path(sys.argv[1]) / 'table.csv', 'half')"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, target: remove_scratch(tmp_path))  # while this process writes
        with contextlib.suppress(FileNotFoundError):
            write(tmp_path / "table.csv", "whole")
    assert not left.exists()
    (tmp_path / ".mine").write_text("a user's own")
    remove_scratch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine"]


def test_what_travels_to_another_machine_fits_there(cell, tmp_path):
    going = CellFolder(tmp_path / "runs" / "ppo-s0")
    begin(going)
    to_go_on = [(source, source.pack("to go on")) for source in (going, cell)]
    for source, packed in [*to_go_on, (cell, cell.pack("results"))]:
        there = CellFolder(tmp_path / f"{len(packed)} files" / source.path.name)
        there.unpack(packed)
        assert there.faults(checkpoints=True) == []
        assert there.mend(HASHES) is None


def test_coefficients_of_other_trainings_are_left_out_with_the_reason(tmp_path):
    runs = write_runs(tmp_path / "runs")
    cells = {cell.algorithm: cell for cell in load_cells(runs)[0] if cell.manifest["seed"] == 0}
    compared = {label: cells[label].manifest["hash"] for label in ("gvpo", "grpo")}
    job, table = CellFolder(runs / "coefficients"), CellFolder(runs / "coefficients").coefficients()
    for parameters, reason in ((compared, None), (compared | {"grpo": "other"}, "than the cells here (grpo)")):
        job.finish({**(job.manifest() or {}), "config": {"algorithm": {"parameters": parameters}}})
        found, left_out = load_coefficients(runs, list(cells.values()))
        assert (found is not None and found.equals(table)) == (reason is None)
        assert reason is None or reason in left_out["all"]


def test_answers_under_the_key_of_others_are_found_and_those_without_a_key_are_read(tmp_path):
    one, two = (answers_path(tmp_path, key) for key in ("one", "two"))
    write_answers(one, {"p-1": {"correct": 1}})
    assert read_answers(one) == ({"p-1": {"correct": 1}}, [])
    one.rename(two)
    assert read_answers(two) == ({}, ["pass-rates-two.json is that of key one"])
    write_json(two, seal({"answers": {"p-2": {}}}))
    assert read_answers(two) == ({"p-2": {}}, [])
    write_json(two, seal({"status": "finished"}))
    assert read_answers(two) == ({}, ["pass-rates-two.json holds no answers"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes in folders")
def test_pipe_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    said = "pipe cannot be read (neither a file nor a folder: move it away)"
    assert read_record(tmp_path / "pipe") == (None, [said])
    assert unfit(tmp_path, {}, ["pipe"]) == [f"{tmp_path}/{said}"]


def test_report_refuses_what_does_not_fit_and_otherwise_changes_nothing(tmp_path, capsys):
    runs = write_runs(tmp_path, n_seeds=2, problems=8, steps=3)
    assert command("report", runs, "--out", tmp_path / "before") == 0
    assert "13 cells were recorded without checksums" in capsys.readouterr().out
    for cell in recorded_cells(runs):
        record_sums(cell)
    before = files(runs)
    assert command("report", runs, "--out", tmp_path / "after") == 0
    assert files(runs) == before
    assert "checksums" not in capsys.readouterr().out
    for name in ("table.csv", "README.md"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    shutil.copy(runs / "ppo-s1" / "samples.parquet", runs / "gvpo-s1" / "samples.parquet")
    (runs / "grpo-s0" / "metrics.jsonl").unlink()
    assert command("report", runs, "--out", tmp_path / "never") == 3
    message = capsys.readouterr().err
    assert "gvpo-s1: samples.parquet is not what was recorded" in message
    assert "grpo-s0: metrics.jsonl is missing" in message
    assert not (tmp_path / "never").exists()
    assert command("verify", runs) == 1
    assert "2 damaged, 12 sound" in capsys.readouterr().out
    assert command("verify", tmp_path / "nowhere") == 3
