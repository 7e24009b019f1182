"""A process for each cell: what is done in one reaches no other, and none outlives its sweep."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from small import assert_same_cell, command, ended, manifest, write_suite

import harness.sweep.launch
from harness.processes.apart import ProcessError, call_forked, last_words
from harness.processes.fork_server import WORKER_ENVIRONMENT, start
from harness.record.cell_folder import CellFolder
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import plan
from harness.sweep.events import CellEnd, CellProgress
from harness.sweep.launch import RunningCell
from harness.sweep.pool import LocalPool

pytest_plugins = ["small_fixtures"]
pytestmark = pytest.mark.usefixtures("no_figures")


def about_here(connection, started: float) -> None:
    found = {
        "seconds": time.time() - started,
        "threads of the server": len(os.listdir(f"/proc/{os.getppid()}/task")),
        "imported before": {"torch", "transformers", "harness.sweep.launch"} <= sys.modules.keys(),
        "CUDA is spoilt": torch.cuda._is_in_bad_fork(),
        "environment": {name: os.environ.get(name) for name in (*WORKER_ENVIRONMENT, "MINE", "PYTHONSAFEPATH")},
        "folder": os.getcwd(),
        "group": os.getpgrp() == os.getpid(),
    }
    last_words(connection, pickle.dumps(found))


def asked_about(started: float) -> dict[str, Any]:
    ours, theirs = Pipe(duplex=False)
    process = start(about_here, theirs, started)
    theirs.close()
    found: dict[str, Any] = ours.recv()
    process.join()
    assert process.exitcode == 0
    return found


def test_process_starts_from_a_clean_server_with_the_environment_of_the_one_that_asks(tmp_path, monkeypatch):
    asked_about(time.time())  # from now on the server runs
    monkeypatch.setenv("MINE", "1")
    monkeypatch.chdir(tmp_path)
    found = asked_about(time.time())
    assert found.pop("seconds") < 2.0  # 0.05 on an idle machine; from nothing it takes 5
    assert found == {
        "threads of the server": 1,
        "imported before": True,
        "CUDA is spoilt": False,
        "environment": {**WORKER_ENVIRONMENT, "MINE": "1", "PYTHONSAFEPATH": None},
        "folder": str(tmp_path),
        "group": True,
    }


def refuse() -> None:
    raise ConfigError("not like this")


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (sys.exit, (3,), ProcessError, r"SystemExit: 3 \("),
        (os._exit, (3,), ProcessError, "its process died: exit code 3"),
        (signal.raise_signal, (signal.SIGKILL,), ProcessError, "its process died: killed by SIGKILL"),
        (int, ("x",), ProcessError, r"ValueError: invalid literal .*apart\.py, line"),
        (threading.Lock, (), ProcessError, "cannot pickle"),
        (refuse, (), ConfigError, "^not like this$"),
    ],
    ids=["exit", "exit-at-once", "kill", "raise", "no-pickle", "bench-error"],
)
def test_whatever_ends_a_function_in_a_fork_is_an_error_here(function, arguments, error, message):
    with pytest.raises(error, match=message):
        call_forked(function, *arguments)


def test_last_words_that_nobody_hears_any_more_end_the_process_without_a_traceback(monkeypatch):
    ours, theirs = Pipe(duplex=False)
    ours.close()
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    last_words(theirs, b"done")
    assert codes == [0]


NASTY = """
import os, random, signal, sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from algorithms.gvpo import GVPO


def spoil():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(666)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    os.environ["GVPO_BENCH_CACHE"] = os.environ["NASTY"] = "/nowhere"
    os.chdir("/")
    torch.log_softmax = torch.nn.functional.log_softmax = lambda x, *_, **__: x
    for name, module in list(sys.modules.items()):
        if name.startswith("benchmarks"):
            vars(module).update(grade=None, judge=None)


spoil()


@dataclass(frozen=True, kw_only=True)
class Nasty(GVPO):
    name: ClassVar[str] = "Nasty"
    how: str = "stays"

    def loss(self, policy, batch):
        Path({marks!r}, f"{self.how}-{os.getpid()}").touch()
        torch.set_default_device("meta")
        if self.how == "exits":
            sys.exit(0)
        return super().loss(policy, batch)
"""


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Path:
    """The runs of one seed without anything nasty beside them."""
    folder = tmp_path_factory.mktemp("alone")
    assert command("sweep", write_suite(folder, base), "--seeds", 1, "--workers", 2, "--out", folder) == 0
    return folder / "runs" / "small"


def test_algorithms_that_change_everything_around_them_change_no_other_and_nothing_here(alone, suite_file, tmp_path):
    (marks := tmp_path / "marks").mkdir()
    nasty, folder = tmp_path / "nasty.py", os.getcwd()
    nasty.write_text(NASTY.replace("{marks!r}", repr(str(marks))))
    text = suite_file.read_text()
    entries = "".join(
        f'[algorithms.{how}]\nalgorithm = "{nasty}:Nasty"\noptimizer = {{ lr = 3e-3, max_norm = 1.0 }}\n'
        f'parameters = {{ how = "{how}" }}\n\n'
        for how in ("exits", "stays")
    )
    suite_file.write_text(text.replace("[algorithms.gvpo]", entries + "[algorithms.gvpo]"))  # they run before the good
    before = random.getstate(), torch.random.get_rng_state(), signal.getsignal(signal.SIGTERM), dict(os.environ)
    assert command("sweep", suite_file, "--seeds", 1, "--workers", 1, "--out", tmp_path) == 1  # one has exited

    assert len(list(marks.glob("stays-*"))) >= 1
    runs = tmp_path / "runs" / "small"
    for name in ("base", "gvpo-s0", "ppo-s0"):
        assert_same_cell(alone / name, runs / name)
    assert "SystemExit" in (runs / "exits-s0" / "traceback.txt").read_text()
    ours, found = (CellFolder(folder / "coefficients").coefficients() for folder in (alone, runs))
    found = found[found["algorithm"].isin(["gvpo", "ppo"])].reset_index(drop=True)
    assert ours.equals(found)

    assert (torch.get_default_dtype(), os.getcwd()) == (torch.float32, folder)
    assert before[2:] == (signal.getsignal(signal.SIGTERM), dict(os.environ))
    assert not any("nasty" in name for name in sys.modules)


HANGS = """
import ctypes, os, signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from algorithms.gvpo import GVPO


@dataclass(frozen=True, kw_only=True)
class Hangs(GVPO):
    name: ClassVar[str] = "Hangs"

    def loss(self, policy, batch):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path({mark!r}).write_text(str(os.getpid()))
        ctypes.PyDLL(None).sleep(600)  # in C, and no other thread has its turn
"""


def hanging(suite_file, tmp_path, *settings):
    (tmp_path / "hangs.py").write_text(HANGS.replace("{mark!r}", repr(str(tmp_path / "mark"))))
    suite = load_suite(str(suite_file), ["seeds=1", *settings], [f"{tmp_path}/hangs.py:Hangs"])
    return next(cell for cell in plan(suite) if cell.name == "hangs-s0")


def test_cell_that_reports_nothing_for_too_long_fails_alone_and_says_where_it_was(alone, suite_file, tmp_path):
    stalls = hanging(suite_file, tmp_path, "resources.stall_seconds=4")
    good = next(cell for cell in plan(load_suite(str(suite_file), ["seeds=1"])) if cell.name == "gvpo-s0")
    events = list(LocalPool(2).run([stalls, good], tmp_path / "runs", []))
    ends = {event.cell.name: event.status for event in events if isinstance(event, CellEnd)}
    assert ends == {"hangs-s0": "failed", "gvpo-s0": "finished"}
    assert manifest(tmp_path / "runs" / "hangs-s0")["status"] == "failed"
    text = (tmp_path / "runs" / "hangs-s0" / "traceback.txt").read_text()
    assert "reported no progress for 4 s, after load 0 of 1, and was stopped (resources.stall_seconds = 4)" in text
    assert "most recent call first" in text
    assert_same_cell(alone / "gvpo-s0", tmp_path / "runs" / "gvpo-s0")


def test_sweep_that_is_stopped_ends_a_cell_that_heeds_nothing_in_seconds(suite_file, tmp_path):
    cell, mark = hanging(suite_file, tmp_path), tmp_path / "mark"
    events = LocalPool(1).run([cell], tmp_path / "runs", [])
    assert isinstance(next(events), CellProgress)
    # Its next news is its end: here someone else asks for it, as Ctrl-C would break in.
    stopped, main = [], threading.get_ident()

    def stop():
        while not mark.exists() or not mark.read_text():
            time.sleep(0.02)
        stopped.append(time.monotonic())
        signal.pthread_kill(main, signal.SIGINT)

    asks = threading.Thread(target=stop)
    asks.start()
    with pytest.raises(KeyboardInterrupt):
        next(events)
    assert time.monotonic() - stopped[0] < 10.0  # one second's grace, on a machine that may be busy
    asks.join()
    assert ended(int(mark.read_text()))
    assert not (tmp_path / "runs" / cell.name / "manifest.json").exists()  # it goes on with the next sweep


def dies_before_it_takes_its_cell(*_: object) -> None:
    signal.raise_signal(signal.SIGSEGV)


def test_process_that_dies_before_it_takes_its_cell_costs_that_cell(suite_file, tmp_path, monkeypatch):
    cells = plan(load_suite(str(suite_file), ["seeds=1"]))[:2]
    monkeypatch.setattr(harness.sweep.launch, "_serve", dies_before_it_takes_its_cell)
    events = list(LocalPool(1).run(cells, tmp_path, []))
    assert [(type(event), event.cell.name) for event in events] == [(CellEnd, "base"), (CellEnd, "gvpo-s0")]
    assert all(event.status == "failed" for event in events if isinstance(event, CellEnd))
    for cell in cells:
        assert f"The process that ran {cell.name} died: killed by SIGSEGV" in (
            CellFolder(tmp_path / cell.name).traceback_path.read_text()
        )


def test_machine_that_starts_no_process_fails_the_cell_with_the_reason(suite_file, tmp_path, monkeypatch):
    def start(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(harness.sweep.launch, "start", start)
    cell = plan(load_suite(str(suite_file), ["seeds=1"]))[0]
    running = RunningCell(cell, tmp_path, [])
    assert (running.status, running.patience, running.signs, list(running.news())) == ("failed", 0.0, [], [])
    assert "Resource temporarily unavailable" in CellFolder(tmp_path / cell.name).error()
