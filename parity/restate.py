"""Our losses with one convention changed to a peer's: what proves that a difference is that convention and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from fed import Fed, our_loss
from torch import Tensor

from algorithms import PolicyOutput

Restated = Callable[[Fed], Tensor]


def with_constant(name: str, value: float, algorithm: str, settings: Mapping[str, Any] | None = None) -> Restated:
    """With another value of a constant of `algorithms.terms`."""

    def restated(case: Fed) -> Tensor:
        with patch(f"algorithms.terms.{name}", value):
            return our_loss(algorithm, settings or {}, case)

    return restated


def by_samples(algorithm: str, settings: Mapping[str, Any] | None = None) -> Restated:
    """With every sample of the batch counting the same, not every prompt."""

    def restated(case: Fed) -> Tensor:
        size_G = case.batch.valid_GK.sum(-1)
        total = torch.zeros((), dtype=torch.float64)
        for g, k in enumerate(size_G.tolist()):
            one = Fed(
                batch=case.batch.groups(slice(g, g + 1)),
                policy=PolicyOutput(logp_GKT=case.policy.logp_GKT[g : g + 1]),
                limit=case.limit,
            )
            chosen_B = case.group_B == g
            rows = replace(one)
            rows.__dict__.update(logp_BT=case.logp_BT[chosen_B], value_BT=case.value_BT[chosen_B])
            total = total + k / size_G.sum() * our_loss(algorithm, settings or {}, rows)
        return total

    return restated
