"""Small batches of groups for the tests of the losses. Every padded place holds NaN, so each test covers it.

Batches at random are those of the conformance check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from algorithms import Algorithm, Batch, PolicyOutput
from harness.kit.random_batches import random_batch, tensors

__all__ = ["close", "coefficients", "padded", "random_batch", "tensors", "worked_example"]

Nested = Sequence[Any]
"""Lists of numbers that may be ragged: groups of samples (GK) of tokens (GKT)."""


def padded(rows: Nested, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The ragged rows as one tensor, NaN where they are too short."""
    out = torch.full(shape, math.nan, dtype=dtype)
    for i, row in enumerate(rows):
        out[i] = padded(row, *shape[1:], dtype=dtype) if len(shape) > 1 else row
    return out


def worked_example(
    *,
    rewards: Nested,
    logp: Nested,
    old: Nested | None = None,
    behaviour: Nested | None = None,
    ref: Nested | None = None,
    entropy: Nested | None = None,
    value: Nested | None = None,
    old_value: Nested | None = None,
    final_value: Nested | None = None,
    truncated: Nested | None = None,
) -> tuple[PolicyOutput, Batch]:
    """The policy's and the batch's tensors in float64. Unless given, `old` is `logp` and `behaviour` is `old`."""
    old = logp if old is None else old
    G, K = len(logp), max(map(len, logp))
    T = max(len(tokens) for group in logp for tokens in group)

    def tokens(rows: Nested | None) -> Tensor | None:
        return None if rows is None else padded(rows, G, K, T)

    def samples(rows: Nested | None) -> Tensor | None:
        return None if rows is None else padded(rows, G, K)

    logp_GKT, rewards_GK = padded(logp, G, K, T), padded(rewards, G, K)
    policy = PolicyOutput(logp_GKT=logp_GKT, entropy_GKT=tokens(entropy), value_GKT=tokens(value))
    batch = Batch(
        mask_GKT=~logp_GKT.isnan(),
        valid_GK=~rewards_GK.isnan(),
        rewards_GK=rewards_GK,
        old_logp_GKT=padded(old, G, K, T),
        behaviour_logp_GKT=padded(old if behaviour is None else behaviour, G, K, T),
        sampler_logp_GKT=padded(old if behaviour is None else behaviour, G, K, T),
        ref_logp_GKT=tokens(ref),
        old_value_GKT=tokens(old_value),
        final_value_GK=samples(final_value),
        truncated_GK=None if truncated is None else padded(truncated, G, K).nan_to_num().bool(),
    )
    return policy, batch


def coefficients(algorithm: Algorithm, policy: PolicyOutput, batch: Batch, of: str = "logp_GKT") -> Tensor:
    """C = −∂L/∂x [G, K, T], x being the policy's log-probs unless another of its fields is named."""
    variable = getattr(policy, of).detach().clone().requires_grad_()
    loss = algorithm.loss(replace(policy, **{of: variable}), batch).loss
    if not loss.requires_grad:
        return torch.zeros_like(variable)
    (gradient,) = torch.autograd.grad(loss, variable, allow_unused=True, materialize_grads=True)
    return -gradient


def close(actual: Tensor, expected: Any, *, atol: float = 1e-12, rtol: float = 0.0, wrong: str = "") -> None:
    """Asserts equality within a tolerance; `expected` may be a ragged list, which is zero where `actual` is padding.

    `wrong` says what it means if they differ.
    """
    if not isinstance(expected, Tensor):
        flat = isinstance(expected, (int, float))
        expected = (
            torch.tensor(expected, dtype=torch.float64) if flat else padded(expected, *actual.shape).nan_to_num(0.0)
        )
    torch.testing.assert_close(
        actual, expected.to(actual.dtype), atol=atol, rtol=rtol, msg=lambda text: f"{wrong}: {text}" if wrong else text
    )
