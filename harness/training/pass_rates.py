"""Which problems are worth training on: those that the base solves now and then (`train.pass_rate`).

A group whose samples all succeed or all fail teaches most algorithms nothing. The base is asked each problem a number
of times, once for all cells of a suite: what it answered lies in the folder of the runs, where cells that come later
find it, and one that was interrupted goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import Problem
from benchmarks.judges import Judge
from harness.model.language import LanguageModel
from harness.model.ranks import ALONE, Ranks
from harness.record.aside import set_aside
from harness.record.base_answers import answers_path, read_answers, write_answers
from harness.record.cell_folder import CellFolder
from harness.record.files import hash_of, locked
from harness.record.seeding import seed_of
from harness.sampling.engine import Engine
from harness.suite.cell_config import CellConfig
from harness.suite.config import ConfigError
from harness.suite.plan import check_repeats, training_problems, without_teacher
from harness.training.batch import Request, draw

Answers = dict[str, dict[str, int]]
"""By problem: how many of its samples were `correct`, and the `tokens` of all."""


def problems_within(
    config: CellConfig,
    lm: LanguageModel,
    engine: Engine,
    judge: Judge,
    runs: Path,
    folder: CellFolder,
    on_progress: Callable[[int, int], None],
    ranks: Ranks = ALONE,
) -> tuple[list[Problem], dict[str, Any]]:
    """The training problems whose pass rate under `lm` is within `train.pass_rate`, in their order, and what the
    manifest says of it: how many are `kept`, `of` how many, and the `tokens` that it took to find out.

    The engine must sample from `lm`. Leaves in the cell's folder which problems are kept, and every rate.

    Raises ConfigError where fewer remain than a step draws.
    """
    settings, problems = config.train, training_problems(config.train)
    assert settings.pass_rate is not None
    low, high = settings.pass_rate
    answers = measure(config, lm, engine, problems, judge, answers_path(runs, key(config)), on_progress, ranks)
    rates = {problem.id: answers[problem.id]["correct"] / settings.pass_rate_samples for problem in problems}
    kept = [problem for problem in problems if low <= rates[problem.id] <= high]
    if len(kept) < settings.prompts:
        below, above = sum(rate < low for rate in rates.values()), sum(rate > high for rate in rates.values())
        raise ConfigError(
            f"train.pass_rate = [{low}, {high}]: of {len(problems)} problems of {settings.benchmark} the base solves "
            f"{len(kept)} at such a rate, {below} less often and {above} more often, and a step draws train.prompts = "
            f"{settings.prompts}; widen the range, or train on other problems"
        )
    check_repeats(settings, len(kept))
    tokens = sum(answers[problem.id]["tokens"] for problem in problems)
    ranks.first(lambda: folder.write_problems([problem.id for problem in kept], rates))
    return kept, {"kept": len(kept), "of": len(problems), "tokens": tokens}


def measure(
    config: CellConfig,
    lm: LanguageModel,
    engine: Engine,
    problems: Sequence[Problem],
    judge: Judge,
    path: Path,
    on_progress: Callable[[int, int], None],
    ranks: Ranks = ALONE,
) -> Answers:
    """Asks each problem `train.pass_rate_samples` times, as training asks, what isn't in the file of answers yet.

    One process at a time does so, while others wait for it. A problem's samples have seeds of their own, so that every
    cell finds what one alone would.
    """
    samples = config.train.pass_rate_samples
    with contextlib.ExitStack() as held:

        def known() -> Answers:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path.with_suffix(".lock")))
            found, faults = read_answers(path)
            if faults:
                set_aside(path.parent, [path.name], faults, runs=path.parent, label=path.stem)
            return found

        answers = ranks.first(known)
        missing = [problem for problem in problems if problem.id not in answers]
        at_once = max(1, config.resources.rollout_batch // samples) * ranks.size
        for start in range(0, len(missing), at_once):
            on_progress(len(answers), len(problems))
            part = missing[start : start + at_once]
            prompts = dict(zip([problem.id for problem in part], lm.prompt_ids(part), strict=True))
            wanted = [Request(problem, samples, seed_of("pass rate", problem.id)) for problem in part]
            groups = draw(engine, lm, wanted, prompts, judge, config.train, ranks)
            for request, group in zip(wanted, groups, strict=True):
                correct, tokens = sum(s.verdict == "correct" for s in group), sum(len(s.tokens) for s in group)
                answers[request.problem.id] = {"correct": correct, "tokens": tokens}
            ranks.first(lambda: write_answers(path, answers))
        on_progress(len(answers), len(problems))
    return answers


def key(config: CellConfig) -> str:
    """Of all that decides the answers: cells that agree in it share them."""
    train = config.train.model_dump(include={"temperature", "max_new_tokens", "pass_rate_samples"})
    asked = [[problem.id, problem.prompt, problem.answer] for problem in training_problems(config.train)]
    model, rollout = without_teacher(config.model).model_dump(mode="json"), config.rollout.model_dump(mode="json")
    return hash_of([train, config.train.benchmark, asked, model, rollout])


def trained_on(config: CellConfig, folder: CellFolder) -> list[Problem]:
    """The problems that the cell of a folder is trained on: all, or those that it kept."""
    kept = folder.problems()
    return [problem for problem in training_problems(config.train) if kept is None or problem.id in kept]
