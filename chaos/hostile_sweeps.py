"""Hostile algorithms in a sweep with an honest one, whose numbers are those of a sweep without them."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from hostile import HOSTILE, SCRATCH
from parts import Part
from stage import SUITE_NAME, Stage
from verdicts import Outcome, differences, fault_of, numbers_of

from harness.record.cell_folder import CellFolder

HONEST = ("base", "gvpo-s0")
STALL_SECONDS = 60
"""Without progress, after which a cell that is to stall is stopped; others report some sooner on a busy machine too."""
COMPANY = 10
"""So many share a sweep at most."""


def companies() -> list[list[int]]:
    """Which of them share a sweep, by number: what is refused ends a sweep by itself, and what stalls takes time."""
    numbers = range(len(HOSTILE))
    alone = [[i] for i in numbers if HOSTILE[i].ends == "refused"]
    stall = [i for i in numbers if HOSTILE[i].ends == "stalls"]
    rest = [i for i in numbers if HOSTILE[i].ends not in ("refused", "stalls")]
    return [*alone, stall, *(rest[i : i + COMPANY] for i in range(0, len(rest), COMPANY))]


class HostileSweeps(Part):
    """See the module."""

    name: ClassVar[str] = "hostile"
    about: ClassVar[str] = (
        "Algorithms that break what they can (`chaos/hostile.py`) run beside an honest one, up to ten in a sweep. The "
        "honest one's numbers are those of a sweep without them, and the cell of each is refused, fails, stalls or "
        "finishes as it should."
    )
    whole = len(HOSTILE)

    def __init__(self, stage: Stage, seed: int) -> None:
        """See `Part`."""
        super().__init__(stage, seed)
        self.outcomes: dict[int, Outcome] = {}
        """Of those whose sweep is over."""
        self.locks = defaultdict[int, threading.Lock](threading.Lock)
        """One for each sweep, by its first algorithm."""

    @cached_property
    def expected(self) -> Mapping[str, str]:
        """The honest one's numbers."""
        return numbers_of(self.stage.undisturbed, cells=HONEST)

    def chosen(self, share: float) -> list[int]:
        """See `Part`: whole sweeps."""
        order = companies()
        random.Random(f"{self.seed} {self.name}").shuffle(order)
        found: list[int] = []
        for company in order:
            if found and len(found) + len(company) / 2 > share * self.whole:
                break
            found += company
        return found

    def describe(self, number: int) -> str:
        """See `Part`."""
        return f"{HOSTILE[number].name}: {HOSTILE[number].ends}"

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`. The first of a company to be run runs it for all."""
        company = next(company for company in companies() if number in company)
        with self.locks[company[0]]:
            if number not in self.outcomes:
                self.outcomes.update(self._swept(company, folder))
            return self.outcomes.pop(number)

    def _swept(self, company: Sequence[int], folder: Path) -> dict[int, Outcome]:
        out = folder / "out"
        (here := folder / "here").mkdir()
        (here / SCRATCH).touch()
        options: list[object] = ["--algorithm", "gvpo"]
        for number in company:
            options += ["--algorithm", HOSTILE[number].write(folder)]
        if HOSTILE[company[0]].ends == "stalls":
            options += ["--set", f"resources.stall_seconds={STALL_SECONDS}"]
        shown = folder / "sweep.txt"
        ended = self.stage.zygote.start(self.stage.sweep(out, *options, workers=2), here, shown=shown).wait()
        if (fault := fault_of(ended)) is not None:
            return dict.fromkeys(company, fault)
        runs = out / "runs" / SUITE_NAME
        if HOSTILE[company[0]].ends == "refused":
            assert ended.code is not None
            unlike = HOSTILE[company[0]].unlike_expected(runs, ended.code, ended.shown)
            return {
                company[0]: Outcome("refused", ended.shown.strip()) if unlike is None else Outcome("wrong end", unlike)
            }
        differing = differences(self.expected, numbers_of(out, cells=HONEST))
        if differing:
            return dict.fromkeys(company, Outcome("silently different", f"of the honest one: {'; '.join(differing)}"))
        statuses = {i: (CellFolder(runs / f"{HOSTILE[i].label}-s0").manifest() or {}).get("status") for i in company}
        if ended.code != ("failed" in statuses.values()):
            return dict.fromkeys(company, Outcome("wrong end", f"exit code {ended.code}: {statuses}"))
        found = {}
        for i in company:
            unlike = HOSTILE[i].unlike_expected(runs, int(statuses[i] == "failed"), ended.shown)
            found[i] = Outcome("identical") if unlike is None else Outcome("wrong end", unlike)
        return found
