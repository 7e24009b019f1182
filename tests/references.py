"""The formula of every algorithm in plain Python: loops over groups, responses and tokens, no tensor, no shared term.

A response holds log π_θ twice: `logp`, which finite differences move, and `held`, which they do not. What a formula
writes under sg[·] reads `held`; so the references have the gradient of the formula as well as its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from algorithms import Batch, PolicyOutput


@dataclass
class Response:
    reward: float
    logp: list[float]
    held: list[float]
    old: list[float]
    behaviour: list[float]
    ref: list[float]
    value: list[float]
    old_value: list[float]
    final_value: float
    truncated: bool
    teacher: float

    def __len__(self) -> int:
        return len(self.logp)


@dataclass
class Group:
    responses: list[Response]
    greedy: float
    reference_rewards: list[float]
    limit: float


Rollout = list[Group]


def rewards(group: Group) -> list[float]:
    return [y.reward for y in group.responses]


def baselined(group: Group) -> list[float]:
    """R_i − R̄."""
    return [r - fmean(rewards(group)) for r in rewards(group)]


def standard(values: list[float]) -> list[float]:
    """(x_i − x̄)/(s + 1e-6), with the sample standard deviation s."""
    mean = fmean(values)
    std = math.sqrt(sum((x - mean) ** 2 for x in values) / max(len(values) - 1, 1))
    return [(x - mean) / (std + 1e-6) for x in values]


def white(table: list[list[list[float]]]) -> list[list[list[float]]]:
    """A number for each token, less the mean of all and over √(variance + 1e-8)."""
    every = [x for group in table for row in group for x in row]
    mean = fmean(every)
    std = math.sqrt(fmean((x - mean) ** 2 for x in every) + 1e-8)
    return [[[(x - mean) / std for x in row] for row in group] for group in table]


def ell(y: Response, other: list[float], now: list[float] | None = None) -> float:
    """ℓ: the log-ratio of the whole response."""
    return sum(y.logp if now is None else now) - sum(other)


def ratios(y: Response, now: list[float] | None = None) -> list[float]:
    return [math.exp(p - q) for p, q in zip(y.logp if now is None else now, y.behaviour, strict=True)]


def clip(x: float, low: float, high: float) -> float:
    return max(low, min(x, high))


def clipped(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, clip(ratio, 1 - low, 1 + high) * advantage)


def per_prompt(rollout: Rollout, objective: Callable[[Group], list[float]]) -> float:
    """−1/|D| Σ_x 1/k(x) Σ_i of what `objective` gives for each response of a group."""
    return -fmean(fmean(objective(group)) for group in rollout)


def per_all_tokens(rollout: Rollout, objective: Callable[[Group], list[float]]) -> float:
    """−1/Σ|y_i| Σ_x Σ_i of what `objective` gives for each response of a group, which sums over its tokens."""
    return -sum(sum(objective(g)) for g in rollout) / sum(len(y) for g in rollout for y in g.responses)


def reinforce(advantages: Callable[[Group], list[float]]) -> Callable[[Group], list[float]]:
    return lambda g: [a * sum(y.logp) for a, y in zip(advantages(g), g.responses, strict=True)]


def sft(rollout: Rollout) -> float:
    return per_prompt(rollout, lambda g: [fmean(y.logp) for y in g.responses])


def rft(rollout: Rollout, threshold: float = 0.5) -> float:
    return per_prompt(rollout, lambda g: [fmean(y.logp) * (y.reward > threshold) for y in g.responses])


def pairwise_baseline(scores: list[float]) -> list[float]:
    """u_i less the mean of the others."""
    if len(scores) == 1:
        return [0.0]
    return [u - (sum(scores) - u) / (len(scores) - 1) for u in scores]


def pg(rollout: Rollout, beta: float = 0.1) -> float:
    def objective(g: Group) -> list[float]:
        u = [y.reward - beta * ell(y, y.old, y.held) for y in g.responses]
        weight = [math.exp(ell(y, y.behaviour, y.held)) for y in g.responses]
        return [w * a * sum(y.logp) for w, a, y in zip(weight, pairwise_baseline(u), g.responses, strict=True)]

    return per_prompt(rollout, objective)


def rloo(rollout: Rollout, beta: float = 0.05) -> float:
    return per_prompt(
        rollout,
        reinforce(lambda g: pairwise_baseline([y.reward - beta * (sum(y.old) - sum(y.ref)) for y in g.responses])),
    )


def remax(rollout: Rollout) -> float:
    return per_prompt(rollout, reinforce(lambda g: [r - g.greedy for r in rewards(g)]))


def opo(rollout: Rollout) -> float:
    def advantages(g: Group) -> list[float]:
        baseline = sum(len(y) * y.reward for y in g.responses) / sum(len(y) for y in g.responses)
        return [r - baseline for r in rewards(g)]

    return per_prompt(rollout, reinforce(advantages))


def maxrl(rollout: Rollout) -> float:
    def advantages(g: Group) -> list[float]:
        mean = fmean(rewards(g))
        return [(r - mean) / mean if mean > 0 else 0.0 for r in rewards(g)]

    return per_prompt(rollout, reinforce(advantages))


def gpg(rollout: Rollout, rescale: bool = True) -> float:
    taught = sum(len(set(rewards(g))) > 1 for g in rollout)
    alpha = len(rollout) / max(taught, 1) if rescale else 1.0
    return per_all_tokens(rollout, reinforce(lambda g: [alpha * a for a in baselined(g)]))


def opmd(rollout: Rollout, tau: float = 1.0, baseline: str = "mean") -> float:
    def advantages(g: Group) -> list[float]:
        soft_maximum = tau * math.log(fmean(math.exp(r / tau) for r in rewards(g)))
        return [r - soft_maximum for r in rewards(g)]

    return per_all_tokens(rollout, reinforce(baselined if baseline == "mean" else advantages)) / (1 + tau)


def surrogate_of_tokens(rollout: Rollout, table: list[list[list[float]]], eps: float) -> float:
    total = 0.0
    for g, rows in zip(rollout, table, strict=True):
        for y, row in zip(g.responses, rows, strict=True):
            total += sum(clipped(rho, a, eps, eps) for rho, a in zip(ratios(y), row, strict=True))
    return -total / sum(len(y) for g in rollout for y in g.responses)


def reinforce_pp(rollout: Rollout, clip: float = 0.2, beta: float = 0.01) -> float:
    def to_go(y: Response, t: int) -> float:
        return y.reward - beta * sum(y.old[s] - y.ref[s] for s in range(t, len(y)))

    table = [[[to_go(y, t) for t in range(len(y))] for y in g.responses] for g in rollout]
    return surrogate_of_tokens(rollout, white(table), clip)


def reinforce_pp_baseline(rollout: Rollout, clip: float = 0.2, beta: float = 0.01) -> float:
    table = [[[a] * len(y) for a, y in zip(baselined(g), g.responses, strict=True)] for g in rollout]

    def k2(y: Response) -> float:
        return sum((p - q) ** 2 / 2 for p, q in zip(y.logp, y.ref, strict=True))

    penalty = per_all_tokens(rollout, lambda g: [-beta * k2(y) for y in g.responses])
    return surrogate_of_tokens(rollout, white(table), clip) + penalty


def ppo(rollout: Rollout, gamma: float = 1.0, gae_lambda: float = 1.0) -> float:
    def advantages(y: Response) -> list[float]:
        value = [*y.old_value, y.final_value if y.truncated else 0.0]
        reward = [0.0] * (len(y) - 1) + [y.reward]
        delta = [reward[t] + gamma * value[t + 1] - value[t] for t in range(len(y))]
        return [sum((gamma * gae_lambda) ** (s - t) * delta[s] for s in range(t, len(y))) for t in range(len(y))]

    def value_error(y: Response) -> float:
        total = 0.0
        for v, old, a in zip(y.value, y.old_value, advantages(y), strict=True):
            target = a + old
            total += max((v - target) ** 2, (clip(v, old - 0.5, old + 0.5) - target) ** 2) / 2
        return total

    table = white([[advantages(y) for y in g.responses] for g in rollout])
    critic = -per_all_tokens(rollout, lambda g: [value_error(y) for y in g.responses])
    return surrogate_of_tokens(rollout, table, 0.2) + critic


def grpo(rollout: Rollout, clip: float = 0.2, beta: float = 0.0) -> float:
    def objective(g: Group) -> list[float]:
        out = []
        for y, a in zip(g.responses, standard(rewards(g)), strict=True):
            x = [q - p for p, q in zip(y.logp, y.ref, strict=True)]
            kl = [math.exp(d) - d - 1 for d in x]
            out.append(fmean(clipped(r, a, clip, clip) - beta * k for r, k in zip(ratios(y), kl, strict=True)))
        return out

    return per_prompt(rollout, objective)


def dr_grpo(rollout: Rollout, clip: float = 0.2) -> float:
    return per_prompt(
        rollout,
        lambda g: [
            sum(clipped(r, a, clip, clip) for r in ratios(y)) / g.limit
            for y, a in zip(g.responses, baselined(g), strict=True)
        ],
    )


def dapo(rollout: Rollout, clip_low: float = 0.2, clip_high: float = 0.28, overlong: float = 0.2) -> float:
    def penalty(length: int, limit: float) -> float:
        """The paper's eq. 13, in three cases."""
        cache = overlong * limit
        if overlong == 0:
            return 0.0
        if length <= limit - cache:
            return 0.0
        return (limit - cache - length) / cache if length < limit else -1.0

    def objective(g: Group) -> list[float]:
        shaped = standard([y.reward + penalty(len(y), g.limit) for y in g.responses])
        return [
            sum(clipped(r, a, clip_low, clip_high) for r in ratios(y)) for y, a in zip(g.responses, shaped, strict=True)
        ]

    return per_all_tokens(rollout, objective)


def gspo(rollout: Rollout, clip_low: float = 3e-4, clip_high: float = 4e-4) -> float:
    return per_prompt(
        rollout,
        lambda g: [
            clipped(math.prod(ratios(y)) ** (1 / len(y)), a, clip_low, clip_high)
            for y, a in zip(g.responses, standard(rewards(g)), strict=True)
        ],
    )


def gmpo(rollout: Rollout, clip: float = 0.4) -> float:
    """The paper's eq. 4: the product of |min[ρ Â, clip(ρ) Â]| over the tokens, its root, and the sign of Â."""

    def objective(g: Group) -> list[float]:
        out = []
        for y, a in zip(g.responses, standard(rewards(g)), strict=True):
            bounded = [min(r * a, max(math.exp(-clip), min(r, math.exp(clip))) * a) for r in ratios(y)]
            out.append(math.copysign(math.prod(abs(x) for x in bounded) ** (1 / len(y)), a))
        return out

    return per_prompt(rollout, objective)


def weighted_tokens(
    rollout: Rollout,
    weights: Callable[[Response, float], list[float]],
    advantages: Callable[[Group], list[float]] = lambda g: standard(rewards(g)),
) -> float:
    """REINFORCE with a weight for each token, over all tokens, on standardised rewards where nothing else is said."""
    return per_all_tokens(
        rollout,
        lambda g: [
            a * sum(w * p for w, p in zip(weights(y, a), y.logp, strict=True))
            for y, a in zip(g.responses, advantages(g), strict=True)
        ],
    )


def cispo(rollout: Rollout, clip_low: float = 1.0, clip_high: float = 4.0) -> float:
    return weighted_tokens(rollout, lambda y, a: [clip(r, 1 - clip_low, 1 + clip_high) for r in ratios(y, y.held)])


def vespo(
    rollout: Rollout,
    power_pos: float = 2.0,
    rate_pos: float = 3.0,
    power_neg: float = 3.0,
    rate_neg: float = 2.0,
) -> float:
    def weights(y: Response, a: float) -> list[float]:
        k, lam = (power_pos, rate_pos) if a >= 0 else (power_neg, rate_neg)
        w = math.exp(ell(y, y.behaviour, y.held))
        return [w**k * math.exp(lam * (1 - w))] * len(y)

    return weighted_tokens(rollout, weights)


def dppo(rollout: Rollout, divergence: str = "tv", threshold: float = 0.15) -> float:
    def far(log_p: float, log_q: float) -> bool:
        p, q = math.exp(log_p), math.exp(log_q)
        if divergence == "tv":
            return abs(p - q) > threshold
        rest = math.inf if p >= 1 and q < 1 else 0.0 if q >= 1 else (1 - q) * math.log((1 - q) / (1 - p))
        return q * math.log(q / p) + rest > threshold

    def weights(y: Response, a: float) -> list[float]:
        out = []
        for p, q in zip(y.held, y.behaviour, strict=True):
            away = (p > q and a > 0) or (p < q and a < 0)
            out.append(0.0 if away and far(p, q) else min(math.exp(p - q), 20.0))
        return out

    return weighted_tokens(rollout, weights, baselined)


def sapo(rollout: Rollout, tau_pos: float = 1.0, tau_neg: float = 1.05) -> float:
    def gate(ratio: float, tau: float) -> float:
        return 4 / tau / (1 + math.exp(-tau * (ratio - 1)))

    return per_prompt(
        rollout,
        lambda g: [
            a * fmean(gate(r, tau_pos if a > 0 else tau_neg) for r in ratios(y))
            for y, a in zip(g.responses, standard(rewards(g)), strict=True)
        ],
    )


def topr(rollout: Rollout) -> float:
    def weight(y: Response, a: float) -> float:
        return 1.0 if a > 0 else min(1.0, math.exp(ell(y, y.behaviour, y.held)))

    return per_prompt(
        rollout, lambda g: [weight(y, a) * a * sum(y.logp) for y, a in zip(g.responses, baselined(g), strict=True)]
    )


def group_variance(values: list[float]) -> float:
    mean = fmean(values)
    return sum((x - mean) ** 2 for x in values) / max(len(values) - 1, 1)


def gvpo(rollout: Rollout, beta: float = 0.1) -> float:
    return fmean(group_variance([beta * ell(y, y.old) - y.reward for y in g.responses]) for g in rollout)


def kimi(rollout: Rollout, beta: float = 0.1) -> float:
    return -per_prompt(
        rollout,
        lambda g: [(a - beta * ell(y, y.old)) ** 2 for y, a in zip(g.responses, baselined(g), strict=True)],
    )


def tba(rollout: Rollout, beta: float = 0.1) -> float:
    def squares(g: Group) -> list[float]:
        log_z = fmean(y.reward / beta - ell(y, y.ref, y.held) for y in g.responses)
        return [(log_z + ell(y, y.ref) - y.reward / beta) ** 2 for y in g.responses]

    return -per_prompt(rollout, squares)


def a_star_po(rollout: Rollout, value_beta: float = 0.5, beta: float = 1e-3) -> float:
    def squares(g: Group) -> list[float]:
        optimal = value_beta * math.log(fmean(math.exp(r / value_beta) for r in g.reference_rewards))
        return [(beta * ell(y, y.ref) - (y.reward - optimal)) ** 2 for y in g.responses]

    return -per_prompt(rollout, squares)


def rebel(rollout: Rollout, eta: float = 1.0) -> float:
    def loss(g: Group) -> float:
        ys = g.responses
        squares = [
            (ell(a, a.behaviour) - ell(b, b.behaviour) - eta * (a.reward - b.reward)) ** 2
            for i, a in enumerate(ys)
            for b in ys[i + 1 :]
        ]
        return fmean(squares) if squares else 0.0

    return fmean(loss(g) for g in rollout)


def over_pairs(rollout: Rollout, loss: Callable[[Response, Response], float]) -> float:
    """The mean over the strictly ordered pairs of a group, then over the groups that have one."""
    means = []
    for g in rollout:
        losses = [loss(w, l) for w in g.responses for l in g.responses if w.reward > l.reward]  # noqa: E741
        if losses:
            means.append(fmean(losses))
    return fmean(means) if means else 0.0


def dpo(rollout: Rollout, beta: float = 0.1) -> float:
    return over_pairs(rollout, lambda w, l: math.log1p(math.exp(-beta * (ell(w, w.ref) - ell(l, l.ref)))))  # noqa: E741


def ipo(rollout: Rollout, beta: float = 0.1, length_average: bool = False) -> float:
    def h(y: Response) -> float:
        return ell(y, y.ref) / (len(y) if length_average else 1)

    return over_pairs(rollout, lambda w, l: (h(w) - h(l) - 1 / (2 * beta)) ** 2)  # noqa: E741


def gvpd(rollout: Rollout, length_normalised: bool = True) -> float:
    def loss(g: Group) -> float:
        k = len(g.responses)
        inverse = [1 / len(y) if length_normalised else 1.0 for y in g.responses]
        f = [x * k / sum(inverse) for x in inverse]
        d = [sum(y.logp) - y.teacher for y in g.responses]
        mean = sum(a * b for a, b in zip(f, d, strict=True)) / sum(f)
        return sum(a * (b - mean) ** 2 for a, b in zip(f, d, strict=True)) / max(k - 1, 1)

    return fmean(loss(g) for g in rollout)


REFERENCES: dict[str, Callable[..., float]] = {
    f.__name__: f
    for f in (
        *(gvpo, grpo, ppo, dpo, kimi, pg, sft, rft, rloo, remax, reinforce_pp, reinforce_pp_baseline, gpg, opo, maxrl),
        *(opmd, dr_grpo, dapo, gspo, gmpo, cispo, sapo, vespo, dppo, topr, tba, a_star_po, rebel, ipo, gvpd),
    )
} | {"online_rft": rft, "offline_dpo": dpo}


def listed(policy: PolicyOutput, batch: Batch) -> Rollout:
    """The valid responses of the batch as lists of their own tokens."""

    def at(x: Tensor | None, g: int, k: int) -> list[float]:
        assert x is not None
        return [float(v) for v, on in zip(x[g, k].tolist(), batch.mask_GKT[g, k].tolist(), strict=True) if on]

    def one(x: Tensor | None, g: int, k: int) -> float:
        assert x is not None
        return float(x[g, k])

    rollout = []
    for g in range(len(batch.valid_GK)):
        responses = [
            Response(
                reward=batch.rewards_GK[g, k].item(),
                logp=at(policy.logp_GKT, g, k),
                held=at(policy.logp_GKT, g, k),
                old=at(batch.old_logp_GKT, g, k),
                behaviour=at(batch.behaviour_logp_GKT, g, k),
                ref=at(batch.ref_logp_GKT, g, k),
                value=at(policy.value_GKT, g, k),
                old_value=at(batch.old_value_GKT, g, k),
                final_value=one(batch.final_value_GK, g, k),
                truncated=bool(one(batch.truncated_GK, g, k)),
                teacher=batch.extras["teacher_logp_GK"][g, k].item(),
            )
            for k in range(batch.valid_GK.shape[1])
            if batch.valid_GK[g, k]
        ]
        rollout.append(
            Group(
                responses,
                greedy=batch.extras["greedy_reward_G"][g].item(),
                reference_rewards=batch.extras["reference_reward_GN"][g].tolist(),
                limit=batch.extras["length_limit_G"][g].item(),
            )
        )
    return rollout
