"""A loss is a pure function: of its input, and of nothing else in the process."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.kit.calls import (
    GLOBALS,
    RANDOM,
    CallError,
    Outcome,
    evaluate,
    loss_of,
    prepare,
    put_back,
    read,
    undisturbed,
)
from harness.kit.coupling_properties import metrics_differ
from harness.kit.properties import Subject, difference, overall, per_case
from harness.kit.random_batches import Case, ordinary_cases, random_case, tensors


@per_case("The loss changes nothing in its input.", ordinary_cases, always=True)
def input_stays_as_it_is(subject: Subject, case: Case) -> str | None:
    with undisturbed(), torch.enable_grad():
        given = case.cloned()
        before = given.cloned()
        try:
            ready = prepare(subject.algorithm, given.batch)
            if changed := _changed(before, given):
                return f"prepare() changes {changed} in place; compute a new tensor"
            held = replace(given, batch=ready)
            before = held.cloned()
            leaves = {name: x.requires_grad_().clone() for name, x in tensors(given.policy).items()}
            held = replace(held, policy=replace(given.policy, **leaves))
            loss_of(subject.algorithm, held.policy, held.batch)
        except CallError:
            return None  # which another property says
        changed = _changed(before, held)
        return changed and f"loss() changes {changed} in place; compute a new tensor"


def _changed(before: Case, after: Case) -> str | None:
    for old, new in ((before.policy, after.policy), (before.batch, after.batch)):
        now = tensors(new)
        for name, x in tensors(old).items():
            if not torch.equal(x, now[name]):
                return name
    for name, x in before.batch.extras.items():
        if name not in after.batch.extras or not torch.equal(x, after.batch.extras[name]):
            return f"extras[{name!r}]"
    return None


REPEATS = 12


@overall("The same input gives the same output: nothing is kept from one call to the next.", always=True)
def nothing_is_kept_between_calls(subject: Subject) -> str | None:
    algorithm = subject.algorithm
    case, other = random_case(subject.needs, 1, signal=True), random_case(subject.needs, 6, signal=True)
    try:
        first = evaluate(algorithm, case)
        for _ in range(REPEATS):
            if wrong := _unlike(evaluate(algorithm, case), first):
                return f"the same batch a second time: {wrong}; keep nothing between calls, and no clock"
        expected = evaluate(subject.fresh(), other)
        if wrong := _unlike(evaluate(algorithm, other), expected):
            return f"a batch after another one: {wrong} of an instance that has seen none; keep nothing between calls"
        if wrong := _unlike(evaluate(algorithm, case), first):
            return f"the same batch after another one: {wrong}; keep nothing between calls"
    except CallError:
        return None
    return None


def _unlike(found: Outcome, expected: Outcome) -> str | None:
    if wrong := difference(found, expected, rtol=0, atol=0):
        return wrong
    return "another metric" if metrics_differ(found, expected) else None


@overall("No random numbers are drawn.", always=True)
def no_random_numbers_are_drawn(subject: Subject) -> str | None:
    case = random_case(subject.needs, 1, signal=True)
    with undisturbed():
        before = read(RANDOM)
        try:
            _run(subject, case)
        except CallError:
            return None
        finally:
            drawn = put_back(RANDOM, before)
        if drawn:
            return f"the loss draws random numbers from {' and '.join(drawn)}; chance belongs in the batch"
    return None


@overall("The global state of torch stays as it is.", always=True)
def global_state_stays_as_it_is(subject: Subject) -> str | None:
    case = random_case(subject.needs, 1, signal=True)
    before = read(GLOBALS)
    with undisturbed():
        try:
            _run(subject, case)
        except CallError:
            pass
        finally:
            changed = put_back(GLOBALS, before)
    return f"the loss changes {' and '.join(changed)} for the whole process" if changed else None


def _run(subject: Subject, case: Case) -> None:
    case = case.cloned()
    batch = prepare(subject.algorithm, case.batch)
    policy = replace(case.policy, **{n: x.requires_grad_().clone() for n, x in tensors(case.policy).items()})
    loss_of(subject.algorithm, policy, batch)
