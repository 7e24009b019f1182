"""Float32 masters of bfloat16 weights. A bfloat16 has eight bits: an update below 1/256 of a weight would be lost."""

from __future__ import annotations

import functools
import weakref

import torch
from torch import Tensor, nn


class Masters(nn.Module):
    """What an optimiser steps on, and what is clipped, saved and resumed, in place of a model whose weights are their
    rounded copies.

    A weight's gradient moves to its master, and is added up there, as soon as a backward pass has made it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rounded: list[tuple[nn.Parameter, Tensor]] = []
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                master = nn.Parameter(weight.detach().float())
                self.register_parameter(name.replace(".", "/"), master)
                weight.register_post_accumulate_grad_hook(functools.partial(_move_gradient, weakref.ref(master)))
                self.rounded.append((master, weight.data))
        kept = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in kept:
                self.register_buffer(name.replace(".", "/"), buffer)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Rounds the weights anew whenever the optimiser of the masters has changed them, or they were loaded."""
        optimizer.register_step_post_hook(lambda *_: self.round())
        optimizer.register_load_state_dict_post_hook(lambda *_: self.round())

    @torch.no_grad()
    def round(self) -> None:
        """Gives the model its weights."""
        for master, weight in self.rounded:
            weight.copy_(master)


def _move_gradient(master: weakref.ref[nn.Parameter], weight: Tensor) -> None:
    into, gradient = master(), weight.grad
    if into is not None and gradient is not None:
        into.grad = gradient.float() if into.grad is None else into.grad.add_(gradient)
        weight.grad = None


def with_masters(model: nn.Module) -> nn.Module:
    """The model itself, or its masters where weights that take gradients are bfloat16."""
    half = any(weight.dtype == torch.bfloat16 for weight in model.parameters() if weight.requires_grad)
    return Masters(model) if half else model
