"""Mutated suites and command lines as trials: see configurations.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from configurations import Ending, Mutation, first, judged, mutated_texts, prepare_folder
from parts import Part
from verdicts import Outcome, Verdict

VERDICTS: Mapping[Ending, Verdict] = {
    "planned": "planned",
    "refused": "refused",
    "traceback": "traceback",
    "hangs": "hang",
    "wrongly planned": "silently different",
}
MOST_SAID = 200
"""Characters of a refusal that are kept."""


class ConfigurationTrials(Part):
    """See the module."""

    name: ClassVar[str] = "configurations"
    about: ClassVar[str] = (
        "A valid suite, or its command line, is mutated in one to three places, and planned. It is refused with a "
        "message, or what is planned has what a sweep relies on."
    )
    in_main_thread: ClassVar[bool] = True
    whole = 5000

    @cached_property
    def mutations(self) -> list[Mutation]:
        """All of them, by number."""
        return list(first(mutated_texts(), self.whole, self.seed))

    def describe(self, number: int) -> str:
        """See `Part`."""
        return self.mutations[number].kind

    def run(self, number: int, folder: Path) -> Outcome:
        """See `Part`."""
        prepare_folder(folder)
        with contextlib.chdir(folder):
            judgement = judged(self.mutations[number], folder)
        verdict = VERDICTS[judgement.ending]
        return Outcome(verdict, judgement.said[:MOST_SAID] if verdict == "refused" else judgement.said)
