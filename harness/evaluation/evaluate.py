"""Evaluation on held-out problems: a row a sample, with the exact KL from the base along each response."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from benchmarks import Benchmark, Problem, Verdict
from benchmarks.judges import Judge
from harness.evaluation.eval_settings import EvalSettings
from harness.model.language import LanguageModel
from harness.model.ranks import ALONE, Ranks
from harness.model.rows import Response, Rows
from harness.model.scorer import Scorer
from harness.record.cell_folder import SAMPLE_COLUMNS
from harness.record.seeding import seed_of
from harness.sampling.engine import Engine
from harness.suite.config import ConfigError
from harness.suite.rewards import score_of


def evaluate(
    lm: LanguageModel,
    engine: Engine,
    benchmarks: Sequence[Benchmark],
    judges: Mapping[str, Judge],
    settings: EvalSettings,
    *,
    scorer: Scorer | None = None,
    base: Scorer | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_benchmark: Callable[[str, pd.DataFrame], None] | None = None,
    ranks: Ranks = ALONE,
) -> pd.DataFrame:
    """Responses to each problem, as `settings` say, graded: one row each, with SAMPLE_COLUMNS.

    `answer` is what the response votes for in maj@k, "" where it gives none. `finish` is "eos", "stop" (of the
    template) or "length", the response's limit. `kl` is Σ_t KL(π_θ‖π_base) and `logp` Σ_t log π_θ of the response's
    tokens, both at temperature 1 in nats, NaN without `base`. `tokens` counts the response, EOS included. `on_progress`
    gets the benchmark's name, problems done and problems in all; `on_benchmark` the name and the rows of a benchmark
    that is done. The table is the same on all ranks.

    Raises ConfigError where prompt and response exceed the model's positions.
    """
    temperature, max_new_tokens = settings.decoding
    work = []
    for benchmark in benchmarks:
        problems = benchmark.problems()[: settings.limit]
        prompts = lm.prompt_ids(problems)
        try:
            lm.check_length(prompts, max_new_tokens)
        except ConfigError as error:
            raise ConfigError(f"benchmark {benchmark.name}: {error}") from None
        work.append((benchmark, problems, prompts))

    def answer(
        benchmark: Benchmark, k: int, share: Sequence[tuple[Problem, list[int]]]
    ) -> list[list[tuple[Response, Verdict]]]:
        groups = engine.generate(
            [prompt for _, prompt in share],
            [k] * len(share),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seeds=[seed_of("evaluate", benchmark.name, settings.seed, problem.id) for problem, _ in share],
        )
        groups = [[lm.end_at_stop(response) for response in group] for group in groups]
        flat = [response for group in groups for response in group]
        owners = [problem for problem, _ in share for _ in range(k)]
        texts, cut = [lm.text(response.tokens) for response in flat], [response.truncated for response in flat]
        verdicts = iter(judges[benchmark.name](owners, texts, cut))
        return [[(response, next(verdicts)) for response in group] for group in groups]

    tables = []
    for benchmark, problems, prompts in work:
        k = settings.samples_of(benchmark.name)
        frames = []
        for start in range(0, len(problems), step := settings.chunk * ranks.size):
            part, part_prompts = problems[start : start + step], prompts[start : start + step]
            asked = list(zip(part, part_prompts, strict=True))
            answers = ranks.spread(functools.partial(answer, benchmark, k), asked)
            flat = [response for group in answers for response, _ in group]
            verdicts = [verdict for group in answers for _, verdict in group]
            owners = [problem for problem in part for _ in range(k)]
            texts = [lm.text(response.tokens) for response in flat]
            kl = logp = [float("nan")] * len(flat)
            if scorer is not None and base is not None:
                ids = [prompt for prompt in part_prompts for _ in range(k)]
                rows = Rows.of(ids, [response.tokens for response in flat], lm.device)
                kl, logp = (x_N.tolist() for x_N in scorer.kl_from(base, rows, settings.token_budget))
            frames.append(
                pd.DataFrame(
                    {
                        "benchmark": benchmark.name,
                        "problem_id": [problem.id for problem in owners],
                        "sample": [sample for _ in part for sample in range(k)],
                        "response": texts,
                        "answer": [benchmark.answer_of(text) for text in texts],
                        "verdict": verdicts,
                        "score": [score_of(verdict) for verdict in verdicts],
                        "tokens": [len(response.tokens) for response in flat],
                        "finish": [finish_of(response, lm) for response in flat],
                        "kl": kl,
                        "logp": logp,
                    },
                    columns=SAMPLE_COLUMNS,
                )
            )
            if on_progress is not None:
                on_progress(benchmark.name, start + len(part), len(problems))
        tables.append(pd.concat(frames, ignore_index=True))
        if on_benchmark is not None:
            on_benchmark(benchmark.name, tables[-1])
    return pd.concat(tables, ignore_index=True)


def finish_of(response: Response, lm: LanguageModel) -> str:
    """Why a response ended: "length", "eos", or "stop", which is a text of the template."""
    if response.truncated:
        return "length"
    return "eos" if response.tokens[-1] in lm.eos_ids else "stop"
