"""Where every registered algorithm ends on finite problems, by what it declares to need and never by its name.

The expected update (not the loss, which may hold parts of itself constant) is followed until it stands still: on-policy
with π_old = π_θ and, of an algorithm that says it is right off-policy, under the uniform sampling policy too. Every
hyper-parameter called β, or …_beta, is the problem's β, an anchor is the reference, and all else is as by default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from algorithms import ALGORITHMS, Algorithm
from algorithms.base import Family
from harness.theory.expectation import Groups, expected_gradient, first_update, ordered_groups
from harness.theory.findings import FULL, Size
from harness.theory.optimum import spread
from harness.theory.problem import Problem, random_problem, starting_logits, total_variation

N, K, STARTS = 4, 3, 3
BETA = 0.6
GRID = 64
"""Probabilities of the anchor are multiples of 1/GRID, so that GRID samples of it can stand for it exactly."""
RIGHT = 0.5
"""A reward above it is that of a right response."""
NEAR = 1e-3
"""Total variation at which a policy is said to be reached: a whitened update has a jump where it stands still."""


@dataclass(frozen=True)
class Setting:
    """A finite problem with what else an algorithm may ask for."""

    problem: Problem
    teacher_logp_EN: Tensor
    given_logp_EN: Tensor
    """The policy that demonstrations are drawn from."""

    def repeat(self, times: int) -> Setting:
        """Each `times` times in a row."""
        return Setting(
            self.problem.repeat(times),
            self.teacher_logp_EN.repeat_interleave(times, 0),
            self.given_logp_EN.repeat_interleave(times, 0),
        )


def random_setting(rng: np.random.Generator, count: int) -> Setting:
    """`count` problems with rewards of 0 and 1, and as many with rewards from 0 to 1: an algorithm may read them as
    verdicts. The anchor's probabilities are multiples of 1/GRID."""
    drawn = [random_problem(rng, count=count, n=N, rewards=kind, beta=BETA) for kind in ("binary", "normal")]
    reward_EN = torch.cat([problem.reward_EN for problem in drawn])
    reward_EN = reward_EN - reward_EN.amin(-1, keepdim=True)
    reward_EN = reward_EN / reward_EN.amax(-1, keepdim=True)
    share_EN = 1 + torch.floor(torch.cat([problem.anchor_logp_EN for problem in drawn]).exp() * (GRID - N))
    share_EN[:, 0] += GRID - share_EN.sum(-1)
    problem = Problem(reward_EN=reward_EN, anchor_logp_EN=(share_EN / GRID).log(), beta=BETA)
    teacher, given = (torch.tensor(rng.normal(size=problem.reward_EN.shape)).log_softmax(-1) for _ in range(2))
    return Setting(problem, teacher, given)


def groups_of(algorithm: Algorithm, setting: Setting, logits_EN: Tensor, sampling_logp_EN: Tensor) -> Groups:
    """The groups of an expectation, with everything that the algorithm declares to need.

    Raises ValueError where it needs entropies, which are no function of the responses' log-probs.
    """
    needs, problem = algorithm.needs, setting.problem
    if needs.entropy:
        raise ValueError(f"{algorithm.name} needs entropies: its update is not one of log-probs alone")
    if needs.data == "pairs":
        groups = _given_pairs(setting, logits_EN)
    elif needs.data == "demonstrations":
        groups = _given(setting, logits_EN, torch.arange(N)[:, None], setting.given_logp_EN.exp())
    else:
        groups = first_update(algorithm, problem, logits_EN, sampling_logp_EN, ordered_groups(N, K))
    weight_EG, reward_EGK = groups.weight_EG, groups.known_EGK["reward"]
    if needs.refill is not None:
        refill = needs.refill
        worth_EG = torch.tensor([[bool(refill(reward_K)) for reward_K in reward_GK] for reward_GK in reward_EGK])
        weight_EG = weight_EG * worth_EG
        weight_EG = weight_EG / weight_EG.sum(-1, keepdim=True)
    every_EG = torch.ones_like(weight_EG)
    best_E1 = problem.reward_EN.gather(1, sampling_logp_EN.argmax(-1, keepdim=True))
    supply: dict[str, Callable[[], Tensor]] = {
        "greedy_reward_G": lambda: best_E1 * every_EG,
        "reference_reward_GN": lambda: _rewards_of_anchor(problem)[:, None].expand(*every_EG.shape, GRID),
        "teacher_logp_GK": lambda: setting.teacher_logp_EN[:, groups.index_GK],
        "length_limit_G": lambda: every_EG,
    }
    extras = {name: supply[name]() for name in needs.extras}
    return Groups(groups.index_GK, weight_EG, groups.known_EGK | extras)


def _rewards_of_anchor(problem: Problem) -> Tensor:
    """[E, GRID]. Each response as often as the anchor draws it."""
    counts_EN = (problem.anchor_logp_EN.exp() * GRID).round().long()
    return torch.stack([
        reward_N.repeat_interleave(count_N)
        for reward_N, count_N in zip(problem.reward_EN, counts_EN, strict=True)
    ])  # fmt: skip


def _given(setting: Setting, logits_EN: Tensor, index_GK: Tensor, weight_EG: Tensor) -> Groups:
    """Responses that nobody sampled: there the sampling policy is π_θ."""
    own_EGK = logits_EN.log_softmax(-1)[:, index_GK]
    anchor_EGK = setting.problem.anchor_logp_EN[:, index_GK]
    return Groups(
        index_GK,
        weight_EG,
        {"reward": torch.ones_like(own_EGK), "anchor_logp": anchor_EGK, "behaviour_logp": own_EGK},
    )


def _given_pairs(setting: Setting, logits_EN: Tensor) -> Groups:
    """Two responses of the anchor, the first of which won with probability σ(R_i − R_j) (Bradley-Terry)."""
    problem = setting.problem
    pair_GK = torch.tensor([(i, j) for i in range(N) for j in range(N) if i != j])
    margin_EG = problem.reward_EN[:, pair_GK[:, 0]] - problem.reward_EN[:, pair_GK[:, 1]]
    groups = _given(setting, logits_EN, pair_GK, problem.anchor_logp_EN[:, pair_GK].sum(-1).exp() * margin_EG.sigmoid())
    won_EGK = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(groups.known_EGK["reward"].shape)
    return Groups(pair_GK, groups.weight_EG, groups.known_EGK | {"reward": won_EGK})


Field = Callable[[Tensor, Setting], Tensor]
"""The direction in which an update moves each logit, [E, N]."""


def settle(field: Field, setting: Setting, start_EN: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Follows `field` from the starts until it stands still or `steps` are over: the policies' log-probs, [E, N], and
    how fast each still moves, as a share of the fastest that it ever did, [E].

    Pseudo-transient continuation (Kelley and Keyes, SIAM J. Numer. Anal. 35, 1998): implicit Euler steps,
    (1/δ − J) Δ = F, that grow as F shrinks, so they end as Newton's. J is taken by central differences, since a loss
    may hold parts of itself constant. No logit moves by more than 1 nat a step.
    """
    count, n = start_EN.shape
    nudge = 1e-6
    shifts = torch.cat([torch.zeros(1, n), nudge * torch.eye(n), -nudge * torch.eye(n)]).to(start_EN)
    stacked = setting.repeat(len(shifts))
    logits_EN = start_EN - start_EN.logsumexp(-1, keepdim=True)
    fastest_E = torch.zeros(count, dtype=start_EN.dtype)
    speed_E, step_E, tiny_E = fastest_E, None, fastest_E > 0
    for _ in range(steps):
        around = (logits_EN[:, None] + shifts).reshape(-1, n)
        all_ESN = field(around, stacked).reshape(count, -1, n)
        move_EN = all_ESN[:, 0]
        jacobian_ENN = ((all_ESN[:, 1 : n + 1] - all_ESN[:, n + 1 :]) / (2 * nudge)).mT
        speed_E, before_E = move_EN.abs().amax(-1), speed_E
        fastest_E = torch.maximum(fastest_E, speed_E)
        tiny_E = speed_E <= 1e-10 * fastest_E
        if bool(tiny_E.all()) or not bool(torch.isfinite(speed_E).all()):
            break
        if step_E is None:
            step_E = 0.3 / speed_E.clamp(min=1e-300)
        else:
            step_E = step_E * (before_E / speed_E.clamp(min=1e-300)).clamp(0.5, 2.0)
        inverse_E11 = (1 / step_E)[:, None, None]
        matrix_ENN = inverse_E11 * torch.eye(n, dtype=start_EN.dtype) - jacobian_ENN
        delta_EN = torch.linalg.lstsq(matrix_ENN, move_EN[..., None]).solution[..., 0]
        # Uphill of what the field says, the implicit step is not to be trusted: there the plain one.
        against_E1 = ((delta_EN * move_EN).sum(-1, keepdim=True) <= 0) | ~torch.isfinite(delta_EN).all(-1, keepdim=True)
        delta_EN = torch.where(against_E1, step_E[:, None] * move_EN, delta_EN)
        delta_EN = delta_EN * (1 / delta_EN.abs().amax(-1, keepdim=True).clamp(min=1e-300)).clamp(max=1.0)
        logits_EN = (logits_EN + torch.where(tiny_E[:, None], 0.0, delta_EN)).log_softmax(-1)
    if not bool(tiny_E.all()):
        logits_EN = _decaying_steps(field, setting, logits_EN, tiny_E, steps)
    return logits_EN, speed_E / fastest_E.clamp(min=1e-300)


def _decaying_steps(field: Field, setting: Setting, logits_EN: Tensor, still_E: Tensor, steps: int) -> Tensor:
    """Steps of at most 0.3 nats, and at last of 3e-5: a field that jumps at its fixed point is followed to it."""
    for step in range(steps):
        move_EN = field(logits_EN, setting)
        length = 0.3 * 1e-4 ** (step / steps)
        delta_EN = length * move_EN / move_EN.abs().amax(-1, keepdim=True).clamp(min=1e-300)
        logits_EN = (logits_EN + torch.where(still_E[:, None], 0.0, delta_EN)).log_softmax(-1)
    return logits_EN


def described(setting: Setting, logp_EN: Tensor, speed_E: Tensor) -> dict[str, Any]:
    """Which policy that is, the same for all experiments, and how far from it they are at most."""
    problem = setting.problem
    off_best_E = (logp_EN.exp() * (problem.reward_EN < problem.reward_EN.amax(-1, keepdim=True))).sum(-1)
    right_EN = problem.reward_EN > RIGHT
    right_logp_EN = problem.anchor_logp_EN.masked_fill(~right_EN, -math.inf).log_softmax(-1)
    fitted_logp_EN, fitted = _tilted(problem, logp_EN)
    known = {
        "π*": total_variation(logp_EN, problem.optimum_logp_EN),
        "the anchor π'": total_variation(logp_EN, problem.anchor_logp_EN),
        "the best responses alone": off_best_E,
        f"π' e^{{R/b}}, b = {fitted:.3g}": total_variation(logp_EN, fitted_logp_EN),
        "the teacher": total_variation(logp_EN, setting.teacher_logp_EN),
        "the given answers": total_variation(logp_EN, setting.given_logp_EN),
        "π' among R > ½": total_variation(logp_EN, right_logp_EN),
        "R > ½ alone, by the start": (logp_EN.exp() * ~right_EN).sum(-1),
    }
    finite = bool(torch.isfinite(logp_EN).all()) and bool(torch.isfinite(speed_E).all())
    still = finite and speed_E.max().item() < 1e-6
    near = [name for name, tv_E in known.items() if finite and tv_E.max().item() < NEAR]
    certain_E = logp_EN.exp().amax(-1)
    if near:
        where = near[0]
    elif not finite:
        where = "diverges"
    elif bool((certain_E > 1 - 1e-4).all()):
        where = "one response alone, by the start"
    else:
        where = "another policy" if still else "not settled"
    return {
        "ends_at": where,
        "tv_from_optimum": known["π*"].max().item(),
        "tv_from_end": known[where].max().item() if where in known else math.nan,
        "off_best": off_best_E.max().item(),
        "spread": spread(logp_EN, STARTS) if finite else math.nan,
        "still_moves": speed_E.max().item(),
    }


def _tilted(problem: Problem, logp_EN: Tensor) -> tuple[Tensor, float]:
    """The policy π' e^{R/b} with the b that fits all experiments best (least squares on log π/π', weighted by π), and
    that b; infinite where R does not matter."""
    p_EN = logp_EN.exp()
    ratio_EN, reward_EN = (
        x_EN - (p_EN * x_EN).sum(-1, keepdim=True) for x_EN in (logp_EN - problem.anchor_logp_EN, problem.reward_EN)
    )
    slope = ((p_EN * ratio_EN * reward_EN).sum() / (p_EN * reward_EN.square()).sum().clamp(min=1e-300)).item()
    tilted_EN = (problem.anchor_logp_EN + slope * problem.reward_EN).log_softmax(-1)
    return tilted_EN, 1 / slope if slope else math.inf


def versions(cls: type[Algorithm], beta: float) -> Iterator[Algorithm]:
    """The algorithm at the problem's β and anchored on the reference; and, where its β is zero by default, so too."""
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    anchor = {"anchor": "reference"} if "anchor" in names else {}
    betas = [name for name in names if name == "beta" or name.endswith("_beta")]
    yield cls(**anchor, **dict.fromkeys(betas, beta))
    if betas and getattr(cls(), betas[0]) == 0:
        yield cls(**anchor)


def where_it_ends(label: str, cls: type[Algorithm], size: Size, seed: int) -> pd.DataFrame:
    """A row a version of the algorithm and sampling policy."""
    rng = np.random.default_rng([seed, 8])
    setting = random_setting(rng, 1)
    start_EN = starting_logits(rng, setting.problem, STARTS)
    # A start that is certain of one response takes long and says no more than the random one.
    start_EN = (start_EN - start_EN.mean(-1, keepdim=True)).clamp(-2.0, 2.0)
    setting = setting.repeat(STARTS)
    rows = []
    for algorithm in versions(cls, BETA):
        needs = algorithm.needs
        sampling = {"policy": ["π_θ"] + ["uniform"] * needs.off_policy, "base": ["π'"]}.get(needs.data, ["given"])
        for source in sampling:

            def field(
                logits_EN: Tensor, setting: Setting, algorithm: Algorithm = algorithm, source: str = source
            ) -> Tensor:
                own_EN = logits_EN.log_softmax(-1)
                fixed = {"uniform": torch.full_like(own_EN, -math.log(N)), "π'": setting.problem.anchor_logp_EN}
                sampled_EN = fixed.get(source, own_EN)
                gradient_EN = expected_gradient(algorithm, groups_of(algorithm, setting, logits_EN, sampled_EN), own_EN)
                return -gradient_EN / sampled_EN.exp().clamp(min=1e-300)

            logp_EN, speed_E = settle(field, setting, start_EN, size.settling)
            changed = {
                f.name: getattr(algorithm, f.name)
                for f in dataclasses.fields(algorithm)  # type: ignore[arg-type]
                if getattr(algorithm, f.name) != f.default
            }
            about = {"algorithm": label, "name": cls.name, "family": cls.family}
            text = ", ".join(f"{name} {value}" for name, value in changed.items())
            rows.append({**about, "settings": text, "sampled_from": source, **described(setting, logp_EN, speed_E)})
    return pd.DataFrame(rows)


NOTE = (
    f"Responses of one token, {N} of them, in groups of {K}; rewards from 0 to 1, binary and graded; β = {BETA} "
    "wherever a hyper-parameter is a β, the reference as anchor where there is a choice, all else by default. What is"
    " followed to its end is the exact expected update (a batch is one group, π_old = π_θ, the critic exact, "
    f"reference samples without noise), from {STARTS} starts a problem. On-policy (π_θ), and under the uniform policy "
    "of what says that it is right whatever policy sampled; given pairs are labelled by Bradley-Terry of the rewards."
    f" `ends at` is named where every end lies within a TV of {NEAR:g}; TV from π* = π' e^(R/β)/Z, and between the "
    "ends of two starts, are the largest. It says where the update leads, not how fast, nor what sampling noise, "
    "several updates a batch or a finite model make of it."
)


def every_algorithm(size: Size = FULL, seed: int = 0) -> pd.DataFrame:
    """The rows of all that are registered, in the order of the registry."""
    return pd.concat([where_it_ends(label, cls, size, seed) for label, cls in ALGORITHMS.items()], ignore_index=True)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that are read, families in the order of the contract."""
    order = list(get_args(Family))
    table = table.sort_values("family", key=lambda family: family.map(order.index), kind="stable")
    return pd.DataFrame(
        {
            "algorithm": table["name"],
            "family": table["family"],
            "settings": table["settings"],
            "sampled from": table["sampled_from"],
            "ends at": table["ends_at"],
            "TV from π*": [f"{x:.2g}" for x in table["tv_from_optimum"]],
            "between starts": [f"{x:.2g}" for x in table["spread"]],
        }
    )
