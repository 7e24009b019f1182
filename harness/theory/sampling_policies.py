"""Claim 2: the optimum does not depend on π_s, as long as supp(π') ⊆ supp(π_s); and what that is worth in samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from algorithms import ALGORITHMS, Algorithm
from harness.theory.estimator import anywhere, variance
from harness.theory.expectation import (
    SamplingPolicy,
    expected_loss,
    first_update,
    gradient_noise,
    iterate,
    minimise,
    on_policy,
    ordered_groups,
    sampled_groups,
    train,
)
from harness.theory.findings import Record, Size
from harness.theory.optimum import spread
from harness.theory.policy_gradient_tie import objective
from harness.theory.problem import Problem, kl, mixed_problems, random_problem, starting_logits, total_variation

CLAIM = "2 any sampling policy"


def half_and_half(p_logp_EN: Tensor, q_logp_EN: Tensor) -> Tensor:
    """log (½p + ½q)."""
    return torch.logaddexp(p_logp_EN, q_logp_EN) - np.log(2)


def sampling_policies(
    rng: np.random.Generator, problem: Problem
) -> tuple[dict[str, Tensor], dict[str, SamplingPolicy]]:
    """The policies of the claim: those that stay as they are, [E, N], and those that move with π_θ."""
    anchor_EN = problem.anchor_logp_EN
    stale_EN = (anchor_EN + torch.tensor(rng.normal(size=anchor_EN.shape))).log_softmax(-1)
    one_EN = torch.zeros_like(anchor_EN)
    one_EN[:, 0] = 1.0
    fixed = {
        "π'": anchor_EN,
        "uniform": torch.full_like(anchor_EN, -np.log(problem.n)),
        "stale": stale_EN,
        "half π', half stale": half_and_half(anchor_EN, stale_EN),
        "all but 0.1% on one response": (0.999 * one_EN + 0.001 / problem.n).log(),
    }
    moving: dict[str, SamplingPolicy] = {
        "π_θ": on_policy,
        "half π_θ, half stale": lambda logp_EN: half_and_half(logp_EN, stale_EN),
    }
    return fixed, moving


def exact(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """GVPO with exact expectations under every π_s, the negative control, and groups of two halves."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 21])
    n, beta, starts, ends = 6, 0.3, size.starts, []
    problem = mixed_problems(rng, count=max(1, size.problems // 2), n=n, beta=beta)
    many, start_EN = problem.repeat(starts), starting_logits(rng, problem, starts)
    optimum_EN = many.optimum_logp_EN
    gvpo: Algorithm = algorithms["gvpo"](beta=beta, anchor="reference")
    fixed, moving = sampling_policies(rng, problem)
    for k in (2, 3):
        index_GK = ordered_groups(n, k)
        setting = f"GVPO, n={n}, k={k}, β={beta}, {len(problem.reward_EN)} problems × {starts} starts"
        for name, sampling_logp_EN in fixed.items():
            groups = sampled_groups(many, sampling_logp_EN.repeat_interleave(starts, 0), index_GK)
            end_EN = minimise(gvpo, groups, start_EN).logp_EN
            tv = total_variation(end_EN, optimum_EN).max().item()
            record.near("theorem: any π_s", f"π_s = {name}, {setting}", "largest TV from π*", tv, tolerance=1e-6)
            ends.append({"π_s": name, "k": k, "tv": tv})
        moving_many = sampling_policies(np.random.default_rng([seed, 22]), many)[1]
        for name in moving:
            point = iterate(
                gvpo, many, start_EN, index_GK, sampling=moving_many[name], step_size=0.5 / beta**2, steps=500
            )
            tv = total_variation(point.logp_EN, optimum_EN).max().item()
            record.near(
                "theorem: any π_s",
                f"π_s = {name}, refreshed at every update, {setting}",
                "largest TV from π*",
                tv,
                tolerance=1e-6,
            )
            ends.append({"π_s": name, "k": k, "tv": tv})
    tv = _missing_support(record, many, start_EN, starts, gvpo)
    ends.append({"π_s": "uniform, one response missing", "k": 2, "tv": tv})
    record.frames["sampling"] = pd.DataFrame(ends)
    _two_halves(record, rng, size, algorithms)
    return record


def _missing_support(record: Record, problem: Problem, start_EN: Tensor, starts: int, gvpo: Algorithm) -> float:
    """Negative control: π_s is uniform on all responses but the last."""
    n = problem.n
    covered_EN = torch.full_like(start_EN, -np.log(n - 1))  # never read at the last response
    groups = sampled_groups(problem, covered_EN, ordered_groups(n - 1, 2))
    end = minimise(gvpo, groups, start_EN)
    setting = f"GVPO, π_s never draws response {n}, n={n}, k=2, {len(start_EN) // starts} problems × {starts} starts"
    equation = "negative control: supp(π') ⊄ supp(π_s), so GVPO must fail"
    tv_E = total_variation(end.logp_EN, problem.optimum_logp_EN)
    record.above(equation, setting, "largest TV from π*", tv_E.max().item(), 0.01)
    record.above(
        equation, setting, "largest TV between the minimisers of two starts", spread(end.logp_EN, starts), 0.01
    )
    record.near(equation, setting, "largest minimal loss: it does not show", end.loss_E.max().item(), tolerance=1e-12)
    seen = (end.logp_EN[:, :-1].log_softmax(-1), problem.optimum_logp_EN[:, :-1].log_softmax(-1))
    record.near(
        "derived here",
        setting,
        "largest TV from π* among the responses it draws",
        total_variation(*seen).max().item(),
        tolerance=1e-6,
    )
    return tv_E.max().item()


def _two_halves(record: Record, rng: np.random.Generator, size: Size, algorithms: Mapping[str, type]) -> None:
    """Groups filled half from p and half from q, against k independent draws from ½p + ½q.

    With X = R_θ − R the estimate is too large by (E_p X − E_q X)²/(4(k−1)): the halves are always represented equally.
    """
    n, beta = 6, 0.5
    gvpo = algorithms["gvpo"](beta=beta, anchor="reference")
    for k in (2, 4):
        problem, logits_EN, p_logp_EN = anywhere(rng, count=size.problems, n=n, beta=beta)
        q_logp_EN = torch.tensor(rng.normal(scale=2.0, size=logits_EN.shape)).log_softmax(-1)
        index_GK = ordered_groups(n, k)
        slots_EKN = torch.stack([p_logp_EN] * (k // 2) + [q_logp_EN] * (k // 2), 1)
        halves = sampled_groups(problem, slots_EKN, index_GK)
        mixture_EN = half_and_half(p_logp_EN, q_logp_EN)
        truth_E = variance(problem, logits_EN, mixture_EN)
        x_EN = beta * (logits_EN.log_softmax(-1) - problem.anchor_logp_EN) - problem.reward_EN
        apart_E = ((p_logp_EN.exp() - q_logp_EN.exp()) * x_EN).sum(-1)
        bias_E = expected_loss(gvpo, halves, logits_EN) - truth_E
        setting = f"n={n}, k={k}, {size.problems} problems"
        record.near(
            "seed eq. 16 under independent draws",
            f"GVPO, ½p+½q, {setting}",
            "largest |E[estimate] − Var|",
            (expected_loss(gvpo, sampled_groups(problem, mixture_EN, index_GK), logits_EN) - truth_E)
            .abs()
            .max()
            .item(),
            tolerance=1e-10,
        )
        record.report(
            "seed eq. 16 if half of the group is from p, half from q",
            f"GVPO, {setting}",
            "mean bias, in units of Var",
            (bias_E / truth_E).mean().item(),
        )
        record.near(
            "derived here: the bias is (E_p X − E_q X)²/(4(k−1)), X = R_θ − R",
            f"GVPO, {setting}",
            "largest violation",
            (bias_E - apart_E**2 / (4 * (k - 1))).abs().max().item(),
            tolerance=1e-10,
        )
        end = minimise(gvpo, halves, logits_EN)
        record.near(
            "theorem, halves of a group from p and q",
            f"GVPO, {setting}",
            "largest TV from π*: the minimiser survives",
            total_variation(end.logp_EN, problem.optimum_logp_EN).max().item(),
            tolerance=1e-6,
        )


def _always(logp_EN: Tensor) -> SamplingPolicy:
    return lambda _: logp_EN


def budget(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """64 responses and groups of 8, too many to enumerate: distance from π* after a fixed number of samples."""
    record = Record(CLAIM)
    rng, generator = np.random.default_rng([seed, 23]), torch.Generator().manual_seed(seed)
    n, k, groups, beta = 64, 8, 8, 0.5
    problem = random_problem(rng, count=size.seeds, n=n, rewards="normal", beta=beta)
    fixed, moving = sampling_policies(rng, problem)
    start = total_variation(problem.anchor_logp_EN, problem.optimum_logp_EN).mean().item()
    samples = f"{size.updates * groups * k} samples, {size.seeds} problems, seed {seed}"
    setting = f"n={n}, k={k}, β={beta}, {size.updates} updates of {groups} groups, Adam 0.1 → 0, from π'"
    record.report(
        "theorem: any π_s, on samples", setting, "mean TV of π' from π*, where it starts", start, samples=samples
    )
    policies: dict[str, SamplingPolicy] = dict(moving)
    for name, logp_EN in fixed.items():
        policies[name] = _always(logp_EN)
    for name, sampling in policies.items():
        logp_EN = train(
            algorithms["gvpo"](beta=beta, anchor="reference"),
            problem,
            problem.anchor_logp_EN,
            sampling=sampling,
            groups=groups,
            k=k,
            updates=size.updates,
            lr=0.1,
            generator=generator,
        )
        tv_E = total_variation(logp_EN, problem.optimum_logp_EN)
        record.report(
            "theorem: any π_s, on samples",
            f"GVPO, π_s = {name}, {setting}",
            "mean TV from π* at the end",
            tv_E.mean().item(),
            samples=samples,
        )
    return record


SHIFTS = (-1.0, 0.0, 1.0, 2.0, 3.0)
"""s of π_s ∝ π' e^{−sR/β}: −1 is π*, 0 is π', and beyond that π_s prefers what is worse."""
LEARNING_RATES = (0.03, 0.1, 0.3)


def efficiency(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """Importance weights against GVPO as a fixed π_s moves away from π*: effective sample size, noise of the gradient
    half way to π*, and distance from π* after a fixed number of samples."""
    record = Record(CLAIM)
    rng, generator = np.random.default_rng([seed, 24]), torch.Generator().manual_seed(seed + 1)
    n, k, groups, beta, rows = 8, 4, 8, 0.5, []
    problem = random_problem(rng, count=size.seeds, n=n, rewards="normal", beta=beta)
    count = len(problem.reward_EN)
    halfway_EN = problem.anchor_logp_EN + problem.reward_EN / (2 * beta)
    names: dict[str, Algorithm] = {
        "GVPO": algorithms["gvpo"](beta=beta, anchor="reference"),
        "PG + KL": algorithms["pg"](beta=beta, anchor="reference"),
        "PPO + KL": algorithms["ppo"](beta=beta),
        "GRPO + KL": algorithms["grpo"](beta=beta),
    }
    away = {s: (problem.anchor_logp_EN - s * problem.reward_EN / beta).log_softmax(-1) for s in SHIFTS}
    distance = {s: kl(problem.optimum_logp_EN, logp_EN).mean().item() for s, logp_EN in away.items()}
    few = replace(problem, reward_EN=problem.reward_EN[:2], anchor_logp_EN=problem.anchor_logp_EN[:2])
    for s, sampling_logp_EN in away.items():
        weight_EN = problem.optimum_logp_EN - sampling_logp_EN
        share = (1 / (sampling_logp_EN.exp() * (2 * weight_EN).exp()).sum(-1)).mean().item()
        rows.append(
            {"s": s, "KL(π*‖π_s)": distance[s], "algorithm": "importance weights", "what": "ess", "value": share}
        )
        for name, algorithm in names.items():
            # One group is no batch to whiten over.
            single = replace(algorithm, whiten=False) if name == "PPO + KL" else algorithm  # type: ignore[type-var]
            at = first_update(single, few, halfway_EN[:2], sampling_logp_EN[:2], ordered_groups(n, k))
            mean_EN, trace_E = gradient_noise(single, at, halfway_EN[:2])
            noise = (trace_E / mean_EN.square().sum(-1)).mean().item()
            rows.append({"s": s, "KL(π*‖π_s)": distance[s], "algorithm": name, "what": "noise", "value": noise})
            uphill_EN = torch.func.grad(lambda x_EN: objective(few, x_EN).sum())(halfway_EN[:2])
            cosine = torch.nn.functional.cosine_similarity(-mean_EN, uphill_EN).mean().item()
            rows.append({"s": s, "KL(π*‖π_s)": distance[s], "algorithm": name, "what": "cosine", "value": cosine})

    all_shifts = Problem(
        reward_EN=problem.reward_EN.repeat(len(SHIFTS), 1),
        anchor_logp_EN=problem.anchor_logp_EN.repeat(len(SHIFTS), 1),
        beta=beta,
    )
    sampling_EN = torch.cat([away[s] for s in SHIFTS])
    for name, algorithm in names.items():
        tried = []
        for lr in LEARNING_RATES:
            logp_EN = train(
                algorithm,
                all_shifts,
                all_shifts.anchor_logp_EN,
                sampling=lambda _: sampling_EN,
                groups=groups,
                k=k,
                updates=size.updates // 2,
                lr=lr,
                generator=generator,
            )
            tried.append(total_variation(logp_EN, all_shifts.optimum_logp_EN).reshape(len(SHIFTS), count))
        tv_LSP = torch.stack(tried)
        # Half of the problems choose the learning rate, the other half is what is reported.
        chosen_S = tv_LSP[:, :, : count // 2].mean(-1).argmin(0)
        for i, s in enumerate(SHIFTS):
            shared = {"s": s, "KL(π*‖π_s)": distance[s], "algorithm": name, "what": "distance"}
            rows.extend({**shared, "value": tv} for tv in tv_LSP[chosen_S[i], i, count // 2 :].tolist())
    table = pd.DataFrame(rows)
    record.frames["efficiency"] = table
    setting = f"n={n}, k={k}, β={beta}, π_s ∝ π' e^(−sR/β) and fixed"
    samples = f"{size.updates // 2 * groups * k} samples, lr of 3, {count - count // 2} problems, seed {seed}"
    units = {
        "ess": ("effective share of samples with weights π*/π_s", "exact"),
        "noise": ("tr Cov ∇ / |E ∇|² of one group, half way to π*", "exact"),
        "cosine": ("cosine of −E ∇ with ∇J, half way to π*", "exact"),
        "distance": ("mean TV from π* after training", samples),
    }
    means = table.groupby(["what", "algorithm", "s"], sort=False).value.mean().reset_index()
    for row in means[means.s.isin((-1.0, 1.0, 3.0))].itertuples():
        quantity, drawn = units[str(row.what)]
        record.report(
            "seed, PPO/GRPO section: sampling efficiency",
            f"{row.algorithm}, s={row.s:g}, {setting}",
            quantity,
            float(row.value),  # type: ignore[arg-type]
            samples=drawn,
        )
    return record
