"""What a sampling engine is, and which one a suite opens.

Temperature is the only sampling setting: a model's own generation_config is never read, since top-p, top-k and
penalties break both the support condition and the parity of log-probs with the trainer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from harness.model.policy import PolicyModel
from harness.model.rows import Response
from harness.sampling.local import CachedEngine, LocalEngine, TransformersEngine
from harness.suite.config import Resources
from harness.suite.rollout_settings import Rollout


class Engine(Protocol):
    """What the trainer asks of a sampler."""

    def sync(self, policy: PolicyModel) -> None:
        """From now on, samples come from the weights that `policy` has at this moment or, in an engine that shares
        them, whenever it draws. The trainer calls it before every draw that must see new weights; with several ranks,
        on each."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> list[list[Response]]:
        """`counts[i]` responses to `prompts[i]`, drawn with `seeds[i]`. Temperature 0 is greedy.

        The same call gives the same responses.
        """
        ...

    def release_memory(self) -> None:
        """Until the next draw or sync the trainer has the GPU to itself."""
        ...


ENGINES: dict[str, type[LocalEngine]] = {"cached": CachedEngine, "transformers": TransformersEngine}
"""Those that share the trainer's weights."""


def check_engine(settings: Rollout, device: torch.device) -> None:
    """Refuses an engine that cannot run on this machine. `device` is the trainer's.

    Raises ConfigError.
    """
    if settings.engine == "vllm":
        from harness.sampling.vllm_engine import check_vllm

        check_vllm(settings, device)


@contextlib.contextmanager
def open_engine(
    settings: Rollout,
    resources: Resources,
    model: PreTrainedModel | PolicyModel,
    *,
    eos_ids: Sequence[int],
    precision: str,
) -> Iterator[Engine]:
    """The engine that a suite asks for, sampling from `model` until it is told otherwise.

    Raises ConfigError where it cannot run on this machine.
    """
    policy = model if isinstance(model, PolicyModel) else PolicyModel(model)
    check_engine(settings, next(policy.parameters()).device)
    if settings.engine == "vllm":
        from harness.sampling.vllm_engine import open_vllm

        with open_vllm(settings, resources, policy, eos_ids=eos_ids, precision=precision) as engine:
            yield engine
        return
    yield ENGINES[settings.engine](policy.model, eos_ids=eos_ids, batch=resources.rollout_batch, precision=precision)
