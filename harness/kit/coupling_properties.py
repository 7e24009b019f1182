"""Of what depends on what: units of log-probs, mini-batches, and what `prepare` computes once."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace

import torch
from torch import Tensor

from algorithms.base import EXTRAS, Algorithm, Batch, Coupling
from harness.kit.calls import VARIABLES, CallError, Outcome, evaluate, prepare, undisturbed
from harness.kit.properties import Subject, difference, overall, per_case
from harness.kit.random_batches import Case, ordinary_cases, random_case, tensors


def prepared(algorithm: Algorithm, case: Case) -> Case:
    """The case with what `prepare` adds to the batch."""
    with undisturbed():
        return replace(case, batch=prepare(algorithm, case.cloned().batch))


def units(coupling: Coupling, valid_GK: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each unit between which coefficients are said to be independent: its name, and where it lies, [G, K]."""
    if coupling == "group":
        for g in range(len(valid_GK)):
            unit_GK = torch.zeros_like(valid_GK)
            unit_GK[g] = True
            yield f"prompt {g}", unit_GK & valid_GK
    elif coupling == "sequence":
        for g, k in valid_GK.nonzero().tolist():
            unit_GK = torch.zeros_like(valid_GK)
            unit_GK[g, k] = True
            yield f"prompt {g}, sample {k}", unit_GK


def elsewhere(case: Case, unit_GK: Tensor, size: float, seed: int = 0) -> Case:
    """The case with what the policy says of all other samples moved at random."""
    random = torch.Generator().manual_seed(seed)
    keep_GKT = unit_GK[..., None] | ~case.batch.mask_GKT

    def moved(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype)
        return torch.where(keep_GKT, x, x + size * noise)

    return case.with_policy(**{name: moved(x) for name, x in tensors(case.policy).items()})


def coupled(algorithm: Algorithm, coupling: Coupling, case: Case) -> str | None:
    """What contradicts that the units of this coupling are independent in a prepared case.

    By moving the policy, since autograd's second derivative does not see what a loss holds constant.
    """
    expected = evaluate(algorithm, case, prepared=True)
    for name, unit_GK in units(coupling, case.batch.valid_GK):
        for size in (0.5, 3.0):
            found = evaluate(algorithm, elsewhere(case, unit_GK, size), prepared=True)
            inside_GKT = unit_GK[..., None] & case.batch.mask_GKT
            # Not the whole tensor: the scale of what has moved must not hide what should not have.
            found, own = _within(found, inside_GKT), _within(expected, inside_GKT)
            if wrong := difference(found, own, loss=False):
                return f"when the policy moves outside of {name}, {wrong}"
    return None


def _within(outcome: Outcome, at_GKT: Tensor) -> Outcome:
    return replace(outcome, gradient={name: torch.where(at_GKT, x, 0.0) for name, x in outcome.gradient.items()})


@per_case("The declared coupling is true: a unit's coefficients ignore the policy elsewhere.", ordinary_cases)
def coupling_is_true(subject: Subject, case: Case) -> str | None:
    coupling = subject.needs.coupling
    wrong = coupled(subject.algorithm, coupling, prepared(subject.algorithm, case))
    larger = "'batch'" if coupling == "group" else "'group' or 'batch'"
    return wrong and f"{wrong}; needs.coupling says {coupling!r}, and must say {larger}"


@per_case("The gradient is the same however the mini-batch is split into micro-batches and ranks.", ordinary_cases)
def split_does_not_matter(subject: Subject, case: Case) -> str | None:
    """As the harness goes in one pass: all other samples at their old log-probs, or at those already computed."""
    case = prepared(subject.algorithm, case)
    whole = evaluate(subject.algorithm, case, prepared=True)
    old = case.with_policy(
        logp_GKT=case.batch.old_logp_GKT,
        entropy_GKT=torch.zeros_like(case.batch.old_logp_GKT),
        value_GKT=case.batch.old_value_GKT,
    )
    now, table = tensors(case.policy), tensors(old.policy)
    found = {name: torch.zeros_like(x) for name, x in whole.gradient.items()}
    parts = list(units(subject.needs.coupling, case.batch.valid_GK))
    for _, unit_GK in reversed(parts):
        table = {name: torch.where(unit_GK[..., None], now[name], x) for name, x in table.items()}
        outcome = evaluate(subject.algorithm, case.with_policy(**table), prepared=True)
        for name in VARIABLES:
            found[name] = torch.where(unit_GK[..., None], outcome.gradient[name], found[name])
    if not parts:
        return None
    wrong = difference(replace(whole, gradient=found), whole, loss=False)
    return wrong and f"in micro-batches of one {subject.needs.coupling}, as needs.coupling allows, {wrong}"


def measured_coupling(subject: Subject) -> Coupling:
    """The smallest unit that no batch contradicts."""
    cases = [prepared(subject.algorithm, case) for case in ordinary_cases(subject.needs)]
    choices: tuple[Coupling, ...] = ("sequence", "group")
    for coupling in choices:
        if not any(coupled(subject.algorithm, coupling, case) for case in cases):
            return coupling
    return "batch"


@overall("The declared coupling is no larger than it has to be.", advice=True)
def coupling_is_no_larger_than_it_has_to_be(subject: Subject) -> str | None:
    sizes = ("sequence", "group", "batch")
    found, declared = measured_coupling(subject), subject.needs.coupling
    if subject.needs.data == "demonstrations" or sizes.index(found) >= sizes.index(declared):
        return None
    return f"needs.coupling is {declared!r}; {found!r} is true as well, and may save a forward pass"


@overall("prepare() adds extras by group, and nothing else.", always=True)
def prepare_adds_extras_by_group(subject: Subject) -> str | None:
    for case in ordinary_cases(subject.needs):
        batch, G = case.batch, len(case.batch.valid_GK)
        once = prepared(subject.algorithm, case).batch
        before, after = tensors(batch), tensors(once)
        for name in before.keys() | after.keys():
            if name not in after or not torch.equal(before[name], after[name]):
                return f"prepare() changes {name}; it may add extras and nothing else"
        for name, x in once.extras.items():
            if not isinstance(x, Tensor):
                return f"prepare() puts a {type(x).__name__} into extras[{name!r}]; it must be a tensor, by group"
            if x.dim() == 0 or len(x) != G:
                return (
                    f"extras[{name!r}] has shape {tuple(x.shape)}; its first dimension must be the prompts ({G} here), "
                    "or a mini-batch could not take its share of it"
                )
            if name in batch.extras and not torch.equal(x, batch.extras[name]):
                return f"prepare() changes extras[{name!r}], which the harness supplies; add another"
        twice = prepared(subject.algorithm, replace(case, batch=once)).batch
        for name, x in once.extras.items():
            if name not in twice.extras or not torch.equal(x, twice.extras[name]):
                return f"preparing twice changes extras[{name!r}]; compute it from what prepare() does not change"
        try:
            evaluate(subject.algorithm, replace(case, batch=once), prepared=True)
        except CallError:
            continue  # which another property says
        try:
            part = replace(case, batch=once).groups(torch.tensor([G - 1, 0]))
            evaluate(subject.algorithm, part, prepared=True)
        except CallError as error:
            return f"on a mini-batch of two of the prepared prompts {error}"
    return None


def float_extras(subject: Subject, case: Case, batch: Batch) -> dict[str, Tensor]:
    """What `prepare` has added, numbers alone."""
    return {n: x for n, x in batch.extras.items() if n not in case.batch.extras and x.is_floating_point()}


@overall("What prepare() computes once is what the loss reads.")
def extras_of_prepare_are_read(subject: Subject) -> str | None:
    unread: set[str] | None = None
    for case in ordinary_cases(subject.needs):
        ready = prepared(subject.algorithm, case)
        expected = evaluate(subject.algorithm, ready, prepared=True)
        still = set()
        for name, x in float_extras(subject, case, ready.batch).items():
            other = ready.with_batch(extras={**ready.batch.extras, name: 1.5 * x + 0.25})
            found = evaluate(subject.algorithm, other, prepared=True)
            if not difference(found, expected) and not metrics_differ(found, expected):
                still.add(name)
        unread = still if unread is None else unread & still
    if not unread:
        return None
    return (
        f"the loss does not read extras[{sorted(unread)[0]!r}] of the batch it is given: if it calls prepare() itself, "
        "it computes over the mini-batch what is meant for the whole rollout batch; read it by batch.extra(name)"
    )


def metrics_differ(x: Outcome, y: Outcome) -> bool:
    """Whether any metric is another number."""
    a, b = x.output.metrics, y.output.metrics
    return a.keys() != b.keys() or any(not torch.equal(a[name], b[name]) for name in a)


@overall("A prompt's coefficients do not depend on how large the rewards of others in its mini-batch are.")
def mini_batch_is_not_whitened(subject: Subject) -> str | None:
    """Counts over the mini-batch may, such as the number of its tokens or of its groups with a signal.

    What couples the log-probs of prompts has a reason to look at the others' rewards.
    """
    for seed in (1, 4):
        ready = prepared(subject.algorithm, random_case(subject.needs, seed, signal=True))
        if coupled(subject.algorithm, "group", ready):
            return None
        G = len(ready.batch.valid_GK)
        last_G = torch.arange(G) == G - 1
        computed = ready.batch.extras.keys() - EXTRAS.keys()

        def larger(name: str, x: Tensor, last_G: Tensor = last_G, computed: Set[str] = computed) -> Tensor:
            of_rewards = name == "rewards_GK" or (name in computed and name.endswith(("_GK", "_GKT")))
            last = last_G.view(-1, *[1] * (x.dim() - 1))
            return torch.where(last, 3 * x, x) if of_rewards and x.is_floating_point() else x

        expected = evaluate(subject.algorithm, ready, prepared=True)
        found = evaluate(subject.algorithm, ready.changed(larger), prepared=True)
        at_GKT = ~last_G[:, None, None] & ready.batch.mask_GKT
        if wrong := difference(_within(found, at_GKT), _within(expected, at_GKT), loss=False):
            return (
                f"with the rewards of prompt {G - 1} three times as large {wrong}: the loss whitens over the mini-"
                "batch, so the gradient depends on how a rollout batch is dealt out; compute it once, in prepare()"
            )
    return None
