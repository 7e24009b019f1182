"""`torchrun … gvpo-bench sweep`: the results of one process, one voice, and an end for all where one rank ends."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small import command, lean_environment, manifest, metrics, write_suite

pytest_plugins = ["small_fixtures"]

SECONDS = 240
GVPO = ("--algorithm", "gvpo", "--set", "seeds=1")


def torchrun(*options: object, sweep: tuple[object, ...], **environment: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "harness.cli", "sweep", *sweep]
    return subprocess.Popen(
        [str(word) for word in program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=lean_environment(**environment),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, output


@pytest.fixture(scope="module")
def one_process(base, tmp_path_factory, quick_workers) -> Path:
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
    outcomes = [ended(agent) for agent in agents]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    printed = sorted(outcomes, key=lambda outcome: len(outcome[1]))
    assert "finished gvpo-s0" not in printed[0][1]  # rank 0 alone speaks
    assert "each on 2 ranks" in printed[1][1]
    assert "finished gvpo-s0" in printed[1][1]

    found, expected = tmp_path / "runs" / "small" / "gvpo-s0", one_process / "gvpo-s0"
    assert manifest(found)["ranks"] == 2
    assert manifest(found)["tokens"] == manifest(expected)["tokens"]
    for row, of_one in zip(metrics(found), metrics(expected), strict=True):
        for column, value in of_one.items():
            if column != "padding":
                assert row[column] == pytest.approx(value, abs=1e-4, rel=1e-4), column
    samples = [pd.read_parquet(cell / "samples.parquet") for cell in (found, expected)]
    pd.testing.assert_frame_equal(*samples, atol=1e-4)
    weights = [load_file(cell / "checkpoint" / "model.safetensors") for cell in (found, expected)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-5, rtol=0)
    from transformers import AutoModelForCausalLM

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
        fault, step = os.environ.get("FAULT", " ").split(" ")
        if os.environ["RANK"] == "1" and step == str(len(calls)):
            if fault == "raise":
                raise ArithmeticError("the moon is in the wrong house")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(batch)
"""


def test_an_error_and_a_kill_on_one_rank_end_all_and_the_sweep_goes_on_from_its_checkpoint(
    one_process, suite_file, tmp_path
):
    source = tmp_path / "faulty.py"
    source.write_text(FAULTY)
    sweep = (
        suite_file,
        "--algorithm",
        f"{source}:Faulty",
        "--algorithm",
        "gvpo",
        "--set",
        "seeds=1",
        "--out",
        tmp_path,
    )
    cell = tmp_path / "runs" / "small" / "faulty-s0"

    # The third step of six, after the checkpoint of the second.
    code, output = ended(torchrun("--nproc-per-node", 2, sweep=sweep, FAULT="raise 3"))
    assert code != 0
    assert "ArithmeticError: the moon is in the wrong house" in output
    assert "the moon is in the wrong house" in (cell / "traceback.txt").read_text()
    assert manifest(cell)["status"] == "failed"
    assert (cell / "resume" / "progress.json").is_file()

    # From there the third call is step 5, after the checkpoint of step 4.
    code, output = ended(torchrun("--nproc-per-node", 2, sweep=sweep, FAULT="kill 3"))
    assert code != 0
    assert re.search(r"exitcode *: -9", output), output
    assert [row["step"] for row in metrics(cell)] == [1, 2, 3, 4]

    code, output = ended(torchrun("--nproc-per-node", 2, sweep=sweep))
    assert code == 0, output
    assert [row["step"] for row in metrics(cell)] == [1, 2, 3, 4, 5, 6]
    assert manifest(cell)["status"] == "finished"
    # It is GVPO: undisturbed on the same ranks, to the last digit.
    gvpo = tmp_path / "runs" / "small" / "gvpo-s0"
    assert metrics(cell) == metrics(gvpo)
    assert (cell / "checkpoint" / "model.safetensors").read_bytes() == (
        gvpo / "checkpoint" / "model.safetensors"
    ).read_bytes()


def test_tuning_is_refused_under_torchrun(suite_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("tune", suite_file, "--out", tmp_path) == 2
    assert "only `gvpo-bench sweep` runs under torchrun" in capsys.readouterr().err
