"""Cells of two ranks, sweeps on Ray and servers of vLLM, each killed in every process that they have."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import commands
from commands import ROOT, Command, Ended, command_line, descendants
from kills import MOMENTS, Moment, kill_one, wait_for_moment
from parts import Part
from stage import Stage
from verdicts import Outcome, fault_of, judge, numbers_of

GVPO = ("--algorithm", "gvpo")
OTHERS_SECONDS = 90.0
"""How long processes in sessions of their own may outlive a sweep: Ray's look for a lost cluster for a minute."""


class SpecialKills(Part):
    """Kills a sweep of one algorithm and seed, with options of its own, in a process that is told by its command line
    or its place."""

    targets: ClassVar[Sequence[tuple[str, signal.Signals]]]
    """One for each trial: "main", "group", "cell" (a process that leads a group), or a part of a command line."""
    options: ClassVar[tuple[object, ...]]
    program: ClassVar[tuple[str, ...]] = ()
    """In place of this Python's, where it is another."""

    @property
    def whole(self) -> int:
        """See `Part`."""
        return len(self.targets)

    @cached_property
    def expected(self) -> Mapping[str, str]:
        """The numbers of an undisturbed sweep."""
        return numbers_of(self.undisturbed)

    @property
    @abstractmethod
    def undisturbed(self) -> Path:
        """Its results."""

    def moment(self, number: int) -> Moment:
        """When a trial kills: not at the start, where not every process is there."""
        return MOMENTS[1 + number % (len(MOMENTS) - 2)]

    def describe(self, number: int) -> str:
        """See `Part`."""
        target, which = self.targets[number]
        return f"{which.name} to {target} at {self.moment(number)}"

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`."""
        rng, out = self.rng(number), folder / "out"
        (target, which), moment = self.targets[number], self.moment(number)
        out.mkdir()
        command = self.start(out, folder, "killed.txt")
        if wait_for_moment(command, moment, out, skipped=0):
            time.sleep(rng.random() * 0.3)
        started = {pid: birth(pid) for pid in descendants(command.pid)}
        if target in ("main", "group"):
            command.kill(which, group=target == "group")
        else:
            kill_one(command, which, rng, lambda pid: is_a(target, pid))
        if (fault := fault_of(outlived(command, started))) is not None:
            return fault
        return judge(self.start(out, folder, "last.txt").wait(), self.expected, out)

    def start(self, out: Path, folder: Path, shown: str) -> Command:
        """The sweep."""
        arguments = ["sweep", self.stage.suite, "--out", out, *self.options]
        if self.program:
            return commands.start(arguments, folder, shown=folder / shown, program=self.program)
        return self.stage.zygote.start(arguments, folder, shown=folder / shown)


class AloneKills(SpecialKills):
    """Kills of sweeps that take a machine for themselves."""

    def __init__(self, stage: Stage, seed: int) -> None:
        """See `Part`."""
        super().__init__(stage, seed)
        self.alone = threading.Lock()


class RankKills(SpecialKills):
    """A cell on two ranks."""

    name: ClassVar[str] = "ranks"
    about: ClassVar[str] = "A sweep whose cells train on two ranks is killed in its first process, its group or a rank."
    targets = (
        *(("main", signal.SIGKILL), ("cell", signal.SIGKILL), ("group", signal.SIGKILL), ("cell", signal.SIGTERM)),
        *(("main", signal.SIGTERM), ("cell", signal.SIGKILL), ("main", signal.SIGINT), ("cell", signal.SIGTERM)),
        *(("group", signal.SIGINT), ("forkserver", signal.SIGKILL)),
    )
    options = (*GVPO, "--workers", 1, "--set", "resources.ranks=2", "--set", "resources.cpus=2")

    @property
    def undisturbed(self) -> Path:
        """Its results: sums over two ranks round otherwise."""
        return self.stage.swept(self.name, *self.options)


class RayKills(AloneKills):
    """A cluster of this machine."""

    name: ClassVar[str] = "ray"
    about: ClassVar[str] = (
        "A sweep with `--ray local` is killed in its driver, its node (raylet), the cluster's server (gcs_server), a "
        "worker or a cell, and goes on to the numbers of one without Ray."
    )
    targets = (
        *(("main", signal.SIGKILL), ("raylet", signal.SIGKILL), ("ray::Worker", signal.SIGKILL)),
        *(("gcs_server", signal.SIGKILL), ("cell", signal.SIGKILL), ("main", signal.SIGTERM)),
        *(("raylet", signal.SIGTERM), ("main", signal.SIGINT), ("ray::Worker", signal.SIGTERM)),
        ("group", signal.SIGKILL),
    )
    options = (*GVPO, "--ray", "local")

    @property
    def undisturbed(self) -> Path:
        """Its results, without Ray."""
        return self.stage.swept("one-cell", *GVPO, "--workers", 1)

    def lacks(self) -> str | None:
        """See `Part`."""
        return None if find_spec("ray") else "needs Ray (pip install 'gvpo-bench[ray]')"


VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


class VLLMKills(AloneKills):
    """vLLM in a process beside the trainer."""

    name: ClassVar[str] = "vllm"
    about: ClassVar[str] = "A sweep whose samples come from a vLLM server is killed in its first process or the server."
    targets = (
        *(("vllm_server", signal.SIGKILL), ("main", signal.SIGKILL), ("vllm_server", signal.SIGTERM)),
        *(("cell", signal.SIGKILL), ("main", signal.SIGINT), ("group", signal.SIGKILL), ("cell", signal.SIGTERM)),
        *(("vllm_server", signal.SIGKILL), ("main", signal.SIGTERM), ("vllm_server", signal.SIGTERM)),
    )
    options = (*GVPO, "--workers", 1, "--set", 'rollout.engine="vllm"', "--set", 'rollout.vllm.mode="server"')
    program: ClassVar[tuple[str, ...]] = (str(VLLM_PYTHON), "-m", "harness")

    @property
    def undisturbed(self) -> Path:
        """Its results."""
        return self.stage.swept(self.name, *self.options, program=self.program)

    def lacks(self) -> str | None:
        """See `Part`."""
        return None if VLLM_PYTHON.exists() else "needs vLLM's environment, .venv-vllm: `make test-vllm` makes it"


def is_a(target: str, pid: int) -> bool:
    """Whether a process is what a kill is aimed at."""
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid) == pid if target == "cell" else target in command_line(pid)
    return False


def birth(pid: int) -> str:
    """When a process was started, which tells it from a later one of the same number; empty where it has ended."""
    with contextlib.suppress(OSError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return rest[18] if state not in "ZX" else ""
    return ""


def outlived(command: Command, started: Mapping[int, str]) -> Ended:
    """Waits for the end of a command that was killed, and for the processes that it had started in whatever session."""
    ended = command.wait()
    deadline = time.monotonic() + OTHERS_SECONDS
    while (left := [pid for pid, born in started.items() if born and birth(pid) == born]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    texts = [command_line(pid) for pid in left]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return Ended(ended.code, ended.shown, [*ended.left, *texts])
