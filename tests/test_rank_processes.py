"""A cell on several processes, started by torchrun or by the sweep itself: the results of one process, one voice, and
an end for all of them where one ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_tree import descendants, listening
from small import assert_close_cell, command, ended, lean_environment, manifest, metrics, write_suite
from transformers import AutoModelForCausalLM

pytest_plugins = ["small_fixtures"]

SECONDS = 600
GVPO = ("--algorithm", "gvpo", "--set", "seeds=1")


def torchrun(*options: object, sweep: tuple[object, ...]) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "harness.cli", "sweep", *sweep]
    return subprocess.Popen(
        [str(word) for word in program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=lean_environment(),
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, output


@pytest.fixture(scope="module")
def one_process(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    assert command("sweep", write_suite(folder, base), *GVPO, "--workers", 1, "--out", folder) == 0
    return folder / "runs" / "small"


def test_two_agents_that_meet_end_with_the_results_of_one_process(one_process, suite_file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ("--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-id", "test")
    agents = [
        torchrun(*meeting, "--rdzv-endpoint", f"127.0.0.1:{port}", sweep=(suite_file, *GVPO, "--out", tmp_path))
        for _ in range(2)
    ]
    outcomes = [outcome(agent) for agent in agents]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    # Rank 0 alone speaks. Which agent holds it, and which of them torchrun's own warnings make longer, varies.
    spoken = [shown for _, shown in outcomes if "finished gvpo-s0" in shown]
    assert len(spoken) == 1, outcomes
    assert "each on 2 ranks" in spoken[0]

    found = tmp_path / "runs" / "small" / "gvpo-s0"
    assert manifest(found)["ranks"] == 2
    assert_close_cell(found, one_process / "gvpo-s0")
    AutoModelForCausalLM.from_pretrained(found / "checkpoint")
    assert not (found / "resume").exists()


FAULTY = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from algorithms.gvpo import GVPO

calls = []


@dataclass(frozen=True, kw_only=True)
class Faulty(GVPO):
    name: ClassVar[str] = "Faulty"

    def prepare(self, batch):
        calls.append(batch)  # one a step
        fault, step = Path("{fault}").read_text().split()
        if os.environ.get("RANK") == "1" and step == str(len(calls)):
            if fault == "raise":
                raise ArithmeticError("the moon is in the wrong house")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(batch)
"""


def faulty(folder: Path) -> tuple[object, ...]:
    """Options for a sweep with an algorithm that does what the file `fault` beside it says."""
    source = folder / "faulty.py"
    source.write_text(FAULTY.replace("{fault}", str(folder / "fault")))
    return ("--algorithm", f"{source}:Faulty", *GVPO)


def test_an_error_on_one_of_torchruns_ranks_ends_all_and_is_recorded(suite_file, tmp_path):
    sweep = (suite_file, *faulty(tmp_path), "--out", tmp_path)
    cell = tmp_path / "runs" / "small" / "faulty-s0"

    # The third step of six, after the checkpoint of the second.
    (tmp_path / "fault").write_text("raise 3")
    code, output = outcome(torchrun("--nproc-per-node", 2, sweep=sweep))
    assert code != 0
    assert "ArithmeticError: the moon is in the wrong house" in output
    assert "the moon is in the wrong house" in (cell / "traceback.txt").read_text()
    assert manifest(cell)["status"] == "failed"
    assert (cell / "resume" / "progress.json").is_file()


def assert_is_gvpo(cell: Path) -> None:
    """The faulty one without its fault: on as many ranks and undisturbed, it is GVPO to the last digit."""
    gvpo = cell.with_name("gvpo-s0")
    assert manifest(cell)["status"] == manifest(gvpo)["status"] == "finished"
    assert [row["step"] for row in metrics(cell)] == [1, 2, 3, 4, 5, 6]
    assert metrics(cell) == metrics(gvpo)
    weights = [folder / "checkpoint" / "model.safetensors" for folder in (cell, gvpo)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_sweep_starts_the_ranks_that_a_cell_asks_for_and_loses_one_cell_with_one_of_them(
    one_process, suite_file, tmp_path, capsys
):
    ranks = ("--set", "resources.ranks=2", "--set", "resources.cpus=2", "--workers", 1)
    sweep = ("sweep", suite_file, *faulty(tmp_path), *ranks, "--out", tmp_path)
    cell = tmp_path / "runs" / "small" / "faulty-s0"

    (tmp_path / "fault").write_text("kill 3")
    assert command(*sweep) == 1
    shown = capsys.readouterr().out
    assert "1 worker, 2 ranks, 2 CPU, 0 GPU a cell" in shown
    assert "failed faulty-s0" in shown
    assert "Rank 1 of 2 of faulty-s0 died: killed by SIGKILL" in (cell / "traceback.txt").read_text()
    assert manifest(cell)["status"] == "failed"
    assert [row["step"] for row in metrics(cell)] == [1, 2]
    found = cell.with_name("gvpo-s0")
    assert manifest(found)["ranks"] == 2
    assert_close_cell(found, one_process / "gvpo-s0")

    # From the checkpoint of step 2 the third call is step 5, after the checkpoint of step 4.
    (tmp_path / "fault").write_text("raise 3")
    assert command(*sweep) == 1
    assert "ArithmeticError: the moon is in the wrong house" in (cell / "traceback.txt").read_text()
    assert [row["step"] for row in metrics(cell)] == [1, 2, 3, 4]

    (tmp_path / "fault").write_text("never 0")
    assert command(*sweep) == 0
    assert_is_gvpo(cell)


LAUNCH = """
import sys
from pathlib import Path
from harness.suite.plan import plan
from harness.suite.load import load_suite
from harness.sweep.launch import launch_cell

if __name__ == "__main__":
    suite = load_suite(sys.argv[1], ["resources.ranks=2", "resources.cpus=2"], sys.argv[3:])
    cell = next(cell for cell in plan(suite) if cell.name == "hangs-s0")
    launch_cell(cell, Path(sys.argv[2]), [], lambda *_: None)
"""


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
        Path(__file__).with_name("hangs-" + os.environ["RANK"]).touch()
        ctypes.PyDLL(None).sleep(600)  # in C, and no other thread has its turn
"""


def test_ranks_listen_on_loopback_and_end_with_the_process_that_started_them_whatever_they_do(suite_file, tmp_path):
    script, cell = tmp_path / "launch.py", tmp_path / "hangs-s0"
    script.write_text(LAUNCH)
    (tmp_path / "hangs.py").write_text(HANGS)
    arguments = [sys.executable, script, suite_file, tmp_path, f"{tmp_path}/hangs.py:Hangs"]
    launcher = subprocess.Popen(arguments, env=lean_environment())
    deadline = time.monotonic() + SECONDS
    while not all((cell / f"hangs-{rank}").exists() for rank in range(2)):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = descendants(launcher.pid)
    assert len(started) >= 3  # with the fork server
    assert listening([launcher.pid, *started]) == {"loopback"}
    launcher.kill()
    launcher.wait()
    assert all(ended(pid) for pid in started)
    assert not (cell / "manifest.json").exists()  # nobody took the end of the others for a failure


def test_tuning_is_refused_under_torchrun(suite_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("tune", suite_file, "--out", tmp_path) == 2
    assert "only `gvpo-bench sweep` runs under torchrun" in capsys.readouterr().err
