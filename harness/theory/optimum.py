"""Claim 1: GVPO has the unique optimum π* ∝ π' e^{R/β} (seed eq. 4, 12), and where the other algorithms end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from algorithms import ALGORITHMS, Algorithm
from harness.theory.expectation import (
    Groups,
    expected_gradient,
    expected_loss,
    iterate,
    minimise,
    ordered_groups,
    sampled_groups,
    solve_fixed_point,
)
from harness.theory.findings import Record, Size
from harness.theory.problem import (
    Problem,
    entropy,
    kl,
    mixed_problems,
    random_problem,
    starting_logits,
    total_variation,
)
from harness.theory.variants import CentredKimi, Naive

CLAIM = "1 unique optimum"
BETAS = (0.05, 0.2, 1.0)
EXACT = 1e-6
"""What the article's equalities are held to where the expectation is exact."""


def spread(logp_EN: Tensor, starts: int) -> float:
    """Largest total variation between the ends of two starting points of one problem."""
    ends_PSN = logp_EN.reshape(-1, starts, logp_EN.shape[-1])
    return total_variation(ends_PSN[:, :, None], ends_PSN[:, None, :]).max().item()


def gvpo(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """GVPO's exact expected loss under π_s = π', minimised from every start, for n from 4 to 64."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 1])
    for n in (n for n in (4, 8, 16, 32, 64) if n <= size.largest_n):
        for k in (k for k in (2, 3, 4, 6) if n**k <= size.largest_sum):
            problems, starts = (size.problems, size.starts) if n**k < 1000 else (1, min(size.starts, 4))
            cells = [mixed_problems(rng, count=problems, n=n, beta=beta) for beta in BETAS]
            tv, divergence = 0.0, 0.0
            for problem in cells:
                many = problem.repeat(starts)
                end = minimise(
                    algorithms["gvpo"](beta=problem.beta, anchor="reference"),
                    sampled_groups(many, many.anchor_logp_EN, ordered_groups(n, k)),
                    starting_logits(rng, problem, starts),
                )
                optimum = many.optimum_logp_EN
                tv = max(tv, _nan_is_infinite(total_variation(end.logp_EN, optimum)))
                both = torch.maximum(kl(optimum, end.logp_EN), kl(end.logp_EN, optimum))
                divergence = max(divergence, _nan_is_infinite(both))
            setting = f"GVPO, n={n}, k={k}, π_s=π', {9 * problems} problems × {starts} starts"
            record.near("seed eq. 4, 12", setting, "largest TV from π*", tv, tolerance=EXACT)
            record.near("seed eq. 4, 12", setting, "largest KL from π*, either way", divergence, tolerance=EXACT)
    return record


def _nan_is_infinite(x: Tensor) -> float:
    return torch.nan_to_num(x, nan=float("inf")).max().item()


def dpo(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """What DPO's pairwise objective does, on groups of two whose rewards say which one won."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 2])
    n, starts = 6, size.starts
    problem = random_problem(rng, count=size.problems, n=n, rewards="normal", beta=0.5)
    many, start = problem.repeat(starts), starting_logits(rng, problem, starts)
    algorithm: Algorithm = algorithms["dpo"](beta=problem.beta, anchor="reference")

    pair_GK = torch.tensor([(i, j) for i in range(n) for j in range(n) if i != j])
    won_GK = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(pair_GK.shape)

    def pairs(weight_EG: Tensor) -> Groups:
        anchor_logp_EGK = many.anchor_logp_EN[:, pair_GK]
        known_EGK = {
            "reward": won_GK.expand(anchor_logp_EGK.shape),
            "anchor_logp": anchor_logp_EGK,
            "behaviour_logp": anchor_logp_EGK,
        }
        return Groups(pair_GK, weight_EG, known_EGK)

    def bradley_terry(reward_EN: Tensor) -> Tensor:
        """Probability that the pair is drawn from π' and its first response wins: π'(i) π'(j) σ(R_i − R_j), [E, G]."""
        drawn_EG = (many.anchor_logp_EN[:, pair_GK]).sum(-1).exp()
        return drawn_EG * (reward_EN[:, pair_GK[:, 0]] - reward_EN[:, pair_GK[:, 1]]).sigmoid()

    soft_EG = bradley_terry(many.reward_EN)
    end = minimise(algorithm, pairs(soft_EG), start, largest_move=4.0)
    record.near(
        "DPO: Bradley-Terry labels, full support",
        f"DPO, n={n}, pairs weighted by σ(R_i − R_j), {size.problems} problems × {starts} starts",
        "largest TV from π*",
        total_variation(end.logp_EN, many.optimum_logp_EN).max().item(),
        tolerance=EXACT,
    )

    same_half_G = (pair_GK[:, 0] < n // 2) == (pair_GK[:, 1] < n // 2)
    apart = minimise(algorithm, pairs(soft_EG * same_half_G), start, largest_move=4.0)
    setting = f"DPO, n={n}, Bradley-Terry labels, pairs within {{1,2,3}} and within {{4,5,6}} only"
    by_start = apart.loss_E.reshape(-1, starts)
    record.near(
        "seed, DPO section: several minima",
        setting,
        "largest difference of the minimal loss between starts",
        (by_start.amax(1) - by_start.amin(1)).max().item(),
        tolerance=1e-10,
    )
    record.above(
        "seed, DPO section: several minima",
        setting,
        "largest TV between the minimisers of two starts",
        spread(apart.logp_EN, starts),
        0.01,
    )
    halves = torch.stack([apart.logp_EN[:, : n // 2], apart.logp_EN[:, n // 2 :]]).log_softmax(-1)
    right = torch.stack([many.optimum_logp_EN[:, : n // 2], many.optimum_logp_EN[:, n // 2 :]]).log_softmax(-1)
    record.near(
        "derived here",
        setting,
        "largest TV from π* within a half",
        total_variation(halves, right).max().item(),
        tolerance=EXACT,
    )

    hard_EG = soft_EG.new_zeros(soft_EG.shape) + (
        many.reward_EN[:, pair_GK[:, 0]] > many.reward_EN[:, pair_GK[:, 1]]
    ) / len(pair_GK)
    hard = pairs(hard_EG)
    logits_EN, times, history = many.anchor_logp_EN.clone(), [size.steps // 6 * 2**i for i in range(5)], []
    for step in range(1, times[-1] + 1):
        logits_EN = logits_EN - 20.0 * expected_gradient(algorithm, hard, logits_EN)
        if step in times:
            logp_EN = logits_EN.log_softmax(-1)
            ratio_EN = logp_EN - many.anchor_logp_EN
            history.append(
                {
                    "step": step,
                    "margin": (problem.beta * (ratio_EN.amax(-1) - ratio_EN.amin(-1))).mean().item(),
                    "loss": expected_loss(algorithm, hard, logits_EN).mean().item(),
                    "tv": total_variation(logp_EN, many.optimum_logp_EN).mean().item(),
                    "entropy": entropy(logp_EN).mean().item(),
                }
            )
    record.frames["dpo"] = pd.DataFrame(history)
    setting = f"DPO, n={n}, hard labels, gradient descent from π'"
    first, *_, before, last = history
    for name, at in (("first", first), ("last", last)):
        record.report(
            "DPO: hard labels",
            setting,
            f"largest margin β(ℓ_w − ℓ_l), nats, mean over problems ({name}: step {at['step']:.0f})",
            at["margin"],
        )
    record.above(
        "DPO: hard labels",
        setting,
        f"growth of that margin from step {before['step']:.0f} to {last['step']:.0f}, nats",
        last["margin"] - before["margin"],
        0.5,
    )
    record.near(
        "DPO: hard labels",
        setting,
        "loss / loss a factor 2 in steps earlier",
        last["loss"] / before["loss"],
        0.5,
        tolerance=0.1,
    )
    record.report("DPO: hard labels", setting, f"mean TV from π* at step {last['step']:.0f}", last["tv"])
    return record


def partition(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """The naive squared error and Kimi k1.5 under a fixed π_s = π': what leaving out, or guessing, β log Z does."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 3])
    n, k, starts, frames = 6, 3, size.starts, []
    index_GK = ordered_groups(n, k)
    worst: dict[str, list[float]] = {}

    def note(quantity: str, value: float) -> None:
        worst.setdefault(quantity, []).append(value)

    for beta in BETAS:
        problem = mixed_problems(rng, count=size.problems, n=n, beta=beta)
        many, start = problem.repeat(starts), starting_logits(rng, problem, starts)
        # Far from the optimum these two are flat or not convex: a mild start reaches the same minimum sooner.
        start = (start + 2 * many.anchor_logp_EN) / 3
        optimum_EN, anchor_EN = many.optimum_logp_EN, many.anchor_logp_EN
        log_z_E1 = many.log_partition_E1

        ends = {}
        for name, algorithm in {
            "naive": Naive(beta=beta),
            "Kimi": algorithms["kimi"](beta=beta, anchor="reference"),
            "Kimi, ℓ centred": CentredKimi(beta=beta, anchor="reference"),
        }.items():
            end = minimise(algorithm, sampled_groups(many, anchor_EN, index_GK), start)
            ends[name] = end.logp_EN
            note(f"{name}: gradient", end.gradient_E.max().item())
            note(f"{name}: spread", spread(end.logp_EN, starts))
            note(f"{name}: curvature", end.curvature_E.min().item())
            tv_E = total_variation(end.logp_EN, optimum_EN)
            note(f"{name}: tv", tv_E.max().item())
            note(f"{name}: mean tv", tv_E.mean().item())
            frames.append(pd.DataFrame({"algorithm": name, "beta": beta, "tv": tv_E[::starts].tolist()}))

        # The naive loss on R − β log Z, which needs the partition function, is what the article calls infeasible.
        known = Problem(reward_EN=many.reward_EN - beta * log_z_E1, anchor_logp_EN=anchor_EN, beta=beta)
        end = minimise(Naive(beta=beta), sampled_groups(known, anchor_EN, index_GK), start)
        note("known Z: tv", total_variation(end.logp_EN, optimum_EN).max().item())

        scaled_EN = beta * (ends["naive"] - anchor_EN)
        implicit_EN = scaled_EN + beta * log_z_E1
        excess_EN = implicit_EN - many.reward_EN
        note("R_θ − R − βZ", (excess_EN - beta * log_z_E1.exp()).abs().amax(-1).min().item())
        note("R_θ − R − β log Z", (excess_EN - beta * log_z_E1).abs().amax(-1).max().item())
        note("R_θ − R varies by", (excess_EN.amax(-1) - excess_EN.amin(-1)).max().item())

        def shifted(target_EN: Tensor, scaled_EN: Tensor, anchor_EN: Tensor = anchor_EN, beta: float = beta) -> float:
            """Largest violation of β ℓ = R − c π_θ/π_s with c = E_π_s[R − βℓ], here with π_s = π'. Weighted by π_s."""
            sampled_EN = anchor_EN.exp()
            gap_EN = target_EN - scaled_EN
            c_E1 = (sampled_EN * gap_EN).sum(-1, keepdim=True)
            return (sampled_EN * gap_EN - c_E1 * (anchor_EN + scaled_EN / beta).exp()).abs().max().item()

        note("naive: derived", shifted(many.reward_EN, scaled_EN))
        centred_EN = many.reward_EN - (anchor_EN.exp() * many.reward_EN).sum(-1, keepdim=True)
        note("Kimi: derived", shifted((k - 1) / k * centred_EN, beta * (ends["Kimi"] - anchor_EN)))

        mean_E = (anchor_EN.exp() * many.reward_EN).sum(-1)
        gap_E = beta * log_z_E1[:, 0] - mean_E
        note("β log Z − R̄ − β KL(π'‖π*)", (gap_E - beta * kl(anchor_EN, optimum_EN)).abs().max().item())
        note(f"gap at β={beta}", gap_E.mean().item())
        frames.append(pd.DataFrame({"algorithm": "gap", "beta": beta, "tv": gap_E[::starts].tolist()}))

    record.frames["partition"] = pd.concat(frames)
    setting = f"n={n}, π_s=π', {9 * size.problems} problems × {starts} starts"
    article = "seed, DPO section: optimum R + βZ"
    record.near(
        article,
        f"naive, {setting}",
        "smallest over problems of max |R_θ − (R + βZ)|",
        min(worst["R_θ − R − βZ"]),
        tolerance=EXACT,
    )
    record.near(
        "the same, read as R + β log Z",
        f"naive, {setting}",
        "largest |R_θ − (R + β log Z)|",
        max(worst["R_θ − R − β log Z"]),
        tolerance=EXACT,
    )
    record.near(
        "the same, read as R + any constant",
        f"naive, {setting}",
        "largest range of R_θ − R over responses",
        max(worst["R_θ − R varies by"]),
        tolerance=EXACT,
    )
    record.near(
        "derived here: βℓ = R − c π_θ/π_s, c = E_π_s[R − βℓ]",
        f"naive, {setting}",
        "largest violation, weighted by π_s",
        max(worst["naive: derived"]),
        tolerance=1e-9,
    )
    record.report("seed eq. 4", f"naive, {setting}", "mean TV from π*", float(np.mean(worst["naive: mean tv"])))
    record.report("seed eq. 4", f"naive, {setting}", "largest TV from π*", max(worst["naive: tv"]))
    record.near(
        "seed, DPO section: needs Z",
        f"naive with R − β log Z for R, {setting}",
        "largest TV from π*",
        max(worst["known Z: tv"]),
        tolerance=EXACT,
    )
    record.near(
        "seed, Kimi section: β log Z ≈ R̄",
        f"Kimi, {setting}",
        "mean of β log Z − E_π'[R], β=1, reward units",
        float(np.mean(worst["gap at β=1.0"])),
        tolerance=EXACT,
    )
    for beta in BETAS[:-1]:
        record.report(
            "the same",
            f"Kimi, {setting}",
            f"mean of β log Z − E_π'[R], β={beta}",
            float(np.mean(worst[f"gap at β={beta}"])),
        )
    record.near(
        "derived here",
        f"{setting}",
        "largest |β log Z − E_π'[R] − β KL(π'‖π*)|",
        max(worst["β log Z − R̄ − β KL(π'‖π*)"]),
        tolerance=1e-9,
    )
    record.near(
        "seed, Kimi section: same optimum",
        f"Kimi, k={k}, {setting}",
        "mean TV from π*",
        float(np.mean(worst["Kimi: mean tv"])),
        tolerance=EXACT,
    )
    record.near(
        "derived here: βℓ = R' − c π_θ/π_s, R' = (k−1)/k (R − E_π_s R)",
        f"Kimi, k={k}, {setting}",
        "largest violation, weighted by π_s",
        max(worst["Kimi: derived"]),
        tolerance=1e-9,
    )
    record.near(
        "seed eq. 9 against Kimi: centring ℓ",
        f"Kimi with ℓ centred, k={k}, {setting}",
        "largest TV from π*",
        max(worst["Kimi, ℓ centred: tv"]),
        tolerance=EXACT,
    )
    for name in ("naive", "Kimi"):
        record.report(
            "convergence",
            f"{name}, {setting}",
            "largest TV between the ends of two starts",
            max(worst[f"{name}: spread"]),
        )
        record.report(
            "convergence",
            f"{name}, {setting}",
            "smallest eigenvalue of the Hessian there",
            min(worst[f"{name}: curvature"]),
        )
        record.near(
            "convergence",
            f"{name}, {setting}",
            "largest gradient at the end",
            max(worst[f"{name}: gradient"]),
            tolerance=1e-10,
        )
    _counterexample(record)
    return record


def _counterexample(record: Record) -> None:
    """The smallest case against R_θ = R + βZ: two responses, R = (0, 1), β = 1, uniform π' = π_s."""
    problem = Problem(
        reward_EN=torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        anchor_logp_EN=torch.full((1, 2), 0.5, dtype=torch.float64).log(),
        beta=1.0,
    )
    groups = sampled_groups(problem, problem.anchor_logp_EN, ordered_groups(2, 1))
    end = minimise(Naive(beta=1.0), groups, problem.anchor_logp_EN)
    log_z = problem.log_partition_E1.item()
    excess = (end.logp_EN - problem.anchor_logp_EN + log_z - problem.reward_EN)[0].tolist()
    setting = "naive, n=2, R=(0,1), β=1, π'=π_s uniform"
    article = "seed, DPO section: optimum R + βZ"
    z = float(np.exp(log_z))
    record.report(article, setting, "π_θ(2) at the minimum (π*(2) = 0.731059)", end.logp_EN[0, 1].exp().item())
    for y, value in enumerate(excess, start=1):
        record.near(
            article, setting, f"R_θ({y}) − R({y}), against βZ (β log Z = {log_z:.4f})", value, z, tolerance=EXACT
        )


def others(
    size: Size,
    seed: int,
    algorithms: Mapping[str, type] = ALGORITHMS,
    cases: Sequence[tuple[int, int]] = ((4, 2), (4, 4), (8, 3)),
) -> Record:
    """Every algorithm on-policy (π_s = π_θ, one exact expected update an iteration): where it ends."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 4])
    starts = min(size.starts, 4)
    frames: list[pd.DataFrame] = []
    derived: dict[str, list[float]] = {}
    count = 1
    for (n, k), beta in product(cases, BETAS):
        problem = mixed_problems(rng, count=count, n=n, beta=beta)
        many, start = problem.repeat(starts), starting_logits(rng, problem, starts)
        index_GK = ordered_groups(n, k)
        optimum_EN = many.optimum_logp_EN
        best_EN = many.reward_EN >= many.reward_EN.amax(-1, keepdim=True)
        # The step that would reach the fixed point at once, were its rate of approach the same everywhere, is 1 / (the
        # derivative of the coefficient by log π_θ); half of it is stable.
        square, linear = 0.5 / beta**2, 0.7 / beta
        for name, algorithm, step_size, decay in (
            ("GVPO", algorithms["gvpo"](beta=beta, anchor="reference"), square, 1.0),
            ("PG + KL", algorithms["pg"](beta=beta, anchor="reference"), linear, 1.0),
            ("PPO + KL, not whitened", algorithms["ppo"](beta=beta, whiten=False), linear, 1.0),
            ("PPO + KL", algorithms["ppo"](beta=beta), 1.0, 0.96),
            ("PPO", algorithms["ppo"](), 1.0, 1.0),
            ("GRPO + KL", algorithms["grpo"](beta=beta), 0.5, 1.0),
            ("GRPO", algorithms["grpo"](), 1.0, 1.0),
            ("Kimi", algorithms["kimi"](beta=beta, anchor="reference"), square, 1.0),
            ("Kimi, ℓ centred", CentredKimi(beta=beta, anchor="reference"), square, 1.0),
            ("naive", Naive(beta=beta), square, 1.0),
        ):
            end = iterate(
                algorithm,
                many,
                start,
                index_GK,
                step_size=step_size,
                decay=decay,
                steps=100 if name == "GRPO + KL" else 300,
            )
            if name == "GRPO + KL":
                end = solve_fixed_point(algorithm, many, end.logp_EN, index_GK)
            logp_EN = end.logp_EN
            frames.append(
                pd.DataFrame(
                    {
                        "algorithm": name,
                        "n": n,
                        "k": k,
                        "beta": beta,
                        "tv": total_variation(logp_EN, optimum_EN).tolist(),
                        "kl": kl(optimum_EN, logp_EN).tolist(),
                        "off_best": (logp_EN.exp() * ~best_EN).sum(-1).tolist(),
                        "gradient": end.gradient_E.tolist(),
                    }
                )
            )
            if name == "Kimi":
                expected_EN = (many.anchor_logp_EN + (k - 1) / k * many.reward_EN / beta).log_softmax(-1)
                derived.setdefault(name, []).append(total_variation(logp_EN, expected_EN).max().item())
            if name == "GRPO + KL":
                derived.setdefault(name, []).append(_grpo_violation(many, logp_EN, index_GK))

    table = pd.concat(frames)
    record.frames["optimum"] = table
    reaches = {
        "GVPO": ("seed eq. 4, 12", EXACT),
        "PG + KL": ("seed eq. 3, 4, 14", EXACT),
        "PPO + KL, not whitened": ("seed eq. 3, 4", EXACT),
        "PPO + KL": ("seed eq. 3, 4; whitened, so with a decaying step", 1e-3),
        "Kimi, ℓ centred": ("seed eq. 9 against Kimi: centring ℓ", EXACT),
        "naive": ("derived here: on-policy, no shift of R matters", EXACT),
    }
    for key, part in table.groupby(["algorithm", "k", "n"], sort=False):
        name, size_of = str(key[0]), f"n={key[2]}, k={key[1]}"
        setting = f"{name}, {size_of}, on-policy, {len(part) // starts} problems × {starts} starts"
        if name in reaches:
            equation, tolerance = reaches[name]
            record.near(equation, setting, "largest TV from π*", part.tv.max(), tolerance=tolerance)
        else:
            record.report("seed eq. 4", setting, "mean TV from π*", part.tv.mean())
        record.report("seed eq. 4", setting, "largest KL(π*‖π_θ), nats", part.kl.max())
        if name in ("PPO", "GRPO"):
            record.near(
                "derived here: no KL, so the best response alone",
                setting,
                "largest mass off the best-rewarded responses",
                part.off_best.max(),
                tolerance=EXACT,
            )
    setting = f"on-policy, {9 * count * len(cases)} problems × {starts} starts"
    record.near(
        "derived here: π ∝ π' e^{R(k−1)/(kβ)}, since R̄ contains R_i",
        f"Kimi, {setting}",
        "largest TV from it",
        max(derived["Kimi"]),
        tolerance=EXACT,
    )
    record.near(
        "derived here: π = β π'/(β − E[Â|y]), the forward KL(π'‖π)",
        f"GRPO + KL, {setting}",
        "largest violation",
        max(derived["GRPO + KL"]),
        tolerance=EXACT,
    )
    return record


def _grpo_violation(problem: Problem, logp_EN: Tensor, index_GK: Tensor) -> float:
    """Largest |π (β − A) − β π'|, with A(y) the expected standardised advantage of y among k−1 others from π.

    On-policy, the gradient of k3 = π'/π − log π'/π − 1 through its samples is (1 − π'/π) ∇log π, so the update stands
    still where π A = β (π − π').
    """
    reward_EGK = problem.reward_EN[:, index_GK]
    standard_EGK = (reward_EGK - reward_EGK.mean(-1, keepdim=True)) / (reward_EGK.std(-1, keepdim=True) + 1e-6)
    weight_EG = logp_EN[:, index_GK].sum(-1).exp()
    times_advantage_EN = torch.zeros_like(logp_EN).index_add(1, index_GK[:, 0], weight_EG * standard_EGK[..., 0])
    residual_EN = times_advantage_EN - problem.beta * (logp_EN.exp() - problem.anchor_logp_EN.exp())
    return residual_EN.abs().max().item()
