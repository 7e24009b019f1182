"""The responses that training drew, at the steps that were kept, as the page reads them: by problem and step.

Reads the cells, writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from harness.report.recorded_cells import RecordedCell
from harness.site.site_problems import MOST_TEXT, in_shards, known_problems, question_and_gold


@dataclass
class _Drawn:
    """One training problem as it is gathered from the cells."""

    texts: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """The place of each distinct (response, answer, verdict, truncated, tokens, reward)."""
    rows: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)
    """The samples with the same (cell, step, text, log-prob)."""
    rewards: dict[int, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """By step and algorithm."""


class _Row(NamedTuple):
    """KEPT_COLUMNS."""

    problem_id: str
    sample: int
    response: str
    answer: str
    verdict: str | None
    reward: float
    tokens: int
    truncated: bool
    logp: float


@dataclass(frozen=True)
class Training:
    """What the page shows of the kept samples of a suite."""

    listed: dict[str, Any]
    """A row a problem: question, gold answer, each algorithm's mean reward by step, and which shard holds responses."""
    shards: list[list[dict[str, Any]]]
    """The responses, some problems a shard."""


def gather_training(cells: Sequence[RecordedCell], *, most: int = MOST_TEXT) -> Training | None:
    """All kept samples of these cells; None where none has any.

    Args:
        cells: in the order in which rows name them, by their place; `config("train", "benchmark")` says whose problems
            they are trained on.
        most: seeds are kept with their responses, from the first on, until these have more characters than that.
    """
    found: dict[tuple[str, str], _Drawn] = {}
    steps_of = {place: cell.rows.kept.steps() for place, cell in enumerate(cells)}
    with_samples = sorted((place for place, steps in steps_of.items() if steps), key=lambda place: _seed(cells[place]))
    if not with_samples:
        return None
    length, kept = 0, set[int]()
    for place in with_samples:
        cell = cells[place]
        if _seed(cell) not in kept and length > most:
            continue
        kept.add(_seed(cell))
        for step in steps_of[place]:
            length += _add(found, cell, place, step)
    labels = list(dict.fromkeys(cells[place].algorithm for place in sorted(with_samples)))
    shards = list(
        in_shards(
            {"benchmark": benchmark, "id": problem, "texts": list(one.texts), "rows": _rows(one)}
            for (benchmark, problem), one in found.items()
        )
    )
    of_shard = {(row["benchmark"], row["id"]): number for number, shard in enumerate(shards) for row in shard}
    known = {benchmark: known_problems(benchmark) for benchmark in dict.fromkeys(name for name, _ in found)}
    listed = [
        {
            "benchmark": benchmark,
            "id": problem,
            **question_and_gold(known[benchmark], problem),
            "shard": of_shard[benchmark, problem],
            "rewards": {
                str(step): [round(fmean(by[label]), 4) if label in by else None for label in labels]
                for step, by in sorted(one.rewards.items())
            },
        }
        for (benchmark, problem), one in found.items()
    ]
    about = {
        "algorithms": labels,
        "problems": listed,
        "steps": sorted({step for one in found.values() for step in one.rewards}),
        "seeds": sorted(kept),
        "unknown": {name: reason for name, reason in known.items() if isinstance(reason, str)},
    }
    return Training(about, shards)


def _seed(cell: RecordedCell) -> int:
    return int(cell.manifest["seed"] or 0)


def _add(found: dict[tuple[str, str], _Drawn], cell: RecordedCell, place: int, step: int) -> int:
    """Adds the samples of one cell and step; returns how many characters of responses that were."""
    benchmark, length = str(cell.config("train", "benchmark")), 0
    for row in map(_Row._make, cell.rows.kept.read(step).itertuples(index=False, name=None)):
        one = found.setdefault((benchmark, row.problem_id), _Drawn())
        one.rewards[step][cell.algorithm].append(row.reward)
        verdict = row.verdict if isinstance(row.verdict, str) else None
        text = (row.response, row.answer, verdict, bool(row.truncated), int(row.tokens), round(row.reward, 4))
        number = one.texts.setdefault(text, len(one.texts))
        one.rows.setdefault((place, step, number, float(f"{row.logp:.5g}")), []).append(int(row.sample))
        length += len(row.response)
    return length


def _rows(one: _Drawn) -> list[list[Any]]:
    return [[*key, samples] for key, samples in one.rows.items()]
