"""One call of an algorithm on a copy of its input, and what it leaves of the process as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms.base import Algorithm, Batch, LossOutput, PolicyOutput
from harness.kit.random_batches import Case, tensors
from harness.suite.user_errors import reported
from harness.training.judgement import LossError, fault_of_loss, fault_of_prepared, gradients

VARIABLES = ("logp_GKT", "entropy_GKT", "value_GKT")
"""What the harness differentiates with respect to."""


class CallError(Exception):
    """The algorithm raised, or what it returned is no loss. The message says which and where."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one call."""

    loss: Tensor
    gradient: dict[str, Tensor]
    """∂L/∂ each of VARIABLES, [G, K, T]; zero where the loss does not read it."""
    output: LossOutput
    depends: bool = True
    """Whether the loss is a function of the log-probs, be its gradient zero or not."""

    @property
    def coefficient_GKT(self) -> Tensor:
        """C = −∂L/∂log π."""
        return -self.gradient["logp_GKT"]


def evaluate(algorithm: Algorithm, case: Case, *, prepared: bool = False) -> Outcome:
    """Prepares, unless the batch is `prepared`, takes the loss and differentiates it.

    Raises CallError. The input and the process stay as they were, whatever the algorithm does to them.
    """
    case = case.cloned()
    leaves = {name: x.requires_grad_() for name, x in tensors(case.policy).items()}
    with undisturbed(), torch.enable_grad():
        # Not the leaves themselves: autograd would refuse to change them in place, where a property says more.
        policy = replace(case.policy, **{name: x.clone() for name, x in leaves.items()})
        batch = case.batch if prepared else prepare(algorithm, case.batch)
        output = loss_of(algorithm, policy, batch)
        fault = fault_of_loss(output, case.dtype)
        if fault is not None:
            raise CallError(fault)
        try:
            found = gradients(output.loss, leaves)
        except LossError as error:
            raise CallError(str(error)) from error
    zero_GKT = torch.zeros_like(case.policy.logp_GKT)
    gradient = {name: zero_GKT if (x := found.get(name)) is None else x for name in VARIABLES}
    return Outcome(output.loss.detach(), gradient, output, found["logp_GKT"] is not None)


def prepare(algorithm: Algorithm, batch: Batch) -> Batch:
    """`algorithm.prepare(batch)`. Raises CallError."""
    prepared: object = _called(algorithm, "prepare", batch)
    if (fault := fault_of_prepared(prepared)) is not None:
        raise CallError(fault)
    return prepared  # type: ignore[return-value]


def loss_of(algorithm: Algorithm, policy: PolicyOutput, batch: Batch) -> LossOutput:
    """`algorithm.loss(policy, batch)`, whatever that is. Raises CallError."""
    return _called(algorithm, "loss", policy, batch)


def _called(algorithm: Algorithm, method: str, *arguments: Any) -> Any:
    with reported(lambda text: CallError(f"{method}() raises {text}")):
        return getattr(algorithm, method)(*arguments)


Getter = Callable[[], Any]
Setter = Callable[[Any], Any]


def _flag(owner: Any, name: str) -> tuple[Getter, Setter]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


GLOBALS: dict[str, tuple[Getter, Setter]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether gradients are recorded": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "the cuDNN benchmark": _flag(torch.backends.cudnn, "benchmark"),
    "cuDNN's determinism": _flag(torch.backends.cudnn, "deterministic"),
    "flushing of denormal numbers": (
        lambda: bool((torch.tensor(1e-320, dtype=torch.float64) * 1).item() == 0),
        torch.set_flush_denormal,
    ),
}
"""What a loss must leave as it is, beside the random numbers: how to read it and how to set it."""

RANDOM: dict[str, tuple[Getter, Setter]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "random": (random.getstate, random.setstate),
    "numpy": (np.random.get_state, np.random.set_state),
}
"""The states of the random number generators."""


def read(states: dict[str, tuple[Getter, Setter]]) -> dict[str, Any]:
    """The present value of each."""
    return {name: get() for name, (get, _) in states.items()}


def put_back(states: dict[str, tuple[Getter, Setter]], before: dict[str, Any]) -> list[str]:
    """Sets to its old value what has changed, and says what that was."""
    changed = [name for name, (get, _) in states.items() if not same(get(), before[name])]
    for name in changed:
        states[name][1](before[name])
    return changed


def same(x: Any, y: Any) -> bool:
    """Equality of what may be a tensor or hold an array."""
    return torch.equal(x, y) if isinstance(x, Tensor) else repr(x) == repr(y)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it, what an algorithm does to the process lasts no longer than the call."""
    settings, chance = read(GLOBALS), read(RANDOM)
    try:
        yield
    finally:
        put_back(GLOBALS, settings)
        for name, (_, put) in RANDOM.items():
            put(chance[name])
