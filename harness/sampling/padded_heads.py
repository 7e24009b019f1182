"""A Qwen3 with wider attention heads that computes the same function, for kernels that have no narrow ones.

vLLM's attention on the CPU knows no head of less than 32 dimensions; the embedded default has 16. With D = r·d
dimensions instead of d, the further ones zero:
    rotary     dimension j turns with frequency θ^(−2j/d) = θ^(−2(rj)/D), so j moves to rj, in both halves of the head
    RMSNorm    the mean square over D is 1/r of that over d: W_q and W_k times √r restore it, and its ε counts the same
    scores     q·k/√D: after the two norms there is a factor (√r)²/√r too much, which the norm of k takes back
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedConfig

NARROWEST = 32


def needs_padding(config: PreTrainedConfig) -> bool:
    """Whether the heads are too narrow, and of a kind that can be padded."""
    return (
        config.model_type == "qwen3"
        and NARROWEST % config.head_dim == 0
        and config.head_dim < NARROWEST
        and config.rope_parameters["rope_type"] == "default"
    )


def padded_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same architecture with heads of NARROWEST dimensions."""
    padded = copy.deepcopy(config)
    padded.head_dim = NARROWEST
    return padded


def padded_weights(weights: Iterable[tuple[str, Tensor]], head_dim: int) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the checkpoint, with heads of NARROWEST instead of `head_dim` dimensions."""
    r = NARROWEST // head_dim
    half = torch.arange(head_dim // 2) * r
    place = torch.cat([half, NARROWEST // 2 + half])

    def pad(x: Tensor) -> Tensor:
        """[heads·d, …] → [heads·D, …]"""
        out = x.new_zeros(len(x) // head_dim, NARROWEST, *x.shape[1:])
        out[:, place.to(x.device)] = x.unflatten(0, (-1, head_dim))
        return out.flatten(0, 1)

    for name, x in weights:
        match name.split(".")[-2]:
            case "q_proj" | "k_proj":
                yield name, pad(x) * r**0.5
            case "v_proj" | "q_norm":
                yield name, pad(x)
            case "k_norm":
                yield name, pad(x) * r**-0.5
            case "o_proj" if name.endswith("weight"):
                yield name, pad(x.T).T.contiguous()
            case _:
                yield name, x
