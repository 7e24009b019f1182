"""Finite problems with a known optimum, and distances between policies on them. All log-probs in nats, float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Rewards = Literal["normal", "binary", "heavy-tailed"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """E problems over n responses that share one β: rewards R, and the anchor π' that the KL term pulls towards.

    Raises ValueError where a shape, a β or an anchor's total is wrong, or a number is not finite.
    """

    reward_EN: Tensor
    anchor_logp_EN: Tensor
    beta: float

    def __post_init__(self) -> None:
        if self.reward_EN.dim() != 2 or self.reward_EN.shape != self.anchor_logp_EN.shape:
            raise ValueError(
                f"rewards and anchor must both be [E, N]; they are {tuple(self.reward_EN.shape)} and "
                f"{tuple(self.anchor_logp_EN.shape)}"
            )
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be positive")
        if not (torch.isfinite(self.reward_EN).all() and torch.isfinite(self.anchor_logp_EN).all()):
            raise ValueError("rewards and the anchor's log-probs must be finite: an anchor covers every response")
        if self.anchor_logp_EN.logsumexp(-1).abs().max() > 1e-9:
            raise ValueError("the anchor's probabilities do not sum to 1")

    @property
    def n(self) -> int:
        """Responses."""
        return self.reward_EN.shape[1]

    @property
    def log_partition_E1(self) -> Tensor:
        """log Z = log Σ_y π'(y) e^{R(y)/β} (seed eq. 4), in nats."""
        return (self.anchor_logp_EN + self.reward_EN / self.beta).logsumexp(-1, keepdim=True)

    @property
    def optimum_logp_EN(self) -> Tensor:
        """log π*, with π* = π' e^{R/β} / Z (seed eq. 4)."""
        return self.anchor_logp_EN + self.reward_EN / self.beta - self.log_partition_E1

    def repeat(self, times: int) -> Problem:
        """Each problem `times` times in a row: one experiment per starting point."""
        return replace(
            self,
            reward_EN=self.reward_EN.repeat_interleave(times, 0),
            anchor_logp_EN=self.anchor_logp_EN.repeat_interleave(times, 0),
        )


def random_problem(rng: np.random.Generator, *, count: int, n: int, rewards: Rewards, beta: float) -> Problem:
    """`count` problems: rewards N(0, 1), 0 or 1 (both occur), or Student t with 2 degrees of freedom; the anchor from
    Dirichlet(1) for every other problem, from the spikier Dirichlet(0.5) for the rest."""
    if rewards == "normal":
        reward_EN = rng.normal(size=(count, n))
    elif rewards == "binary":
        reward_EN = rng.integers(0, 2, size=(count, n)).astype(float)
        reward_EN[:, 0], reward_EN[:, 1] = 0, 1
    else:
        reward_EN = rng.standard_t(2, size=(count, n))
    log_gamma_EN = np.log(
        np.stack([rng.gamma(1.0 if e % 2 == 0 else 0.5, size=n) for e in range(count)]).clip(min=1e-6)
    )
    return Problem(
        reward_EN=torch.tensor(reward_EN), anchor_logp_EN=torch.tensor(log_gamma_EN).log_softmax(-1), beta=beta
    )


def mixed_problems(rng: np.random.Generator, *, count: int, n: int, beta: float) -> Problem:
    """`count` problems of each kind of rewards."""
    parts = [random_problem(rng, count=count, n=n, rewards=rewards, beta=beta) for rewards in get_args(Rewards)]
    return Problem(
        reward_EN=torch.cat([part.reward_EN for part in parts]),
        anchor_logp_EN=torch.cat([part.anchor_logp_EN for part in parts]),
        beta=beta,
    )


def starting_logits(rng: np.random.Generator, problem: Problem, starts: int) -> Tensor:
    """[E·starts, N]: for each problem the anchor, the uniform policy, a nearly deterministic one (one logit at 12, the
    rest at 0), and random ones with logits N(0, 3²)."""
    blocks = []
    for anchor_logp_N in problem.anchor_logp_EN:
        logits_SN = torch.tensor(rng.normal(scale=3.0, size=(max(starts, 3), problem.n)))
        logits_SN[0] = anchor_logp_N
        logits_SN[1] = 0
        logits_SN[2] = 0
        logits_SN[2, int(rng.integers(problem.n))] = 12
        blocks.append(logits_SN[:starts])
    return torch.cat(blocks)


def total_variation(p_logp: Tensor, q_logp: Tensor) -> Tensor:
    """½ Σ_y |p − q| over the last dimension."""
    return (p_logp.exp() - q_logp.exp()).abs().sum(-1) / 2


def kl(p_logp: Tensor, q_logp: Tensor) -> Tensor:
    """KL(p‖q) = Σ_y p (log p − log q) over the last dimension, in nats; p may have zeros."""
    p = p_logp.exp()
    return torch.where(p > 0, p * (p_logp - q_logp), torch.zeros_like(p)).sum(-1)


def entropy(p_logp: Tensor) -> Tensor:
    """−Σ_y p log p over the last dimension, in nats."""
    return -kl(p_logp, torch.zeros_like(p_logp))


def weighted_covariance(p_N: Tensor, x_N: Tensor, y_N: Tensor) -> Tensor:
    """Cov_p(x, y) = E[(x − E x)(y − E y)] over the last dimension: the closed form that estimates are held against."""
    mean = (p_N * x_N).sum(-1, keepdim=True)
    return (p_N * (x_N - mean) * (y_N - (p_N * y_N).sum(-1, keepdim=True))).sum(-1)
