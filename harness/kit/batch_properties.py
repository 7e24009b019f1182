"""Of how a batch lies in its tensors, and of its extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from algorithms.base import Needs
from harness.kit.calls import VARIABLES, evaluate
from harness.kit.extreme_cases import extreme_cases
from harness.kit.properties import Subject, difference, not_finite, number, of_place, overall, per_case
from harness.kit.random_batches import Case, on_policy, ordinary_cases, random_case

FILLS = (0.7, -30.0, 1e30, math.inf, -math.inf, math.nan)
"""What may stand in the padding."""


@per_case("What stands in the padding changes nothing, NaN and infinities included.", ordinary_cases)
def padding_is_not_read(subject: Subject, case: Case) -> str | None:
    mask_GKT = case.batch.mask_GKT
    clean = evaluate(subject.algorithm, case)
    for variable in VARIABLES:
        under_GKT = (clean.gradient[variable] != 0) & ~mask_GKT
        if under_GKT.any():
            return f"{of_place(variable, under_GKT.nonzero()[0].tolist())} is not zero, and that place is padding"
    for fill in FILLS:
        filled = {
            name: torch.where(mask_GKT, x, fill).to(x.dtype)
            for name in VARIABLES
            if (x := getattr(case.policy, name)) is not None
        }
        dirty = evaluate(subject.algorithm, case.with_policy(**filled))
        if wrong := difference(dirty, clean, rtol=1e-12):
            mend = "mask before any arithmetic, with masked() of algorithms.base"
            if not math.isfinite(fill):
                mend += ": mask × value is NaN where the value is, and so is its gradient"
            return f"with {fill:g} in the padding {wrong}; {mend}"
    return None


@per_case("How long the padding is changes nothing.", ordinary_cases)
def length_of_the_padding_does_not_matter(subject: Subject, case: Case) -> str | None:
    longer = evaluate(subject.algorithm, case.longer(2))

    def pad(_: str, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 2))

    wrong = difference(longer, evaluate(subject.algorithm, case), rtol=1e-11, rearranged=pad)
    return wrong and f"with two places of padding more {wrong}; count tokens by the mask and not by the tensor's shape"


@per_case("Samples that are not valid take no part.", ordinary_cases)
def invalid_samples_take_no_part(subject: Subject, case: Case) -> str | None:
    expected = evaluate(subject.algorithm, case)

    def pad(_: str, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 2))

    mend = "count samples by valid_GK (group_size, centred) and not by the tensor's shape"
    if wrong := difference(evaluate(subject.algorithm, case.wider(2)), expected, rtol=1e-11, rearranged=pad):
        return f"with two samples more in each group that are not valid {wrong}; {mend}"
    truncated_GK = case.batch.truncated_GK
    if truncated_GK is not None:
        flipped = case.with_batch(truncated_GK=truncated_GK ^ ~case.batch.valid_GK)
        if wrong := difference(evaluate(subject.algorithm, flipped), expected, rtol=1e-12):
            return f"with truncated_GK of samples that are not valid flipped {wrong}; {mend}"
    return None


def _orders(case: Case) -> Iterable[Tensor]:
    """Other orders of the samples of each prompt, [G, K]: by length both ways, all alike, and each its own."""
    G, K = case.batch.valid_GK.shape
    length_GK = case.batch.mask_GKT.sum(-1)
    yield length_GK.argsort(dim=-1, descending=True, stable=True)
    yield length_GK.argsort(dim=-1, stable=True)
    yield torch.arange(K).flip(0).expand(G, K)
    random = torch.Generator().manual_seed(0)
    for _ in range(2):
        yield torch.stack([torch.randperm(K, generator=random) for _ in range(G)])


@per_case(
    "The order of the samples of a prompt does not matter, nor whether they are sorted by length.", ordinary_cases
)
def order_of_samples_does_not_matter(subject: Subject, case: Case) -> str | None:
    expected = evaluate(subject.algorithm, case)
    rows_G1 = torch.arange(len(case.batch.valid_GK))[:, None]
    for order_GK in _orders(case):
        found = evaluate(subject.algorithm, case.samples(order_GK))

        def moved(_: str, x: Tensor, order_GK: Tensor = order_GK) -> Tensor:
            return x[rows_G1, order_GK]

        if wrong := difference(found, expected, rtol=1e-11, rearranged=moved):
            return f"with the samples of each prompt in the order {order_GK.tolist()} {wrong}"
    return None


@per_case("The order of the prompts does not matter.", ordinary_cases)
def order_of_prompts_does_not_matter(subject: Subject, case: Case) -> str | None:
    G = len(case.batch.valid_GK)
    expected = evaluate(subject.algorithm, case)
    for order_G in (torch.arange(G).flip(0), torch.arange(G).roll(1)):
        found = evaluate(subject.algorithm, case.groups(order_G))

        def moved(_: str, x: Tensor, order_G: Tensor = order_G) -> Tensor:
            return x[order_G]

        if wrong := difference(found, expected, rtol=1e-11, rearranged=moved):
            return f"with the prompts in the order {order_G.tolist()} {wrong}"
    return None


def _extreme(kind: str) -> Callable[[Needs], list[Case]]:
    return lambda needs: extreme_cases(needs)[kind]


def _finite(subject: Subject, case: Case, mend: str) -> str | None:
    wrong = not_finite(evaluate(subject.algorithm, case))
    return wrong and f"{case.label}: {wrong}; {mend}"


@per_case("Partial groups, groups of one and groups of none give finite numbers.", _extreme("groups"))
def partial_groups_are_finite(subject: Subject, case: Case) -> str | None:
    return _finite(subject, case, "divide by a count that is at least 1, such as group_size() or (k − 1).clamp(min=1)")


@per_case("Groups of equal rewards give finite numbers.", _extreme("equal rewards"))
def equal_rewards_are_finite(subject: Subject, case: Case) -> str | None:
    return _finite(subject, case, "what divides by the spread of rewards must survive a spread of zero, also backwards")


@per_case("Empty and truncated responses give finite numbers.", _extreme("responses"))
def empty_and_truncated_responses_are_finite(subject: Subject, case: Case) -> str | None:
    return _finite(subject, case, "divide by a length that is at least 1: mask_GKT.sum(-1).clamp(min=1)")


@per_case("Log-probs of −1e4 give finite numbers.", _extreme("log-probs"))
def tiny_probabilities_are_finite(subject: Subject, case: Case) -> str | None:
    return _finite(subject, case, "keep to log-probs: exp of them is zero")


@per_case("Log-ratios of ±300 nats give finite numbers.", _extreme("log-ratios"))
def large_log_ratios_are_finite(subject: Subject, case: Case) -> str | None:
    return _finite(subject, case, "clamp before exp, as clamped_ratio() does")


@per_case("Rewards of ±1e6 give finite numbers.", _extreme("rewards"))
def large_rewards_are_finite(subject: Subject, case: Case) -> str | None:
    return _finite(subject, case, "take logsumexp, or clamp, where rewards meet an exp")


def rounding_share(subject: Subject) -> tuple[float, str]:
    """The largest coefficient that the rounding of equal rewards makes, on the scale of those that rewards make.

    Zero for a loss that equal rewards do give a signal: where their mean is exact in every precision, as that of ones.
    """
    whole = on_policy(random_case(subject.needs, 4, ragged=False, signal=True))
    signal = evaluate(subject.algorithm, whole).coefficient_GKT.abs().max()
    worst, where = 0.0, ""
    for samples in (6, 7, 8):
        case = on_policy(random_case(subject.needs, 0, samples=samples))
        if signal == 0 or evaluate(subject.algorithm, _tied(case, 1.0)).coefficient_GKT.any():
            continue
        for reward in (1.2, 0.3, -1.7):
            tied = _tied(case, reward).to(torch.float32)
            found = float(evaluate(subject.algorithm, tied).coefficient_GKT.abs().max() / signal)
            if found > worst:
                worst, where = found, f"{samples} rewards of {reward} in float32"
    return worst, where


def _tied(case: Case, reward: float) -> Case:
    """The case where every reward is this one, those of other responses too, and a critic expects nothing."""
    extras = {name: torch.full_like(x, reward) if "reward" in name else x for name, x in case.batch.extras.items()}
    zero_GKT = torch.zeros_like(case.policy.logp_GKT)
    return case.with_batch(
        rewards_GK=torch.full_like(case.batch.rewards_GK, reward),
        old_value_GKT=zero_GKT,
        final_value_GK=zero_GKT[..., 0],
        extras=extras,
    )


@overall("The rounding of equal rewards makes no signal.")
def rounding_of_equal_rewards_is_no_signal(subject: Subject) -> str | None:
    share, where = rounding_share(subject)
    if share <= 1e-3:
        return None
    return (
        f"{where} give coefficients {number(share)} times as large as different rewards do, and ones give none: their "
        "rounded mean is another number, and its difference is divided by its own spread; centred() is exact here"
    )


@overall("Equal rewards give exactly no signal in float32, if they give none in exact numbers.", advice=True)
def equal_rewards_give_exactly_no_signal(subject: Subject) -> str | None:
    share, where = rounding_share(subject)
    if share == 0 or share > 1e-3:
        return None
    return f"{where} leave coefficients of {number(share)} of a usual one, which Adam scales up; use centred()"
