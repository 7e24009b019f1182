"""Claim 7: the gradient coefficients of every algorithm on one fixed batch (seed eq. 1, 2, 9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pandas as pd
import torch

from algorithms import ALGORITHMS, Algorithm
from harness.theory.expectation import batch_loss
from harness.theory.findings import Record, Size
from harness.theory.variants import CentredKimi, Naive

CLAIM = "7 gradient coefficients"
REWARD = (1.0, 1.0, 0.0, 0.5, 0.0, -1.0)
LOG_RATIO = (0.4, -0.1, 0.3, -0.5, 0.0, 0.1)
"""ℓ = log π_θ/π' of the off-policy batch, in nats; π' is also the policy that drew it."""
BETA = 0.5
EXTRAS_G = {
    "greedy_reward_G": 0.5,
    "length_limit_G": 2.0,
}
"""What the greedy response earned, and tokens: all responses have one. Reference samples earned what these did, and a
teacher's log-probs are π' tilted by the rewards."""


def one_batch(size: Size, seed: int, algorithms: Mapping[str, type[Algorithm]] = ALGORITHMS) -> Record:
    """One group of six responses: w_i = −∂L/∂log π_θ(y_i), on-policy (ℓ = 0) and after some updates (ℓ ≠ 0).

    The coefficients themselves are the frame, which `run` prints side by side.
    """
    record = Record(CLAIM, samples="one fixed batch")
    reward_GK = torch.tensor([REWARD], dtype=torch.float64)
    k, rows = len(REWARD), []
    for where, log_ratio_GK in (
        ("on-policy", torch.zeros_like(reward_GK)),
        ("off-policy", torch.tensor([LOG_RATIO], dtype=torch.float64)),
    ):
        drawn_GK = torch.full_like(reward_GK, 0.1).log()
        for name, algorithm in _all(algorithms).items():
            logp_GK = (drawn_GK + log_ratio_GK).requires_grad_()
            loss = batch_loss(
                algorithm,
                logp_GK,
                reward=reward_GK,
                anchor_logp=drawn_GK,
                behaviour_logp=drawn_GK,
                value=torch.full_like(reward_GK, reward_GK.mean().item()),
                reference_reward_GN=reward_GK,
                teacher_logp_GK=drawn_GK + reward_GK,
                **{key: torch.tensor([x], dtype=torch.float64) for key, x in EXTRAS_G.items()},
            )
            (slope_GK,) = torch.autograd.grad(loss, logp_GK)
            weight_K = 0.0 - slope_GK[0]
            for i, weight in enumerate(weight_K.tolist(), start=1):
                rows.append(
                    {
                        "algorithm": name,
                        "where": where,
                        "response": i,
                        "reward": REWARD[i - 1],
                        "log-ratio": log_ratio_GK[0, i - 1].item(),
                        "coefficient": weight,
                    }
                )
            total = weight_K.sum().item()
            if name.startswith("GVPO"):
                record.near("seed eq. 8, 9: Σ w_i = 0", f"{name}, {where}", "Σ_i w_i", total, tolerance=1e-12)
            else:
                record.report("Σ w_i, demanded of GVPO only", f"{name}, {where}", "Σ_i w_i", total)
            if name == "GVPO":
                ratio_K = log_ratio_GK[0]
                article_K = BETA * ((reward_GK[0] - reward_GK.mean()) - BETA * (ratio_K - ratio_K.mean()))
                record.near(
                    "seed eq. 9, times 2/(k−1) by eq. 11, 16",
                    f"{name}, {where}",
                    "largest |w_i − 2/(k−1) · eq. 9|",
                    (weight_K - 2 / (k - 1) * article_K).abs().max().item(),
                    tolerance=1e-12,
                )
    record.frames["coefficients"] = pd.DataFrame(rows)
    return record


def _all(algorithms: Mapping[str, type[Algorithm]]) -> dict[str, Algorithm]:
    """Every algorithm of the table at β = BETA where it has one, with π' the reference where it can choose."""
    made: dict[str, Algorithm] = {}
    for cls in algorithms.values():
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        options = {name: value for name, value in (("beta", BETA), ("anchor", "reference")) if name in names}
        made[cls.name] = cls(**options)
    made["naive"], made["Kimi, ℓ centred"] = Naive(beta=BETA), CentredKimi(beta=BETA, anchor="reference")
    return made
