"""Of `needs`: what is declared is read, what is read is declared, and what it says of sampling policies is so."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from algorithms.base import EXTRAS, Needs
from harness.kit.calls import CallError, Outcome, evaluate, undisturbed
from harness.kit.coupling_properties import metrics_differ
from harness.kit.properties import Subject, difference, number, overall
from harness.kit.random_batches import Case, on_policy, ordinary_cases, random_case
from harness.suite.user_errors import reported

ANCHORS = {"old": "old_logp_GKT", "behaviour": "behaviour_logp_GKT", "reference": "ref_logp_GKT"}


def moved(case: Case, field: str) -> Case:
    """The case with other numbers in one field of the policy's output or the batch, or in one extra."""
    random = torch.Generator().manual_seed(7)

    def change(name: str, x: Tensor) -> Tensor:
        if name != field:
            return x
        if name == "length_limit_G":
            return x - 2
        noise = torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype)
        mask_GKT = case.batch.mask_GKT
        return torch.where(mask_GKT, x + noise, x) if name.endswith("_GKT") else x + noise

    return case.changed(change)


def reads(subject: Subject, field: str) -> bool:
    """Whether loss, gradient or metrics change with a field on any ordinary batch."""
    for case in ordinary_cases(subject.needs):
        found, expected = evaluate(subject.algorithm, moved(case, field)), evaluate(subject.algorithm, case)
        if _differ(found, expected):
            return True
    return False


def _differ(found: Outcome, expected: Outcome) -> bool:
    return bool(difference(found, expected, rtol=1e-12, atol=0)) or metrics_differ(found, expected)


@overall("What needs declares is read.")
def what_is_declared_is_read(subject: Subject) -> str | None:
    needs = subject.needs
    declared: list[tuple[str, str]] = [(f"extras names {name!r}", name) for name in needs.extras]
    if needs.anchor is not None:
        declared.append((f"anchor is {needs.anchor!r}", ANCHORS[needs.anchor]))
    elif needs.reference:
        declared.append(("reference is True", "ref_logp_GKT"))
    if needs.entropy:
        declared.append(("entropy is True", "entropy_GKT"))
    if needs.sampler:
        declared.append(("sampler is True", "sampler_logp_GKT"))
    for what, field in declared:
        if not reads(subject, field):
            return f"needs.{what}, and the loss does not depend on {field}: declare what it reads and no more"
    if needs.critic and not any(reads(subject, x) for x in ("value_GKT", "old_value_GKT", "final_value_GK")):
        return "needs.critic is True, and the loss depends on no value: declare what it reads and no more"
    if needs.refill is not None:
        return _refill(needs.refill)
    return None


REWARDS = (
    [0.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0, 1.0],
    [0.5, 0.5, 0.5, 0.5],
    [0.0, 1.0, 0.0, 1.0],
    [1.0, 0.0, 0.0, 0.0],
    [-1.0, 1.0, 1.0, 1.0],
    [0.3, -0.7, 1.2, 0.1],
)
"""Groups that a refill may keep or not."""


def refill_verdicts(refill: Callable[[Tensor], bool]) -> list[bool]:
    """What `needs.refill` says of REWARDS. Raises CallError."""
    with undisturbed(), reported(lambda text: CallError(f"needs.refill raises {text} for rewards [K] of a group")):
        return [bool(refill(torch.tensor(rewards))) for rewards in REWARDS]


def _refill(refill: Callable[[Tensor], bool]) -> str | None:
    verdicts = refill_verdicts(refill)
    if not any(verdicts):
        return "needs.refill says of no group that it is worth training on: the harness would draw for ever"
    if all(verdicts):
        return "needs.refill says of every group that it is worth training on, equal rewards too: leave it out"
    return None


@overall("What is read is declared in needs.")
def what_is_read_is_declared(subject: Subject) -> str | None:
    needs = subject.needs
    for case in ordinary_cases(needs):
        full = evaluate(subject.algorithm, case)
        for field, declaration, without in _undeclared(needs, case):
            try:
                found = evaluate(subject.algorithm, without)
                fails = "loss, gradient or a metric depends on it" if _differ(found, full) else None
            except CallError as error:
                fails = f"without it {error}"
            if fails:
                return f"the loss reads {field}, which needs does not declare ({fails}): declare {declaration}"
    return _anchor(subject)


def _undeclared(needs: Needs, case: Case) -> Iterable[tuple[str, str, Case]]:
    """Field, how to declare it, and the case as one meets it who has not."""
    if not needs.reference:
        yield "ref_logp_GKT", "reference=True, or anchor='reference'", case.with_batch(ref_logp_GKT=None)
    if not needs.entropy:
        yield "entropy_GKT", "entropy=True", case.with_policy(entropy_GKT=None)
    if not needs.critic:
        yield "value_GKT", "critic=True", case.with_policy(value_GKT=None)
        for field in ("old_value_GKT", "final_value_GK"):
            yield field, "critic=True", case.with_batch(**{field: None})
    if not needs.sampler:
        yield "sampler_logp_GKT", "sampler=True", moved(case, "sampler_logp_GKT")
    for name in EXTRAS:
        if name not in needs.extras:
            extras = {n: x for n, x in case.batch.extras.items() if n != name}
            yield f"extras[{name!r}]", f"extras=({name!r},)", case.with_batch(extras=extras)
    correction = torch.rand(case.batch.mask_GKT.shape, generator=torch.Generator().manual_seed(0)).to(case.dtype)
    yield "correction_GKT", "nothing: the harness alone applies it", case.with_batch(correction_GKT=correction)


def _anchor(subject: Subject) -> str | None:
    """An old policy that stands alone in a loss is an anchor, or the denominator that `behaviour` ought to be."""
    needs = subject.needs
    if needs.data in ("demonstrations", "pairs"):
        return None  # there the two are one
    old, behaviour = reads(subject, "old_logp_GKT"), reads(subject, "behaviour_logp_GKT")
    if old and not behaviour and needs.anchor is None and not needs.reference:
        return (
            "the loss reads old_logp_GKT, which needs does not declare: declare anchor='old' if it is the policy of a "
            "KL term; the denominator of an importance ratio is behaviour_logp_GKT"
        )
    if old and needs.anchor == "behaviour":
        return "needs.anchor is 'behaviour', and the loss reads old_logp_GKT as well: use batch.anchor_logp_GKT(anchor)"
    return None


@overall("A critic gets a gradient, if one is declared.")
def critic_gets_a_gradient(subject: Subject) -> str | None:
    if not subject.needs.critic:
        return None
    if any(evaluate(subject.algorithm, case).gradient["value_GKT"].any() for case in ordinary_cases(subject.needs)):
        return None
    return "needs.critic is True, and ∂L/∂V is zero on every batch: add the critic's own error to the loss"


@overall("What is said to be right off-policy has no importance weights.")
def off_policy_is_not_weighted(subject: Subject) -> str | None:
    needs = subject.needs
    if not needs.off_policy:
        return None
    weighted = "needs.off_policy says that the loss is right whatever policy sampled, without importance weights"
    given = needs.data in ("demonstrations", "pairs")
    if needs.anchor != "behaviour" and not given and reads(subject, "behaviour_logp_GKT"):
        return f"{weighted}, and it reads behaviour_logp_GKT: take the weights out, or off_policy"
    slope = _weight(subject)
    if slope is None:
        return None
    return (
        f"{weighted}, and what a reward adds to a coefficient grows like the {number(slope)}th power of "
        "π_θ over the policies it is compared with: take the weights out, or off_policy"
    )


def _weight(subject: Subject) -> float | None:
    """The power of π_θ/π' with which the share of the rewards in the coefficients goes, where that is near one.

    Of responses of one token, near the policy: there all ratios are one, be they of tokens or of sequences, and none
    is clipped.
    """
    case = on_policy(random_case(subject.needs, 4, tokens=1, ragged=False, signal=True))
    other = case.with_batch(rewards_GK=case.batch.rewards_GK.flip(1))

    def share(step: float) -> Tensor:
        logp_GKT = case.policy.logp_GKT + step
        one, two = (
            evaluate(subject.algorithm, x.with_policy(logp_GKT=logp_GKT)).coefficient_GKT for x in (case, other)
        )
        return one - two

    at_home = share(0.0)
    for step in (0.05, -0.05):
        ratio = (share(step) / at_home)[at_home.abs() > 1e-9 * at_home.abs().max()]
        if ratio.numel() and (ratio > 0).all():
            slopes = ratio.log() / step
            if ((slopes - 1).abs() < 0.1).double().mean() >= 0.4:
                return float(slopes[(slopes - 1).abs() < 0.1].mean())
    return None
