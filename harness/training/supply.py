"""What an algorithm's `needs` ask for beyond a loss: where the responses of a step come from, and the extras.

Every draw has a seed of its own, from the run's seed, the step and its purpose: a resumed run draws what an undisturbed
one does, and what one algorithm asks for changes nothing of what another one sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from algorithms.base import Batch, Needs
from benchmarks import Problem
from benchmarks.judges import Judge
from harness.model.language import LanguageModel
from harness.model.ranks import ALONE, Ranks
from harness.model.teacher import Teacher
from harness.record.ledger import Spent
from harness.record.seeding import seed_of
from harness.sampling.engine import Engine
from harness.suite.cell_config import CellConfig
from harness.suite.config import ConfigError
from harness.suite.given import GIVEN, given_texts
from harness.training.batch import Request, Sample, draw
from harness.training.gradient import by_group
from harness.training.history import History
from harness.training.learner import Learner, Sampler
from harness.training.replay import Replay
from harness.training.rollouts import Rollouts
from harness.training.schedule import further_prompts


class Supply:
    """Draws or takes what one run trains on, and charges it to `spent`; with `replay` the rollouts are recorded ones.

    Raises ConfigError where a given response is longer than train.max_new_tokens.
    """

    def __init__(
        self,
        config: CellConfig,
        needs: Needs,
        lm: LanguageModel,
        learner: Learner,
        engine: Engine,
        problems: Sequence[Problem],
        prompts: Mapping[str, list[int]],
        judge: Judge,
        spent: Spent,
        ranks: Ranks = ALONE,
        replay: Replay | None = None,
    ) -> None:
        self.config, self.needs, self.lm, self.learner, self.engine = config, needs, lm, learner, engine
        self.problems, self.prompts, self.judge, self.spent, self.ranks = problems, prompts, judge, spent, ranks
        self.replay = replay
        self.given: dict[str, list[list[int]]] = {}
        if needs.data in GIVEN:
            self.given = {p.id: [lm.response_ids(text) for text in given_texts(p, needs)] for p in problems}
            check_given(self.given, config.train.max_new_tokens)
        self.teacher: Teacher | None = None
        if "teacher_logp_GK" in needs.extras:
            self.teacher = Teacher.load(config.model, problems, config.train.temperature, config.resources, ranks)
        self.weights: tuple[Sampler, int] | None = None
        """Those that the engine samples from, with the number of their refresh."""

    def rollouts(self, step: int, chosen: Sequence[Problem], history: History) -> Rollouts:
        """The step's groups for the prompts chosen, and what is drawn beside them; `history` fills part of a group."""
        if self.needs.data in GIVEN:
            rollouts = Rollouts(problems=chosen, groups=[self._given(problem) for problem in chosen], first=[])
        elif self.replay is not None:
            rollouts = self.replay.rollouts(step)
            self.spent.replayed += rollouts.drawn
        else:
            before = self.spent.generated
            first = self._draw(self._source, step, requests(self.config, step, chosen, history))
            rollouts = Rollouts(problems=chosen, groups=first, first=first, asked=chosen)
            if self.needs.refill is not None:
                self._refill(step, rollouts)
            rollouts.drawn = int(self.spent.generated - before)
        if self.needs.refill is not None:
            unfit = self._worth(rollouts.groups).count(False)
            rollouts.metrics["unfit_groups"] = float(unfit)
        rollouts.extras = self.drawn_extras(step, rollouts.problems)
        self.engine.release_memory()
        return rollouts

    @property
    def _source(self) -> Sampler:
        return "base" if self.needs.data == "base" else "policy"

    def _draw(
        self, source: Sampler, step: int, wanted: Sequence[Request], temperature: float | None = None
    ) -> list[list[Sample]]:
        """Graded samples under the weights of `source`, which the engine gets where it has others."""
        weights = (source, step // self.config.train.refresh_every if source == "policy" else 0)
        if weights != self.weights:
            self.engine.sync(self.learner.sampler_of(source))
            self.weights = weights
        drawn = draw(self.engine, self.lm, wanted, self.prompts, self.judge, self.config.train, self.ranks, temperature)
        self.spent.generated += sum(len(sample.tokens) for group in drawn for sample in group)
        return drawn

    def _given(self, problem: Problem) -> list[Sample]:
        rewards = [reward for _, reward in GIVEN[self.needs.data]]
        return [
            Sample(self.prompts[problem.id], tokens, sampler_logp=(), reward=reward, truncated=False, verdict=None)
            for tokens, reward in zip(self.given[problem.id], rewards, strict=True)
        ]

    def _refill(self, step: int, rollouts: Rollouts) -> None:
        """Puts groups of further prompts in place of those not worth training on, as far as the rounds go.

        A round draws one further prompt for each group that is still missing; where none is left to find, the unfit
        ones stay, so that a batch always has its size.
        """
        problems, groups = list(rollouts.problems), list(rollouts.groups)
        unfit = [g for g, fits in enumerate(self._worth(groups)) if not fits]
        further = list(enumerate(further_prompts(self.problems, rollouts.problems, self.config.seed, step)))
        for _ in range(self.config.train.refill_rounds):
            asked, further = further[: len(unfit)], further[len(unfit) :]
            if not asked:
                break
            samples = self.config.train.samples
            wanted = [Request(p, samples, seed_of("refill", self.config.seed, step, place)) for place, p in asked]
            drawn = self._draw(self._source, step, wanted)
            fit = [g for g, fits in enumerate(self._worth(drawn)) if fits]
            for at, g in zip(unfit, fit, strict=False):
                problems[at], groups[at] = asked[g][1], drawn[g]
            unfit = unfit[len(fit) :]
        rollouts.problems, rollouts.groups = problems, groups

    def _worth(self, groups: Sequence[Sequence[Sample]]) -> list[bool]:
        """Whether each group is worth training on: rank 0's word, so that all train on the same."""
        refill = self.needs.refill
        assert refill is not None
        return self.ranks.first(lambda: [bool(refill(torch.tensor([s.reward for s in group]))) for group in groups])

    def drawn_extras(self, step: int, problems: Sequence[Problem]) -> dict[str, Tensor]:
        """The rewards of the responses that are drawn beside the groups of these prompts."""
        extras = {}
        if "greedy_reward_G" in self.needs.extras:
            wanted = self._beside("greedy", step, problems, 1)
            extras["greedy_reward_G"] = rewards_of(self._draw(self._source, step, wanted, temperature=0.0))[:, 0]
        if "reference_reward_GN" in self.needs.extras:
            wanted = self._beside("reference", step, problems, self.needs.reference_samples)
            extras["reference_reward_GN"] = rewards_of(self._draw("base", step, wanted))
        return extras

    def _beside(self, purpose: str, step: int, problems: Sequence[Problem], count: int) -> list[Request]:
        seeds = [seed_of(purpose, self.config.seed, step, place) for place in range(len(problems))]
        return [Request(problem, count, seed) for problem, seed in zip(problems, seeds, strict=True)]

    def with_extras(self, batch: Batch, rollouts: Rollouts, groups: Sequence[Sequence[Sample]]) -> Batch:
        """The batch of these groups with every extra that the algorithm declares."""
        extras = dict(rollouts.extras)
        if self.teacher is not None:
            answered = [(p, s) for p, group in zip(rollouts.problems, groups, strict=True) for s in group]
            texts = [self.lm.text(sample.tokens) for _, sample in answered]
            rows = self.teacher.rows([p for p, _ in answered], texts, [not sample.truncated for _, sample in answered])
            self.spent.teacher += int(rows.length_N.sum())
            extras["teacher_logp_GK"] = by_group(self.teacher.logp(rows), batch.valid_GK)
        if "length_limit_G" in self.needs.extras:
            extras["length_limit_G"] = torch.full((len(batch.mask_GKT),), float(self.config.train.max_new_tokens))
        return batch.with_extras(**{name: x.to(batch.mask_GKT.device) for name, x in extras.items()})


def requests(config: CellConfig, step: int, chosen: Sequence[Problem], history: History) -> list[Request]:
    """What a step draws of its own prompts: of each the group's size less what history will fill."""
    settings = config.train
    from_history = round(settings.history_share * settings.samples)
    return [
        Request(
            problem,
            settings.samples - min(from_history, len(history.get(problem.id, []))),
            seed_of("rollout", config.seed, step, place),
        )
        for place, problem in enumerate(chosen)
    ]


def rewards_of(groups: Sequence[Sequence[Sample]]) -> Tensor:
    """[G, samples], where each group has as many."""
    return torch.tensor([[sample.reward for sample in group] for group in groups])


def check_given(given: Mapping[str, Sequence[Sequence[int]]], limit: int) -> None:
    """Raises ConfigError where a given response, by problem, has more tokens than a response may have."""
    lengths = {problem: max(map(len, responses)) for problem, responses in given.items()}
    long = [problem for problem, length in lengths.items() if length > limit]
    if long:
        longest = max(long, key=lambda problem: lengths[problem])
        raise ConfigError(
            f"train.max_new_tokens = {limit}: the given responses of {len(long)} of {len(given)} problems are longer, "
            f"that of {longest!r} with its {lengths[longest]} tokens most of all; raise max_new_tokens to "
            f"{lengths[longest]}, or train on other problems"
        )
