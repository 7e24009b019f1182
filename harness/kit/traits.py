"""What an algorithm does with a response, in words that are measured and not declared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from algorithms.base import Algorithm
from harness.kit.portraits import coefficients, curves, probe_batch

POLICIES = {"behaviour": "behaviour_logp_GKT", "old": "old_logp_GKT", "reference": "ref_logp_GKT"}

MEANING = {
    "clips": "beyond some log-ratio the coefficient drops to nothing",
    "weights": "the push of the reward grows or fades with the log-ratio",
    "pulls back": "what has moved is pushed towards where it was, whatever its reward",
    "ignores": "this plays no part: the ratio, the reward, or the wrong answers, whose coefficient is zero",
}
"""The words, where they need one."""

CHANGE = 1e-6
"""Relative: what differs by less has not changed."""
JUMP, NOTHING = 0.3, 0.05
"""Of the portrait's scale: a clip is a step of JUMP between two points to below NOTHING; a pull below it is weak."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What moves an algorithm's coefficients, and how, at its hyper-parameters."""

    does: tuple[str, ...]
    """In the words of MEANING."""
    ratio: str
    """The unit whose log-ratio moves the coefficients: "token ratio", "response ratio", or "no ratio"."""
    policies: tuple[str, ...]
    """Whose log-probs are read, beside the trained policy's."""
    by_length: bool
    """A response weighs the same however long it is: each of its tokens has 1/|y|. Otherwise each token does."""

    @property
    def compared(self) -> str:
        """All but what it does, in a line."""
        parts = [self.ratio, ", ".join(self.policies), "1/|y|" if self.by_length else ""]
        return " · ".join(part for part in parts if part)


def traits_of(algorithm: Algorithm, rows: pd.DataFrame) -> Traits:
    """Measures them on the probe (`portraits.py`); `rows` are the algorithm's portrait."""
    return Traits(
        does=_does(algorithm, rows),
        ratio=_ratio(algorithm),
        policies=_policies(algorithm),
        by_length=_by_length(algorithm),
    )


def _does(algorithm: Algorithm, rows: pd.DataFrame) -> tuple[str, ...]:
    lines = {kind: part["coefficient"].to_numpy() for kind, part in curves(rows).items()}
    tied = lines.pop("tied", np.zeros(1))
    pull = min(tied[0], -tied[-1])
    found = []
    pushes = [line - tied if pull > 0 else line for line in lines.values()]  # what the reward alone does
    if any(_clips(push) for push in pushes):
        found.append("clips")
    if any(_weights(push) for push in pushes):
        found.append("weights")
    if pull > 0:
        found.append("pulls back" if -tied[-1] > NOTHING else "pulls back weakly")
    ignored = {
        "the ratio": not any(np.ptp(line) > CHANGE for line in lines.values()),
        "the wrong": "wrong" in lines and not lines["wrong"].any(),
        "the reward": not _moved_by_rewards(algorithm),
    }
    if any(ignored.values()):
        found.append("ignores " + " and ".join(what for what, is_so in ignored.items() if is_so))
    return tuple(found)


def _clips(line: np.ndarray) -> bool:
    size = np.abs(line)
    return bool(((np.abs(np.diff(line)) > JUMP) & (np.minimum(size[1:], size[:-1]) < NOTHING)).any())


def _weights(line: np.ndarray) -> bool:
    size = np.abs(line[np.abs(line) > NOTHING])
    return bool(size.size and size.max() > (1 + NOTHING) * size.min())


def _noise(x: Tensor, random: torch.Generator) -> Tensor:
    return x + 0.05 * torch.randn(x.shape, generator=random, dtype=x.dtype)


def _off_policy(algorithm: Algorithm) -> Callable[[Callable[[Tensor], Tensor], str], bool]:
    """Whether a batch in which a tensor is changed has other coefficients; all its policies differ a little."""
    random = torch.Generator().manual_seed(0)
    still = probe_batch(algorithm)
    apart: dict[str, Any] = {field: _noise(getattr(still, field), random) for field in POLICIES.values()}
    batch = replace(still, **apart)
    logp_GKT = _noise(still.old_logp_GKT, random)
    before_GKT = coefficients(algorithm, algorithm.prepare(batch), logp_GKT)

    def matters(change: Callable[[Tensor], Tensor], field: str) -> bool:
        changed: dict[str, Any] = {field: change(getattr(batch, field))}
        after = algorithm.prepare(replace(batch, **changed))
        return _differ(before_GKT, coefficients(algorithm, after, logp_GKT))

    return matters


def _differ(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() > CHANGE * x.abs().max())


def _moved_by_rewards(algorithm: Algorithm) -> bool:
    return _off_policy(algorithm)(lambda rewards_GK: 0.5 * rewards_GK.roll(1, -1) - 0.25, "rewards_GK")


def _policies(algorithm: Algorithm) -> tuple[str, ...]:
    matters = _off_policy(algorithm)
    random = torch.Generator().manual_seed(1)
    found = [name for name, field in POLICIES.items() if matters(lambda x: _noise(x, random), field)]
    return tuple(found + ["teacher"] * ("teacher_logp_GK" in algorithm.needs.extras))


def _ratio(algorithm: Algorithm) -> str:
    """Moves one token a little, of a right response and then of a wrong one: that token alone, or its response?"""
    batch = algorithm.prepare(probe_batch(algorithm))
    before_KT = coefficients(algorithm, batch, batch.old_logp_GKT)[0]
    found = "no ratio"
    for moved in (0, -1):
        moved_GKT = batch.old_logp_GKT.clone()
        moved_GKT[0, moved, 0] -= 0.1
        after_KT = coefficients(algorithm, batch, moved_GKT)[0]
        if _differ(before_KT[moved, 1:], after_KT[moved, 1:]):
            return "response ratio"
        if _differ(before_KT[moved], after_KT[moved]):
            found = "token ratio"
    return found


def _by_length(algorithm: Algorithm) -> bool:
    """Compares a token of a response half as long with one of a response of the same reward."""
    batch = algorithm.prepare(probe_batch(algorithm, short=True))
    C_GKT = coefficients(algorithm, batch, batch.old_logp_GKT)
    peer = C_GKT[0, 1, 0] if C_GKT.shape[1] > 2 else C_GKT[1, 0, 0]
    return math.isclose(float(C_GKT[0, 0, 0]), 2 * float(peer), rel_tol=1e-3)
