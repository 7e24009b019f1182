"""Claim 6: after n rounds, each anchored on the last, π_n ∝ π_0 e^{nR/β}: an effective β/n (seed eq. 18)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from algorithms import ALGORITHMS
from harness.theory.expectation import minimise, ordered_groups, sampled_groups
from harness.theory.findings import Record, Size
from harness.theory.problem import entropy, kl, mixed_problems, total_variation

CLAIM = "6 the β/n law"
ROUNDS = (1, 2, 3, 5, 10)


def law(size: Size, seed: int, algorithms: Mapping[str, type] = ALGORITHMS) -> Record:
    """Ten rounds, each minimised to the end with the policy before as π', under a uniform π_s and under π_s = π'."""
    record = Record(CLAIM)
    rng = np.random.default_rng([seed, 61])
    n, k, rows = 6, 2, []
    drawn = mixed_problems(rng, count=size.problems, n=n, beta=1.0)
    for beta in (0.2, 1.0):
        problem = replace(drawn, beta=beta)
        gvpo = algorithms["gvpo"](beta=beta, anchor="reference")
        for sampler in ("π_s uniform", "π_s = π' of the round"):
            current_EN = problem.anchor_logp_EN
            for done in range(1, max(ROUNDS) + 1):
                this_round = replace(problem, anchor_logp_EN=current_EN)
                uniform_EN = torch.full_like(current_EN, -np.log(n))
                sampling_logp_EN = uniform_EN if sampler == "π_s uniform" else current_EN
                groups = sampled_groups(this_round, sampling_logp_EN, ordered_groups(n, k))
                current_EN = minimise(gvpo, groups, current_EN, steps=20).logp_EN
                if done not in ROUNDS:
                    continue
                law_EN = (problem.anchor_logp_EN + done * problem.reward_EN / beta).log_softmax(-1)
                tv_E = total_variation(current_EN, law_EN)
                setting = f"{done} rounds, {sampler}, β={beta}, n={n}, k={k}, {len(tv_E)} problems"
                record.near("seed eq. 18", setting, "largest TV from π_0 e^{nR/β}/Z", tv_E.max().item(), tolerance=1e-6)
                if sampler == "π_s uniform":
                    record.near(
                        "seed eq. 18",
                        setting,
                        "largest KL from it, either way",
                        torch.maximum(kl(law_EN, current_EN), kl(current_EN, law_EN)).max().item(),
                        tolerance=1e-6,
                    )
                    rows.append(
                        {
                            "beta": beta,
                            "rounds": done,
                            "KL(π_n‖π_0)": kl(current_EN, problem.anchor_logp_EN).mean().item(),
                            "entropy": entropy(current_EN).mean().item(),
                            "reward": (current_EN.exp() * problem.reward_EN).sum(-1).mean().item(),
                        }
                    )
    record.frames["rounds"] = pd.DataFrame(rows)
    return record
