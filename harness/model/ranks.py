"""The processes that train one policy together. A process alone is the case of one rank, and nothing is sent.

Every rank runs the same program on the same batch. What is costly is shared out: prompts to sample and grade
(`spread`), rows to run through a model (`deal`, `collect`), and the weights themselves (`shard`). All else is computed
by all.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

A = TypeVar("A")
B = TypeVar("B")

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a rank waits for another before both give up: longer than any work that one rank does for all."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size`."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    """Where sharded weights live; None without a process group."""

    @staticmethod
    def of_group() -> Ranks:
        """Those of torch's process group, or a single one where there is none."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return ALONE
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
        return Ranks(dist.get_rank(), dist.get_world_size(), torch.device(device))

    @property
    def alone(self) -> bool:
        """Whether this process is the only rank."""
        return self.size == 1

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        if not self.alone:
            dist.barrier()

    def first(self, work: Callable[[], A]) -> A:
        """What `work` returns on rank 0, which alone does it, on every rank."""
        if self.alone:
            return work()
        box: list[Any] = [work() if self.rank == 0 else None]
        dist.broadcast_object_list(box)
        return box[0]

    def spread(self, work: Callable[[Sequence[A]], Sequence[B]], items: Sequence[A]) -> list[B]:
        """`work(items)`, one result an item, of which each rank does its share; all results on every rank."""
        share = items[self.rank :: self.size]
        mine = list(work(share)) if share else []
        if self.alone:
            return mine
        parts: list[list[B]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, mine)
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def deal(self, round_N: Tensor) -> tuple[Tensor, bool]:
        """This rank's rows of a round, a micro-batch on each rank at once, and whether they count.

        A rank that would have none takes one that another rank has too, and its results do not count: in a sharded
        model every rank must take part in every forward and backward pass, or all wait for ever.
        """
        mine_N = round_N[self.rank :: self.size]
        return (mine_N, True) if len(mine_N) else (round_N[:1], False)

    def collect(self, x_M: Tensor, rows: int) -> Tensor:
        """The results of a whole round of so many rows, in its order, from those of this rank, [rows, …]."""
        if self.alone:
            return x_M
        mine_M = x_M.new_zeros(-(-rows // self.size), *x_M.shape[1:])
        mine_M[: len(x_M)] = x_M.detach()
        parts = [torch.empty_like(mine_M) for _ in range(self.size)]
        dist.all_gather(parts, mine_M)
        return torch.stack(parts, 1).flatten(0, 1)[:rows]

    def shard(self, module: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Shares out the module's parameters with FSDP2, in place: a layer's are whole only while it computes.

        Where only rank 0 has them, and they are on meta elsewhere, a layer's are whole on `device` only while they are
        shared out. Gradients are then averaged over ranks.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        assert self.device is not None
        mesh = init_device_mesh(self.device.type, (self.size,))
        lacking = torch.tensor([any(x.is_meta for x in module.parameters())], dtype=torch.int, device=self.device)
        dist.all_reduce(lacking)
        half = next(module.parameters()).dtype == torch.bfloat16
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32 if half else None)  # gradients, while they are summed
        for part in (*layers, module):
            if lacking.item():
                self._give(part)
            # The root too: parameters that stay whole after a forward pass would miss the next optimiser step.
            fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)

    def _give(self, part: nn.Module) -> None:
        """All ranks what rank 0 has of a module's parameters and buffers, but for what is sharded by now."""
        given: dict[int, tuple[Tensor, Tensor]] = {}  # with what it replaces, whose id is then no other's
        for child in part.modules():
            for tensors in (child._parameters, child._buffers):
                for name, x in tensors.items():
                    if x is None or is_sharded(x):
                        continue
                    if id(x) not in given:
                        ours = x.detach().to(self.device) if self.rank == 0 else torch.empty_like(x, device=self.device)
                        dist.broadcast(ours.contiguous(), 0)
                        given[id(x)] = x, nn.Parameter(ours, x.requires_grad) if isinstance(x, nn.Parameter) else ours
                    tensors[name] = given[id(x)][1]  # type: ignore[assignment]


ALONE = Ranks()


MEETING = "GVPO_BENCH_MEETING"
"""The environment variable with the address at which the ranks that `harness.sweep.launch` starts meet; those of
torchrun meet at MASTER_ADDR."""

VARIABLES = {
    MEETING,
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
}
"""What the launcher of ranks, torchrun or `harness.sweep.launch`, says of a rank, beside TORCHELASTIC_…"""


def environment_alone() -> dict[str, str]:
    """This process's environment without what its launcher has put there: for children that are no ranks."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in VARIABLES and not name.startswith("TORCHELASTIC_")
    }


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    found, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:found] if visible else [str(i) for i in range(found)]


@contextlib.contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Meets the other processes that torchrun or `harness.sweep.launch` started, over NCCL on cuda and gloo on the CPU.

    In a process of neither, or within a process group that is there already, it joins nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Ranks.of_group()
        return
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        init_method=os.environ.get(MEETING, "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=TIMEOUT,
    )
    yield Ranks.of_group()
    # Not after an error: others may wait for this rank, and only its end, which the launcher sees, ends them.
    dist.destroy_process_group()


def whole(x: Tensor) -> Tensor:
    """A sharded tensor gathered on every rank, which all must ask for; any other tensor as it is."""
    return x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]


def is_sharded(x: Tensor) -> bool:
    """Whether each rank has a part of it."""
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Gives `target`, empty or not, the weights of `source`, one at a time where these are sharded and it is not;
    frozen ones only where it is empty, and none where it is on meta. Every rank must call it."""
    for into, x in zip(target.parameters(), source.parameters(), strict=True):
        if into.shape != x.shape:
            into.data = into.new_empty(x.shape)
        elif not x.requires_grad:
            continue
        into.copy_(x if is_sharded(into) else whole(x))


def share_frozen(source: nn.Module, target: nn.Module) -> None:
    """Puts the shards of `source` in the place of those of the frozen weights of `target`, if it has any: the two then
    are one. To be called after both are sharded, and before the first pass of `target`."""
    named = {name: x for name, x in target.named_parameters(remove_duplicate=False) if not x.requires_grad}
    if named:
        shards = [x for _, x in source.named_parameters(remove_duplicate=False)]
        target.load_state_dict(dict(zip(named, shards, strict=True)), strict=False, assign=True)


def free_memory() -> None:
    """Gives back what is no longer used: models and optimisers lie in reference cycles, and so does their memory."""
    gc.collect()
    torch.cuda.empty_cache()


def empty_weights(model: nn.Module) -> None:
    """Frees the memory of a model's weights, until `copy_weights` gives it some."""
    for parameter in model.parameters():
        parameter.data = parameter.new_empty(0)


@contextlib.contextmanager
def gathered(*modules: nn.Module) -> Iterator[None]:
    """The modules' own parameters whole, outside of a forward pass. Every rank must call it."""
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in modules if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    yield
    for module in sharded:
        module.reshard()
