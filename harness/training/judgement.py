"""What a loss may return: one judgement, for the first step of a run and for `gvpo-bench check`."""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.base import LossOutput


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
        if value.shape != ():
            return f"metric {name!r} has shape {tuple(value.shape)}; a metric is a scalar: take its mean"
        if value.is_complex():
            return f"metric {name!r} holds {value.dtype}; a metric is a real number"
        if not torch.isfinite(value):
            return f"metric {name!r} is {value.item()}; a metric must be finite: clamp what it divides by"
        if value.requires_grad:
            return f"metric {name!r} keeps the graph of the loss alive; detach it"
    return None
