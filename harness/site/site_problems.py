"""Every evaluated problem with the responses of all cells, as the page reads them. Reads the cells, writes nothing."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks import DataError, Problem, load_benchmark
from benchmarks.benchmark import GRADER_FAILURES
from harness.record.cell_folder import SAMPLE_COLUMNS
from harness.report.recorded_cells import RecordedCell

MOST_TEXT = 64_000_000
"""Characters of responses after which a site holds those of no further seed of a suite."""
SHARD = 1_500_000
"""Characters of JSON in one file of responses, which is what the page loads for a problem."""
COUNTED = ("correct", "wrong", "no_answer", "grader_failures", "truncated")
"""What is counted of every cell and problem; the last one beside the verdicts."""


@dataclass
class _Answered:
    """One problem as it is gathered from the cells."""

    texts: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """The place of each distinct (response, answer, verdict, finish, tokens)."""
    rows: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)
    """The samples with the same (cell, text, KL, log-prob)."""
    counts: list[list[int]] = field(default_factory=list)
    """COUNTED of each cell, in the order of the cells."""
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By algorithm."""


@dataclass(frozen=True)
class Problems:
    """What the page shows of the problems of a suite."""

    listed: dict[str, Any]
    """A row a problem: question, gold answer, each algorithm's mean score, and which shard holds its responses."""
    shards: list[list[dict[str, Any]]]
    """The responses, some problems a shard."""
    samples: pd.DataFrame
    """A row an evaluated sample of every cell; the responses of the seeds that are kept."""


def gather(cells: Sequence[RecordedCell], names: Sequence[str], *, most: int = MOST_TEXT) -> Problems:
    """All problems of these finished cells.

    Args:
        cells: in the order in which rows name them, by their place.
        names: the algorithms whose mean scores stand in the list, as `RecordedCell.algorithm`, in its order.
        most: seeds are kept with their responses, from the first on, until these have more characters than that.
    """
    answered: dict[tuple[str, str], _Answered] = {}
    frames: list[pd.DataFrame] = []
    kept: set[int | None] = {None}
    length = 0
    for seed in sorted({cell.manifest["seed"] for cell in cells}, key=lambda seed: -1 if seed is None else seed):
        room = length <= most
        for place, cell in enumerate(cells):
            if cell.manifest["seed"] == seed:
                frame = cell.rows.samples(SAMPLE_COLUMNS)
                with_texts = room and "response" in frame  # which raw rows may lack
                length += _add(answered, frame, place, len(cells), cell.algorithm, with_texts)
                if with_texts:
                    kept.add(seed)
                else:
                    frame["response"] = None
                frame.insert(0, "algorithm", cell.algorithm)
                frame.insert(1, "seed", seed)
                frames.append(frame)
    shards = list(in_shards(_responses(answered)))
    of_shard = {(row["benchmark"], row["id"]): number for number, shard in enumerate(shards) for row in shard}
    known = {
        benchmark: known_problems(benchmark) for benchmark in dict.fromkeys(benchmark for benchmark, _ in answered)
    }
    listed = [
        {
            "benchmark": benchmark,
            "id": problem,
            **question_and_gold(known[benchmark], problem),
            "shard": of_shard[benchmark, problem],
            "scores": [round(fmean(found.scores[name]), 4) if name in found.scores else None for name in names],
        }
        for (benchmark, problem), found in answered.items()
    ]
    return Problems(
        {
            "algorithms": list(names),
            "problems": listed,
            "seeds": sorted(seed for seed in kept if seed is not None),
            "unknown": {name: found for name, found in known.items() if isinstance(found, str)},
        },
        shards,
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(),
    )


def _add(
    answered: dict[tuple[str, str], _Answered],
    frame: pd.DataFrame,
    place: int,
    cells: int,
    algorithm: str,
    with_texts: bool,
) -> int:
    """Adds the samples of one cell; returns how many characters of responses that were."""
    length = 0
    columns = [frame[name].tolist() if name in frame else repeat(None) for name in SAMPLE_COLUMNS]
    for benchmark, problem, sample, response, answer, verdict, score, tokens, finish, *nats in zip(
        *columns, strict=False
    ):
        found = answered.get((benchmark, problem))
        if found is None:
            found = answered[benchmark, problem] = _Answered(counts=[[0] * len(COUNTED) for _ in range(cells)])
        counts = found.counts[place]
        counts[3 if verdict in GRADER_FAILURES else COUNTED.index(verdict)] += 1
        counts[4] += finish == "length"
        found.scores[algorithm].append(score)
        if with_texts:
            length += len(response)
            text = found.texts.setdefault((response, answer, verdict, finish, tokens), len(found.texts))
            shown = (None if x is None or math.isnan(x) else float(f"{x:.4g}") for x in nats)
            found.rows.setdefault((place, text, *shown), []).append(sample)
    return length


def _responses(answered: Mapping[tuple[str, str], _Answered]) -> Iterator[dict[str, Any]]:
    for (benchmark, problem), found in answered.items():
        yield {
            "benchmark": benchmark,
            "id": problem,
            "texts": list(found.texts),
            "rows": [[*key, samples] for key, samples in found.rows.items()],
            "counts": found.counts,
        }


def in_shards(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in their order, in files of about SHARD characters."""
    shard: list[dict[str, Any]] = []
    length = 0
    for row in rows:
        size = len(json.dumps(row))
        if shard and length + size > SHARD:
            yield shard
            shard, length = [], 0
        shard.append(row)
        length += size
    if shard:
        yield shard


def known_problems(benchmark: str) -> dict[str, Problem] | str:
    """The problems of a benchmark by their ids, or why they are not to be had here."""
    try:
        return {problem.id: problem for problem in load_benchmark(benchmark).problems()}
    except (DataError, ValueError) as error:
        return str(error)


def question_and_gold(known: dict[str, Problem] | str, problem: str) -> dict[str, str | None]:
    """The question and the gold answer, None where they are not to be had."""
    found = None if isinstance(known, str) else known.get(problem)
    return {"question": found.prompt, "gold": found.answer} if found else {"question": None, "gold": None}
