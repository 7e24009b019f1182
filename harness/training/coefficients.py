"""The gradient coefficients of every algorithm of a suite on one and the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from algorithms.base import sequence_log_ratio
from benchmarks import load_benchmark
from benchmarks.judges import judge_for
from harness.model.language import load_model
from harness.model.policy import PolicyModel, logprob_chunk
from harness.model.scorer import score
from harness.record.cell_folder import CellFolder
from harness.record.files import write
from harness.record.ledger import Spent
from harness.sampling.engine import open_engine
from harness.suite.config import Suite
from harness.suite.plan import Cell, build_algorithm, training_problems
from harness.training.batch import assemble, draw
from harness.training.gradient import differentiate, to_groups
from harness.training.learner import Learner
from harness.training.schedule import prompts_of_step


def write_coefficients(suite: Suite, cells: Sequence[Cell], runs: Path) -> dict[str, str]:
    """Writes `coefficients.parquet` into the runs folder: a row for each algorithm, response and token.

    The batch is the first step's rollouts of the base at seed 0; π_θ is the baseline algorithm's trained policy at
    seed 0, so that log-ratios are far from zero, while π_old, π_behaviour and π_ref are the base. Nothing is written
    while that cell isn't finished.

    Returns the algorithms that are left out, by label, and why: their run at seed 0 failed, or their loss does here.
    """
    finished = {
        cell.config.label: cell
        for cell in cells
        if cell.config.seed == 0 and CellFolder(runs / cell.name).is_finished(cell.config.hash())
    }
    trained = finished.get(suite.report.baseline)
    if trained is None:
        return dict.fromkeys(suite.algorithms, f"{suite.report.baseline} at seed 0 isn't finished")
    checkpoint = CellFolder(runs / trained.name).checkpoint_path
    config = trained.config
    base = load_model(config.model)
    reference = PolicyModel(
        base.model, logprob_chunk(base.model, config.resources.logprob_chunk, config.resources.token_budget)
    )  # nothing is trained here, so the base may be its own reference
    policy = load_model(config.model.model_copy(update={"path": str(checkpoint), "revision": None}))
    benchmark = load_benchmark(config.train.benchmark)
    chosen = prompts_of_step(training_problems(config.train), config.seed, 0, config.train.prompts)
    prompts = dict(zip([problem.id for problem in chosen], base.prompt_ids(chosen), strict=True))

    frames, left_out = [], {}
    groups = None
    for label, entry in suite.algorithms.items():
        if label not in finished:
            left_out[label] = "its run at seed 0 isn't finished"
            continue
        algorithm = build_algorithm(entry.algorithm or label, entry.parameters, where=f"algorithms.{label}")
        learner = Learner(base, reference, algorithm, config)
        if groups is None:
            with (
                judge_for([benchmark]) as judges,
                open_engine(
                    config.rollout, config.resources, base.model, eos_ids=base.eos_ids, precision=config.model.precision
                ) as engine,
            ):
                groups = draw(engine, base, chosen, prompts, {}, judges[benchmark.name], config, 0)
        batch, rows, _ = assemble(groups, learner, algorithm, config, Spent(), sampler_is_current=True)
        # The critic, where there is one, is the base's; only the policy has moved.
        moved = Learner(policy, reference, algorithm, config).scorer
        now = to_groups(
            score(
                moved,
                rows,
                response_length=batch.mask_GKT.shape[-1],
                token_budget=config.resources.token_budget,
                entropy=algorithm.needs.entropy,
            ),
            batch.valid_GK,
        )
        try:
            batch = algorithm.prepare(batch)
            coefficient_GKT = -differentiate(algorithm, now, batch).logp_GKT
        except Exception as error:  # a user's loss that is fine near the base may not be fine here
            left_out[label] = f"{type(error).__name__}: {error}"
            continue
        log_ratio_GK = sequence_log_ratio(now, batch, "old")
        g, k, t = batch.mask_GKT.nonzero(as_tuple=True)
        frames.append(
            pd.DataFrame(
                {
                    "algorithm": label,
                    "display": getattr(algorithm, "name", label),
                    "prompt": g.cpu(),
                    "sample": k.cpu(),
                    "token": t.cpu(),
                    "reward": batch.rewards_GK[g, k].cpu(),
                    "log_ratio": log_ratio_GK[g, k].cpu(),
                    "coefficient": coefficient_GKT[g, k, t].cpu(),
                }
            )
        )
    if frames:
        write(runs / "coefficients.parquet", pd.concat(frames, ignore_index=True).to_parquet(index=False))
    return left_out
