"""The earlier samples of each problem, which may fill part of a group, and how a checkpoint keeps them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.training.batch import Sample

History = dict[str, list[Sample]]
"""By problem, the most recent last."""

COLUMNS = {"tokens": ("i", torch.int32), "sampler_logp": ("f", torch.float32), "behaviour_logp": ("f", torch.float32)}
"""What a sample has of each token, as arrays and tensors name its type."""


def mix_in_history(fresh: list[Sample], earlier: list[Sample], size: int) -> list[Sample]:
    """The fresh samples, filled up to the group's size with the most recent earlier ones."""
    missing = size - len(fresh)
    return fresh + earlier[len(earlier) - missing :] if missing else fresh


def pack(history: Mapping[str, Sequence[Sample]]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Tensor]]:
    """What JSON may hold of each sample, by problem, and the tokens and log-probs of all, one after another."""
    about = {
        problem: [
            {"length": len(s.tokens), "reward": s.reward, "truncated": s.truncated, "verdict": s.verdict}
            for s in samples
        ]
        for problem, samples in history.items()
    }
    packed = {}
    for name, (code, dtype) in COLUMNS.items():
        joined = array(code)
        for samples in history.values():
            for sample in samples:
                joined.extend(getattr(sample, name))
        if joined:
            packed[name] = torch.frombuffer(joined, dtype=dtype)
    return about, packed


def unpack(
    about: Mapping[str, Sequence[Mapping[str, Any]]], packed: Mapping[str, Tensor], prompts: Mapping[str, list[int]]
) -> History:
    """The samples as they were packed; their prompts are those of the problems."""
    joined = {name: array(COLUMNS[name][0], x.numpy().tobytes()) for name, x in packed.items()}
    history: History = {}
    start = 0
    for problem, samples in about.items():
        history[problem] = []
        for sample in samples:
            end = start + sample["length"]
            known: dict[str, Any] = {name: sample[name] for name in ("reward", "truncated", "verdict")}
            known |= {name: x[start:end] for name, x in joined.items()}
            history[problem].append(Sample(prompt=prompts[problem], **known))
            start = end
    return history
