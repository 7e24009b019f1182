"""The gradient coefficients of every algorithm of a suite on one and the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from algorithms.base import sequence_log_ratio
from benchmarks import load_benchmark
from benchmarks.judges import judge_for
from harness.model.language import load_model, policy_of
from harness.model.scorer import score
from harness.record.cell_folder import CellFolder
from harness.record.files import write
from harness.record.ledger import Spent
from harness.sampling.engine import open_engine
from harness.suite.given import GIVEN
from harness.suite.plan import Cell, algorithm_of
from harness.training.batch import assemble, draw
from harness.training.gradient import differentiate, to_groups
from harness.training.judgement import prepared
from harness.training.learner import Learner
from harness.training.pass_rates import trained_on
from harness.training.rollouts import Rollouts
from harness.training.schedule import prompts_of_step
from harness.training.supply import Supply, requests

COLUMNS = ["algorithm", "display", "prompt", "sample", "token", "reward", "log_ratio", "coefficient"]


def compare_coefficients(
    cells: Sequence[Cell], first: Cell, folder: CellFolder, scratch: Path
) -> tuple[pd.DataFrame, dict[str, str]]:
    """A row for each cell's algorithm, response and token, with COLUMNS (log-ratios in nats).

    The batch is the first step's rollouts of the base at the seed of `first`, a cell beside which all of them stand;
    π_θ is the policy that it has trained in its `folder`, so that log-ratios are far from zero, while π_old,
    π_behaviour and π_ref are the base.
    `scratch` is a folder for users' files.

    Each algorithm has the extras that it declares; groups are not refilled. Returns with it the algorithms that the
    batch is none for, since they are trained on given responses, or whose loss fails on it, by label, and why.

    Raises FileNotFoundError where the checkpoint was not kept.
    """
    checkpoint = folder.checkpoint_path
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"the checkpoint of {first.name} was not kept (resources.keep_checkpoints)")
    config = first.config
    base = load_model(config.model)
    # Nothing is trained here, so the base may be its own reference.
    reference = policy_of(base.model, config.resources, config.model.precision)
    policy = load_model(config.model.model_copy(update={"path": str(checkpoint), "revision": None}))
    benchmark = load_benchmark(config.train.benchmark)
    chosen = prompts_of_step(trained_on(config, folder), config.seed, 0, config.train.prompts)
    prompts = dict(zip([problem.id for problem in chosen], base.prompt_ids(chosen), strict=True))
    frames, left_out = [pd.DataFrame(columns=COLUMNS)], {}
    with (
        judge_for([benchmark], training=True) as judges,
        open_engine(
            config.rollout, config.resources, base.model, eos_ids=base.eos_ids, precision=config.model.precision
        ) as engine,
    ):
        judge = judges[benchmark.name]
        groups = draw(engine, base, requests(config, 0, chosen, {}), prompts, judge, config.train)
        for cell in cells:
            label = cell.config.label

            def keep(source: bytes, label: str = label) -> Path:
                write(scratch / f"{label}.py", source)
                return scratch / f"{label}.py"

            algorithm = algorithm_of(cell, keep)
            if algorithm.needs.data in GIVEN:
                left_out[label] = f"it is trained on given {algorithm.needs.data}, and the batch holds drawn responses"
                continue
            learner = Learner(base, reference, algorithm, cell.config)
            supply = Supply(cell.config, algorithm.needs, base, learner, engine, chosen, prompts, judge, Spent())
            extras = supply.drawn_extras(0, chosen)
            batch, rows, _ = assemble(groups, learner, algorithm, cell.config, Spent(), sampler_is_current=True)
            drawn = Rollouts(problems=chosen, groups=groups, first=groups, extras=extras)
            batch = supply.with_extras(batch, drawn, groups)
            # The critic, where there is one, is the base's; only the policy has moved.
            moved = Learner(policy, reference, algorithm, cell.config).scorer
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
                batch = prepared(algorithm, batch)
                coefficient_GKT = -differentiate(algorithm, now, batch).logp_GKT
            except Exception as error:  # a user's loss that is fine near the base may not be fine here
                left_out[label] = f"{type(error).__name__}: {error}"
                continue
            log_ratio_GK = sequence_log_ratio(now, batch, "old")
            g, k, t = batch.mask_GKT.nonzero(as_tuple=True)
            columns = {
                "algorithm": label,
                "display": getattr(algorithm, "name", label),
                "prompt": g.cpu(),
                "sample": k.cpu(),
                "token": t.cpu(),
                "reward": batch.rewards_GK[g, k].cpu(),
                "log_ratio": log_ratio_GK[g, k].cpu(),
                "coefficient": coefficient_GKT[g, k, t].cpu(),
            }
            frames.append(pd.DataFrame(columns, columns=COLUMNS))
    return pd.concat(frames[1:] or frames, ignore_index=True), left_out
