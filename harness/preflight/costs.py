"""What a suite will cost, said before anything starts: tokens, memory, GPU hours, disk.

From the suite, the lengths of its prompts and the model's config alone; no weights are loaded. Tokens are counted the
way train.py spends them, so that with the true mean length they are those of a finished run's manifest. Memory and
hours are estimates under assumptions that the output states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import rich.box
import torch
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from algorithms.base import Needs
from benchmarks import Problem, load_benchmark
from benchmarks.templates import load_template
from harness.model.language import check_length, device_of, from_pretrained, tokenise
from harness.model.policy import LOGITS_AT_ONCE
from harness.report.suite_report import tokens
from harness.suite.config import CellConfig, ConfigError, Model, Suite, Train
from harness.sweep.cell import BASE, Cell, build_algorithm, training_problems
from harness.training.train import prompts_of_step


@dataclass(frozen=True)
class Gpu:
    """Peak rates as the maker states them, dense: FLOP/s, bytes of memory, bytes/s."""

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float


GPUS = {
    "A100-40GB": Gpu(312e12, 19.5e12, 40e9, 1.56e12),
    "A100": Gpu(312e12, 19.5e12, 80e9, 2.04e12),
    "L40S": Gpu(362e12, 91.6e12, 48e9, 0.86e12),
    "H100 PCIe": Gpu(756e12, 51e12, 80e9, 2.0e12),
    "H100": Gpu(989e12, 67e12, 80e9, 3.35e12),
    "H200": Gpu(989e12, 67e12, 141e9, 4.8e12),
    "B200": Gpu(2250e12, 80e12, 180e9, 8.0e12),
    # One thread, as `make perf` measures it on a two-core machine: 84 GFLOP/s of matrix products.
    "cpu": Gpu(84e9, 84e9, 4e9, 10e9),
}
"""By the name that torch.cuda.get_device_name has in it."""

GENERATION_EFFICIENCY = {"vllm": 0.5, "cached": 0.15, "transformers": 0.1}
"""Share of the peak rate (memory's or arithmetic's, whichever binds) that an engine's decoding step reaches."""


@dataclass(frozen=True)
class Assumptions:
    """What no config says."""

    gpu: str
    mean_response: float | None = None
    """Tokens, in training and evaluation; by default half of the limit."""
    mfu: float = 0.4
    """Model FLOPs utilisation: share of the peak arithmetic rate that forward and backward passes reach."""
    generation_rate: float | None = None
    """Tokens/s of one GPU; by default from memory bandwidth and peak."""

    def response(self, limit: int) -> float:
        """Mean length of a response whose limit is `limit`, in tokens."""
        return limit / 2 if self.mean_response is None else min(self.mean_response, limit)


@dataclass(frozen=True)
class ModelSize:
    """Numbers of a decoder, from its config."""

    parameters: int
    """Tied ones once."""
    body: int
    """Without the output layer: what a critic copies."""
    embedding: int
    """Of the input embedding, which takes no arithmetic."""
    layers: int
    hidden: int
    attention: int
    """Heads × their size."""
    kv: int
    """Key and value heads × their size, each."""
    feed_forward: int
    vocabulary: int

    def flops(self, length: float) -> float:
        """FLOP of a forward pass per token of sequences of `length`: two per parameter that is multiplied with, and
        4·width a layer for each token attended to, length/2 on average (Kaplan et al., arXiv 2001.08361, table 1)."""
        multiplied = self.body - self.embedding + self.vocabulary * self.hidden
        return 2 * multiplied + 2 * self.layers * self.attention * length

    def kv_bytes(self, width: int) -> int:
        """Bytes of a token's keys and values at `width` bytes a number."""
        return 2 * self.layers * self.kv * width

    def activation_bytes(self, width: int) -> int:
        """Bytes that autograd keeps for the backward pass per token, at `width` bytes a number in matrix products.

        Counted on a pre-norm decoder with a gated feed-forward part (Llama, Qwen): each of two norms keeps its float32
        input and its normalised float32 value, and its output goes into the matrix products; queries and keys are kept
        before and after the rotation, values and the attention's output once; of the feed-forward part the gate before
        and after its activation, the other half, and their product.
        """
        norms = 2 * (4 + 4 + width) * self.hidden
        attention = width * (2 * self.attention + 2 * self.kv + self.kv + self.attention)
        return self.layers * (norms + attention + 4 * width * self.feed_forward)


def model_size(settings: Model) -> ModelSize:
    """Raises ConfigError where the config is not to be had or is not of a decoder that the estimates know."""
    whole = from_pretrained(AutoConfig, settings)
    config = whole.get_text_config()
    try:
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        numbers = {
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "attention": heads * head,
            "kv": kv_heads * head,
            "feed_forward": config.intermediate_size,
            "vocabulary": config.vocab_size,
        }
    except AttributeError as error:
        raise ConfigError(f"model.path = {settings.path!r}: its config does not say how large it is: {error}") from None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(whole)
    return ModelSize(
        parameters=model.num_parameters(),
        body=sum(p.numel() for p in model.base_model.parameters()),
        embedding=model.get_input_embeddings().weight.numel(),
        **numbers,
    )


@dataclass(frozen=True)
class Tokens:
    """Of one cell, as its manifest counts them: prompt and response, but responses alone where they are generated."""

    generated: float = 0.0
    trained: float = 0.0
    scored: float = 0.0
    reference: float = 0.0
    critic: float = 0.0
    evaluation: float = 0.0


def count_tokens(
    config: CellConfig, needs: Needs, lengths: Sequence[int], response: float, evaluation: float
) -> Tokens:
    """The tokens of one trained cell.

    Args:
        lengths: tokens of each training prompt, in the order of the problems.
        response: mean length of a training response.
        evaluation: tokens of all evaluation responses.
    """
    train = config.train
    from_history = round(train.history_share * train.samples)
    known = [0] * len(lengths)
    fresh = rows = stale = 0.0
    for step in range(train.steps):
        chosen = prompts_of_step(range(len(lengths)), config.seed, step, train.prompts)
        counts = [train.samples - min(from_history, known[problem]) for problem in chosen]
        fresh += sum(counts)
        tokens = sum(train.samples * (lengths[problem] + response) for problem in chosen)
        rows += tokens
        stale += tokens if step % train.refresh_every else 0.0
        for problem, count in zip(chosen, counts, strict=True):
            known[problem] = min(train.samples, known[problem] + count)
    trained = train.epochs * rows
    extra = 0.0
    if takes_two_passes(config, needs, max(lengths) + response):
        # The first update of a step knows its log-probs already, unless it needs entropies as well.
        extra = trained if needs.entropy else trained - rows / train.mini_batches
    return Tokens(
        generated=fresh * response,
        trained=trained,
        scored=rows + stale + extra,
        reference=rows if needs.reference else 0.0,
        critic=2 * rows + trained + extra if needs.critic else 0.0,
        evaluation=evaluation,
    )


def takes_two_passes(config: CellConfig, needs: Needs, longest: float) -> bool:
    """Whether what the algorithm couples is more than one forward pass holds (gradient.py)."""
    train = config.train
    coupled = {
        "sequence": 1,
        "group": train.samples,
        "batch": train.samples * train.prompts // train.mini_batches,
    }[needs.coupling]
    return coupled > 1 and coupled * longest > train.token_budget


@dataclass(frozen=True)
class Prompts:
    """Lengths of the rendered prompts, in tokens."""

    training: Sequence[int]
    """In the order of the problems."""
    evaluation: Mapping[str, Sequence[int]]
    """By benchmark."""
    exact: bool
    """Whether a tokenizer was to be had; otherwise three characters are taken for a token."""


@cache
def prompts_of(settings: Model, train: Train, benchmarks: tuple[str, ...], limit: int | None) -> Prompts:
    """Raises ConfigError where the model's config is not to be had."""
    template = load_template(settings.template)
    try:
        tokenizer = from_pretrained(AutoTokenizer, settings)
        if len(tokenizer) == len(set(tokenizer.all_special_ids)):
            tokenizer = None  # what transformers makes up for a folder without one
    except ConfigError:
        from_pretrained(AutoConfig, settings)  # a folder may hold a config alone; without that there is no plan
        tokenizer = None

    def lengths(problems: Sequence[Problem]) -> list[int]:
        if tokenizer is None:
            return [-(-len(template.render(problem)) // 3) for problem in problems]
        return [len(ids) for ids in tokenise(problems, tokenizer, template)]

    return Prompts(
        training=lengths(training_problems(train)),
        evaluation={name: lengths(load_benchmark(name).problems()[:limit]) for name in benchmarks},
        exact=tokenizer is not None,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, at the moments when most is in use."""

    resident: dict[str, float]
    """Throughout."""
    training: dict[str, float]
    """More of it in an update."""
    rollout: dict[str, float]
    """More of it while responses are drawn."""
    between: dict[str, dict[str, float]]
    """All of it at other moments, where these may take more."""

    @property
    def peak(self) -> float:
        within = sum(self.resident.values()) + max(sum(self.training.values()), sum(self.rollout.values()))
        return max([within, *(sum(parts.values()) for parts in self.between.values())])


@dataclass(frozen=True)
class CellCost:
    """Of one cell."""

    tokens: Tokens
    most: Tokens
    """Were every response as long as its limit."""
    memory: Memory
    hours: dict[str, float]
    """GPU hours by what they are spent on."""
    checkpoint: float
    """Bytes that stay."""
    resume: float
    """Bytes more while it runs."""
    samples: float
    """Bytes of the evaluated responses."""


def cell_cost(cell: Cell, size: ModelSize, assumptions: Assumptions) -> CellCost:
    """Raises ConfigError where prompt and response exceed the model's positions."""
    config = cell.config
    train, settings = config.train, config.evaluation
    names = (*settings.benchmarks, *settings.hard_benchmarks)
    prompts = prompts_of(config.model, train, names, settings.limit)
    check_positions(config, prompts)
    needs = needs_of(cell)
    limit = settings.max_new_tokens or train.max_new_tokens
    responses = sum(settings.samples_of(name) * len(prompts.evaluation[name]) for name in names)
    asked = sum(settings.samples_of(name) * sum(prompts.evaluation[name]) for name in names)

    def tokens_at(response: float, evaluated: float) -> Tokens:
        evaluation = responses * evaluated
        if cell.is_base:
            return Tokens(evaluation=evaluation)
        return count_tokens(config, needs, prompts.training, response, evaluation)

    mean_tokens = tokens_at(assumptions.response(train.max_new_tokens), assumptions.response(limit))
    longest = max(prompts.training) + train.max_new_tokens
    memory = memory_of(config, size, needs, longest, GPUS[assumptions.gpu].memory, cell.resources.ranks)

    gpu = GPUS[assumptions.gpu]
    half = config.model.precision == "bfloat16"
    peak = gpu.bfloat16 if half else gpu.float32
    mean = sum(prompts.training) / len(prompts.training) + assumptions.response(train.max_new_tokens)
    flops = size.flops(mean)
    rate = assumptions.generation_rate or generation_rate(config, size, gpu, mean)
    critic_only = mean_tokens.critic - mean_tokens.trained if needs.critic else 0.0
    passes = 4 if train.activation_checkpointing else 3  # a backward pass is two forward passes; once more to recompute
    drawing, computing = idle_factors(cell)
    per_flop = computing / peak / assumptions.mfu
    work = {
        "rollouts": drawing * mean_tokens.generated / rate,
        "training": passes * mean_tokens.trained * flops * per_flop,
        "scoring": (mean_tokens.scored + mean_tokens.reference) * flops * per_flop,
        "critic": (passes * mean_tokens.trained * bool(needs.critic) + critic_only) * flops * per_flop,
        # Drawn, then scored under the policy and the base for the KL.
        "evaluation": drawing * mean_tokens.evaluation / rate + 2 * (asked + mean_tokens.evaluation) * flops * per_flop,
    }
    kept, running = disk(config, size, needs)
    return CellCost(
        tokens=mean_tokens,
        most=tokens_at(train.max_new_tokens, limit),
        memory=memory,
        hours={name: seconds / 3600 for name, seconds in work.items() if seconds},
        checkpoint=kept,
        resume=running,
        samples=4.0 * mean_tokens.evaluation,
    )


def idle_factors(cell: Cell) -> tuple[float, float]:
    """A cell's GPUs over those that draw, and over those that compute: a server's wait while the ranks train, and the
    ranks' while it draws."""
    ranks, gpus = cell.resources.ranks, max(cell.resources.gpus, cell.resources.ranks)
    server = cell.config.rollout.vllm_or_default.mode == "server"
    return gpus / (gpus - ranks) if server and gpus > ranks else 1.0, gpus / ranks


def disk(config: CellConfig, size: ModelSize, needs: Needs) -> tuple[float, float]:
    """Bytes that a cell leaves, and bytes more while it runs: its resumable state, of which the old one is there until
    the new one is whole."""
    if config.label == BASE:
        return 0.0, 0.0
    weights = 4.0 * size.parameters
    critic = 4.0 * (size.body + size.hidden + 1) if needs.critic else 0.0
    sampler = weights if config.train.refresh_every > 1 else 0.0
    state = 3 * weights + 3 * critic + sampler  # weights and Adam's two moments
    return weights, 2 * state if config.train.checkpoint_every else 0.0


def needs_of(cell: Cell) -> Needs:
    """What the cell's algorithm asks for; the base asks for nothing."""
    config = cell.config
    if cell.is_base:
        return Needs()
    return build_algorithm(config.algorithm, config.parameters, where=f"algorithms.{config.label}").needs


def check_positions(config: CellConfig, prompts: Prompts) -> None:
    model = from_pretrained(AutoConfig, config.model)
    limits = {"train": config.train.max_new_tokens}
    limits["evaluation"] = config.evaluation.max_new_tokens or config.train.max_new_tokens
    longest = {"train": max(prompts.training)}
    longest["evaluation"] = max(max(lengths) for lengths in prompts.evaluation.values())
    for use, limit in limits.items():
        check_length([[0] * longest[use]], limit, model, f"model.path = {config.model.path!r} ({use})")


def memory_of(
    config: CellConfig, size: ModelSize, needs: Needs, longest: float, whole: float, ranks: int = 1
) -> Memory:
    """Of each of `ranks` GPUs of `whole` bytes.

    Weights, gradients and Adam's moments are float32; bfloat16 is autocast's, whose copies of the weights live through
    a pass. What is trained or scored is sharded; what samples is whole on each rank, and a copy of the policy where it
    is stale or the policy is sharded, but for vLLM, which takes the weights from the shards. vLLM takes its fraction of
    the GPU while it samples, or throughout where it does not sleep; a server's GPUs are others.
    """
    train = config.train
    width = 2 if config.model.precision == "bfloat16" else 4
    weights = 4.0 * size.parameters
    shard = weights / ranks
    critic = 4.0 * (size.body + size.hidden + 1) / ranks if needs.critic else 0.0
    updated = train.prompts * train.samples / train.mini_batches / ranks * longest
    passes = min(max(train.token_budget, longest), updated)  # tokens of a pass with gradient
    # Of the tokens whose logits exist at once: logits, log-probs and their gradients, in float32.
    chunk = train.logprob_chunk or max(1, LOGITS_AT_ONCE // size.vocabulary)
    logits = 4 * 4.0 * min(passes * train.max_new_tokens / longest, chunk) * size.vocabulary
    sequences = min(config.rollout.batch, train.prompts * train.samples / ranks)
    kept = passes * size.activation_bytes(width)
    copies = 2.0 * (size.parameters + critic * ranks / 4) if width == 2 else 0.0
    if train.activation_checkpointing:  # each layer's float32 input, and all of one layer
        kept = passes * 4 * size.hidden * size.layers + kept / size.layers
        copies = copies / size.layers if ranks > 1 else copies
    if config.label == BASE:
        resident = {"policy": weights, "base, for the KL": shard}
        training: dict[str, float] = {"logits": logits}
    else:
        resident = {
            "policy": shard,
            "Adam": 2 * shard,
            "base, for the KL": shard,
            "reference": shard if needs.reference else 0.0,
            "sampling policy": weights
            if train.refresh_every > 1 or (ranks > 1 and config.rollout.shares_weights)
            else 0.0,
            "critic and its Adam": 3 * critic,
        }
        training = {
            "gradients": shard + critic,
            "bfloat16 copies": copies,
            "activations": kept * (2 if needs.critic else 1),
            "logits": logits,
        }
    rollout: dict[str, float] = {
        "bfloat16 copies": 2.0 * size.parameters if width == 2 else 0.0,
        "KV cache": sequences * longest * size.kv_bytes(width),
        "logits": 4 * 4.0 * sequences * size.vocabulary,
    }
    if config.rollout.engine == "vllm":
        vllm = config.rollout.vllm_or_default
        share = vllm.memory_fraction * whole if vllm.mode == "colocated" else 0.0
        rollout = {"vLLM": 0.0 if vllm.sleep is False else share}
        resident["vLLM"] = share if vllm.sleep is False else 0.0
    between: dict[str, dict[str, float]] = {}
    if config.label != BASE and ranks > 1:
        shards = {name: resident[name] for name in ("base, for the KL", "reference")} | {"critic": critic}
        asleep = {"vLLM": resident.get("vLLM", 0.0)}
        between["while it loads"] = {"policy and a copy": 2 * weights, **shards, **asleep}
        between["in the evaluation"] = {"policy": weights, "base, for the KL": shard, **asleep, **rollout}
    resident, training, rollout = (_nonzero(part) for part in (resident, training, rollout))
    return Memory(resident, training, rollout, {moment: _nonzero(part) for moment, part in between.items()})


def _nonzero(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: size for name, size in parts.items() if size}


def generation_rate(config: CellConfig, size: ModelSize, gpu: Gpu, length: float) -> float:
    """Tokens/s: a step reads the weights once and each sequence's KV cache, or is bound by arithmetic."""
    width = 2 if config.model.precision == "bfloat16" else 4
    sequences = min(config.rollout.batch, config.train.prompts * config.train.samples)
    read = width * size.parameters + sequences * length / 2 * size.kv_bytes(width)
    peak = gpu.bfloat16 if width == 2 else gpu.float32
    step = max(read / gpu.bandwidth, sequences * size.flops(length) / peak)
    return sequences / step * GENERATION_EFFICIENCY[config.rollout.engine]


def default_gpu(settings: Model) -> str:
    """This machine's, where the table has it; the CPU for the embedded model; otherwise an H100."""
    if device_of(settings).type == "cuda":
        name = torch.cuda.get_device_name()
        found = [known for known in GPUS if all(part in name for part in known.split())]
        if found:
            return max(found, key=len)
    return "cpu" if settings.path == "embedded" else "H100"


def suite_cost(cells: Sequence[Cell], assumptions: Assumptions) -> dict[str, CellCost]:
    """By cell. Seeds differ in the order of their prompts alone, and cost what the first one costs.

    Raises ConfigError for a GPU that is not in the table.
    """
    if assumptions.gpu not in GPUS:
        raise ConfigError(f"--gpu {assumptions.gpu!r}: choose from {', '.join(GPUS)}")
    size = model_size(cells[0].config.model)
    costs: dict[str, CellCost] = {}
    first: dict[str, CellCost] = {}
    for cell in cells:
        settings = cell.config.model_copy(update={"seed": 0}).hash()
        if settings not in first:
            first[settings] = cell_cost(cell, size, assumptions)
        costs[cell.name] = first[settings]
    return costs


def total(costs: Sequence[CellCost], which: str) -> Tokens:
    """The sum of `tokens` or `most` over cells."""
    fields = [f.name for f in dataclasses.fields(Tokens)]
    return Tokens(**{name: sum(getattr(getattr(cost, which), name) for cost in costs) for name in fields})


def render(suite: Suite, cells: Sequence[Cell], costs: Mapping[str, CellCost], assumptions: Assumptions) -> list[Any]:
    """What `gvpo-bench plan` prints: tokens and hours, memory, disk, and what was assumed."""
    work = Table(title=f"{suite.name}: {len(cells)} cells on {assumptions.gpu}", box=rich.box.SIMPLE_HEAD)
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
        groups.setdefault(f"{point} {cell.config.label}".strip(), []).append(costs[cell.name])

    def row(name: str, group: Sequence[CellCost]) -> list[str]:
        mean, most = total(group, "tokens"), total(group, "most")
        hours = sum(sum(cost.hours.values()) for cost in group)
        counts = (mean.generated, most.generated, mean.trained, mean.scored + mean.reference + mean.critic)
        shown = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
        return [name, str(len(group)), *map(tokens, counts), tokens(mean.evaluation), shown]

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
    ranks = cells[0].resources.ranks
    each = f"one of {ranks} GPUs" if ranks > 1 else "one GPU"
    table = Table(title=f"memory of {each}, {name} (the largest)", box=rich.box.SIMPLE_HEAD)
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
    lines = []
    if memory.peak > gpu.memory:
        lines.append(
            f"[red]does not fit[/]: {memory.peak / 1e9:.0f} GB of {assumptions.gpu}'s {gpu.memory / 1e9:.0f}; lower "
            "train.token_budget or rollout.batch, set train.activation_checkpointing, or raise resources.ranks"
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
    return [
        f"a response has {assumptions.response(config.train.max_new_tokens):.4g} of at most "
        f"{config.train.max_new_tokens} tokens (--mean-response); “at most” takes the limit",
        "prompts tokenised and counted"
        if prompts_of(config.model, config.train, names, settings.limit).exact
        else "three characters of a prompt are a token: there is no tokenizer in model.path",
        f"forward and backward passes reach {assumptions.mfu:.0%} of {peak / 1e12:.3g} TFLOP/s (--mfu)",
        f"a GPU draws {assumptions.generation_rate:.4g} tokens/s (--generation-rate)"
        if assumptions.generation_rate
        else f"drawing reaches {efficiency:.0%} of what {gpu.bandwidth / 1e12:.3g} TB/s or that peak allow "
        f"(--generation-rate); start-up, grading and idle time are not counted",
    ]
