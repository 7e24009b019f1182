"""What `gvpo-bench plan` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
from rich.table import Table
from rich.text import Text

from harness.preflight.costs import (
    GENERATION_EFFICIENCY,
    LAYER_SECONDS,
    Assumptions,
    CellCost,
    measured_tokens,
    prompts_of,
)
from harness.preflight.gpus import GPUS
from harness.record.ledger import Tokens
from harness.record.text import terminal
from harness.report.columns import tokens
from harness.suite.cell_config import CellConfig
from harness.suite.config import Suite
from harness.suite.plan import Cell


def total(costs: Sequence[CellCost], which: str) -> Tokens:
    """The sum of `tokens` or `most` over cells."""
    counts: list[Tokens] = [getattr(cost, which) for cost in costs]
    return Tokens(**{name: sum(getattr(each, name) for each in counts) for name in Tokens().tokens()})


def render(suite: Suite, cells: Sequence[Cell], costs: Mapping[str, CellCost], assumptions: Assumptions) -> list[Any]:
    """What `gvpo-bench plan` prints: tokens and hours, memory, disk, and what was assumed."""
    title = terminal(f"{suite.name}: {len(cells)} cells on {assumptions.gpu}", "table.title")
    work = Table(title=title, box=rich.box.SIMPLE_HEAD)
    work.add_column("algorithm")
    for name in (
        "cells",
        "drawn",
        "at most",
        "trained",
        "forward",
        "evaluated",
        "core h" if assumptions.gpu == "cpu" else "GPU h",
    ):
        work.add_column(name, justify="right")
    groups: dict[str, list[CellCost]] = {}
    for cell in cells:
        point = cell.config.suite.partition("/")[2]
        groups.setdefault(f"{point} {cell.config.run_label}".strip(), []).append(costs[cell.name])

    def row(name: str, group: Sequence[CellCost]) -> list[Text]:
        mean, most = total(group, "tokens"), total(group, "most")
        hours = sum(cost.gpu_hours for cost in group)
        counts = (mean.generated, most.generated, mean.trained, mean.extra)
        shown = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
        return list(map(terminal, [name, str(len(group)), *map(tokens, counts), tokens(mean.evaluation), shown]))

    for name, group in groups.items():
        work.add_row(*row(name, group))
    work.add_section()
    work.add_row(*row("all", list(costs.values())), style="bold")

    # Of equals, in megabytes, the one that takes more in an update: evaluation is the same for all.
    def largest_of(item: tuple[str, list[CellCost]]) -> tuple[float, float]:
        memory = item[1][0].memory
        return round(memory.peak / 1e6), sum(memory.training.values())

    name, largest = max(groups.items(), key=largest_of)
    memory = largest[0].memory
    resources = cells[0].config.resources
    ranks, beside = resources.ranks, resources.cells_on_gpu
    each = f"one of {ranks} GPUs" if ranks > 1 else f"each of {beside} cells on a GPU" if beside > 1 else "one GPU"
    title = terminal(f"memory of {each}, {name} (the largest)", "table.title")
    table = Table(title=title, box=rich.box.SIMPLE_HEAD)
    table.add_column("when")
    table.add_column("what")
    table.add_column("GB", justify="right")
    phases = {"always": memory.resident, "in an update": memory.training, "in a rollout": memory.rollout}
    phases |= {f"or {moment}": parts for moment, parts in memory.between.items() if sum(parts.values()) == memory.peak}
    for when, parts in phases.items():
        for what, size in parts.items():
            table.add_row(when, what, f"{size / 1e9:.3g}")
            when = ""
    table.add_section()
    table.add_row("peak", "", f"{memory.peak / 1e9:.3g}", style="bold")

    gpu = GPUS[assumptions.gpu]
    room = resources.room_on_gpu(gpu.memory)
    lines = []
    if beside > 1:
        wall = sum(cost.gpu_hours for cost in costs.values())
        lines.append(
            f"one GPU: {beside} cells side by side, all over in about {wall:.2g} h; each may fill {room / 1e9:.3g} GB "
            f"of {gpu.memory / 1e9:.0f}, CUDA's own left out"
        )
    if memory.peak > room:
        share = f"the {room / 1e9:.3g} that each of {beside} cells has of " if beside > 1 else ""
        more = "give each a larger share (resources.gpus)" if beside > 1 else "raise ranks"
        if ranks > 1 and suite.rollout.shares_weights:
            more = "take rollout.engine = 'vllm', which needs no whole policy on each rank"
        lines.append(
            f"[red]does not fit[/]: {memory.peak / 1e9:.0f} GB of {share}{assumptions.gpu}'s {gpu.memory / 1e9:.0f}; "
            f"lower resources.token_budget or rollout_batch, set activation_checkpointing, or {more}"
        )
    kept = sum(cost.checkpoint + cost.samples for cost in costs.values())
    running = max(cost.resume for cost in costs.values())
    lines.append(f"disk: {kept / 1e9:.3g} GB stay; {running / 1e9:.3g} GB more for each cell that runs")
    return [work, table, *lines, *(f"assumed: {line}" for line in stated(cells[0].config, assumptions))]


def stated(config: CellConfig, assumptions: Assumptions) -> list[str]:
    """The assumptions in words."""
    settings, gpu = config.evaluation, GPUS[assumptions.gpu]
    names = (*settings.benchmarks, *settings.hard_benchmarks)
    peak = gpu.bfloat16 if config.model.precision == "bfloat16" else gpu.float32
    efficiency = GENERATION_EFFICIENCY[config.rollout.engine]
    prompts = prompts_of(config.model, config.train, names, settings.limit)
    response = assumptions.response(config.train.max_new_tokens)
    measured = measured_tokens(config.train, len(prompts.training), response)
    return [
        *(
            [
                f"pass rates are measured once for all cells: {tokens(measured)} tokens, drawn in each row and in no "
                "row's hours; training draws from all problems alike"
            ]
            if measured
            else []
        ),
        f"every response has {response:.4g} of at most "
        f"{config.train.max_new_tokens} tokens (--mean-response); “at most” takes the limit, "
        "and every round of refilling in vain where there is any, which otherwise counts none",
        "prompts tokenised and counted"
        if prompts.exact
        else "three characters of a prompt are a token: there is no tokenizer in model.path",
        f"forward and backward passes reach {assumptions.mfu:.0%} of {peak / 1e12:.3g} TFLOP/s (--mfu)",
        f"a GPU draws {assumptions.generation_rate:.4g} tokens/s (--generation-rate)"
        if assumptions.generation_rate
        else f"drawing reaches {efficiency:.0%} of what {gpu.bandwidth / 1e12:.3g} TB/s or that peak allow "
        f"(--generation-rate); start-up, grading and idle time are not counted"
        + ("" if config.resources.cells_on_gpu == 1 else ", but for what cells that share a GPU leave it"),
        *(
            [
                f"cells that share a GPU share its rates; a cell has its share of it for {LAYER_SECONDS * 1e3:.2g} ms "
                "a layer and pass at least, in which Python calls its kernels"
            ]
            if config.resources.cells_on_gpu > 1
            else []
        ),
    ]
