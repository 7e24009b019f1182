"""A sweep is killed at random and chosen moments, and the same command goes on to the same numbers."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import commands
from commands import Command, descendants
from parts import Part
from stage import Timeline
from verdicts import Outcome, fault_of, judge

Moment = Literal["start", "training", "checkpoint", "export", "evaluation", "report", "any"]
Target = Literal["group", "main", "worker"]

MOMENTS: tuple[Moment, ...] = ("start", "training", "checkpoint", "export", "evaluation", "report", "any")
TARGETS: tuple[Target, ...] = ("group", "main", "worker")
"""The sweep's process group, as a terminal does; its first process; one of those that it has started."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

POLL_SECONDS = 0.003

EVENTS: dict[Moment, tuple[str, ...]] = {
    "start": (),
    "training": ("runs/*/*/metrics.jsonl",),
    "checkpoint": ("runs/*/*/.resume*", "runs/*/*/resume"),
    "export": ("runs/*/*/.checkpoint*", "runs/*/*/checkpoint"),
    "evaluation": ("runs/*/*/training.json",),
    "report": ("small", "small/.*"),
    "any": (),
}
"""What comes to be in the folder of results when a moment begins."""


def lasts(moment: Moment, timeline: Timeline) -> float:
    """Seconds after its beginning within which a kill still is at that moment."""
    return {
        "start": timeline.start,
        "training": timeline.training,
        "checkpoint": 0.02,
        "export": 0.05,
        "evaluation": timeline.evaluation,
        "report": timeline.report,
        "any": timeline.whole,
    }[moment]


@dataclass(frozen=True)
class Kill:
    """One signal."""

    moment: Moment
    target: Target
    signal: signal.Signals
    skipped: int
    """So many times the moment's event passes by."""
    share: float
    """Of the time that the moment lasts, after the event."""

    def __str__(self) -> str:
        """For the page."""
        return f"{self.signal.name} to the {self.target} at {self.moment} + {self.share:.0%}"


def kills_of(number: int, rng: random.Random) -> list[Kill]:
    """Those of a trial: one, and in every fifth trial three, one after another. 63 trials have every combination."""
    combinations = list(itertools.product(MOMENTS, TARGETS, SIGNALS))
    found = []
    for i in range(3 if number % 5 == 4 else 1):
        moment, target, which = combinations[(number + 31 * i) % len(combinations)]
        skipped = rng.randrange({"training": 2, "checkpoint": 8, "export": 4, "evaluation": 2}.get(moment, 1))
        found.append(Kill(moment, target, which, skipped, rng.random()))
    return found


def inodes(out: Path, patterns: tuple[str, ...]) -> set[tuple[str, int]]:
    """What is there of these patterns: replaced, it is another."""
    found = set()
    for path in itertools.chain.from_iterable(out.glob(pattern) for pattern in patterns):
        try:
            found.add((str(path), path.lstat().st_ino))
        except FileNotFoundError:
            continue
    return found


def wait_for_moment(command: Command, moment: Moment, out: Path, *, skipped: int) -> bool:
    """Waits until the moment begins, which it does anew for each cell; False where the command was over before."""
    patterns = EVENTS[moment]
    before = inodes(out, patterns)
    for _ in range(skipped + 1 if patterns else 0):
        while not (now := inodes(out, patterns) - before):
            if command.over.wait(POLL_SECONDS):
                return False
        before |= now
    return True


def hit(command: Command, kill: Kill, out: Path, timeline: Timeline, rng: random.Random) -> bool:
    """Waits for the moment, and sends the signal; False where the command was over before."""
    if not wait_for_moment(command, kill.moment, out, skipped=kill.skipped):
        return False
    if command.over.wait(kill.share * lasts(kill.moment, timeline)):
        return False
    if kill.target != "worker":
        command.kill(kill.signal, group=kill.target == "group")
        return True
    return kill_one(command, kill.signal, rng, lambda pid: True)


def kill_one(command: Command, which: signal.Signals, rng: random.Random, wanted: Callable[[int], bool]) -> bool:
    """Sends a signal to one of the processes that a command has started, and waits for one; False where none came."""
    while not command.over.is_set():
        if pids := [pid for pid in descendants(command.pid) if wanted(pid)]:
            try:
                os.kill(rng.choice(pids), which)
            except ProcessLookupError:
                continue
            return True
        time.sleep(POLL_SECONDS)
    return False


class Kills(Part):
    """See the module."""

    name: ClassVar[str] = "kills"
    about: ClassVar[str] = (
        "A small sweep is killed, and the same command started again: SIGKILL, SIGTERM or SIGINT, to the process "
        "group, the first process or another, at its start, in training, at a checkpoint, at the export, in the "
        "evaluation, in the report, or at any moment; in every fifth trial three times."
    )
    whole = 100

    def describe(self, number: int) -> str:
        """See `Part`."""
        return ", then ".join(map(str, kills_of(number, self.rng(number))))

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`."""
        rng, out, late, timeline = self.rng(number), folder / "out", 0, self.stage.timeline
        out.mkdir()
        arguments = self.stage.sweep(out, workers=1 + number % 2)
        for i, kill in enumerate(kills_of(number, self.rng(number))):
            shown = folder / f"killed-{i}.txt"
            if kill.moment == "start":  # of which the imports are a part
                command = commands.start(arguments, folder, shown=shown)
            else:
                command = self.stage.zygote.start(arguments, folder, shown=shown, figures=kill.moment == "report")
            late += not hit(command, kill, out, timeline, rng)
            if (fault := fault_of(command.wait())) is not None:
                return fault
        ended = self.stage.zygote.start(arguments, folder, shown=folder / "last.txt").wait()
        outcome = judge(ended, self.stage.numbers, out)
        if late and outcome.verdict == "identical":
            return Outcome("identical", f"{late} of its kills came after the end")
        return outcome
