"""Batches at the edge of what training may meet: on all of them a loss and its gradient stay finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from algorithms.base import Needs
from harness.kit.random_batches import Case, on_policy, random_case

LOG_RATIO = 300.0
"""Of a token, in nats: more than exp can take in float32, and a response of five more than it can in float64."""
LOG_PROB = -1e4
"""Of a token, in nats: where exp is zero in every precision."""
REWARD = 1e6


def extreme_cases(needs: Needs) -> dict[str, list[Case]]:
    """By what is extreme of them, in float64 and float32."""
    found = {
        "groups": _groups(needs),
        "equal rewards": _equal_rewards(needs),
        "responses": _responses(needs),
        "log-probs": _log_probs(needs),
        "log-ratios": _log_ratios(needs),
        "rewards": _rewards(needs),
    }
    return {name: [x for case in cases for x in (case, case.to(torch.float32))] for name, cases in found.items()}


def _both(needs: Needs) -> Iterator[Case]:
    """An off-policy batch, and one where all policies are equal."""
    case = random_case(needs, 5, signal=True)
    yield case
    yield on_policy(case)


def _groups(needs: Needs) -> Iterator[Case]:
    for case in _both(needs):
        valid_GK = case.batch.valid_GK
        K = valid_GK.shape[1]
        for label, sizes in {
            "groups of one": [1, 1, 1],
            "a group without any sample": [K, 0, 1],
            "a partial group": [K, max(K - 1, 1), max(K - 2, 1)],
            "no sample at all": [0, 0, 0],
        }.items():
            smaller_GK = valid_GK & (torch.arange(K) < torch.tensor(sizes)[:, None])
            yield replace(case.with_batch(valid_GK=smaller_GK), label=label)


def _equal_rewards(needs: Needs) -> Iterator[Case]:
    yield random_case(needs, 0, "groups with ties beside others")
    for case in _both(needs):
        for reward in (0.0, 1.0, 1.2, -0.7):
            rewards_GK = torch.full_like(case.batch.rewards_GK, reward)
            yield replace(case.with_batch(rewards_GK=rewards_GK), label=f"all rewards {reward:g}")


def _responses(needs: Needs) -> Iterator[Case]:
    for case in _both(needs):
        mask_GKT = case.batch.mask_GKT
        some_GKT = mask_GKT.clone()
        some_GKT[:, 0] = False
        yield replace(case.with_batch(mask_GKT=some_GKT), label="an empty response in each group")
        yield replace(case.with_batch(mask_GKT=torch.zeros_like(mask_GKT)), label="empty responses alone")
        truncated_GK = torch.ones_like(case.batch.valid_GK)
        yield replace(case.with_batch(truncated_GK=truncated_GK), label="truncated responses alone")


def _log_probs(needs: Needs) -> Iterator[Case]:
    case = random_case(needs, 5, signal=True)
    mask_GKT = case.batch.mask_GKT
    some_GKT = mask_GKT & (torch.arange(mask_GKT.numel()).view(mask_GKT.shape) % 3 == 0)
    for where_GKT, label in ((mask_GKT, "every log-prob is −1e4"), (some_GKT, "a third of the log-probs are −1e4")):

        def tiny(name: str, x: Tensor, where_GKT: Tensor = where_GKT) -> Tensor:
            return x.masked_fill(where_GKT, LOG_PROB) if name.endswith("logp_GKT") else x

        yield replace(case.changed(tiny), label=label)


def _log_ratios(needs: Needs) -> Iterator[Case]:
    case = random_case(needs, 5, signal=True)
    logp_GKT = case.policy.logp_GKT
    even_GKT = torch.where(torch.arange(logp_GKT.numel()).view(logp_GKT.shape) % 2 == 0, 1.0, -1.0)
    even_GK1 = torch.where(torch.arange(logp_GKT[..., 0].numel()).view(logp_GKT.shape[:2]) % 2 == 0, 1.0, -1.0)[
        ..., None
    ]
    for sign, label in ((1.0, "+300"), (-1.0, "−300"), (even_GKT, "±300"), (even_GK1, "±300 by response")):
        # The log-prob itself stays below zero: it is the other policies' that are lower or higher.
        moved_GKT = torch.where(case.batch.mask_GKT, logp_GKT + LOG_RATIO * sign, logp_GKT).to(logp_GKT.dtype)
        yield replace(case.with_policy(logp_GKT=moved_GKT), label=f"log-ratios of {label} nats a token")


def _rewards(needs: Needs) -> Iterator[Case]:
    for case in _both(needs):
        rewards_GK = case.batch.rewards_GK
        yield replace(case.with_batch(rewards_GK=rewards_GK * REWARD), label="rewards of ±1e6")
        yield replace(case.with_batch(rewards_GK=rewards_GK.abs() * 1e-3 + REWARD), label="rewards of 1e6 and a little")
        yield replace(case.with_batch(rewards_GK=rewards_GK * 0 - REWARD), label="all rewards −1e6")
