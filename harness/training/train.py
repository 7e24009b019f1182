"""The training loop, the same for every algorithm:

Problem → Group of K rollouts → rewards → Batch[G,K,T] → loss → coefficients → backward → step → metrics
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from algorithms.base import Algorithm, PolicyOutput
from benchmarks import Problem
from benchmarks.judges import Judge
from harness.model.language import LanguageModel
from harness.model.policy import PolicyModel
from harness.model.ranks import ALONE, Ranks
from harness.model.rows import Rows, padding_share
from harness.record.cell_folder import CellFolder
from harness.record.ledger import Spent
from harness.record.rollouts_file import keep_rollouts
from harness.sampling.engine import Engine
from harness.suite.cell_config import CellConfig
from harness.training.batch import assemble, rollout_metrics
from harness.training.coefficient_metrics import coefficient_metrics
from harness.training.gradient import accumulate_gradient
from harness.training.history import History, mix_in_history, pack, unpack
from harness.training.judgement import prepared
from harness.training.kept_rows import kept_rows
from harness.training.learner import Learner
from harness.training.replay import Replay, record_rollouts
from harness.training.resume import load, save
from harness.training.schedule import mini_batches, prompts_of_step
from harness.training.supply import Supply


def train(
    config: CellConfig,
    algorithm: Algorithm,
    lm: LanguageModel,
    base: PolicyModel,
    engine: Engine,
    problems: Sequence[Problem],
    judge: Judge,
    folder: CellFolder,
    on_step: Callable[[int, Mapping[str, float]], None],
    ranks: Ranks = ALONE,
    spent: Spent | None = None,
    recording: Path | None = None,
) -> Spent:
    """Trains `lm.model` in place, continuing from the folder's last checkpoint where there is one.

    `base` is its `frozen_base`. Leaves a row a step in metrics.jsonl, and calls `on_step` with it; of a step whose
    samples are kept these come first, so that no row is without them. With several ranks each runs this very loop on
    the same batches: they share out the samples to draw, the rows to score and the weights, and rank 0 writes. `spent`
    is what the run has cost before its first step. With `recording`, the folder of another cell, it is trained on the
    rollouts that this one has recorded.

    Raises RecordError before its first step where those do not fit, or its own are to be kept and cannot be.
    """
    settings, resources = config.train, config.resources
    lm.model.train(False)  # dropout off: old and new log-probs must differ by the weights alone
    engine.release_memory()
    prompts = dict(zip([problem.id for problem in problems], lm.prompt_ids(problems), strict=True))
    lm.check_length(list(prompts.values()), settings.max_new_tokens)
    replay = None if recording is None else Replay(recording, config, problems, prompts)
    learner = Learner(lm, base, algorithm, config, ranks)
    history: History = {}
    spent = spent or Spent()

    first_step = 0
    loaded = load(folder.resume_path, learner.parts(), ranks)
    if loaded is not None:
        progress, packed = loaded
        first_step, spent = progress["step"], Spent(**progress["spent"])
        history = unpack(progress["history"], packed, prompts)
        del loaded, progress, packed
    supply = Supply(config, algorithm.needs, lm, learner, engine, problems, prompts, judge, spent, ranks, replay)
    ranks.first(lambda: folder.keep_metrics(first_step))
    if config.records:
        ranks.first(lambda: keep_rollouts(folder.path, first_step))
    training_hash = config.hashes().training

    def seal(checkpoint: Path) -> None:
        folder.seal_resume(checkpoint, training_hash)

    for step in range(first_step, settings.steps):
        cpu, started = time.process_time(), time.perf_counter()
        sampler_is_current = step % settings.refresh_every == 0
        if sampler_is_current:
            learner.refresh_sampler()
        chosen = prompts_of_step(problems, config.seed, step, settings.prompts)
        drawn = supply.rollouts(step, chosen, history)
        rolled_out = time.perf_counter()

        fresh = list(zip(drawn.problems, drawn.groups, strict=True))
        groups = [mix_in_history(group, history.get(p.id, []), settings.samples) for p, group in fresh]
        batch, rows, row_group = assemble(groups, learner, algorithm, config, spent, sampler_is_current)
        if config.records and ranks.rank == 0:
            record_rollouts(folder.path, step + 1, drawn)
        batch = prepared(algorithm, supply.with_extras(batch, drawn, groups))
        if settings.history_share > 0:
            for problem, group in fresh:
                history[problem.id] = (history.get(problem.id, []) + group)[-settings.samples :]

        updates: dict[str, list[float]] = defaultdict(list)
        for update, index in enumerate(mini_batches(config, step)):
            row_index = torch.isin(row_group, index).nonzero().flatten()
            mini, mini_rows = batch.groups(index.to(lm.device)), rows.pick(row_index)
            # Before the first update the old log-probs are the present ones.
            known = None
            if update == 0 and not algorithm.needs.entropy:
                known = PolicyOutput(logp_GKT=mini.old_logp_GKT, value_GKT=mini.old_value_GKT)
            coefficients = accumulate_gradient(
                learner.scorer, algorithm, mini, mini_rows, token_budget=resources.token_budget, first_pass=known
            )
            spend_training(spent, mini_rows, learner, extra_pass=coefficients.extra_pass)
            record = {"loss": coefficients.loss, **learner.update()}
            record |= coefficient_metrics(coefficients.logp_GKT, mini.mask_GKT)
            record |= {f"algorithm/{name}": value for name, value in coefficients.metrics.items()}
            for name, value in record.items():
                updates[name].append(value)

        spent.rollout_seconds += rolled_out - started
        spent.train_seconds += time.perf_counter() - rolled_out
        spent.cpu_seconds += time.process_time() - cpu
        row = {"step": step + 1, **rollout_metrics(drawn.first, groups, batch), **drawn.metrics}
        row |= {name: sum(values) / len(values) for name, values in updates.items()}
        row |= {"generated_tokens": spent.generated, "trained_tokens": spent.trained}
        row |= {"replayed_tokens": spent.replayed} if replay is not None else {}
        packs = learner.scorer.packs
        row["padding"] = 0.0 if packs else padding_share(rows.length_N, resources.token_budget, ranks.size)
        row["seconds"] = spent.rollout_seconds + spent.train_seconds
        if ranks.rank == 0:
            if settings.keep_samples_every and (step + 1) % settings.keep_samples_every == 0:
                folder.kept.write(step + 1, kept_rows(fresh, lm, settings.benchmark))
            folder.add_metrics(row)
        on_step(step + 1, row)
        if resources.checkpoint_every and (step + 1) % resources.checkpoint_every == 0:
            about, packed = pack(history)
            progress = {"step": step + 1, "spent": asdict(spent), "history": about}
            save(folder.resume_path, learner.parts(), progress, packed, ranks, seal)
    learner.hand_over()
    return spent


def spend_training(spent: Spent, rows: Rows, learner: Learner, *, extra_pass: bool) -> None:
    """Adds to the ledger what one update on these rows costs."""
    tokens = int(rows.length_N.sum())
    spent.trained += tokens
    if extra_pass:
        spent.scored += tokens
    if learner.critic is not None:
        spent.critic += tokens * (1 + extra_pass)
