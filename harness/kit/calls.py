"""One call of an algorithm on a copy of its input, and what it leaves of the process as it was."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import algorithms.base
from algorithms.base import Algorithm, Batch, LossOutput, PolicyOutput
from harness.kit.random_batches import Case, tensors
from harness.training.judgement import fault_of_loss

VARIABLES = ("logp_GKT", "entropy_GKT", "value_GKT")
"""What the harness differentiates with respect to."""


KIT = Path(__file__).parent
HELPERS = (Path(algorithms.base.__file__), Path(algorithms.__file__))
"""Where an error may come from that a loss makes."""


class CallError(Exception):
    """The algorithm raised, or what it returned is no loss. The message says which and where."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one call."""

    loss: Tensor
    gradient: dict[str, Tensor]
    """∂L/∂ each of VARIABLES, [G, K, T]; zero where the loss does not read it."""
    output: LossOutput

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
        with torch.enable_grad():  # the algorithm may have turned it off
            gradient = _gradient(output.loss, leaves)
    return Outcome(output.loss.detach(), gradient, output)


def _gradient(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    if loss.requires_grad:
        try:
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        except RuntimeError as error:
            raise CallError(f"the loss cannot be differentiated: {error}") from error
        found = dict(zip(leaves, grads, strict=True))
    shape_of = next(iter(leaves.values()))
    return {name: found.get(name, torch.zeros_like(shape_of)) for name in VARIABLES}


def prepare(algorithm: Algorithm, batch: Batch) -> Batch:
    """`algorithm.prepare(batch)`. Raises CallError."""
    prepared: object = _called(algorithm, "prepare", batch)
    if not isinstance(prepared, Batch):
        raise CallError(
            f"prepare() returned {type(prepared).__name__}; return the batch, with_extras() where there are more"
        )
    return prepared


def loss_of(algorithm: Algorithm, policy: PolicyOutput, batch: Batch) -> LossOutput:
    """`algorithm.loss(policy, batch)`, whatever that is. Raises CallError."""
    return _called(algorithm, "loss", policy, batch)


def _called(algorithm: Algorithm, method: str, *arguments: Any) -> Any:
    try:
        return getattr(algorithm, method)(*arguments)
    except (Exception, SystemExit) as error:
        raise CallError(f"{method}() raises {described(error)}") from error


def described(error: BaseException) -> str:
    """The error's kind, its first line, and the last place that it came from outside of the helpers around a loss."""
    text = (str(error).splitlines() or [""])[0]
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if not (frame.filename.startswith("<") or path in HELPERS or "torch" in path.parts or path.parent == KIT):
            place = f" ({path.name}, line {frame.lineno})"
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


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
