"""From a batch that contradicts a property to the smallest one that still does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from harness.kit.random_batches import Case

PATIENCE = 2.0
"""Seconds of a core to spend on making one batch smaller."""


def shrunk(case: Case, contradicts: Callable[[Case], bool]) -> Case:
    """Leaves out prompts, samples and tokens for as long as the rest `contradicts`."""
    until = time.process_time() + PATIENCE
    again = True
    while again and time.process_time() < until:
        again = False
        for smaller in _smaller(case):
            if time.process_time() > until:
                break
            if contradicts(smaller):
                case, again = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """The most at once first."""
    G, K, T = case.batch.mask_GKT.shape
    valid_GK, mask_GKT = case.batch.valid_GK, case.batch.mask_GKT
    if G > 1:
        for g in range(G):
            yield case.groups(torch.tensor([g]))
    if G > 2:
        for g in range(G):
            yield case.groups(torch.tensor([i for i in range(G) if i != g]))
    if T > 1:
        yield case.tokens(1)
        yield case.tokens(T - 1)
    if K > 1:
        for k in range(K):
            yield case.samples(torch.tensor([[i for i in range(K) if i != k]] * G))
    for g, k in valid_GK.nonzero().tolist():
        if valid_GK[g].sum() > 1:
            fewer_GK = valid_GK.clone()
            fewer_GK[g, k] = False
            yield _without(case, fewer_GK)
        length = int(mask_GKT[g, k].sum())
        if length > 1:
            shorter_GKT = mask_GKT.clone()
            shorter_GKT[g, k, length - 1 :] = False
            yield replace(case, batch=replace(case.batch, mask_GKT=shorter_GKT))


def _without(case: Case, valid_GK: torch.Tensor) -> Case:
    return replace(case, batch=replace(case.batch, valid_GK=valid_GK))
