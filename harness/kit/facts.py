"""What is true of a loss and is no fault: for whoever compares it with others."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.kit.calls import evaluate
from harness.kit.coupling_properties import measured_coupling
from harness.kit.needs_properties import ANCHORS, reads
from harness.kit.properties import Subject, difference, number
from harness.kit.random_batches import Case, on_policy, random_case


def facts_of(subject: Subject) -> list[str]:
    """One sentence each. Raises CallError where the loss fails on an ordinary batch."""
    off = random_case(subject.needs, 1, signal=True)
    on = on_policy(random_case(subject.needs, 4, ragged=False, signal=True))
    zero_GKT = torch.zeros_like(on.policy.logp_GKT)  # a critic at random would hide what a reward does
    on = on.with_batch(old_value_GKT=zero_GKT, final_value_GK=zero_GKT[..., 0])
    return [
        _sums(subject, on, off),
        _shift(subject, off),
        _scale(subject, on),
        *_signs(subject, on),
        _equal_rewards(subject, on),
        f"Its coefficients are independent between {_UNITS[measured_coupling(subject)]}.",
        _reads(subject),
    ]


_UNITS = {"sequence": "responses", "group": "prompts, not between the responses of one", "batch": "mini-batches alone"}


def _mean_GK(subject: Subject, case: Case) -> Tensor:
    """The mean coefficient of each response."""
    length_GK = case.batch.mask_GKT.sum(-1).clamp(min=1)
    return evaluate(subject.algorithm, case).coefficient_GKT.sum(-1) / length_GK


def _sums(subject: Subject, on: Case, off: Case) -> str:
    shares = []
    for case in (on, off):
        c_GK = _mean_GK(subject, case)
        total = c_GK.abs().sum(-1)
        shares.append(float((c_GK.sum(-1) / total.clamp(min=1e-30)).abs().max()))
    zero = [share < 1e-9 for share in shares]
    if all(zero):
        return "The coefficients of a group sum to zero, on-policy and off (the mean over a response's tokens)."
    if zero[0]:
        return (
            "The coefficients of a group sum to zero on-policy, and off-policy to up to "
            f"{100 * shares[1]:.0f}% of their absolute values."
        )
    return (
        f"The coefficients of a group do not sum to zero: up to {100 * shares[0]:.0f}% of their absolute values remain."
    )


def _shift(subject: Subject, case: Case) -> str:
    one, other = (evaluate(subject.algorithm, x) for x in (case, case.with_batch(rewards_GK=case.batch.rewards_GK + 2)))
    same = difference(other, one, loss=False, atol=1e-11) is None
    return f"A constant added to all rewards {'changes nothing' if same else 'changes the gradient'}."


def _scale(subject: Subject, case: Case) -> str:
    one, other = (evaluate(subject.algorithm, x) for x in (case, case.with_batch(rewards_GK=case.batch.rewards_GK * 3)))
    c_GKT, d_GKT = one.coefficient_GKT, other.coefficient_GKT
    size = c_GKT.abs().max()
    if (d_GKT - c_GKT).abs().max() <= 1e-4 * size:
        return "On-policy, the scale of the rewards does not matter."
    if (d_GKT - 3 * c_GKT).abs().max() <= 1e-4 * size:
        return "On-policy, the gradient is proportional to the scale of the rewards."
    return "On-policy, the gradient changes with the scale of the rewards, and is not proportional to it."


def _signs(subject: Subject, case: Case) -> list[str]:
    """On-policy, of prompts whose responses are equally long and differ in their rewards."""
    c_GK, rewards_GK = _mean_GK(subject, case), case.batch.rewards_GK
    G, K = c_GK.shape
    if K < 2:
        return []
    found = []
    pair_GKK = rewards_GK[:, :, None] > rewards_GK[:, None, :]
    wrong = (c_GK[:, :, None] < c_GK[:, None, :] - 1e-12) & pair_GKK
    if wrong.any():
        g, i, j = wrong.nonzero()[0].tolist()
        found.append(
            f"Surprising: on-policy the better of two responses may get the smaller coefficient. With rewards "
            f"{number(rewards_GK[g, i])} and {number(rewards_GK[g, j])} they are {number(c_GK[g, i])} and "
            f"{number(c_GK[g, j])}; a positive coefficient raises the response's probability. Is a sign wrong?"
        )
    best_G = rewards_GK.argmax(-1)
    down_G = c_GK[torch.arange(G), best_G] < -1e-12
    if down_G.any():
        g = int(down_G.nonzero()[0])
        found.append(
            f"Surprising: on-policy the best response of a prompt may be pushed down (coefficient "
            f"{number(c_GK[g, best_G[g]])} at reward {number(rewards_GK[g, best_G[g]])})."
        )
    return found or ["On-policy a better response never gets a smaller coefficient, and the best is not pushed down."]


def _equal_rewards(subject: Subject, case: Case) -> str:
    tied = case.with_batch(rewards_GK=torch.ones_like(case.batch.rewards_GK))
    some = evaluate(subject.algorithm, tied).coefficient_GKT.abs().max() > 1e-12
    return f"On-policy, a group of equal rewards gives {'a signal all the same' if some else 'no signal'}."


def _reads(subject: Subject) -> str:
    fields = {
        "rewards": "rewards_GK",
        **{f"π_{name}": field for name, field in ANCHORS.items()},
        "the sampler's log-probs": "sampler_logp_GKT",
        "the entropy": "entropy_GKT",
        "the critic's values": "value_GKT",
        **{name: name for name in subject.needs.extras},
    }
    found = [name for name, field in fields.items() if reads(subject, field)]
    cases = [random_case(subject.needs, seed, signal=True) for seed in (0, 1)]
    for case in cases:
        assert case.batch.truncated_GK is not None
        flipped = replace(case, batch=replace(case.batch, truncated_GK=~case.batch.truncated_GK))
        if difference(evaluate(subject.algorithm, flipped), evaluate(subject.algorithm, case)):
            found.append("whether a response was truncated")
            break
    return f"Beside π_θ it reads {', '.join(found) or 'nothing'}."
