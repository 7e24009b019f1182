"""What a loss may return: one judgement, for every step of a run and for `gvpo-bench check`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from algorithms.base import Algorithm, Batch, LossOutput, PolicyOutput
from benchmarks.errors import BenchError, ExitCode
from harness.suite.user_errors import described, is_interruption

HARNESS_METRICS = frozenset(
    {
        *("step", "loss", "grad_norm", "critic_grad_norm", "padding", "seconds", "generated_tokens", "trained_tokens"),
        *("replayed_tokens", "coefficient_positive", "coefficient_negative", "coefficient_zero"),
        *("coefficient_low", "coefficient_median", "coefficient_high"),
        *("reward", "length", "truncated", "correct", "no_answer", "grader_failures", "sampled_entropy"),
        *("equal_reward_groups", "unfit_groups", "history_share", "behaviour_kl"),
        *("sampler_mismatch_mean", "sampler_mismatch_max", "sampler_effective_share"),
    }
)
"""What the harness itself says of a step, in metrics.jsonl."""

NOTHING_TRAINED = "nothing would be trained. Is everything detached, or inside no_grad, or held by stop_gradient?"


class LossError(BenchError, ValueError):
    """What an algorithm returned is none of what the harness can train on. The message says how to mend it."""

    exit_code = ExitCode.FAILED


def fault_of_loss(output: object, dtype: torch.dtype) -> str | None:
    """What is wrong with what a loss returned for log-probs of this dtype, and how to mend it; None if it is a scalar.

    That may be NaN or infinite, which the gradient tells more of.
    """
    if not isinstance(output, LossOutput):
        kind = "None" if output is None else f"a {type(output).__name__}"
        return f"loss() returned {kind}; return LossOutput(loss=...)"
    loss: object = output.loss
    if not isinstance(loss, Tensor):
        return (
            f"LossOutput.loss is a {type(loss).__name__}; it must be a tensor that autograd can follow, without item()"
        )
    if loss.shape != ():
        return f"the loss has shape {tuple(loss.shape)}; it must be a scalar: take the mean or the sum"
    if loss.dtype != dtype:
        return f"the loss holds {loss.dtype} for log-probs in {dtype}; keep the dtype of the input"
    return None


def fault_of_metrics(output: LossOutput) -> str | None:
    """What is wrong with a loss's metrics, and how to mend it; None if nothing is."""
    for name, value in output.metrics.items():
        if not isinstance(name, str):
            return f"a metric is named {name!r}; its name must be a string"
        if name in HARNESS_METRICS:
            return f"metric {name!r} has the name of one that the harness records itself; call it something else"
        if value.shape != ():
            return f"metric {name!r} has shape {tuple(value.shape)}; a metric is a scalar: take its mean"
        if value.is_complex():
            return f"metric {name!r} holds {value.dtype}; a metric is a real number"
        if not math.isfinite(number := value.item()):
            return f"metric {name!r} is {number}; a metric must be finite: clamp what it divides by"
    return None


def fault_of_dependence(logp_gradient: Tensor | None) -> str | None:
    """What is wrong with a loss that is no function of the log-probs, and how to mend it; None if it is one, whatever
    its gradient."""
    if logp_gradient is not None:
        return None
    return (
        f"the loss does not depend on the log-probs: {NOTHING_TRAINED} Where a batch has no signal, return a zero that "
        "does: sequence_sum(policy.logp_GKT, batch.mask_GKT).sum() * 0"
    )


def fault_of_prepared(prepared: object) -> str | None:
    """What is wrong with what prepare() returned, and how to mend it; None if nothing is."""
    if isinstance(prepared, Batch):
        return None
    return f"prepare() returned {type(prepared).__name__}; return the batch, with_extras() where there are more"


def gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """∂L/∂ each of the leaves, by name; None where the loss is no function of it. Raises LossError."""
    if not loss.requires_grad:
        return dict.fromkeys(leaves)
    with torch.enable_grad():  # the algorithm may have turned it off
        try:
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        except RuntimeError as error:
            raise LossError(f"the loss cannot be differentiated: {error}") from error
    return dict(zip(leaves, found, strict=True))


def prepared(algorithm: Algorithm, batch: Batch) -> Batch:
    """`algorithm.prepare(batch)`. Raises LossError for what is no batch, and what it raises itself."""
    with _named(algorithm, "prepare"):
        found = algorithm.prepare(batch)
    _require(algorithm, fault_of_prepared(found))
    return found


def judged_loss(algorithm: Algorithm, policy: PolicyOutput, batch: Batch) -> LossOutput:
    """`algorithm.loss(policy, batch)`. Raises LossError for what is no loss, and what it raises itself."""
    with _named(algorithm, "loss"):
        output = algorithm.loss(policy, batch)
    _require(algorithm, fault_of_loss(output, policy.logp_GKT.dtype) or fault_of_metrics(output))
    return output


def judged_gradients(algorithm: Algorithm, loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`gradients`, zero where the loss is no function of a leaf. Raises LossError where that is the log-probs."""
    try:
        found = gradients(loss, leaves)
    except LossError as error:
        raise LossError(f"{type(algorithm).__name__}: {error}") from error.__cause__
    _require(algorithm, fault_of_dependence(found["logp_GKT"]))
    return {name: torch.zeros_like(leaves[name]) if x is None else x for name, x in found.items()}


def _require(algorithm: Algorithm, fault: str | None) -> None:
    if fault is not None:
        raise LossError(f"{type(algorithm).__name__}: {fault}")


@contextlib.contextmanager
def _named(algorithm: Algorithm, method: str) -> Iterator[None]:
    """An attempt to end the process is an error; other errors say themselves what they are, and where."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if is_interruption(error):
            raise
        raise LossError(f"{type(algorithm).__name__}: {method}() raises {described(error)}") from error
