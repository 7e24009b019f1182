"""What a run continues from: weights, optimiser states and progress of its last checkpoint.

A process alone keeps it all in state.pt. Several ranks each write their shards as safetensors, and progress.json beside
them, which any number of ranks, one included, can continue from. Reading either runs no code of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from harness.model.ranks import Ranks
from harness.record.files import new_folder, write_json

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, beside the number of updates."""

Parts = Mapping[str, nn.Module | torch.optim.Optimizer]
"""The models and optimisers that a run consists of, by name."""


def save(target: Path, parts: Parts, progress: Mapping[str, Any], ranks: Ranks) -> None:
    """Replaces the checkpoint in `target`. `progress` is JSON. Every rank must call it."""
    with _shared_folder(target, ranks) as folder:
        if ranks.alone:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**progress, "parts": states}, folder / "state.pt")
            return
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(dict(_tensors(parts)), storage_writer=writer)
        if ranks.rank == 0:
            updates = {name: _updates(part) for name, part in parts.items() if isinstance(part, torch.optim.Optimizer)}
            write_json(folder / "progress.json", {**progress, "updates": updates})


def load(source: Path, parts: Parts, ranks: Ranks, device: torch.device) -> dict[str, Any] | None:
    """Puts the checkpoint into `parts`, in place, and returns the progress; None where there is no checkpoint.

    Raises ValueError where a process alone wrote it and several ranks are to continue.
    """
    if (source / "state.pt").is_file():
        if not ranks.alone:
            raise ValueError(
                f"{source / 'state.pt'} was written by one process and cannot be continued by {ranks.size}: continue "
                "it with one, or remove that folder to start the cell anew"
            )
        state: dict[str, Any] = torch.load(source / "state.pt", map_location=device, weights_only=True)
        states = state.pop("parts")  # a copy of it all, which must not outlive this call
        for name, part in parts.items():
            part.load_state_dict(states[name])
        return state
    if not (source / "progress.json").is_file():
        return None
    progress: dict[str, Any] = json.loads((source / "progress.json").read_text(encoding="utf-8"))
    reader = HuggingFaceStorageReader(str(source))
    saved = reader.read_metadata().state_dict_metadata
    for name, part in parts.items():
        if isinstance(part, torch.optim.Optimizer):
            for i, parameter in enumerate(_parameters(part)):
                if f"{name}.{i}.{MOMENTS[0]}" in saved:
                    step = torch.tensor(float(progress["updates"][name]), device=parameter.device)
                    moments = {moment: torch.zeros_like(parameter.detach()) for moment in MOMENTS}
                    part.state[parameter] = {"step": step, **moments}
    dcp.load(dict(_tensors(parts)), storage_reader=reader, no_dist=ranks.alone)
    return progress


def _tensors(parts: Parts) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a run, by a name that is the same on any number of ranks."""
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            yield from ((f"{name}.{key}", parameter.detach()) for key, parameter in part.named_parameters())
        else:
            for i, parameter in enumerate(_parameters(part)):
                state = part.state.get(parameter, {})
                yield from ((f"{name}.{i}.{moment}", state[moment]) for moment in MOMENTS if moment in state)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _updates(optimizer: torch.optim.Optimizer) -> int:
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


@contextmanager
def _shared_folder(target: Path, ranks: Ranks) -> Iterator[Path]:
    """`new_folder` of rank 0 for all ranks to write into, complete when the last one is done."""
    if ranks.rank == 0:
        with new_folder(target) as folder:
            ranks.first(lambda: str(folder))
            yield folder
            ranks.barrier()
    else:
        yield Path(ranks.first(str))
        ranks.barrier()
