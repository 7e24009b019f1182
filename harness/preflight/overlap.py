"""Test problems that training shows, in whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import Problem, load_benchmark
from harness.preflight.checks import Check, Status, evaluated
from harness.suite.config import Suite
from harness.suite.plan import training_problems

NGRAM = 13
"""Words in a row that make a passage, as in the contamination study of GPT-3 (arXiv 2005.14165, app. C)."""


MAX_DUPLICATES = 0.01
"""Share of a benchmark's problems that may also be training problems, word for word: as much as they could move its
score."""


@dataclass(frozen=True)
class Overlap:
    """Test problems that training shows, in whole or in part."""

    same: list[Problem]
    """Letter for letter, white space and case aside."""
    near: list[tuple[Problem, Problem]]
    """Those of whose passages of NGRAM words at least half are in training, the nearest first, each with a training
    problem: the same question with other numbers, or in another notation."""
    phrases: int
    """Number of those that share fewer: mostly set phrases, such as “where m and n are relatively prime positive
    integers”."""


def overlap(train: Sequence[Problem], test: Sequence[Problem]) -> Overlap:
    """Passages are compared without case and punctuation."""

    def text(problem: Problem) -> str:
        return "".join(problem.prompt.lower().split())

    def passages(problem: Problem) -> list[tuple[str, ...]]:
        words = re.findall(r"\w+", problem.prompt.lower())
        return [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]

    texts = {text(problem) for problem in train}
    owner = {passage: problem for problem in train for passage in passages(problem)}
    same, near, phrases = [], [], 0
    for problem in test:
        known = [passage in owner for passage in passages(problem)]
        if text(problem) in texts:
            same.append(problem)
        elif any(known):
            if (share := sum(known) / len(known)) >= 0.5:
                near.append((share, problem, owner[passages(problem)[known.index(True)]]))
            else:
                phrases += 1
    near.sort(key=lambda item: -item[0])
    return Overlap(same, [(problem, other) for _, problem, other in near], phrases)


def overlaps(suite: Suite) -> Iterator[Check]:
    """Of training with what is scored or tuned on."""
    train = training_problems(suite.train)
    benchmarks = evaluated(suite)
    if suite.tuning is not None:
        benchmarks.append(load_benchmark(suite.tuning.benchmark))
    for benchmark in benchmarks:
        test = benchmark.problems()[: suite.evaluation.limit]
        found = overlap(train, test)
        texts = [f"of {len(test)} problems {len(found.same)} are trained on"]
        texts[0] += f", such as {found.same[0].id}" if found.same else ""
        if found.near:
            problem, other = found.near[0]
            texts.append(f"{len(found.near)} share most of their words with one, such as {problem.id} with {other.id}")
        if found.phrases:
            texts.append(f"{found.phrases} share a phrase of {NGRAM} words")
        too_many = len(found.same) > MAX_DUPLICATES * len(test)
        status: Status = "fail" if too_many else "warn" if found.same or found.near else "ok"
        remedy = {
            "fail": "train on problems without these, or score on others",
            "warn": "read them; the score of problems that training shows is no generalisation",
            "ok": "",
        }[status]
        yield Check(f"overlap {benchmark.name}", status, "; ".join(texts), remedy)
