"""Trackers: every row once, named by its cell, whatever is killed; and nothing of a run hangs on one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from training_runs import config_of

from harness.record.cell_folder import CellFolder
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import Cell, plan
from harness.suite.tracking_settings import Tracking
from harness.tracking import tracked as tracked_module
from harness.tracking.follow import Following
from harness.tracking.tracked import check_trackers, tracked
from harness.tracking.trackers import MAKERS, TrackedRun


def needs(package: str) -> Any:
    """For a test of a tracker that a user may not have; `make install` brings it, and in CI there is no way around it."""
    missing = find_spec(package) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'gvpo-bench[{package}]'")


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
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), []
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.append((items["_step"], items["reward"]))
    return found


@needs("trackio")
def test_trackio_has_every_step_once(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def cells(folder: Path) -> list[Cell]:
    return [Cell(config_of(), {"report": {"baseline": "x"}})]


def test_a_tracker_that_fails_is_named_once_and_the_sweep_goes_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "tracking" / "tensorboard").mkdir(parents=True)
    (tmp_path / "tracking" / "tensorboard" / "x-s0").write_text("")
    (tmp_path / "tracking" / "tensorboard").chmod(0o500)
    ...


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(tracked_module, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"tracking\.wandb = true needs the package wandb: pip install 'gvpo-bench\[wandb\]'"
    ):
        check_trackers(Tracking(wandb=True))
    check_trackers(Tracking())


def test_tracking_is_no_part_of_a_cell():
    plain, both = (
        plan(load_suite("embedded", settings, ["gvpo"]))[1] for settings in ((), ("tracking.tensorboard=true",))
    )
    assert plain.config == both.config
