"""What trials start from: a small sweep, what it leaves undisturbed, when it does what, and its folders half-way."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from commands import Command, Zygote, start
from verdicts import numbers_of

SUITE = """
name = "small"
seeds = 1

[model]
path = "embedded"

[train]
benchmark = "arithmetic-train"
limit = 48
pass_rate = [0.1, 0.9]
pass_rate_samples = 8
steps = 3
prompts = 8
samples = 4
mini_batches = 2
max_new_tokens = 16

[resources]
checkpoint_every = 1

[evaluation]
benchmarks = ["arithmetic"]
hard_benchmarks = ["arithmetic-hard"]
samples = 2
limit = 12

[report]
baseline = "gvpo"

[algorithms.gvpo]
optimizer = {{ lr = 3e-3, max_norm = 1.0 }}

[algorithms.mine]
algorithm = "{mine}:Mine"
optimizer = {{ lr = 3e-3, max_norm = 1.0 }}
"""

MINE = '''
"""REINFORCE against the mean of the group."""

from dataclasses import dataclass
from typing import ClassVar

from algorithms import Algorithm, LossOutput
from algorithms.base import centred, sequence_sum


@dataclass(frozen=True, kw_only=True)
class Mine(Algorithm):
    name: ClassVar[str] = "Mine"

    def loss(self, policy, batch):
        advantage_GK = centred(batch.rewards_GK, batch.valid_GK)
        return LossOutput(loss=-(advantage_GK * sequence_sum(policy.logp_GKT, batch.mask_GKT)).mean())
'''

SUITE_NAME = "small"
ASKED, SHOWN = "asked", "shown.txt"
"""Beside results: a file as old as their command, and what it printed."""
ATTEMPTS = 20
"""How often a sweep is killed until the kill has come where it was meant to."""


@dataclass(frozen=True)
class Timeline:
    """Seconds of an undisturbed sweep."""

    start: float
    """Until the first cell, where it is started from nothing."""
    training: float
    """Of one cell, until its weights are exported."""
    evaluation: float
    """Of one cell, from there."""
    report: float
    """From the end of the last cell."""
    whole: float
    """Where it is forked."""


class Stage:
    """The folders and numbers that trials share. Each is made when it is first asked for, and kept in a folder."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        """`folder` is made where there is none."""
        self.folder, self.zygote = folder, zygote
        self.lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        mine = folder / "mine.py"
        mine.write_text(MINE, encoding="utf-8")
        self.suite = folder / "small.toml"
        self.suite.write_text(SUITE.format(mine=mine), encoding="utf-8")

    def sweep(self, out: Path, *options: object, workers: int = 1) -> list[object]:
        """The arguments of the sweep of this suite."""
        return ["sweep", self.suite, "--workers", workers, "--out", out, *options]

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that is made once, and whole."""
        target, scratch = self.folder / name, self.folder / f"{name}.new"
        with self.lock:
            if not target.is_dir():
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                (scratch / ASKED).touch()
                make(scratch)
                scratch.rename(target)
        return target

    def _finish(self, command: Command) -> None:
        if (ended := command.wait()).code != 0:
            raise RuntimeError(f"the undisturbed sweep ended with exit code {ended.code}:\n{ended.shown}")

    @cached_property
    def undisturbed(self) -> Path:
        """The results of the sweep."""

        def make(out: Path) -> None:
            self._finish(self.zygote.start(self.sweep(out), out, shown=out / SHOWN, figures=True))

        return self._made("undisturbed", make)

    def swept(self, name: str, *options: object, program: Sequence[str] = ()) -> Path:
        """The results of the suite's sweep with other options, by a name of their own."""

        def make(out: Path) -> None:
            arguments = ["sweep", self.suite, "--out", out, *options]
            self._finish(start(arguments, out, shown=out / SHOWN, program=program))

        return self._made(name, make)

    @cached_property
    def numbers(self) -> Mapping[str, str]:
        """Of the undisturbed sweep, which a second one has as well, or nothing could be compared."""
        first, second = (numbers_of(out) for out in (self.undisturbed, self.from_nothing))
        if first != second:
            raise RuntimeError(f"two undisturbed sweeps differ: compare {self.undisturbed} and {self.from_nothing}")
        return first

    @cached_property
    def from_nothing(self) -> Path:
        """The results of the sweep as a shell starts it."""

        def make(out: Path) -> None:
            self._finish(start(self.sweep(out), out, shown=out / SHOWN))

        return self._made("from-nothing", make)

    @cached_property
    def timeline(self) -> Timeline:
        """Of the undisturbed sweep, from the times of its files."""
        out = self.undisturbed
        runs = out / "runs" / SUITE_NAME
        over = max(path.stat().st_mtime for path in runs.glob("*-s*/manifest.json"))
        trained, cell = (runs / "gvpo-s0" / name for name in ("training.json", "manifest.json"))
        first = (runs / "gvpo-s0" / "hash").stat().st_mtime
        last = max(path.stat().st_mtime for path in (out / SUITE_NAME).rglob("*"))
        slowly = self.from_nothing
        imported = (slowly / "runs" / SUITE_NAME / "base" / "hash").stat().st_mtime - (slowly / ASKED).stat().st_mtime
        return Timeline(
            start=imported,
            training=max(0.1, trained.stat().st_mtime - first),
            evaluation=max(0.1, cell.stat().st_mtime - trained.stat().st_mtime),
            report=max(0.5, last - over),
            whole=max(2.0, last - (out / ASKED).stat().st_mtime),
        )

    @cached_property
    def trained(self) -> Path:
        """Results of a sweep that was killed when its cells were trained, and not evaluated."""

        def make(out: Path) -> None:
            shutil.copytree(self.undisturbed / "runs", out / "runs")
            for path in (out / "runs" / SUITE_NAME).iterdir():
                if (path / "training.json").is_file():
                    for name in ("manifest.json", "samples.parquet"):
                        (path / name).unlink()
            shutil.rmtree(out / "runs" / SUITE_NAME / "coefficients")

        return self._made("trained", make)

    @cached_property
    def interrupted(self) -> Path:
        """Results of a sweep that was killed when gvpo-s0 had a checkpoint to go on from, and was not trained."""

        def make(out: Path) -> None:
            cell = out / "runs" / SUITE_NAME / "gvpo-s0"
            for attempt in range(ATTEMPTS):
                shutil.rmtree(out)
                out.mkdir()
                shown = self.folder / f"interrupted.{attempt}.txt"
                command = self.zygote.start(self.sweep(out), out, shown=shown)
                while not (cell / "resume").exists() and not command.over.is_set():
                    time.sleep(0.001)
                command.kill(signal.SIGKILL, group=True)
                command.wait()
                if (cell / "resume").exists() and not (cell / "training.json").exists():
                    return
            raise RuntimeError(f"gvpo-s0 was trained {ATTEMPTS} times before it could be interrupted")

        return self._made("interrupted", make)

    @cached_property
    def evaluated_otherwise(self) -> Path:
        """Results of the sweep whose cells were evaluated with other settings since: their first evaluations are put
        aside."""

        def make(out: Path) -> None:
            shutil.copytree(self.undisturbed / "runs", out / "runs")
            other = self.sweep(out, "--set", "evaluation.samples=3")
            self._finish(self.zygote.start(other, out, shown=out / SHOWN))

        return self._made("evaluated-otherwise", make)
