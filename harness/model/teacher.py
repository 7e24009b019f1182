"""A frozen teacher, which says how likely it finds whole responses: in its own prompt and its own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import Problem
from harness.model.language import LanguageModel, load_model, policy_of
from harness.model.policy import shard
from harness.model.ranks import ALONE, Ranks
from harness.model.rows import Rows
from harness.model.scorer import Scorer, score
from harness.suite.config import ConfigError, Model, Resources


def teacher_settings(settings: Model) -> Model:
    """The teacher as a model of its own. Raises ConfigError where none is named."""
    if settings.teacher is None:
        raise ConfigError("model.teacher is not set, and the algorithm learns from a teacher")
    template = settings.teacher_template or settings.template
    return Model(path=settings.teacher, template=template, device=settings.device, precision=settings.precision)


@dataclass(frozen=True)
class Teacher:
    """A teacher, sharded over the ranks, with the prompts that it is asked, by problem."""

    lm: LanguageModel
    scorer: Scorer
    prompts: Mapping[str, list[int]]
    token_budget: int

    @staticmethod
    def load(
        settings: Model, problems: Sequence[Problem], temperature: float, resources: Resources, ranks: Ranks = ALONE
    ) -> Teacher:
        """Raises ConfigError where the checkpoint is not to be had."""
        lm = load_model(teacher_settings(settings), ranks)
        policy = policy_of(lm.model.requires_grad_(False), resources, settings.precision, ranks)
        shard(policy, ranks)
        prompts = dict(zip([problem.id for problem in problems], lm.prompt_ids(problems), strict=True))
        scorer = Scorer(policy, temperature=temperature, precision=settings.precision, ranks=ranks)
        return Teacher(lm, scorer, prompts, resources.token_budget)

    def rows(self, problems: Sequence[Problem], texts: Sequence[str], ended: Sequence[bool]) -> Rows:
        """The responses in the teacher's tokens, each after the teacher's prompt, and with its EOS where it `ended` by
        itself.

        Raises ConfigError where one has more tokens than the teacher has positions.
        """
        prompts = [self.prompts[problem.id] for problem in problems]
        responses = [self.lm.response_ids(text, ended=end) for text, end in zip(texts, ended, strict=True)]
        rows = Rows.of(prompts, responses, self.lm.device)
        positions = getattr(self.lm.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and (longest := int(rows.length_N.max())) > positions:
            problem = problems[int(rows.length_N.argmax())]
            raise ConfigError(
                f"model.teacher = {self.lm.source!r} has {positions} positions; a response to problem {problem.id!r} "
                f"has {longest} of its tokens, prompt included: lower train.max_new_tokens, or take another teacher"
            )
        return rows

    def logp(self, rows: Rows) -> Tensor:
        """Σ_t log π_teacher of each response at the sampling temperature, in nats per response, [N]; 0 for one that has
        no token."""
        if rows.T == 0:
            return torch.zeros(len(rows))
        return score(self.scorer, rows, response_length=rows.T, token_budget=self.token_budget).logp_NT.sum(-1)
