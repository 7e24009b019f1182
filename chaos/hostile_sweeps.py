"""Each hostile algorithm in a sweep with an honest one, whose numbers are those of a sweep without it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from hostile import HOSTILE, SCRATCH
from parts import Part
from stage import SUITE_NAME
from verdicts import Outcome, differences, fault_of, numbers_of

HONEST = ("base", "gvpo-s0")
STALL_SECONDS = 20
"""Without progress, after which a cell that is to stall is stopped."""


class HostileSweeps(Part):
    """See the module."""

    name: ClassVar[str] = "hostile"
    about: ClassVar[str] = (
        "An algorithm that breaks what it can (`chaos/hostile.py`) runs beside an honest one. The honest one's numbers "
        "are those of a sweep without the other, whose cell is refused, fails, stalls or finishes as it should."
    )
    whole = len(HOSTILE)

    @cached_property
    def expected(self) -> Mapping[str, str]:
        """The honest one's numbers."""
        return numbers_of(self.stage.undisturbed, cells=HONEST)

    def prepare(self) -> object:
        """See `Part`."""
        return self.stage.numbers, self.expected

    def describe(self, number: int) -> str:
        """See `Part`."""
        return f"{HOSTILE[number].name}: {HOSTILE[number].ends}"

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`."""
        hostile, out = HOSTILE[number], folder / "out"
        (here := folder / "here").mkdir()
        (here / SCRATCH).touch()
        options: list[object] = ["--seeds", 1, "--algorithm", "gvpo", "--algorithm", hostile.write(folder)]
        if hostile.ends == "stalls":
            options += ["--set", f"resources.stall_seconds={STALL_SECONDS}"]
        shown = folder / "sweep.txt"
        ended = self.stage.zygote.start(self.stage.sweep(out, *options, workers=2), here, shown=shown).wait()
        if (fault := fault_of(ended)) is not None:
            return fault
        assert ended.code is not None
        runs = out / "runs" / SUITE_NAME
        if (unlike := hostile.unlike_expected(runs, ended.code, ended.shown)) is not None:
            return Outcome("wrong end", unlike)
        if hostile.ends == "refused":
            return Outcome("refused", ended.shown.strip())
        differing = differences(self.expected, numbers_of(out, cells=HONEST))
        return Outcome("silently different", "; ".join(differing)) if differing else Outcome("identical")
