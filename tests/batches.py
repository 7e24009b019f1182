"""Small batches of groups for the tests of the losses. Every padded place holds NaN, so each test covers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from algorithms import Algorithm, Batch, PolicyOutput

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


def random_batch(
    seed: int,
    *,
    groups: int = 3,
    samples: int = 4,
    tokens: int = 5,
    dtype: torch.dtype = torch.float64,
    off_policy: float = 0.3,
    padding: float = math.nan,
    ragged: bool = True,
    signal: bool = False,
) -> tuple[PolicyOutput, Batch]:
    """Everything an algorithm may need, drawn at random. `off_policy` is the spread of each token's log-ratios in nats.

    If ragged, the first group is full, the last has one sample, and responses have from 1 to `tokens` tokens. Binary
    rewards in even groups (so with ties), normal ones in odd groups. With `signal` every group has at least two samples
    and no two equal rewards, none of which is a binary fraction.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random)

    G, K, T = groups, samples, tokens
    size_G, length_GK = torch.full((G,), K), torch.full((G, K), T)
    if ragged:
        size_G = integers(2, K, G) if K > 2 else size_G
        size_G[0], size_G[-1] = K, int(size_G[-1]) if signal else 1
        length_GK = integers(1, T, G, K)
    valid_GK = torch.arange(K) < size_G[:, None]
    mask_GKT = (torch.arange(T) < length_GK[..., None]) & valid_GK[..., None]

    binary_GK = integers(0, 1, G, K).double()
    rewards_GK = torch.where((torch.arange(G) % 2 == 0)[:, None], binary_GK, normal(G, K))
    logp_GKT = -0.1 - normal(G, K, T).abs()
    old_GKT = logp_GKT + off_policy * normal(G, K, T)
    behaviour_GKT = old_GKT + off_policy * normal(G, K, T)
    ref_GKT = logp_GKT + off_policy * normal(G, K, T)
    old_value_GKT = normal(G, K, T)
    value_GKT = old_value_GKT + 0.5 * normal(G, K, T)

    if signal:
        tenths_GK = torch.stack([torch.randperm(19, generator=random)[:K] - 9 for _ in range(G)])
        rewards_GK = tenths_GK.double() / 10 + 0.03  # −0.87, −0.77, … 0.93

    def filled(x: Tensor) -> Tensor:
        return torch.where(mask_GKT if x.dim() == 3 else valid_GK, x, padding).to(dtype)

    policy = PolicyOutput(
        logp_GKT=filled(logp_GKT), entropy_GKT=filled(normal(G, K, T).abs()), value_GKT=filled(value_GKT)
    )
    batch = Batch(
        mask_GKT=mask_GKT,
        valid_GK=valid_GK,
        rewards_GK=filled(rewards_GK),
        old_logp_GKT=filled(old_GKT),
        behaviour_logp_GKT=filled(behaviour_GKT),
        sampler_logp_GKT=filled(behaviour_GKT + 0.01 * normal(G, K, T)),
        ref_logp_GKT=filled(ref_GKT),
        old_value_GKT=filled(old_value_GKT),
        final_value_GK=filled(normal(G, K)),
        truncated_GK=integers(0, 1, G, K).bool(),
        extras={
            "greedy_reward_G": integers(0, 1, G).to(dtype),
            "reference_reward_GN": integers(0, 1, G, 8).to(dtype),
            "teacher_logp_GK": filled(-1.0 - normal(G, K).abs()),
            "length_limit_G": torch.full((G,), 2.0 * T, dtype=dtype),
        },
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


def tensors(x: Batch | PolicyOutput) -> dict[str, Tensor]:
    """The tensors of a batch or a policy's output by their names."""
    return {f.name: value for f in fields(x) if isinstance(value := getattr(x, f.name), Tensor)}


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
