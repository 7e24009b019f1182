"""Runs a function on several ranks that meet over gloo, each a process of its own."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 120
"""After which a rank that has not answered is taken to wait for ever."""


def on_ranks(size: int, meeting: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`work(ranks, *arguments)` on each rank; what they return, by rank. `meeting` is a file that does not exist yet.

    Raises AssertionError with the traceback of the first rank that failed, or where one does not answer.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.sweep.cell", "torch.distributed.fsdp", "torch.distributed.tensor"])
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=_serve, args=(theirs, rank, size, meeting, work, arguments)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        answers = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(SECONDS), f"rank {rank} of {size} does not answer"
            failure, answer = pickle.loads(pipe.recv_bytes())  # noqa: S301
            assert failure is None, f"rank {rank}:\n{failure}"
            answers.append(answer)
        return answers
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(
    pipe: Any, rank: int, size: int, meeting: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    from harness.model.ranks import Ranks

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
        answer: tuple[str | None, Any] = (None, work(Ranks.of_group(), *arguments))
    except BaseException:
        answer = (traceback.format_exc(), None)
    pipe.send_bytes(pickle.dumps(answer))  # `send` would leave tensors in memory that ends with this process
    pipe.close()
