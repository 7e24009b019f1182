"""What an algorithm does, measured on its class: the gradient coefficient C = −∂L/∂log π of one response.

The probe is a batch of GROUPS groups of SAMPLES responses of TOKENS tokens. The old, behaviour, sampler and reference
policies are one and the same and stay where they are; the trained policy has moved on one response alone, by ℓ nats in
all, ℓ/TOKENS on each token. Rewards are 1 and 0: half of each group is right, or in the group of the moved response any
other number. Whatever stands for the difficulty of a prompt (a critic's value, the greedy response's reward, the mean
of the reference samples) is the share of its group that is right; a teacher gives a right response TEACHER nats more
than the anchor and a wrong one so much less. Given answers are all right, one a prompt; given pairs are one right, one
wrong.

A coefficient is summed over the response's tokens and divided by the largest that any response has on-policy (ℓ = 0) in
a batch of which half is right: so every algorithm has one scale, whatever it sums or averages. Where that largest is
zero, nothing is divided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from algorithms.base import Algorithm, Batch, PolicyOutput

GROUPS = 8
SAMPLES = 8
TOKENS = 8
REACH = 4.0
"""The largest log-ratio of a portrait, nats per response."""
POINTS = 161
TEACHER = 2.0
LOGP = -0.6
"""log π of each token before the policy has moved, nats: a probability that no ratio of a portrait takes above 1."""
SMALL = 1e-9
"""Of the largest coefficient: below it a coefficient is zero."""

COLUMNS = ["algorithm", "right", "reward", "log_ratio", "coefficient"]


class Shape(NamedTuple):
    """Of the probe's groups: how many responses each has, and how many of them are right."""

    samples: int
    right: int


def shape_of(algorithm: Algorithm) -> Shape:
    """The groups that the algorithm's data come in."""
    return {"demonstrations": Shape(1, 1), "pairs": Shape(2, 1)}.get(algorithm.needs.data, Shape(SAMPLES, SAMPLES // 2))


def probe_batch(algorithm: Algorithm, right: int | None = None, *, short: bool = False) -> Batch:
    """The batch in float64: `right` responses of its first group have the reward 1, the usual number of each other.

    If `short`, the first response of the first group has half as many tokens.
    """
    shape = shape_of(algorithm)
    right_G = torch.full((GROUPS,), shape.right)
    right_G[0] = shape.right if right is None else right
    rewards_GK = (torch.arange(shape.samples) < right_G[:, None]).double()
    mask_GKT = torch.ones(GROUPS, shape.samples, TOKENS, dtype=torch.bool)
    if short:
        mask_GKT[0, 0, TOKENS // 2 :] = False
    logp_GKT = LOGP * mask_GKT.double()
    share_G = rewards_GK.mean(-1)
    return Batch(
        mask_GKT=mask_GKT,
        valid_GK=mask_GKT.any(-1),
        rewards_GK=rewards_GK,
        old_logp_GKT=logp_GKT,
        behaviour_logp_GKT=logp_GKT,
        sampler_logp_GKT=logp_GKT,
        ref_logp_GKT=logp_GKT,
        old_value_GKT=share_G[:, None, None].expand_as(logp_GKT),
        final_value_GK=share_G[:, None].expand_as(rewards_GK),
        truncated_GK=torch.zeros_like(mask_GKT[..., 0]),
        extras={
            "greedy_reward_G": share_G,
            "reference_reward_GN": share_G[:, None].expand(GROUPS, max(1, algorithm.needs.reference_samples)),
            "teacher_logp_GK": logp_GKT.sum(-1) + TEACHER * (2 * rewards_GK - 1),
            "length_limit_G": torch.full((GROUPS,), 100 * TOKENS),
        },
    )


def coefficients(algorithm: Algorithm, batch: Batch, logp_GKT: Tensor) -> Tensor:
    """C of each token, [G, K, T], of a policy with these log-probs on a batch that `prepare` has seen."""
    logp_GKT = logp_GKT.detach().clone().requires_grad_()
    policy = PolicyOutput(logp_GKT=logp_GKT, entropy_GKT=torch.ones_like(logp_GKT), value_GKT=batch.old_value_GKT)
    (gradient_GKT,) = torch.autograd.grad(algorithm.loss(policy, batch).loss, logp_GKT)
    return -gradient_GKT


def _moved(algorithm: Algorithm, batch: Batch, reward: int, log_ratio: float) -> float:
    """C, summed over its tokens, of a response of the first group that has this reward and has moved by so much."""
    moved = 0 if reward == 1 else -1
    logp_GKT = batch.old_logp_GKT.clone()
    logp_GKT[0, moved] += log_ratio / TOKENS
    return float(coefficients(algorithm, batch, logp_GKT)[0, moved].sum())


def portrait(algorithm: Algorithm, name: str) -> pd.DataFrame:
    """A row a point, with COLUMNS: how many of the group are right, the moved response's reward, its log-ratio in nats,
    and its coefficient on the common scale.

    Either the log-ratio varies (half of the group is right, or none: then what pulls is not the reward), or the number
    that is right does (on-policy).

    Raises ValueError where a coefficient is not finite.
    """
    shape = shape_of(algorithm)
    batches = {right: algorithm.prepare(probe_batch(algorithm, right)) for right in range(shape.samples + 1)}
    usual = batches[shape.right]
    scale = float(coefficients(algorithm, usual, usual.old_logp_GKT).sum(-1).abs().max())
    grid = np.round(np.linspace(-REACH, REACH, POINTS), 6)
    rewards = (1,) if shape.samples == shape.right else (1, 0)
    asked = [(shape.right, reward, x) for reward in rewards for x in grid]
    if shape.samples == SAMPLES:
        asked += [(0, 0, x) for x in grid]
        asked += [(right, 1, 0.0) for right in range(1, SAMPLES + 1) if right != shape.right]
        asked += [(right, 0, 0.0) for right in range(1, SAMPLES) if right != shape.right]
    rows = [(name, right, reward, x, _moved(algorithm, batches[right], reward, x)) for right, reward, x in asked]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    bad = frame[~np.isfinite(frame["coefficient"])]
    if len(bad):
        raise ValueError(f"the coefficient is {bad['coefficient'].iloc[0]} at ℓ = {bad['log_ratio'].iloc[0]:g}")
    frame["coefficient"] = frame["coefficient"] / (scale or 1.0)
    frame.loc[frame["coefficient"].abs() < SMALL, "coefficient"] = 0.0
    return frame


def curves(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows over the log-ratio, by kind: right, wrong, or tied, of a group that is all wrong.

    A kind of response that the data cannot hold is left out.
    """
    tied = (rows["right"] == 0) & (rows["reward"] == 0)
    usual = int(rows.loc[rows["log_ratio"] != 0, "right"].max())
    found = {
        "right": rows[(rows["right"] == usual) & (rows["reward"] == 1)],
        "wrong": rows[(rows["right"] == usual) & (rows["reward"] == 0)],
        "tied": rows[tied],
    }
    return {kind: part for kind, part in found.items() if len(part)}


def shares(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows over the number that is right, on-policy; empty where a group has no such number."""
    still = rows[rows["log_ratio"] == 0]
    if still["right"].nunique() < 2:
        return {}
    return {
        "right": still[still["reward"] == 1].sort_values("right"),
        "wrong": still[still["reward"] == 0].sort_values("right"),
    }
