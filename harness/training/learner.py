"""The policy being trained, the models beside it, and their optimisers."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from algorithms.base import Algorithm
from harness.model.language import LanguageModel, frozen_copy, new_critic
from harness.model.lora import companion, trainable
from harness.model.policy import PolicyModel, compile_layers, recompute_activations, shard
from harness.model.ranks import ALONE, Ranks, copy_weights, empty_weights, share_frozen, whole
from harness.model.scorer import Scorer
from harness.suite.cell_config import CellConfig
from harness.suite.config import Optimizer, Resources
from harness.training.masters import Masters, with_masters

Sampler = Literal["policy", "base"]
"""Whose weights draw responses: the sampling policy's, or those that training started from."""


class Learner:
    """The policy being trained and the models beside it that the algorithm needs, sharded over the ranks.

    Alone and with a sampling policy that is never stale, the policy is `lm.model`. Else it is a copy, and `lm.model` is
    what samples, whole on every rank. Where several ranks have an engine with weights of its own, that takes them from
    the policy, or from a sharded copy where it is stale, and `lm.model` is empty until training is over. The reference
    is `base` itself, a `frozen_base` of `lm`, which also samples where that is asked for; an engine that shares the
    trainer's weights samples from a whole copy of it where it is sharded.

    Frozen weights, which an adapted `lm.model` has, are the same in all of these, and in each of their shards.
    """

    def __init__(
        self, lm: LanguageModel, base: PolicyModel, algorithm: Algorithm, config: CellConfig, ranks: Ranks = ALONE
    ) -> None:
        train, resources = config.train, config.resources
        needs, settings = algorithm.needs, config.optimizer
        if settings is None:
            raise ValueError("a cell without an optimizer cannot be trained")
        self.max_norms = (settings.max_norm, settings.critic_max_norm)
        self.whole, self.sampler_is_stale = lm.model, train.refresh_every > 1
        in_place = ranks.alone and not self.sampler_is_stale

        samples_base = needs.data == "base" or needs.reference_samples > 0
        copied = samples_base and not ranks.alone and config.rollout.shares_weights
        self.base_sampler = base.of(frozen_copy(lm.model)) if copied else base

        # Each is sharded before the next is made, so that never more than two are whole.
        self.critic = new_critic(lm.model) if needs.critic else None
        if self.critic is not None:
            self._make_trainable(self.critic, resources, ranks)
        self.policy = lm.model if in_place else trainable(companion(lm.model))
        policy = base.of(self.policy)
        self._make_trainable(policy, resources, ranks)
        if not ranks.alone:
            share_frozen(base.model, self.policy)
            if self.critic is not None:
                share_frozen(base.model.base_model, self.critic.body)
        self.sampler = policy
        if not in_place and (ranks.alone or config.rollout.shares_weights):
            self.sampler = base.of(lm.model.requires_grad_(False))
        elif not in_place:
            if self.sampler_is_stale:
                self.sampler = base.of(companion(lm.model))
                shard(self.sampler, ranks)
                share_frozen(base.model, self.sampler.model)
                self.sampler.requires_grad_(False)
            empty_weights(lm.model)

        self.stepped = with_masters(self.policy)
        self.critic_stepped = None if self.critic is None else with_masters(self.critic)
        self.optimizer = adamw(self.stepped, settings.lr, settings)
        self.critic_optimizer = (
            None
            if self.critic_stepped is None
            else adamw(self.critic_stepped, settings.critic_lr or settings.lr, settings)
        )
        scorer = functools.partial(Scorer, temperature=train.temperature, precision=config.model.precision, ranks=ranks)
        self.scorer = scorer(policy, self.critic)
        self.sampler_scorer = scorer(self.sampler)
        self.reference_scorer = scorer(base) if needs.reference or needs.data == "base" else None

    @staticmethod
    def _make_trainable(model: nn.Module, resources: Resources, ranks: Ranks) -> None:
        if resources.compile:
            compile_layers(model)
        if resources.activation_checkpointing:
            recompute_activations(model, compiled=resources.compile)
        shard(model, ranks)

    def sampler_of(self, source: Sampler) -> PolicyModel:
        """What an engine is to sample from."""
        return self.sampler if source == "policy" else self.base_sampler

    def refresh_sampler(self) -> None:
        """Copies the trained weights into the sampling policy, where it is another."""
        if self.sampler.model is not self.policy:
            copy_weights(self.policy, self.sampler.model)

    def hand_over(self) -> None:
        """Leaves the trained weights in `lm.model`, for which the optimisers make room."""
        for optimizer in filter(None, (self.optimizer, self.critic_optimizer)):
            optimizer.state.clear()
        if self.whole is not self.policy:
            copy_weights(self.policy, self.whole)
        trainable(self.whole)

    def update(self) -> dict[str, float]:
        """Clips, steps, and clears the gradients. Raises RuntimeError where a gradient norm is not finite."""
        norms = {}
        for name, optimizer, max_norm in (
            ("grad_norm", self.optimizer, self.max_norms[0]),
            ("critic_grad_norm", self.critic_optimizer, self.max_norms[1]),
        ):
            if optimizer is None:
                continue
            trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = whole(get_total_norm([p.grad for p in trained]))
            norms[name] = float(norm)
            if not math.isfinite(norms[name]):
                raise RuntimeError(f"{name} is {norms[name]}: the gradient cannot be clipped")
            clip_grads_with_norm_(trained, max_norm, norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norms

    def parts(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer | None]]:
        """All that changes in training, by name: each model with its optimiser, where it has one."""
        found: dict[str, tuple[nn.Module, torch.optim.Optimizer | None]] = {"policy": (self.stepped, self.optimizer)}
        if self.sampler_is_stale:
            found["sampler"] = (self.sampler.model, None)
        if self.critic_stepped is not None:
            found["critic"] = (self.critic_stepped, self.critic_optimizer)
        return found


def adamw(model: nn.Module, lr: float, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW over all parameters but frozen ones, without weight decay."""
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=settings.betas, weight_decay=0.0, fused=True)
    if isinstance(model, Masters):
        model.follow(optimizer)
    return optimizer
