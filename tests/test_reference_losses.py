"""Every algorithm against the formulas of tests/references.py: the loss, and the gradient by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from batches import random_batch
from references import REFERENCES, Rollout, listed

from algorithms import ALGORITHMS, Algorithm, Batch, PolicyOutput

NUMERICAL_STEP = 1e-5

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gvpo", {"beta": 1.3}),
    ("grpo", {"beta": 0.04}),
    ("ppo", {"gamma": 0.9, "gae_lambda": 0.7}),
    ("rft", {"threshold": -0.3}),
    ("rloo", {"beta": 0.0}),
    ("reinforce_pp", {"beta": 0.0, "clip": 0.1}),
    ("reinforce_pp", {"beta": 0.3}),
    ("reinforce_pp_baseline", {"beta": 0.3}),
    ("gpg", {"rescale": False}),
    ("opmd", {"tau": 0.3}),
    ("opmd", {"tau": 0.3, "baseline": "log_mean_exp"}),
    ("dapo", {"overlong": 0.6}),
    ("dapo", {"overlong": 0.0, "clip_high": 0.7}),
    ("gspo", {"clip_low": 0.1, "clip_high": 0.2}),
    ("gmpo", {"clip": 0.1}),
    ("cispo", {"clip_low": 0.2, "clip_high": 0.2}),
    ("sapo", {"tau_pos": 0.3, "tau_neg": 7.1}),
    ("vespo", {"power_pos": 0.7, "rate_pos": 1.1, "power_neg": 1.3, "rate_neg": 0.1}),
    ("dppo", {"divergence": "kl", "threshold": 0.02}),
    ("dppo", {"threshold": 0.05}),
    ("a_star_po", {"value_beta": 0.2, "beta": 0.7}),
    ("rebel", {"eta": 3.0}),
    ("tba", {"beta": 1.3}),
    ("ipo", {"beta": 0.7, "length_average": True}),
    ("gvpd", {"length_normalised": False}),
]
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in REFERENCES] + VARIANTS


def check(algorithm: Algorithm, reference: Callable[[Rollout], float], policy: PolicyOutput, batch: Batch) -> None:
    """Loss to 1e-11 and gradient to what finite differences give, relative to the largest of each."""
    rollout = listed(policy, batch)
    expected = reference(rollout)

    batch = algorithm.prepare(batch)
    logp_GKT = policy.logp_GKT.clone().requires_grad_()
    loss = algorithm.loss(replace(policy, logp_GKT=logp_GKT), batch).loss
    assert loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)
    (gradient_GKT,) = torch.autograd.grad(loss, logp_GKT)

    numerical, ours = [], []
    for g, group in enumerate(rollout):
        samples = batch.valid_GK[g].nonzero()[:, 0].tolist()
        for k, y in zip(samples, group.responses, strict=True):
            places = batch.mask_GKT[g, k].nonzero()[:, 0].tolist()
            for t, place in enumerate(places):
                at, sides = y.logp[t], []
                for sign in (1, -1):
                    y.logp[t] = at + sign * NUMERICAL_STEP
                    sides.append(reference(rollout))
                y.logp[t] = at
                numerical.append((sides[0] - sides[1]) / (2 * NUMERICAL_STEP))
                ours.append(gradient_GKT[g, k, place].item())
    largest = max(1.0, *(abs(x) for x in numerical), abs(expected))
    assert ours == pytest.approx(numerical, rel=0, abs=1e-8 * largest)
    assert not gradient_GKT[~batch.mask_GKT].any()


def test_every_algorithm_has_a_reference():
    assert set(REFERENCES) == set(ALGORITHMS), "write its formula here in plain Python, and it is held to it"


@pytest.mark.parametrize("off_policy", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{n}-{'-'.join(s)}" for n, s in CASES])
def test_loss_and_gradient_are_those_of_the_formula(name, settings, off_policy):
    def reference(rollout):
        return REFERENCES[name](rollout, **settings)

    for seed, groups in ((0, 3), (1, 4), (2, 5)):
        policy, batch = random_batch(seed, groups=groups, off_policy=off_policy)
        # Lengths run from 1 to 5: limits around them reach every case of DAPO's penalty.
        batch = batch.with_extras(length_limit_G=torch.tensor([4.0, 5.0, 6.0, 4.0, 5.0], dtype=torch.float64)[:groups])
        check(ALGORITHMS[name](**settings), reference, policy, batch)
