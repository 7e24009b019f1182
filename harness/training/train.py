"""The training loop, the same for every algorithm:

Problem → Group of K rollouts → rewards → Batch[G,K,T] → loss → coefficients → backward → step → metrics
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from algorithms.base import Algorithm, Batch, PolicyOutput
from benchmarks import Problem, Verdict
from benchmarks.benchmark import GRADER_FAILURES
from harness.model.language import LanguageModel, frozen_copy, new_critic
from harness.model.policy import (
    PolicyModel,
    Rows,
    Scorer,
    logprob_chunk,
    padding_share,
    recompute_activations,
    score,
    shard,
)
from harness.model.ranks import ALONE, Ranks, copy_weights, empty_weights, whole
from harness.record.cell_folder import CellFolder
from harness.record.seeding import generator, seed_of
from harness.sampling.local import Engine
from harness.suite.config import CellConfig, Optimizer, Train
from harness.suite.rewards import REWARDS, Judge
from harness.training.gradient import accumulate_gradient, truncated_ratio
from harness.training.resume import load, save

T = TypeVar("T")


@dataclass
class Sample:
    """One response with all that is known of it from the moment it was drawn."""

    prompt: list[int]
    tokens: list[int]
    sampler_logp: list[float]
    reward: float
    truncated: bool
    verdict: Verdict
    behaviour_logp: list[float] = field(default_factory=list)


@dataclass
class Spent:
    """What a run has cost so far. Tokens count prompt and response, padding not; `generated` counts responses only."""

    generated: int = 0
    trained: int = 0
    """Forward and backward through the policy."""
    scored: int = 0
    """Forward through the policy without gradient."""
    reference: int = 0
    critic: int = 0
    """Every pass through the critic, with or without gradient."""
    rollout_seconds: float = 0.0
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of rank 0 alone."""


class Learner:
    """The policy being trained and the models beside it that the algorithm needs, sharded over the ranks.

    Alone and with a sampling policy that is never stale, the policy is `lm.model`. Else it is a copy, and `lm.model` is
    what samples, whole on every rank, or is empty until training is over, where an engine with weights of its own takes
    them from the policy.
    """

    def __init__(self, lm: LanguageModel, algorithm: Algorithm, config: CellConfig, ranks: Ranks = ALONE) -> None:
        train, needs, settings = config.train, algorithm.needs, config.optimizer
        if settings is None:
            raise ValueError("a cell without an optimizer cannot be trained")
        self.max_norms = (settings.max_norm, settings.critic_max_norm)
        self.whole, self.sampler_is_stale = lm.model, train.refresh_every > 1
        in_place = ranks.alone and not self.sampler_is_stale
        chunk = logprob_chunk(lm.model, train.logprob_chunk, train.token_budget)

        # Each is sharded before the next is made, so that never more than two are whole.
        reference = PolicyModel(frozen_copy(lm.model), chunk) if needs.reference else None
        if reference is not None:
            shard(reference, ranks)
        self.critic = new_critic(lm.model) if needs.critic else None
        if self.critic is not None:
            self._make_trainable(self.critic, train, ranks)
        self.policy = lm.model if in_place else copy.deepcopy(lm.model).requires_grad_(True)
        policy = PolicyModel(self.policy, chunk)
        self._make_trainable(policy, train, ranks)
        self.sampler = policy
        if self.sampler_is_stale or (not in_place and config.rollout.shares_weights):
            self.sampler = PolicyModel(lm.model.requires_grad_(False), chunk)
        elif not in_place:
            empty_weights(lm.model)

        self.optimizer = adamw(policy, settings.lr, settings)
        self.critic_optimizer = (
            adamw(self.critic, settings.critic_lr or settings.lr, settings) if self.critic is not None else None
        )
        scorer = functools.partial(Scorer, temperature=train.temperature, precision=config.model.precision, ranks=ranks)
        self.scorer = scorer(policy, self.critic)
        self.sampler_scorer = scorer(self.sampler)
        self.reference_scorer = scorer(reference) if reference is not None else None

    @staticmethod
    def _make_trainable(model: nn.Module, train: Train, ranks: Ranks) -> None:
        if train.activation_checkpointing:
            recompute_activations(model)
        shard(model, ranks)

    def refresh_sampler(self) -> None:
        if self.sampler.model is not self.policy:
            copy_weights(self.policy, self.sampler.model)

    def hand_over(self) -> None:
        """Leaves the trained weights in `lm.model`, for which the optimisers make room."""
        for optimizer in filter(None, (self.optimizer, self.critic_optimizer)):
            optimizer.state.clear()
        if self.whole is not self.policy:
            copy_weights(self.policy, self.whole)
        self.whole.requires_grad_(True)

    def update(self) -> dict[str, float]:
        """Clips, steps, and clears the gradients. Raises RuntimeError where a gradient norm is not finite."""
        norms = {}
        for name, model, optimizer, max_norm in (
            ("grad_norm", self.policy, self.optimizer, self.max_norms[0]),
            ("critic_grad_norm", self.critic, self.critic_optimizer, self.max_norms[1]),
        ):
            if model is not None and optimizer is not None:
                norm = whole(get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
                if not torch.isfinite(norm):
                    raise RuntimeError(f"{name} is {float(norm)}: the gradient cannot be clipped")
                clip_grads_with_norm_(model.parameters(), max_norm, norm)
                norms[name] = float(norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return norms

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """All that changes in training, by name."""
        found = {
            "policy": self.policy,
            "sampler": self.sampler.model if self.sampler_is_stale else None,
            "critic": self.critic,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }
        return {name: part for name, part in found.items() if part is not None}


def adamw(model: nn.Module, lr: float, settings: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=settings.betas, weight_decay=0.0, fused=True)


def train(
    config: CellConfig,
    algorithm: Algorithm,
    lm: LanguageModel,
    engine: Engine,
    problems: Sequence[Problem],
    judge: Judge,
    folder: CellFolder,
    on_step: Callable[[int, Mapping[str, float]], None],
    ranks: Ranks = ALONE,
) -> Spent:
    """Trains `lm.model` in place, continuing from the folder's last checkpoint where there is one.

    Leaves a row a step in metrics.jsonl, and calls `on_step` with it. With several ranks each runs this very loop on
    the same batches: they share out the samples to draw, the rows to score and the weights, and rank 0 writes.
    """
    settings = config.train
    lm.model.train(False)  # dropout off: old and new log-probs must differ by the weights alone
    engine.release_memory()
    learner = Learner(lm, algorithm, config, ranks)
    history: dict[str, list[Sample]] = {}
    spent = Spent()
    prompts = dict(zip([problem.id for problem in problems], lm.prompt_ids(problems), strict=True))
    lm.check_length(list(prompts.values()), settings.max_new_tokens)

    first_step = 0
    progress = load(folder.resume_path, learner.parts(), ranks, lm.device)
    if progress is not None:
        first_step, spent = progress["step"], Spent(**progress["spent"])
        history = {key: [Sample(**sample) for sample in kept] for key, kept in progress["history"].items()}
    ranks.first(lambda: folder.keep_metrics(first_step))

    for step in range(first_step, settings.steps):
        cpu, started = time.process_time(), time.perf_counter()
        sampler_is_current = step % settings.refresh_every == 0
        if sampler_is_current:
            learner.refresh_sampler()
        if sampler_is_current or step == first_step:
            engine.sync(learner.sampler)
        chosen = prompts_of_step(problems, config.seed, step, settings.prompts)
        fresh = draw(engine, lm, chosen, prompts, history, judge, config, step, ranks)
        engine.release_memory()
        spent.generated += sum(len(sample.tokens) for group in fresh for sample in group)
        rolled_out = time.perf_counter()

        groups = [
            mix_in_history(f, history.get(p.id, []), settings.samples) for f, p in zip(fresh, chosen, strict=True)
        ]
        batch, rows, row_group = assemble(groups, learner, algorithm, config, spent, sampler_is_current)
        batch = algorithm.prepare(batch)
        if settings.history_share > 0:
            for problem, group in zip(chosen, fresh, strict=True):
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
                learner.scorer, algorithm, mini, mini_rows, token_budget=settings.token_budget, first_pass=known
            )
            spend_training(spent, mini_rows, learner, extra_pass=coefficients.extra_pass)
            record = {"loss": coefficients.loss, **learner.update()}
            record |= {f"algorithm/{name}": value for name, value in coefficients.metrics.items()}
            for name, value in record.items():
                updates[name].append(value)

        spent.rollout_seconds += rolled_out - started
        spent.train_seconds += time.perf_counter() - rolled_out
        spent.cpu_seconds += time.process_time() - cpu
        row = {"step": step + 1, **rollout_metrics(fresh, groups, batch)}
        row |= {name: sum(values) / len(values) for name, values in updates.items()}
        row |= {"generated_tokens": spent.generated, "trained_tokens": spent.trained}
        row["padding"] = padding_share(rows.length_N, settings.token_budget, ranks.size)
        row["seconds"] = spent.rollout_seconds + spent.train_seconds
        if ranks.rank == 0:
            folder.add_metrics(row)
        on_step(step + 1, row)
        if settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0:
            kept = {key: [asdict(sample) for sample in samples] for key, samples in history.items()}
            progress = {"step": step + 1, "spent": asdict(spent), "history": kept}
            save(folder.resume_path, learner.parts(), progress, ranks)
    learner.hand_over()
    return spent


def prompts_of_step(problems: Sequence[T], seed: int, step: int, count: int) -> list[T]:
    """The step's prompts: pass after pass over all problems, each in an order of its own that only the seed decides."""
    chosen = []
    orders: dict[int, list[int]] = {}
    for i in range(step * count, (step + 1) * count):
        epoch, place = divmod(i, len(problems))
        if epoch not in orders:
            orders[epoch] = torch.randperm(len(problems), generator=generator("prompts", seed, epoch)).tolist()
        chosen.append(problems[orders[epoch][place]])
    return chosen


def draw(
    engine: Engine,
    lm: LanguageModel,
    chosen: Sequence[Problem],
    prompts: Mapping[str, list[int]],
    history: Mapping[str, list[Sample]],
    judge: Judge,
    config: CellConfig,
    step: int,
    ranks: Ranks = ALONE,
) -> list[list[Sample]]:
    """Fresh graded samples for each prompt: the group's size less what history will fill."""
    settings = config.train
    from_history = round(settings.history_share * settings.samples)
    recipe = REWARDS[settings.reward]

    def draw_share(share: Sequence[tuple[int, Problem]]) -> list[list[Sample]]:
        problems = [problem for _, problem in share]
        drawn = engine.generate(
            [prompts[p.id] for p in problems],
            [settings.samples - min(from_history, len(history.get(p.id, []))) for p in problems],
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            seeds=[seed_of("rollout", config.seed, step, place) for place, _ in share],
        )
        drawn = [[lm.end_at_stop(response) for response in group] for group in drawn]
        flat = [(problem, response) for problem, group in zip(problems, drawn, strict=True) for response in group]
        texts, cut = [lm.text(r.tokens) for _, r in flat], [r.truncated for _, r in flat]
        verdicts = iter(judge([p for p, _ in flat], texts, cut))
        return [
            [
                Sample(
                    prompt=prompts[problem.id],
                    tokens=response.tokens,
                    sampler_logp=response.logp,
                    reward=recipe.reward(
                        verdict := next(verdicts),
                        tokens=len(response.tokens),
                        truncated=response.truncated,
                        max_new_tokens=settings.max_new_tokens,
                    ),
                    truncated=response.truncated,
                    verdict=verdict,
                )
                for response in group
            ]
            for problem, group in zip(problems, drawn, strict=True)
        ]

    return ranks.spread(draw_share, list(enumerate(chosen)))


def mix_in_history(fresh: list[Sample], earlier: list[Sample], size: int) -> list[Sample]:
    """The fresh samples, filled up to the group's size with the most recent earlier ones."""
    missing = size - len(fresh)
    return fresh + earlier[len(earlier) - missing :] if missing else fresh


def assemble(
    groups: Sequence[Sequence[Sample]],
    learner: Learner,
    algorithm: Algorithm,
    config: CellConfig,
    spent: Spent,
    sampler_is_current: bool,
) -> tuple[Batch, Rows, Tensor]:
    """Groups as tensors, with every log-prob that the algorithm needs. Fills in `behaviour_logp` of fresh samples.

    Returns the batch, the rows of its valid samples, and each row's group, [N].
    """
    samples = [sample for group in groups for sample in group]
    if not all(math.isfinite(sample.reward) for sample in samples):
        raise ValueError(f"train.reward = {config.train.reward!r} gave a reward that is NaN or infinite")
    device = next(learner.policy.parameters()).device
    rows = Rows.of([s.prompt for s in samples], [s.tokens for s in samples], device)
    row_group = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    sizes = torch.tensor([len(group) for group in groups])
    valid_GK = (torch.arange(int(sizes.max())) < sizes[:, None]).to(device)
    T = int(rows.response_length_N.max())
    length_N = rows.response_length_N
    mask_NT = torch.arange(T) < length_N[:, None]

    def by_group(x_N: Tensor) -> Tensor:
        out = torch.zeros((*valid_GK.shape, *x_N.shape[1:]), dtype=x_N.dtype, device=device)
        out[valid_GK] = x_N.to(device)
        return out

    def forward(scorer: Scorer) -> PolicyOutput:
        return score(scorer, rows, response_length=T, token_budget=config.train.token_budget)

    def padded(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([[*v, *[0.0] * (T - len(v))] for v in values])

    tokens = int(rows.length_N.sum())
    old = forward(learner.scorer)
    spent.scored += tokens
    behaviour_NT = old.logp_GKT
    if not sampler_is_current:
        behaviour_NT = forward(learner.sampler_scorer).logp_GKT
        spent.scored += tokens
    for n, sample in enumerate(samples):
        if not sample.behaviour_logp:
            sample.behaviour_logp = behaviour_NT[n, : len(sample.tokens)].tolist()

    reference = None
    if learner.reference_scorer is not None:
        reference = by_group(forward(learner.reference_scorer).logp_GKT)
        spent.reference += tokens
    final_value = None
    if learner.critic is not None:
        final_value = by_group(learner.scorer.final_value(rows, config.train.token_budget))
        spent.critic += 2 * tokens
    behaviour_NT, sampler_NT = (padded([getattr(s, n) for s in samples]) for n in ("behaviour_logp", "sampler_logp"))
    cap = config.train.sampler_ratio_cap
    batch = Batch(
        mask_GKT=by_group(mask_NT),
        valid_GK=valid_GK,
        rewards_GK=by_group(torch.tensor([s.reward for s in samples])),
        old_logp_GKT=by_group(old.logp_GKT),
        behaviour_logp_GKT=by_group(behaviour_NT),
        sampler_logp_GKT=by_group(sampler_NT),
        ref_logp_GKT=reference,
        old_value_GKT=None if old.value_GKT is None else by_group(old.value_GKT),
        final_value_GK=final_value,
        truncated_GK=by_group(torch.tensor([s.truncated for s in samples])),
        correction_GKT=None if cap is None else by_group(truncated_ratio(behaviour_NT, sampler_NT, cap)),
    )
    return batch, rows, row_group


def mini_batches(config: CellConfig, step: int) -> Iterator[Tensor]:
    """Which groups each update trains on: every epoch a new order that the seed decides, [groups] each."""
    settings = config.train
    for epoch in range(settings.epochs):
        order = torch.randperm(settings.prompts, generator=generator("mini-batches", config.seed, step, epoch))
        for index in order.chunk(settings.mini_batches):
            yield index.sort().values


def spend_training(spent: Spent, rows: Rows, learner: Learner, *, extra_pass: bool) -> None:
    tokens = int(rows.length_N.sum())
    spent.trained += tokens
    if extra_pass:
        spent.scored += tokens
    if learner.critic is not None:
        spent.critic += tokens * (1 + extra_pass)


def rollout_metrics(
    fresh: Sequence[Sequence[Sample]], groups: Sequence[Sequence[Sample]], batch: Batch
) -> dict[str, float]:
    """What a step's rollouts say, before any update. Rewards and lengths are those of the fresh samples.

    The sampler_… metrics compare, under the weights that drew each sample, the engine's log-probs with the trainer's:
    mean and maximum of |Δ| over tokens, in nats, and the effective sample size of importance weights between the two,
    (Σ w)²/(n Σ w²) with w_i = π_trainer(y_i)/π_sampler(y_i): 1 where they agree, 1/n where one sample outweighs all
    (Kish 1965, as a share of the n samples).
    """
    samples = [sample for group in fresh for sample in group]
    tokens = sum(len(s.tokens) for s in samples)
    difference_GKT = batch.behaviour_logp_GKT - batch.sampler_logp_GKT
    mismatch_GKT = difference_GKT.abs()
    log_weight_N = difference_GKT.double().sum(-1)[batch.valid_GK]
    weight_N = (log_weight_N - log_weight_N.max()).exp()
    stale_GK = (batch.behaviour_logp_GKT - batch.old_logp_GKT).sum(-1)
    return {
        "reward": sum(s.reward for s in samples) / len(samples),
        "length": tokens / len(samples),
        "truncated": sum(s.truncated for s in samples) / len(samples),
        "correct": sum(s.verdict == "correct" for s in samples) / len(samples),
        "no_answer": sum(s.verdict == "no_answer" for s in samples) / len(samples),
        "grader_failures": sum(s.verdict in GRADER_FAILURES for s in samples) / len(samples),
        "sampled_entropy": -sum(sum(s.sampler_logp) for s in samples) / tokens,
        "equal_reward_groups": sum(len({s.reward for s in group}) == 1 for group in groups) / len(groups),
        "history_share": 1 - len(samples) / sum(map(len, groups)),
        "sampler_mismatch_mean": float(mismatch_GKT.sum() / batch.mask_GKT.sum()),
        "sampler_mismatch_max": float(mismatch_GKT.max()),
        "sampler_effective_share": float(weight_N.sum() ** 2 / (len(weight_N) * weight_N.square().sum())),
        "behaviour_kl": float(stale_GK.sum() / batch.valid_GK.sum()),
    }
