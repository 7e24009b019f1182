"""What a property is: a sentence about an algorithm, and how a batch may contradict it.

The properties stand in the modules beside this one and register themselves here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from algorithms.base import Algorithm, Needs
from harness.kit.calls import VARIABLES, Outcome
from harness.kit.random_batches import Case

Place = tuple[int, ...]
"""A prompt, a sample of it and a token of that, as far as they are known."""

SYMBOLS = {"logp_GKT": "∂L/∂log π", "entropy_GKT": "∂L/∂H", "value_GKT": "∂L/∂V"}


@dataclass(frozen=True)
class Fault:
    """What contradicts a property: what was found and what was expected, and how to mend it."""

    text: str
    case: Case | None = None
    """The batch that shows it, made as small as it still does."""


@dataclass(frozen=True)
class Subject:
    """An algorithm under examination."""

    algorithm: Algorithm
    fresh: Callable[[], Algorithm]
    """Another instance of the same settings, from a module that has run no loss yet where that can be had."""
    needs: Needs = field(default_factory=Needs)


PerCase = Callable[[Subject, Case], str | None]
Overall = Callable[[Subject], str | None]


@dataclass(frozen=True)
class Property:
    """One sentence that is true of a sound algorithm."""

    name: str
    sentence: str
    cases: Callable[[Needs], Iterable[Case]] | None
    """The batches that it is held against one by one; None if it looks at the algorithm as a whole."""
    check: PerCase | Overall
    always: bool = False
    """Can be told of a loss that fails on ordinary batches too."""
    advice: bool = False
    """To be mended for speed or neatness; what contradicts it is no fault."""


PROPERTIES: list[Property] = []
"""All of them, in the order in which a report shows them."""


def per_case(
    sentence: str, cases: Callable[[Needs], Iterable[Case]], *, always: bool = False
) -> Callable[[PerCase], PerCase]:
    """Registers a property that one batch can contradict: the function says how, or gives None."""

    def register(check: PerCase) -> PerCase:
        PROPERTIES.append(Property(check.__name__, sentence, cases, check, always))
        return check

    return register


def overall(sentence: str, *, always: bool = False, advice: bool = False) -> Callable[[Overall], Overall]:
    """Registers a property of the algorithm as a whole: the function says what contradicts it, or gives None."""

    def register(check: Overall) -> Overall:
        PROPERTIES.append(Property(check.__name__, sentence, None, check, always, advice))
        return check

    return register


def difference(
    found: Outcome,
    expected: Outcome,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-13,
    at: Tensor | None = None,
    loss: bool = True,
    rearranged: Callable[[str, Tensor], Tensor] = lambda name, x: x,
) -> str | None:
    """Where two outcomes differ by more than rounding: 'the loss is 2, expected 1', or the same of a gradient's place.

    `rearranged` takes the expected gradient to the places of the found one; `at` confines the comparison to some of
    them, [G, K, T].
    """
    if loss and not _near(found.loss, expected.loss, rtol, atol).item():
        return f"the loss is {number(found.loss)}, expected {number(expected.loss)}"
    for name in VARIABLES:
        x_GKT, y_GKT = found.gradient[name], rearranged(name, expected.gradient[name])
        wrong_GKT = ~_near(x_GKT, y_GKT, rtol, atol)
        if at is not None:
            wrong_GKT &= at
        if wrong_GKT.any():
            size_GKT = torch.where(wrong_GKT, (x_GKT - y_GKT).abs().nan_to_num(nan=float("inf")), -1.0)
            g, k, t = torch.unravel_index(size_GKT.argmax(), size_GKT.shape)
            place = (int(g), int(k), int(t))
            return f"{of_place(name, place)} is {number(x_GKT[place])}, expected {number(y_GKT[place])}"
    return None


def _near(x: Tensor, y: Tensor, rtol: float, atol: float) -> Tensor:
    """Equal but for rounding on the scale of the whole tensor; NaN and infinities are equal to themselves."""
    finite = torch.cat([x.abs().flatten(), y.abs().flatten()])
    finite = finite[finite.isfinite()]
    scale = finite.max() if finite.numel() else torch.zeros(())
    return ((x - y).abs() <= atol + rtol * scale) | (x == y) | (x.isnan() & y.isnan())


def of_place(variable: str, place: Sequence[int]) -> str:
    """'∂L/∂log π of prompt 0, sample 1, token 2'."""
    names = ("prompt", "sample", "token")
    return f"{SYMBOLS[variable]} of " + ", ".join(f"{n} {i}" for n, i in zip(names, place, strict=False))


def number(x: Tensor | float) -> str:
    """To six digits, or as many as tell what it is."""
    return f"{float(x):.6g}"


def not_finite(outcome: Outcome) -> str | None:
    """Where a loss or a gradient is NaN or infinite."""
    for name in VARIABLES:
        bad_GKT = ~outcome.gradient[name].isfinite()
        if bad_GKT.any():
            place = bad_GKT.nonzero()[0].tolist()
            return f"{of_place(name, place)} is {number(outcome.gradient[name][tuple(place)])}"
    return None if outcome.loss.isfinite() else f"the loss is {number(outcome.loss)}"


def labelled(cases: Iterable[Case], label: str) -> list[Case]:
    """The same cases under another label."""
    return [replace(case, label=label) for case in cases]
