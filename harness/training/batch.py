"""From prompts to graded samples, and from groups of samples to the tensors of a `Batch`."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.base import Algorithm, Batch
from benchmarks import Problem, Verdict
from benchmarks.benchmark import GRADER_FAILURES
from benchmarks.judges import Judge
from harness.model.language import LanguageModel
from harness.model.ranks import ALONE, Ranks
from harness.model.rows import Rows
from harness.model.scorer import RowScores, Scorer, score
from harness.record.ledger import Spent
from harness.sampling.engine import Engine
from harness.suite.cell_config import CellConfig
from harness.suite.config import Train
from harness.suite.rewards import REWARDS
from harness.training.gradient import by_group, truncated_ratio
from harness.training.learner import Learner


@dataclass
class Sample:
    """One response with all that is known of it from the moment it was drawn: tokens and log-probs, in nats, in four
    bytes each, since history keeps many."""

    prompt: list[int]
    tokens: Sequence[int]
    sampler_logp: Sequence[float]
    """Empty, until `assemble` fills it in, where the response was given and not drawn."""
    reward: float
    truncated: bool
    verdict: Verdict | None
    """None where it was given."""
    behaviour_logp: Sequence[float] = ()

    def __post_init__(self) -> None:
        self.tokens = array("i", self.tokens)
        self.sampler_logp, self.behaviour_logp = array("f", self.sampler_logp), array("f", self.behaviour_logp)


@dataclass(frozen=True)
class Request:
    """Samples to be drawn of one prompt."""

    problem: Problem
    count: int
    seed: int


def draw(
    engine: Engine,
    lm: LanguageModel,
    wanted: Sequence[Request],
    prompts: Mapping[str, list[int]],
    judge: Judge,
    settings: Train,
    ranks: Ranks = ALONE,
    temperature: float | None = None,
) -> list[list[Sample]]:
    """Fresh graded samples, a group for each request, from what the engine samples from; by default at training's
    temperature."""
    recipe = REWARDS[settings.reward]

    def draw_share(share: Sequence[Request]) -> list[list[Sample]]:
        problems = [request.problem for request in share]
        drawn = engine.generate(
            [prompts[p.id] for p in problems],
            [request.count for request in share],
            temperature=settings.temperature if temperature is None else temperature,
            max_new_tokens=settings.max_new_tokens,
            seeds=[request.seed for request in share],
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

    return ranks.spread(draw_share, wanted)


def assemble(
    groups: Sequence[Sequence[Sample]],
    learner: Learner,
    algorithm: Algorithm,
    config: CellConfig,
    spent: Spent,
    sampler_is_current: bool,
) -> tuple[Batch, Rows, Tensor]:
    """Groups as tensors, with every log-prob that the algorithm needs. Fills in `behaviour_logp` of fresh samples
    (replayed ones have theirs) and `sampler_logp` of given ones, which no policy drew: theirs are the old log-probs.

    Returns the batch, the rows of its valid samples, and each row's group, [N].
    """
    needs = algorithm.needs
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

    def grouped(x_N: Tensor) -> Tensor:
        return by_group(x_N, valid_GK)

    def forward(scorer: Scorer) -> RowScores:
        return score(scorer, rows, response_length=T, token_budget=config.resources.token_budget)

    def padded(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([[*v, *[0.0] * (T - len(v))] for v in values])

    tokens = int(rows.length_N.sum())
    old = forward(learner.scorer)
    spent.scored += tokens
    reference_NT = None
    if learner.reference_scorer is not None:
        reference_NT = forward(learner.reference_scorer).logp_NT
        spent.reference += tokens
    behaviour_NT = old.logp_NT
    if needs.data == "base":
        assert reference_NT is not None
        behaviour_NT = reference_NT
    elif needs.data == "policy" and not (sampler_is_current or all(sample.behaviour_logp for sample in samples)):
        behaviour_NT = forward(learner.sampler_scorer).logp_NT
        spent.scored += tokens
    for n, sample in enumerate(samples):
        for name, x_NT in (("behaviour_logp", behaviour_NT), ("sampler_logp", old.logp_NT)):
            if not getattr(sample, name):
                setattr(sample, name, array("f", x_NT[n, : len(sample.tokens)].tolist()))
    if learner.critic is not None:
        spent.critic += tokens
    behaviour_NT, sampler_NT = (padded([getattr(s, n) for s in samples]) for n in ("behaviour_logp", "sampler_logp"))
    cap = config.train.sampler_ratio_cap
    batch = Batch(
        mask_GKT=grouped(mask_NT),
        valid_GK=valid_GK,
        rewards_GK=grouped(torch.tensor([s.reward for s in samples])),
        old_logp_GKT=grouped(old.logp_NT),
        behaviour_logp_GKT=grouped(behaviour_NT),
        sampler_logp_GKT=grouped(sampler_NT),
        ref_logp_GKT=grouped(reference_NT) if reference_NT is not None and needs.reference else None,
        old_value_GKT=None if old.value_NT is None else grouped(old.value_NT),
        final_value_GK=None if old.final_value_N is None else grouped(old.final_value_N),
        truncated_GK=grouped(torch.tensor([s.truncated for s in samples])),
        correction_GKT=None if cap is None else grouped(truncated_ratio(behaviour_NT, sampler_NT, cap)),
    )
    return batch, rows, row_group


def rollout_metrics(
    fresh: Sequence[Sequence[Sample]], groups: Sequence[Sequence[Sample]], batch: Batch
) -> dict[str, float]:
    """What a step's rollouts say, before any update. Rewards and lengths are those of the fresh samples; where nothing
    was drawn, there is nothing to say.

    The sampler_… metrics compare, under the weights that drew each sample, the engine's log-probs with the trainer's:
    mean and maximum of |Δ| over tokens, in nats, and the effective sample size of importance weights between the two,
    (Σ w)²/(n Σ w²) with w_i = π_trainer(y_i)/π_sampler(y_i): 1 where they agree, 1/n where one sample outweighs all
    (Kish 1965, as a share of the n samples).
    """
    samples = [sample for group in fresh for sample in group]
    if not samples:
        return {}
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
