"""From evaluated samples to scores: avg@k, pass@k, maj@k, and what went wrong apart from wrong answers.

One place for `gvpo-bench eval` and for the report of a sweep. Does not import torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from benchmarks.benchmark import GRADER_FAILURES

OUTCOMES = ("wrong", "no_answer", "truncated", "grader_failures")
"""Shares of all samples. The verdicts add up to 1 with the correct ones; a truncated sample has one of them too."""


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The probability that k of a problem's samples hold a correct one: 1 − C(n − c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), eq. 1: unbiased for k draws from the model, with n ≥ k samples of which c are
    correct.

    Raises ValueError where n < k.
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem; there are {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_score(answers: Sequence[str], scores: Sequence[float]) -> float:
    """maj@k of one problem: the score of the answer that most of its k samples give (Wang et al. 2022, arXiv
    2203.11171).

    `answers` are in a normal form (`Benchmark.answer_of`), so equal texts are equal answers: the vote does not know the
    gold answer. A sample without an answer casts no vote. Of several answers with the most votes, one is drawn: the
    score is the expectation over that draw, their mean. 0 where nobody votes.
    """
    votes: dict[str, list[float]] = defaultdict(list)
    for answer, score in zip(answers, scores, strict=True):
        if answer:
            votes[answer].append(score)
    most = max(map(len, votes.values()), default=0)
    winners = [fmean(scores) for scores in votes.values() if len(scores) == most]
    return fmean(winners) if winners else 0.0


def pass_ks(samples: int) -> list[int]:
    """The k of pass@k that are shown: 2, 4, 8, … below the number of samples, and that number; none with one sample."""
    return [2**i for i in range(1, samples.bit_length()) if 2**i < samples] + ([samples] if samples > 1 else [])


def problem_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """A row a benchmark and problem, in the order of the samples, with those two as index.

    Columns: `samples` (their number k), `score` (avg@k), `pass_at_2`, `pass_at_4`, … (see `pass_ks`) and `maj_at_k`
    where there are several samples a problem, OUTCOMES, `tokens`, and `kl` where the samples have it. `maj_at_k` is NaN
    where the samples have no column `answer`.
    """
    rows = samples.assign(
        wrong=samples["verdict"] == "wrong",
        no_answer=samples["verdict"] == "no_answer",
        truncated=samples["finish"] == "length",
        grader_failures=samples["verdict"].isin(GRADER_FAILURES),
    )
    groups = rows.groupby(["benchmark", "problem_id"], sort=False)
    columns = [name for name in ("score", *OUTCOMES, "tokens", "kl") if name in rows]
    table = groups[columns].mean(skipna=False)
    table.insert(0, "samples", groups.size())
    correct = groups["score"].sum()
    for j in sorted({j for k in table["samples"].unique() for j in pass_ks(int(k))}):
        counts = zip(table["samples"], correct, strict=True)
        table[f"pass_at_{j}"] = [pass_at_k(int(n), round(c), j) if n >= j else math.nan for n, c in counts]
    if table["samples"].max() > 1 and "answer" in rows:
        answers, scores, places = rows["answer"].tolist(), rows["score"].tolist(), groups.indices
        table["maj_at_k"] = [
            majority_score([answers[i] for i in places[problem]], [scores[i] for i in places[problem]])
            for problem in table.index
        ]
    elif table["samples"].max() > 1:
        table["maj_at_k"] = math.nan
    return table
