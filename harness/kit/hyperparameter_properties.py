"""Of hyper-parameters: each one does something."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

from algorithms.base import Algorithm, Choice, LogUniform
from harness.kit.calls import CallError, Outcome, evaluate
from harness.kit.extreme_cases import extreme_cases
from harness.kit.needs_properties import refill_verdicts
from harness.kit.properties import Subject, difference, overall
from harness.kit.random_batches import Case, ordinary_cases
from harness.suite.config import ConfigError
from harness.suite.user_code import needs_of
from harness.suite.user_errors import is_interruption


def other_values(cls: type[Algorithm], field: dataclasses.Field[Any], value: Any) -> list[Any]:
    """Values that a hyper-parameter may have beside its own: of its search space, its type, or its neighbourhood."""
    found: list[Any] = []
    space = field.metadata.get("search")
    if isinstance(space, Choice):
        found += space.values
    elif isinstance(space, LogUniform):
        found += [space.at(u) for u in (0.0, 0.5, 0.999)]
    try:
        annotation = typing.get_type_hints(cls).get(field.name)
    except Exception:  # an annotation may say anything
        annotation = None
    found += _literals(annotation)
    if isinstance(value, bool):
        found.append(not value)
    elif isinstance(value, int):
        found += [value + 1, value - 1, 2 * value, 5 * value + 7]
    elif isinstance(value, float):
        found += [
            2 * value,
            value / 2,
            1.1 * value,
            0.9 * value,
            value + 0.1,
            value + 1,
            value - 0.1,
            0.5,
            0.01,
            10 * value,
        ]
    elif isinstance(value, tuple):
        found += [tuple(scale * x for x in value) for scale in (2, 0.5) if all(isinstance(x, float) for x in value)]
    elif value is None and annotation is not None:
        found += [0.5, 1.0, 2.0] if float in typing.get_args(annotation) else []
        found += [1, 2, 3] if int in typing.get_args(annotation) else []
    unlike = [x for x in found if x != value or type(x) is not type(value)]
    return [
        x for i, x in enumerate(unlike) if x not in unlike[:i] and not isinstance(x, bool) ^ isinstance(value, bool)
    ]


def _literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [x for part in typing.get_args(annotation) for x in _literals(part)]
    return []


def variants(algorithm: Algorithm, name: str) -> Iterator[Algorithm]:
    """The algorithm with other values of one hyper-parameter, where it takes them."""
    field = next(f for f in dataclasses.fields(algorithm) if f.name == name)  # type: ignore[arg-type]
    for value in other_values(type(algorithm), field, getattr(algorithm, name)):
        try:
            other = dataclasses.replace(algorithm, **{name: value})  # type: ignore[type-var]
            needs_of(other)
        except BaseException as error:
            if is_interruption(error):
                raise
            continue  # out of its range
        yield other


@overall("Every hyper-parameter changes something.")
def every_hyper_parameter_changes_something(subject: Subject) -> str | None:
    cases = [*ordinary_cases(subject.needs)]
    cases += [x for kind in extreme_cases(subject.needs).values() for x in kind[::4]]
    own = _outcomes(subject.algorithm, cases)
    names = [f.name for f in dataclasses.fields(subject.algorithm)]  # type: ignore[arg-type]
    idle = [
        name for name in names if _tried(subject.algorithm, name) and not _effect(subject.algorithm, name, cases, own)
    ]
    for name in idle:
        # It may act beside another setting alone, as the kind of a KL term does whose coefficient is zero.
        besides = (other for beside in names if beside != name for other in variants(subject.algorithm, beside))
        if not any(_effect(other, name, cases[:6], _outcomes(other, cases[:6])) for other in besides):
            tried = ", ".join(str(getattr(x, name)) for x in list(variants(subject.algorithm, name))[:4])
            return (
                f"{name} changes neither loss nor gradient on any batch, at {getattr(subject.algorithm, name)} as at "
                f"{tried}; read it, or take it out"
            )
    return None


def _tried(algorithm: Algorithm, name: str) -> bool:
    return next(variants(algorithm, name), None) is not None


def _outcomes(algorithm: Algorithm, cases: list[Case]) -> list[Outcome | str]:
    return [_outcome(algorithm, case) for case in cases]


def _outcome(algorithm: Algorithm, case: Case) -> Outcome | str:
    try:
        return evaluate(algorithm, case)
    except CallError as error:
        return str(error)


def _effect(algorithm: Algorithm, name: str, cases: list[Case], own: list[Outcome | str]) -> bool:
    for other in variants(algorithm, name):
        if _asks(other) != _asks(algorithm):
            return True
        for case, before in zip(cases, own, strict=True):
            after = _outcome(other, case)
            if isinstance(before, str) or isinstance(after, str):
                if before != after:
                    return True
            elif difference(after, before, rtol=0, atol=0):
                return True
    return False


def _asks(algorithm: Algorithm) -> tuple[Any, ...]:
    """What of `needs` changes the data that a run trains on. Raises CallError."""
    try:
        needs = needs_of(algorithm)
    except ConfigError as error:
        raise CallError(str(error)) from None
    refill = None if needs.refill is None else refill_verdicts(needs.refill)
    return refill, needs.reference_samples, needs.data, needs.min_group_size
