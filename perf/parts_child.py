"""The parts of a step on one batch drawn from the base: `parts_child.py CELL.json`, the settings of one cell.

A step of blocks.py is one part, and the parts take turns; CELL.about.json names them, with FLOPs, tokens and
where their time goes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import bare_loop
import torch
from blocks import Blocks
from where import where_the_time_goes

from benchmarks import load_benchmark
from benchmarks.judges import judge_for
from harness.model.language import frozen_base, load_model
from harness.record.ledger import Spent
from harness.record.seeding import seed_of
from harness.sampling.engine import ENGINES
from harness.sampling.local import LocalEngine
from harness.suite.cell_config import CellConfig
from harness.suite.plan import build_algorithm
from harness.training.batch import assemble, draw
from harness.training.gradient import Passes, accumulate_gradient
from harness.training.learner import Learner
from harness.training.schedule import prompts_of_step
from harness.training.supply import requests

PEAK_SIZE = 1024
"""Rows and columns of the square matrices whose product gives the machine's peak."""


def main() -> None:
    """Draws the batch and takes the parts in turn."""
    blocks = Blocks()
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    config = CellConfig.model_validate_json(path.read_text(encoding="utf-8"))
    settings = config.train
    lm = load_model(config.model)
    benchmark = load_benchmark(settings.benchmark)
    algorithm = build_algorithm(config.algorithm, config.parameters, where=config.label)
    learner = Learner(lm, frozen_base(lm, config.resources), algorithm, config)
    precision, token_budget = config.model.precision, config.resources.token_budget

    def engine_with(eos_ids: Sequence[int]) -> LocalEngine:
        return ENGINES[config.rollout.engine](
            lm.model, eos_ids=eos_ids, batch=config.resources.rollout_batch, precision=precision
        )

    engine, endless = engine_with(lm.eos_ids), engine_with(())
    chosen = prompts_of_step(benchmark.problems(), config.seed, 0, settings.prompts)
    prompts = dict(zip([problem.id for problem in chosen], lm.prompt_ids(chosen), strict=True))
    with judge_for([benchmark]) as judges:
        groups = draw(engine, lm, requests(config, 0, chosen, {}), prompts, judges[benchmark.name], settings)
    batch, rows, _ = assemble(groups, learner, algorithm, config, Spent(), sampler_is_current=True)
    left, right, product = (torch.randn(PEAK_SIZE, PEAK_SIZE) for _ in range(3))

    def peak() -> None:
        torch.mm(left, right, out=product)

    def generation(engine: LocalEngine) -> None:
        engine.generate(
            [prompts[problem.id] for problem in chosen],
            [settings.samples] * settings.prompts,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            seeds=[seed_of("rollout", config.seed, 0, place) for place in range(settings.prompts)],
        )

    def bare_generation() -> None:
        ids = [prompts[problem.id] for problem in chosen]
        bare_loop.generate(lm.model, ids, settings.samples, settings.max_new_tokens, precision)

    def gradient(passes: Passes) -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        accumulate_gradient(learner.scorer, algorithm, batch, rows, token_budget=token_budget, passes=passes)

    def bare_training() -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        bare_loop.train(lm.model, rows, token_budget, precision)

    parts: dict[str, Callable[[], None]] = {
        "peak": peak,
        "generation": lambda: generation(engine),
        "one pass": lambda: gradient("one"),
        "two passes": lambda: gradient("two"),
        "endless generation": lambda: generation(endless),
        "bare generation": bare_generation,
        "bare training": bare_training,
    }
    parameters = sum(p.numel() for p in lm.model.parameters())
    response_tokens, tokens = int(rows.response_length_N.sum()), int(rows.length_N.sum())
    flops = {
        "peak": 2 * PEAK_SIZE**3,
        "generation": 2 * parameters * response_tokens,
        "one pass": 6 * parameters * tokens,
    }
    for run in parts.values():
        run()
    about = {
        "parts": list(parts),
        "flops": flops,
        "response tokens": response_tokens,
        "tokens": tokens,
        "where": {name: where_the_time_goes(parts[name]) for name in ("generation", "one pass")},
    }
    path.with_suffix(".about.json").write_text(json.dumps(about), encoding="utf-8")
    blocks.tick()
    while True:
        for run in parts.values():
            run()
            blocks.tick()


if __name__ == "__main__":
    main()
