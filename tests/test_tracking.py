"""Trackers: every row once, named by its cell, whatever is killed; and nothing of a run hangs on one."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.record.cell_folder import CellFolder
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import plan
from harness.suite.tracking_settings import Tracking
from harness.tracking import tracked as tracked_module
from harness.tracking.follow import Following
from harness.tracking.tracked import check_trackers, tracked
from harness.tracking.trackers import MAKERS, TrackedRun


def needs(package: str) -> Any:
    """For a test of a tracker that a user may not have: `make install` brings it, and in CI it must be there."""
    missing = find_spec(package) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'gvpo-bench[{package}]'")


@pytest.fixture(autouse=True)
def own_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B wraps sys.exit of its process, which is a tracker's own but here."""
    monkeypatch.setattr(sys, "exit", sys.exit)


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    """A training that has recorded nothing yet."""
    folder = tmp_path / "runs" / "gvpo-s0"
    folder.mkdir(parents=True)
    (folder / "hash").write_text("h")
    return TrackedRun("small", "gvpo-s0", folder, "h", {"seed": 0})


def record(run: TrackedRun, *steps: int) -> None:
    for step in steps:
        CellFolder(run.folder).add_metrics({"step": step, "reward": step / 8, "loss": -float(step)})


class Told:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.ended: list[bool] = []

    def tell(self, run: TrackedRun, rows: Sequence[Any], told: int) -> None:
        self.steps += [row["step"] for row in rows[told:]]

    def end(self, run: TrackedRun, *, failed: bool) -> None:
        self.ended.append(failed)

    def close(self) -> None: ...


def test_each_row_is_told_once_also_when_the_sweep_and_the_run_go_on_from_before(run, tmp_path):
    memory, first, second = tmp_path / "told.json", Told(), Told()
    following = Following(first, [run], memory)
    following.look()
    record(run, 1, 2, 3)
    following.look()
    following.look()
    assert first.steps == [1, 2, 3]
    CellFolder(run.folder).keep_metrics(1)  # a kill, and a run that goes on from its checkpoint of step 1
    following = Following(second, [run], memory)
    record(run, 2)
    following.look()
    record(run, 3, 4)
    following.look()
    assert second.steps == [4]
    assert second.ended == []
    CellFolder(run.folder).finish_training("h", {}, lambda folder: None)
    following.look()
    following.look()
    assert second.ended == [False]


def test_rows_of_other_settings_are_another_run(run, tmp_path):
    told = Told()
    other = TrackedRun("small", "gvpo-s0", run.folder, "other", {})
    assert other.key != run.key
    record(run, 1)
    Following(told, [other], tmp_path / "told.json").look()
    assert told.steps == []


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What all event files of a folder hold, duplicates included."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, float(make_ndarray(value.tensor))))
    return found


def test_tensorboard_has_every_metric_of_every_step_once_and_the_run_has_the_cells_name(run, tmp_path):
    for steps in ((1, 2), (3,)):  # two processes
        record(run, *steps)
        tracker = MAKERS["tensorboard"](tmp_path, "small")
        Following(tracker, [run], tmp_path / "told.json").look()
        tracker.close()
    found = scalars(tmp_path / "tensorboard" / "gvpo-s0")
    assert found == {"reward": [(1, 0.125), (2, 0.25), (3, 0.375)], "loss": [(1, -1.0), (2, -2.0), (3, -3.0)]}


@needs("wandb")
def test_weights_and_biases_offline_has_every_step_once(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    record(run, 1, 2)
    tracker = MAKERS["wandb"](tmp_path, "small")
    following = Following(tracker, [run], tmp_path / "told.json")
    following.look()
    record(run, 3)
    CellFolder(run.folder).finish_training("h", {}, lambda folder: None)
    following.look()
    following.close()
    (path,) = (tmp_path / "wandb").glob(f"offline-run-*-{run.key}/run-{run.key}.wandb")
    assert wandb_steps(path) == [(1, 0.125), (2, 0.25), (3, 0.375)]


def wandb_steps(path: Path) -> list[tuple[int, float]]:
    """The history in a run's file: 7 bytes of header, and records of checksum, length, kind and content, as LevelDB's
    log has them (one that fits a block of 32 KiB is whole: kind 1)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, found = path.read_bytes(), 7, []
    assert len(content) < 32 * 2**10
    while at + 7 <= len(content):
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        assert kind == 1
        part = Record()
        part.ParseFromString(content[at + 7 : at + 7 + length])
        at += 7 + length
        if part.HasField("history"):
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in part.history.item}
            found.append((part.history.step.num, values["reward"]))
    return found


@needs("trackio")
def test_trackio_has_every_step_once_and_a_run_of_its_own_for_other_settings(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for steps in ((1, 2), (3,)):  # two processes
        record(run, *steps)
        tracker = MAKERS["trackio"](tmp_path, "small")
        Following(tracker, [run], tmp_path / "told.json").look()
        tracker.close()
    (run.folder / "hash").write_text("other")
    other = TrackedRun("small", "gvpo-s0", run.folder, "other", {"seed": 0})
    tracker = MAKERS["trackio"](tmp_path, "small")
    Following(tracker, [other], tmp_path / "told.json").look()
    tracker.close()
    first, second = trackio_steps(tmp_path / "trackio" / "small.db")
    assert first == second == [(1, 0.125), (2, 0.25), (3, 0.375)]


def trackio_steps(path: Path) -> list[list[tuple[int, float]]]:
    """Of each run, in the order in which they began."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for key, step, metrics in rows:
        found.setdefault(key, []).append((step, json.loads(metrics)["reward"]))
    return list(found.values())


class Failing(Told):
    """A tracker whose disk is full."""

    def __init__(self, folder: Path, project: str) -> None:
        super().__init__()

    def tell(self, run: TrackedRun, rows: Sequence[Any], told: int) -> None:
        raise OSError(28, "No space left on device")


class Exits(Failing):
    def tell(self, run: TrackedRun, rows: Sequence[Any], told: int) -> None:
        raise SystemExit("wandb: no API key")


class Hangs(Failing):
    def tell(self, run: TrackedRun, rows: Sequence[Any], told: int) -> None:
        time.sleep(60)


def forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """As `fork_server.start`, from this process."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


@pytest.fixture
def sweep(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What is said of trackers while a sweep records two rows; its cell is `run`."""
    monkeypatch.setattr(tracked_module, "start", forked)
    monkeypatch.setattr(tracked_module, "tracked_run", lambda suite, cell, runs: run)
    monkeypatch.setattr(tracked_module, "END_SECONDS", 3.0)

    def begin(during: Callable[[], object] = lambda: record(run, 1, 2), **makers: Any) -> str:
        for name, maker in makers.items():
            monkeypatch.setitem(MAKERS, name, maker)
        console = Console(file=io.StringIO(), width=1000)
        settings = Tracking.model_validate(dict.fromkeys(makers, True))
        cells: Any = [SimpleNamespace(is_trained=True)]
        with tracked(settings, "small", cells, tmp_path / "runs", tmp_path / "tracking", console):
            during()
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return begin


@pytest.mark.parametrize(
    ("maker", "why"),
    [
        (Failing, "OSError: [Errno 28] No space left on device. It is told nothing more in this sweep"),
        (Exits, "SystemExit: wandb: no API key"),
        (Hangs, "has not taken all rows within 0.5 s after the last cell"),
    ],
)
def test_a_tracker_that_fails_is_named_once_and_nothing_else_hangs_on_it(sweep, tmp_path, monkeypatch, maker, why):
    if maker is Hangs:
        monkeypatch.setattr(tracked_module, "END_SECONDS", 0.5)
        assert why in sweep(wandb=maker)
        return
    said = sweep(tensorboard=MAKERS["tensorboard"], wandb=maker)
    assert said.count("tracking.") == 1
    assert f"tracking.wandb: {why}" in said
    assert scalars(tmp_path / "tracking" / "tensorboard" / "gvpo-s0")["reward"] == [(1, 0.125), (2, 0.25)]


def test_a_sweep_that_is_interrupted_waits_for_no_tracker(sweep):
    def interrupt() -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sweep(interrupt, wandb=Hangs)
    assert time.monotonic() - started < 2


def test_a_sweep_without_trackers_starts_no_process(sweep, monkeypatch):
    monkeypatch.setattr(tracked_module, "start", None)
    assert sweep() == ""


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(tracked_module, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"tracking\.wandb = true needs the package wandb: pip install 'gvpo-bench\[wandb\]'"
    ):
        check_trackers(Tracking(wandb=True))
    check_trackers(Tracking())


def test_tracking_is_no_part_of_a_cell():
    on = ["tracking.tensorboard=true", "tracking.project=mine"]
    plain, both = (plan(load_suite("embedded", settings, ["gvpo"]))[1] for settings in ([], on))
    assert plain.config == both.config
