"""Which problems a step draws and which groups an update trains on: decided by the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from harness.record.seeding import generator
from harness.suite.cell_config import CellConfig

T = TypeVar("T")


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


def further_prompts(problems: Sequence[T], chosen: Sequence[T], seed: int, step: int) -> Iterator[T]:
    """All problems but the step's own, in an order that seed and step decide: for groups that replace others."""
    for place in torch.randperm(len(problems), generator=generator("refill", seed, step)).tolist():
        if problems[place] not in chosen:
            yield problems[place]


def mini_batches(config: CellConfig, step: int) -> Iterator[Tensor]:
    """Which groups each update trains on: every epoch a new order that the seed decides, [groups] each."""
    settings = config.train
    for epoch in range(settings.epochs):
        order = torch.randperm(settings.prompts, generator=generator("mini-batches", config.seed, step, epoch))
        for index in order.chunk(settings.mini_batches):
            yield index.sort().values
