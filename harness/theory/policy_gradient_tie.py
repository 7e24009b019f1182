"""Claim 5: on-policy and in expectation, GVPO's gradient is 2β times that of policy gradient with KL (eq. 14, 15)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from algorithms import ALGORITHMS
from harness.theory.estimator import anywhere, variance
from harness.theory.expectation import (
    expected_gradient,
    expected_loss,
    group_slopes,
    ordered_groups,
    sampled_groups,
)
from harness.theory.findings import Record, Size
from harness.theory.problem import Problem

CLAIM = "5 policy gradient"


def objective(problem: Problem, logits_EN: Tensor) -> Tensor:
    """J = E_π_θ[R] − β KL(π_θ‖π') (seed eq. 3), [E], with its dependence on π_θ written out."""
    logp_EN = logits_EN.log_softmax(-1)
    penalised_EN = problem.reward_EN - problem.beta * (logp_EN - problem.anchor_logp_EN)
    return (logp_EN.exp() * penalised_EN).sum(-1)


def identity(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """The classes' expected gradients, on- and off-policy, against the gradient of the written-out objective."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 51])
    n = 6
    for beta, k in ((0.05, 2), (0.3, 3), (1.0, 3), (1.0, 4)):
        problem, logits_EN, other_EN = anywhere(rng, count=size.problems, n=n, beta=beta)
        index_GK = ordered_groups(n, k)
        logp_EN = logits_EN.log_softmax(-1)
        gvpo = algorithms["gvpo"](beta=beta, anchor="reference")
        pg = algorithms["pg"](beta=beta, anchor="reference")
        plain = algorithms["pg"](beta=beta, anchor="reference", importance_weight=False)
        here, away = sampled_groups(problem, logp_EN, index_GK), sampled_groups(problem, other_EN, index_GK)
        ascent_EN = torch.func.grad(lambda x_EN, problem=problem: objective(problem, x_EN).sum())(logits_EN)
        setting = f"β={beta}, n={n}, k={k}, random π_θ and π', {size.problems} problems"
        exact = "seed eq. 14, 15" if beta == 1 else "seed eq. 14, 15, with β kept"

        def near(equation: str, where: str, quantity: str, got: Tensor, wanted: Tensor, setting: str = setting) -> None:
            record.near(equation, f"{where}, {setting}", quantity, (got - wanted).abs().max().item(), tolerance=1e-10)

        here_gvpo_EN, here_pg_EN = expected_gradient(gvpo, here, logits_EN), expected_gradient(pg, here, logits_EN)
        near(exact, "on-policy", "largest |E∇GVPO − 2β E∇PG|", here_gvpo_EN, 2 * beta * here_pg_EN)
        near("seed eq. 14", "PG on-policy", "largest |E∇PG + ∇J|", here_pg_EN, -ascent_EN)
        near(exact, "on-policy", "largest |E∇GVPO + 2β ∇J|", here_gvpo_EN, -2 * beta * ascent_EN)
        near(
            "derived here: the importance weight restores it",
            "PG, π_s random",
            "largest |E∇PG + ∇J|",
            expected_gradient(pg, away, logits_EN),
            -ascent_EN,
        )
        near(
            "derived here: PG without the weight is GVPO/(2β), each group",
            "π_s random",
            "largest |coefficient of GVPO − 2β that of PG|",
            group_slopes(gvpo, away, logits_EN),
            2 * beta * group_slopes(plain, away, logits_EN),
        )
        away_EN = expected_gradient(gvpo, away, logits_EN)
        near(
            "seed eq. 15, any π_s",
            "GVPO, π_s random",
            "largest |E∇GVPO − eq. 15|",
            away_EN,
            _equation_15(problem, logits_EN, other_EN),
        )
    p_EN = logits_EN.softmax(-1)
    minus_one_EN = p_EN - p_EN.sum(-1, keepdim=True) * p_EN  # Σ_y π (1) (e_y − π)
    record.near(
        "seed eq. 14, the step that drops −1",
        f"n={n}",
        "largest |E_π_θ[1·∇log π_θ]|",
        minus_one_EN.abs().max().item(),
        tolerance=1e-12,
    )

    def through_sampling(logits_EN: Tensor) -> Tensor:
        return variance(problem, logits_EN, logits_EN.log_softmax(-1)).sum()

    full_EN = torch.func.grad(through_sampling)(logits_EN)
    record.above(
        "seed eq. 12 with π_s = π_θ: samples are held fixed, as in eq. 15; the whole derivative is another",
        f"β={beta}, n={n}, {size.problems} problems",
        "largest |∇ through the samples − ∇ with them fixed|",
        (full_EN - here_gvpo_EN).abs().max().item(),
        1e-3,
    )
    _off_policy(record, problem, logits_EN, other_EN, algorithms)
    return record


def _equation_15(problem: Problem, logits_EN: Tensor, sampling_logp_EN: Tensor) -> Tensor:
    """−2β E_π_s[(u − E_π_s u) ∇log π_θ], u = R − β log π_θ/π', with respect to the logits, [E, N]."""
    p_EN, logp_EN = sampling_logp_EN.exp(), logits_EN.log_softmax(-1)
    u_EN = problem.reward_EN - problem.beta * (logp_EN - problem.anchor_logp_EN)
    # Σ_y p (u − ū)(e_y − π_θ): the second part vanishes, since Σ_y p (u − ū) = 0.
    return -2 * problem.beta * p_EN * (u_EN - (p_EN * u_EN).sum(-1, keepdim=True))


def _off_policy(
    record: Record, problem: Problem, logits_EN: Tensor, sampling_logp_EN: Tensor, algorithms: Mapping[str, type]
) -> None:
    """Off-policy the two directions differ, as they should: both are zero at π* only."""
    groups = sampled_groups(problem, sampling_logp_EN, ordered_groups(problem.n, 2))
    gvpo = algorithms["gvpo"](beta=problem.beta, anchor="reference")
    pg = algorithms["pg"](beta=problem.beta, anchor="reference")
    one_EN, two_EN = (expected_gradient(a, groups, logits_EN) for a in (gvpo, pg))
    cosine_E = torch.nn.functional.cosine_similarity(one_EN, two_EN)
    setting = f"π_s random, β={problem.beta}, n={problem.n}, {len(logits_EN)} problems"
    record.report("off-policy", setting, "mean cosine of E∇GVPO and E∇PG", cosine_E.mean().item())
    optimum_EN = problem.optimum_logp_EN
    for name, algorithm in (("GVPO", gvpo), ("PG", pg)):
        size = expected_gradient(algorithm, groups, optimum_EN).abs().max().item()
        record.near("seed eq. 4", f"{name}, {setting}", "largest |E∇| at π*", size, tolerance=1e-12)
    record.near(
        "seed eq. 12",
        f"GVPO, {setting}",
        "largest E L at π*",
        expected_loss(gvpo, groups, optimum_EN).max().item(),
        tolerance=1e-12,
    )
