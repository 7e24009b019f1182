"""What a run continues from: weights, optimiser states and progress of its last checkpoint.

Each rank writes the tensors that it holds as safetensors, and rank 0 progress.json beside them. Any number of ranks
continues from what any number wrote, and reading it runs no code of theirs.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from harness.model.lora import frozen_weights
from harness.model.ranks import Ranks
from harness.record.files import new_folder, write_json

Parts = Mapping[str, tuple[nn.Module, torch.optim.Optimizer | None]]
"""The models that a run consists of, by name, each with its optimiser if it is trained."""

Scalar = bool | int | float | None

KEPT, OPTIMIZER = "kept", "optimizer"
"""What the names of tensors begin with that are no weights of a part."""


def save(
    target: Path,
    parts: Parts,
    progress: Mapping[str, Any],
    kept: Mapping[str, Tensor],
    ranks: Ranks,
    seal: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Replaces the checkpoint in `target`. Every rank must call it.

    Args:
        progress: JSON.
        kept: tensors beside those of the parts, the same on every rank.
        seal: called by rank 0 with the folder before it becomes the checkpoint, once all have written.

    Raises ValueError where an optimiser keeps what is neither tensor nor scalar.
    """
    tensors, scalars = _state(parts)
    tensors |= {f"{KEPT}.{name}": x for name, x in kept.items()}
    with _shared_folder(target, ranks, seal) as folder, _checkpointing():
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, no_dist=ranks.alone)
        if ranks.rank == 0:
            write_json(folder / "progress.json", {**progress, "optimizers": scalars})


def load(source: Path, parts: Parts, ranks: Ranks) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Puts the checkpoint into `parts`, in place, and returns `progress` and `kept`; None where there is none.

    Raises ValueError where it holds another state than that of `parts`.
    """
    # Rank 0's word counts for all: on a network disk another may not see yet, or see still, what is there.
    progress = ranks.first(lambda: _progress(source))
    if progress is None:
        return None
    reader = HuggingFaceStorageReader(str(source))
    saved = reader.read_metadata().state_dict_metadata
    kept = {
        name: torch.empty(x.size, dtype=x.properties.dtype)
        for name, x in saved.items()
        if name.startswith(f"{KEPT}.") and isinstance(x, TensorStorageMetadata)
    }
    tensors, scalars = _state(parts)
    # An optimiser keeps nothing of a weight that never had a gradient.
    stepped = {_owner(name) for name in saved}
    wanted = {name: x for name, x in tensors.items() if not name.startswith(f"{OPTIMIZER}.") or _owner(name) in stepped}
    other = (saved.keys() - kept.keys()) ^ wanted.keys()
    if other or progress.get("optimizers", {}).keys() != scalars.keys():
        raise ValueError(
            f"{source} holds another state than this run has ({', '.join(sorted(other)[:3]) or 'other optimisers'}): "
            "remove that folder to start the cell anew"
        )
    with _checkpointing():
        dcp.load({**wanted, **kept}, storage_reader=reader, no_dist=ranks.alone)
    for name, (model, optimizer) in parts.items():
        if optimizer is not None:
            _set_state(name, model, optimizer, wanted, progress["optimizers"][name])
    return progress, {name.partition(".")[2]: x for name, x in kept.items()}


def _state(parts: Parts) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every tensor of the parts but frozen weights, by a name that is the same on any number of ranks, and the scalars
    of each optimiser.

    Gives an optimiser that has none yet a state to load into.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, (model, optimizer) in parts.items():
        tied = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
        left_out = tied | frozen_weights(model)
        tensors |= {f"{name}.{key}": x for key, x in model.state_dict().items() if key not in left_out}
        if optimizer is None:
            continue
        found: dict[str, Any] = dict(get_optimizer_state_dict(model, optimizer))
        state: dict[str, dict[str, Scalar]] = {}
        for weight, entries in found["state"].items():
            for key, x in entries.items():
                if isinstance(x, Tensor):
                    tensors[f"{OPTIMIZER}.{name}.{weight}.{key}"] = x
                else:
                    state.setdefault(weight, {})[key] = _scalar(x, optimizer, key)
        groups = [
            {key: x if key == "params" else _scalars(x, optimizer, key) for key, x in group.items()}
            for group in found["param_groups"]
        ]
        scalars[name] = {"state": state, "param_groups": groups}
    return tensors, scalars


def _set_state(
    name: str, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Any
) -> None:
    """Gives an optimiser what was loaded, and no state of a weight of which there is none."""
    state: dict[str, dict[str, Any]] = {weight: dict(entries) for weight, entries in scalars["state"].items()}
    start = f"{OPTIMIZER}.{name}."
    for at, x in tensors.items():
        if at.startswith(start):
            weight, _, key = at.removeprefix(start).rpartition(".")
            state.setdefault(weight, {})[key] = x
    groups = [
        {key: tuple(x) if isinstance(x, list) and key != "params" else x for key, x in group.items()}
        for group in scalars["param_groups"]
    ]
    found: dict[str, Any] = {"state": state, "param_groups": groups}
    options = StateDictOptions(strict=False)  # there may be weights without a state
    set_optimizer_state_dict(model, optimizer, found, options=options)


def _scalars(x: Any, optimizer: torch.optim.Optimizer, key: str) -> Scalar | list[Scalar]:
    return [_scalar(part, optimizer, key) for part in x] if isinstance(x, tuple) else _scalar(x, optimizer, key)


def _scalar(x: Any, optimizer: torch.optim.Optimizer, key: str) -> Scalar:
    if x is None or isinstance(x, bool | int | float):
        return x
    raise ValueError(
        f"{type(optimizer).__name__} keeps {key!r}, a {type(x).__name__}: only tensors and scalars can be resumed. Set "
        "resources.checkpoint_every = 0, or take another optimiser"
    )


def _progress(source: Path) -> dict[str, Any] | None:
    path = source / "progress.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


@contextmanager
def _checkpointing() -> Iterator[None]:
    """Without the warning that a process alone saves and loads alone, and with the reason why torch could not do it:
    its own error hides that, and is no Exception."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except dcp.CheckpointException as error:
            reason, _ = next(iter(error.failures.values()))
            raise reason from None


@contextmanager
def _shared_folder(target: Path, ranks: Ranks, seal: Callable[[Path], None]) -> Iterator[Path]:
    """`new_folder` of rank 0 for all ranks to write into, complete when the last one is done and it is sealed."""
    if ranks.rank == 0:
        with new_folder(target) as folder:
            ranks.first(lambda: str(folder))
            yield folder
            ranks.barrier()
            seal(folder)
    else:
        yield Path(ranks.first(str))
        ranks.barrier()
