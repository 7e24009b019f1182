"""A sweep fills a small file system: it says so in a sentence, and goes on once there is room."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

from parts import Part
from stage import SUITE_NAME
from verdicts import Outcome, fault_of, judge

from harness.record.disk_errors import MAKE_ROOM

MOST_SHARE = 1.05
"""Of what the undisturbed sweep takes, that is free on a disk."""
DISK_MEGABYTES = 64


class FullDisks(Part):
    """See the module."""

    name: ClassVar[str] = "full disks"
    about: ClassVar[str] = (
        "The results go to a file system (tmpfs) that something else fills once the first cell has begun, but for less "
        "or little more than they take. The sweep ends with exit code 1 and that sentence; then there is room, and the "
        "same command goes on."
    )
    whole = 24

    def lacks(self) -> str | None:
        """See `Part`."""
        return None if os.geteuid() == 0 else "needs root, who alone may mount a small file system"

    def _kilobytes(self, number: int) -> int:
        used = sum(path.stat().st_blocks for path in self.stage.undisturbed.rglob("*")) // 2  # blocks of 512 bytes
        return max(16, round(used * MOST_SHARE * (number + self.rng(number).random()) / self.whole))

    def describe(self, number: int) -> str:
        """See `Part`."""
        return f"{self._kilobytes(number)} KiB are free"

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`."""
        (disk := folder / "disk").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "chaos", str(disk)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            return Outcome("not run", f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
        try:
            return self._filled(disk, 1024 * self._kilobytes(number), folder)
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)

    def _filled(self, disk: Path, free: int, folder: Path) -> Outcome:
        arguments, ballast = self.stage.sweep(out := disk / "out"), disk / "ballast"
        command = self.stage.zygote.start(arguments, folder, shown=folder / "full.txt")
        while not (out / "runs" / SUITE_NAME / "base" / "hash").exists() and not command.over.wait(0.001):
            pass
        fill(ballast, leave=free)
        ended = command.wait()
        if (fault := fault_of(ended)) is not None:
            return fault
        said = next((line for line in ended.shown.splitlines() if line.endswith(MAKE_ROOM)), None)
        if (ended.code, said is None) not in ((0, True), (1, False)):
            return Outcome("wrong end", f"on the full disk, exit code {ended.code}: {ended.shown[-1000:]}")
        ballast.unlink()
        again = self.stage.zygote.start(arguments, folder, shown=folder / "room.txt").wait()
        outcome = judge(again, self.stage.numbers, out)
        how = "there was room for all of it" if said is None else said
        return Outcome("identical", how) if outcome.verdict == "identical" else outcome


def fill(path: Path, *, leave: int) -> None:
    """Makes a file that leaves so many bytes of its file system."""
    disk = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - leave))
