"""What is kept of the responses of a step (`train.keep_samples_every`)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks import Problem, load_benchmark
from harness.model.language import LanguageModel
from harness.record.kept_samples import KEPT_COLUMNS
from harness.training.batch import Sample


def kept_rows(groups: Sequence[tuple[Problem, Sequence[Sample]]], lm: LanguageModel, benchmark: str) -> pd.DataFrame:
    """A row a sample of the groups, with KEPT_COLUMNS; `assemble` has filled in what given ones lack."""
    answer_of = load_benchmark(benchmark).answer_of
    rows = []
    for problem, group in groups:
        for number, sample in enumerate(group):
            text = lm.text(sample.tokens)
            logp = sum(sample.sampler_logp)
            said = (sample.verdict, sample.reward, len(sample.tokens), sample.truncated, logp)
            rows.append((problem.id, number, text, answer_of(text), *said))
    return pd.DataFrame(rows, columns=list(KEPT_COLUMNS))
