"""Claim 3: 1/(k−1) makes the estimate unbiased and consistent, for every k(x) (seed eq. 16, 17)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from algorithms import ALGORITHMS, Algorithm
from harness.theory.expectation import (
    batch_loss,
    draw,
    expected_gradient,
    expected_loss,
    ordered_groups,
    pick,
    sampled_groups,
    separate_losses,
)
from harness.theory.findings import Record, Size
from harness.theory.problem import Problem, random_problem, weighted_covariance
from harness.theory.variants import CentredKimi

CLAIM = "3 estimator"
MONTE_CARLO_K = (2, 3, 4, 8, 16)


def variance(problem: Problem, logits_EN: Tensor, sampling_logp_EN: Tensor) -> Tensor:
    """Var_π_s(R_θ − R), the theoretical loss (seed eq. 12), [E]; differentiable with respect to the logits."""
    x_EN = problem.beta * (logits_EN.log_softmax(-1) - problem.anchor_logp_EN) - problem.reward_EN
    return weighted_covariance(sampling_logp_EN.exp(), x_EN, x_EN)


def anywhere(rng: np.random.Generator, *, count: int, n: int, beta: float) -> tuple[Problem, Tensor, Tensor]:
    """Problems, random logits and a random π_s, log-probs [E, N]: no two of π', π_θ and π_s agree."""
    problem = random_problem(rng, count=count, n=n, rewards="normal", beta=beta)
    logits_EN = torch.tensor(rng.normal(size=(count, n)))
    return problem, logits_EN, torch.tensor(rng.normal(size=(count, n))).log_softmax(-1)


def exact(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """The expectation of the estimate and of its gradient over all ordered groups, against the closed form."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 31])
    for n, k in ((8, 2), (8, 3), (8, 4), (4, 6), (4, 4), (2, 8)):
        if n**k > size.largest_sum:
            continue
        problem, logits_EN, sampling_logp_EN = anywhere(rng, count=size.problems, n=n, beta=0.5)
        groups = sampled_groups(problem, sampling_logp_EN, ordered_groups(n, k))
        logits_EN.requires_grad_()
        truth_E = variance(problem, logits_EN, sampling_logp_EN)
        (slope_EN,) = torch.autograd.grad(truth_E.sum(), logits_EN)
        truth_E, logits_EN = truth_E.detach(), logits_EN.detach()
        gvpo: Algorithm = algorithms["gvpo"](beta=0.5, anchor="reference")
        setting = f"n={n}, k={k}, all {n**k} ordered groups, random π_θ, π', π_s, {size.problems} problems"
        ratio_E = expected_loss(gvpo, groups, logits_EN) / truth_E
        record.near(
            "seed eq. 16, 17: 1/(k−1) unbiased",
            f"GVPO, {setting}",
            "E[estimate] / Var, the furthest from 1",
            _furthest(ratio_E, 1.0),
            1.0,
            tolerance=1e-10,
        )
        record.near(
            "seed eq. 16, 17: 1/(k−1) unbiased",
            f"GVPO, {setting}",
            "largest |E[∇estimate] − ∇Var|",
            (expected_gradient(gvpo, groups, logits_EN) - slope_EN).abs().max().item(),
            tolerance=1e-10,
        )
        biased_E = expected_loss(CentredKimi(beta=0.5, anchor="reference"), groups, logits_EN) / truth_E
        record.near(
            "1/k biased by exactly (k−1)/k",
            f"1/k(x) in place of 1/(k(x)−1), {setting}",
            "E[estimate] / Var, the furthest from (k−1)/k",
            _furthest(biased_E, (k - 1) / k),
            (k - 1) / k,
            tolerance=1e-10,
        )
    _mixed(record, rng, algorithms)
    return record


def _furthest(x_E: Tensor, target: float) -> float:
    return x_E[(x_E - target).abs().argmax()].item()


def _mixed(record: Record, rng: np.random.Generator, algorithms: Mapping[str, type]) -> None:
    """Two prompts of one batch with k(x) = 2 and 4, and with k(x) = 1 and 4: all joint draws of both groups."""
    n = 3
    problem, logits_EN, sampling_logp_EN = anywhere(rng, count=2, n=n, beta=0.5)
    truth_E = variance(problem, logits_EN, sampling_logp_EN)
    logp_EN = logits_EN.log_softmax(-1)
    for small, large in ((2, 4), (1, 4)):
        joint_BK = ordered_groups(n, small + large)
        index_BGK = torch.zeros(len(joint_BK), 2, large, dtype=torch.long)
        index_BGK[:, 0, :small], index_BGK[:, 1] = joint_BK[:, :small], joint_BK[:, small:]
        valid_GK = torch.arange(large) < torch.tensor([[small], [large]])
        prompt_G1 = torch.arange(2)[:, None]

        def at(
            x_EN: Tensor, index_BGK: Tensor = index_BGK, prompt_G1: Tensor = prompt_G1, valid_GK: Tensor = valid_GK
        ) -> Tensor:
            return torch.where(valid_GK, x_EN[prompt_G1, index_BGK], torch.zeros((), dtype=x_EN.dtype))

        def losses(algorithm: Algorithm, at: object = at, valid_GK: Tensor = valid_GK) -> Tensor:
            picked = [at(x) for x in (logp_EN, problem.reward_EN, problem.anchor_logp_EN, sampling_logp_EN)]  # type: ignore[operator]
            return torch.func.vmap(
                lambda logp_GK, reward_GK, anchor_GK, behaviour_GK: batch_loss(
                    algorithm,
                    logp_GK,
                    reward=reward_GK,
                    anchor_logp=anchor_GK,
                    behaviour_logp=behaviour_GK,
                    valid=valid_GK,
                )
            )(*picked)

        weight_B = at(sampling_logp_EN).sum((1, 2)).exp()
        gvpo = (weight_B * losses(algorithms["gvpo"](beta=0.5, anchor="reference"))).sum().item()
        setting = f"one batch with k(x) = {small} and {large}, n={n}, all {len(joint_BK)} joint draws"
        if small > 1:
            record.near(
                "seed eq. 16: k(x) varying",
                f"GVPO, {setting}",
                "E[estimate] / mean of the two variances",
                gvpo / truth_E.mean().item(),
                1.0,
                tolerance=1e-10,
            )
            biased = (weight_B * losses(CentredKimi(beta=0.5, anchor="reference"))).sum().item()
            shrunk_E = truth_E * torch.tensor([(small - 1) / small, (large - 1) / large], dtype=truth_E.dtype)
            record.near(
                "derived here",
                f"1/k(x), {setting}",
                "E[estimate] / mean of Var·(k(x)−1)/k(x)",
                biased / shrunk_E.mean().item(),
                1.0,
                tolerance=1e-10,
            )
        else:
            record.near(
                "seed eq. 16 with k(x) = 1, 0/0 in the article; our convention: it adds 0 and stays in |D|",
                f"GVPO, {setting}",
                "E[estimate] / half the variance of the prompt with k = 4",
                gvpo / (truth_E[1].item() / 2),
                1.0,
                tolerance=1e-10,
            )


def monte_carlo(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """A problem of 1,000 responses, where no sum over groups can be written out: z-scores, and the error's decline."""
    record = Record(CLAIM)
    rng, generator = np.random.default_rng([seed, 32]), torch.Generator().manual_seed(seed)
    gvpo: Algorithm = algorithms["gvpo"](beta=0.5, anchor="reference")
    one_over_k = CentredKimi(beta=0.5, anchor="reference")
    problem, logits_EN, sampling_logp_EN = anywhere(rng, count=1, n=1000, beta=0.5)
    truth = variance(problem, logits_EN, sampling_logp_EN).item()
    shape = []
    for k in MONTE_CARLO_K:
        loss_B = _losses(gvpo, problem, logits_EN, draw(sampling_logp_EN, size.draws, k, generator), sampling_logp_EN)
        error = loss_B.std().item() / len(loss_B) ** 0.5
        mean, samples = loss_B.mean().item(), f"{size.draws} groups, seed {seed}"
        setting = f"n=1000, k={k}, random π_θ, π', π_s"
        record.near(
            "seed eq. 16, 17: unbiased",
            f"GVPO, {setting}",
            "z-score of the mean estimate against Var",
            (mean - truth) / error,
            tolerance=4.5,
            samples=samples,
        )
        index_EGK = draw(sampling_logp_EN, size.draws, k, generator)
        loss_B = _losses(one_over_k, problem, logits_EN, index_EGK, sampling_logp_EN)
        error_k, biased = loss_B.std().item() / len(loss_B) ** 0.5, loss_B.mean().item()
        record.near(
            "1/k biased by exactly (k−1)/k",
            f"1/k, {setting}",
            "z-score against Var·(k−1)/k",
            (biased - truth * (k - 1) / k) / error_k,
            tolerance=4.5,
            samples=samples,
        )
        record.report(
            "1/k biased by exactly (k−1)/k",
            f"1/k, {setting}",
            "z-score against Var itself",
            (biased - truth) / error_k,
            samples=samples,
        )
        shape.append(
            {"k": k, "1/(k−1)": mean / truth, "1/k": biased / truth, "error": error / truth, "error_k": error_k / truth}
        )
    record.frames["bias"] = pd.DataFrame(shape)
    _mixed_monte_carlo(record, rng, generator, size, seed, gvpo)
    _error(record, generator, size, seed, gvpo, problem, logits_EN, sampling_logp_EN, truth)
    return record


def _losses(
    algorithm: Algorithm, problem: Problem, logits_EN: Tensor, index_EGK: Tensor, sampling_logp_EN: Tensor
) -> Tensor:
    """The loss of each of the drawn groups of one problem, [G]."""
    tables = {"reward": problem.reward_EN, "anchor_logp": problem.anchor_logp_EN, "behaviour_logp": sampling_logp_EN}
    known_GK = {name: pick(x_EN, index_EGK)[0][:, None] for name, x_EN in tables.items()}
    return separate_losses(algorithm, pick(logits_EN.log_softmax(-1), index_EGK)[0][:, None], **known_GK)


def _mixed_monte_carlo(
    record: Record, rng: np.random.Generator, generator: torch.Generator, size: Size, seed: int, gvpo: Algorithm
) -> None:
    """|D| = 50 prompts with k(x) from {2, 3, 4, 8, 16}: the estimate of one whole dataset, many times."""
    prompts, largest = 50, max(MONTE_CARLO_K)
    problem, logits_EN, sampling_logp_EN = anywhere(rng, count=prompts, n=100, beta=0.5)
    truth = variance(problem, logits_EN, sampling_logp_EN).mean().item()
    k_E = torch.tensor(rng.choice(MONTE_CARLO_K, size=prompts))
    repeats = max(20, size.draws // 100)
    index_EBK = draw(sampling_logp_EN, repeats, largest, generator)
    valid_BEK = (torch.arange(largest) < k_E[:, None])[None].expand(repeats, -1, -1)
    tables = {"reward": problem.reward_EN, "anchor_logp": problem.anchor_logp_EN, "behaviour_logp": sampling_logp_EN}
    known_BEK = {name: pick(x_EN, index_EBK).transpose(0, 1) for name, x_EN in tables.items()}
    logp_BEK = pick(logits_EN.log_softmax(-1), index_EBK).transpose(0, 1)
    loss_B = separate_losses(gvpo, logp_BEK, **known_BEK, valid=valid_BEK)
    record.near(
        "seed eq. 16: k(x) varying",
        "GVPO, 50 prompts, n=100, k(x) from {2, 3, 4, 8, 16}",
        "z-score of the mean estimate against the mean Var",
        (loss_B.mean().item() - truth) / (loss_B.std().item() / repeats**0.5),
        tolerance=4.5,
        samples=f"{repeats} data sets, seed {seed}",
    )


def _error(
    record: Record,
    generator: torch.Generator,
    size: Size,
    seed: int,
    gvpo: Algorithm,
    problem: Problem,
    logits_EN: Tensor,
    sampling_logp_EN: Tensor,
    truth: float,
) -> None:
    """The mean squared error of the estimate, as groups are added and as a group grows."""
    rows, samples = [], f"{size.draws} groups of 4, seed {seed}"
    loss_B = _losses(gvpo, problem, logits_EN, draw(sampling_logp_EN, size.draws, 4, generator), sampling_logp_EN)
    counts = [2**i for i in range(11) if 2**i * 50 <= size.draws]
    for count in counts:
        means = loss_B[: size.draws // count * count].reshape(-1, count).mean(1)
        rows.append({"by": "groups of 4", "n": count, "mse": ((means - truth) ** 2).mean().item() / truth**2})
    few = pd.DataFrame(rows)
    # Weighted by the number of repetitions that each point averages.
    slope = np.polyfit(np.log(few.n), np.log(few.mse), 1, w=np.sqrt(1 / few.n))[0]
    record.near(
        "seed eq. 16: consistent",
        "GVPO, n=1000, k=4, estimate over n groups",
        "slope of log MSE in log n",
        slope,
        -1.0,
        tolerance=0.1,
        samples=samples,
    )

    x_N = (problem.beta * (logits_EN.log_softmax(-1) - problem.anchor_logp_EN) - problem.reward_EN)[0]
    p_N = sampling_logp_EN[0].exp()
    fourth = (p_N * (x_N - (p_N * x_N).sum()) ** 4).sum().item()
    sizes = (2, 4, 8, 16, 32, 64)
    for k in sizes:
        repeats = max(500, size.draws // (4 * k))
        loss_B = _losses(gvpo, problem, logits_EN, draw(sampling_logp_EN, repeats, k, generator), sampling_logp_EN)
        square_B = (loss_B - truth) ** 2
        mse, error = square_B.mean().item(), square_B.std().item() / repeats**0.5
        rows.append({"by": "one group of n", "n": k, "mse": mse / truth**2})
        if k in (4, 64):
            known = (fourth - (k - 3) / (k - 1) * truth**2) / k
            record.near(
                "seed eq. 17: consistent; Var S² = [μ₄ − σ⁴(k−3)/(k−1)]/k",
                f"GVPO, n=1000, one group of k={k}",
                "z-score of the MSE against the closed form",
                (mse - known) / error,
                tolerance=4.5,
                samples=f"{repeats} groups, seed {seed}",
            )
    record.frames["mse"] = pd.DataFrame(rows)
