"""Rollouts of one run that another is trained on (`train.replay`): written step by step, given back in place of draws.

What a run records is all that is known of its samples from the moment they were drawn, log-probs under the policy that
drew them included: to the algorithms that are trained on them that policy is the behaviour policy, as it was to the one
that drew them. The same algorithm with the same settings ends with the same weights, to the last bit.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import Problem
from harness.record.cell_folder import CellFolder
from harness.record.files import RecordError
from harness.record.rollouts_file import add_rollouts, read_rollouts, recorded_steps, rollout_faults
from harness.suite.cell_config import CellConfig
from harness.training.batch import Sample
from harness.training.rollouts import Rollouts
from harness.training.schedule import prompts_of_step

KNOWN = ("prompt", "tokens", "sampler_logp", "behaviour_logp", "reward", "truncated", "verdict")
"""What is recorded of a sample: fields of `Sample`, columns of the file."""
ASKED = ("group", "problem_id", "first", "prompt")
"""The columns that say what a step asked."""


def record_rollouts(cell: Path, step: int, rollouts: Rollouts) -> None:
    """Writes what a step, counted from 1, has drawn. To be called once `assemble` has filled in the log-probs."""
    rows = []
    for g, (problem, group) in enumerate(zip(rollouts.problems, rollouts.groups, strict=True)):
        first = rollouts.first[g]
        rows += _rows(g, problem.id, group, first=group is first, trained=True)
        if group is not first:
            rows += _rows(g, rollouts.asked[g].id, first, first=True, trained=False)
    add_rollouts(cell, step, rows, rollouts.drawn)


def _rows(group: int, problem: str, samples: Sequence[Sample], *, first: bool, trained: bool) -> list[dict[str, Any]]:
    place = {"group": group, "problem_id": problem, "first": first, "trained": trained}
    return [place | {name: plain(getattr(sample, name)) for name in KNOWN} for sample in samples]


def plain(value: Any) -> Any:
    """An array as a list; all else as it is."""
    return value.tolist() if isinstance(value, array) else value


class Replay:
    """The recorded rollouts of a cell, for a run with these settings, problems and prompts (token ids, by problem).

    Raises RecordError where they do not fit: of another training than the run was planned with, fewer steps, other
    problems, other prompts of them, or not what was recorded.
    """

    def __init__(
        self, cell: Path, config: CellConfig, problems: Sequence[Problem], prompts: Mapping[str, list[int]]
    ) -> None:
        self.cell, self.problems = cell, {problem.id: problem for problem in problems}
        if (training := CellFolder(cell).training()) is None:
            raise self._unfit("its training is not over")
        if training["hash"] != config.replays:
            raise self._unfit(f"it was trained with other settings (hash {training['hash']}, not {config.replays})")
        steps = recorded_steps(cell)
        if len(steps) < config.train.steps:
            raise self._unfit(f"it holds the rollouts of {len(steps)} steps, and train.steps = {config.train.steps}")
        if faults := rollout_faults(cell):
            raise self._unfit("; ".join(faults))
        self.drawn = [row["drawn"] for row in steps]
        for step in range(config.train.steps):
            asked = prompts_of_step(problems, config.seed, step, config.train.prompts)
            recorded = {row["group"]: row for row in read_rollouts(cell, step + 1, ASKED) if row["first"]}
            found = [(row["problem_id"], row["prompt"]) for _, row in sorted(recorded.items())]
            if [name for name, _ in found] != [problem.id for problem in asked]:
                raise self._unfit(f"its step {step + 1} asks other problems than this run does")
            if any(prompt != prompts[name] for name, prompt in found):
                raise self._unfit(f"its step {step + 1} asks them in other words, or in the tokens of another model")

    def _unfit(self, why: str) -> RecordError:
        return RecordError(
            f"{self.cell} cannot be replayed: {why}. Record it again (remove that folder and run its sweep), or leave "
            "out train.replay"
        )

    def rollouts(self, step: int) -> Rollouts:
        """What was drawn in a step, counted from 0."""
        places: dict[int, dict[str, Any]] = {}
        for row in read_rollouts(self.cell, step + 1):
            place = places.setdefault(row["group"], {"first": [], "group": []})
            sample = Sample(**{name: row[name] for name in KNOWN})
            if row["first"]:
                place["asked"] = self.problems[row["problem_id"]]
                place["first"].append(sample)
            if row["trained"]:
                place["problem"] = self.problems[row["problem_id"]]
                place["group"].append(sample)
        found = [place for _, place in sorted(places.items())]
        return Rollouts(
            problems=[place["problem"] for place in found],
            groups=[place["group"] for place in found],
            first=[place["first"] for place in found],
            asked=[place["asked"] for place in found],
            drawn=self.drawn[step],
        )
