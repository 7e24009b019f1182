"""What a suite will cost, said before anything starts: tokens, memory, GPU hours, disk.

From the suite, the lengths of its prompts and the model's config alone; no weights are loaded. Tokens are counted the
way train.py spends them, so that with the true mean length they are those of a finished run's manifest. Memory and
hours are estimates under assumptions that the output states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from transformers import AutoConfig, AutoTokenizer

from algorithms.base import Needs
from benchmarks import Problem, load_benchmark
from benchmarks.templates import load_template
from harness.model.language import check_length, device_of, from_pretrained, tokenise
from harness.model.teacher import teacher_settings
from harness.preflight.gpus import GPUS, Gpu, known_gpu
from harness.preflight.memory import Memory, disk, memory_of, sequences_at_once
from harness.preflight.model_size import ModelSize, model_size
from harness.record.cell_state import Hashes
from harness.record.ledger import Tokens
from harness.suite.cell_config import CellConfig
from harness.suite.config import ConfigError, Model, Train
from harness.suite.given import GIVEN, group_size
from harness.suite.plan import Cell, declared_algorithm, training_problems
from harness.training.gradient import one_pass_is_right
from harness.training.schedule import mini_batches, prompts_of_step

GENERATION_EFFICIENCY = {"vllm": 0.5, "cached": 0.15, "transformers": 0.1}
"""Share of the peak rate (memory's or arithmetic's, whichever binds) that an engine's decoding step reaches."""

LAYER_SECONDS = 0.8e-3
"""Of a decoder layer's forward pass, which Python hands to a GPU kernel by kernel: no pass is shorter, however little
there is to compute. Only cells that share a GPU have it compute something in the meantime."""


RECORDED = 12.0
"""Bytes of a recorded token: its id and two log-probs."""


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


def count_tokens(
    config: CellConfig,
    needs: Needs,
    lengths: Sequence[int],
    response: float,
    evaluation: float,
    given: Sequence[Sequence[int]] | None = None,
    refilled: float = 0.0,
) -> Tokens:
    """The tokens of one trained cell, whose ranks are those of its `resources`.

    Args:
        lengths: tokens of each training prompt, in the order of the problems.
        response: length of every training response that is drawn: their mean.
        evaluation: tokens of all evaluation responses.
        given: tokens of each response that a problem gives, where the algorithm is trained on those.
        refilled: groups that are drawn in place of others, as a share of the step's own.
    """
    train, size = config.train, group_size(needs, config.train)
    from_history = round(train.history_share * train.samples)
    known = [0] * len(lengths)
    replays = config.replays is not None
    beside = ("greedy_reward_G" in needs.extras) + needs.reference_samples + (not replays) * refilled * train.samples
    fresh = replayed = rows = stale = extra = 0.0
    for step in range(train.steps):
        chosen = prompts_of_step(range(len(lengths)), config.seed, step, train.prompts)
        counts = [0 if given else train.samples - min(from_history, known[problem]) for problem in chosen]
        fresh += (not replays) * sum(counts) + beside * len(chosen)
        replayed += replays * sum(counts)
        answers_G = [sum(given[problem]) if given else size * response for problem in chosen]
        tokens_G = [size * lengths[problem] + answer for problem, answer in zip(chosen, answers_G, strict=True)]
        tokens = sum(tokens_G)
        rows += tokens
        for update, groups in enumerate(mini_batches(config, step)):
            # The first update of a step knows its log-probs already, unless it needs entropies as well.
            if update > 0 or needs.entropy:
                mini = groups.tolist()
                if takes_two_passes(config, needs, [tokens_G[group] / size for group in mini]):
                    extra += sum(tokens_G[group] for group in mini)
        stale += tokens if step % train.refresh_every and needs.data == "policy" and not replays else 0.0
        for problem, count in zip(chosen, counts, strict=True):
            known[problem] = min(train.samples, known[problem] + count)
    trained = train.epochs * rows
    return Tokens(
        generated=fresh * response + measured_tokens(train, len(lengths), response),
        replayed=replayed * response,
        trained=trained,
        scored=rows + stale + extra,
        reference=rows if needs.reference or needs.data == "base" else 0.0,
        teacher=rows if "teacher_logp_GK" in needs.extras else 0.0,
        critic=rows + trained + extra if needs.critic else 0.0,
        evaluation=evaluation,
    )


def measured_tokens(train: Train, problems: int, response: float) -> float:
    """What measuring pass rates draws: once for all cells of a suite, and in the ledger of each."""
    return 0.0 if train.pass_rate is None else problems * train.pass_rate_samples * response


def takes_two_passes(config: CellConfig, needs: Needs, length_G: Sequence[float]) -> bool:
    """Whether an update on full groups, whose samples have so many tokens each, spends a second forward pass."""
    resources, samples = config.resources, group_size(needs, config.train)
    length_N = torch.tensor(length_G).ceil().int().repeat_interleave(samples)
    valid_GK = torch.ones(len(length_G), samples, dtype=torch.bool)
    return not one_pass_is_right(
        needs.coupling, valid_GK, length_N, resources.token_budget, resources.ranks, packing=resources.packing
    )


@dataclass(frozen=True)
class Prompts:
    """Lengths of the rendered prompts, in tokens."""

    training: Sequence[int]
    """In the order of the problems."""
    evaluation: Mapping[str, Sequence[int]]
    """By benchmark."""
    given: Mapping[str, Sequence[Sequence[int]]]
    """Tokens of the responses that the training problems give, problem by problem: by `needs.data`, where all do."""
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

    def response_length(text: str) -> int:
        """With its EOS."""
        return 1 + (
            -(-len(text) // 3) if tokenizer is None else len(tokenizer(text, add_special_tokens=False)["input_ids"])
        )

    problems = training_problems(train)
    texts = {
        data: [[getattr(problem, field) for field, _ in fields] for problem in problems]
        for data, fields in GIVEN.items()
        if all(getattr(problem, field) is not None for problem in problems for field, _ in fields)
    }
    return Prompts(
        training=lengths(problems),
        given={data: [[response_length(text) for text in group] for group in groups] for data, groups in texts.items()},
        evaluation={name: lengths(load_benchmark(name).problems()[:limit]) for name in benchmarks},
        exact=tokenizer is not None,
    )


@dataclass(frozen=True)
class CellCost:
    """Of one cell."""

    tokens: Tokens
    most: Tokens
    """Were every response as long as its limit, and every round of refilling in vain."""
    memory: Memory
    hours: dict[str, float]
    """GPU hours by what they are spent on."""
    alone: float
    """Hours that it would take on a GPU that computes in no time."""
    share: float
    """Of a GPU, or 1."""
    checkpoint: float
    """Bytes that stay, recorded rollouts among them."""
    resume: float
    """Bytes more while it runs."""
    samples: float
    """Bytes of the evaluated responses."""

    @property
    def gpu_hours(self) -> float:
        """All of `hours`; on a GPU that it shares, its share of the hours that it is there, where that is more."""
        computing = sum(self.hours.values())
        return max(computing, self.share * self.alone) if self.share < 1 else computing


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

    def tokens_at(response: float, evaluated: float, rounds: int = 0) -> Tokens:
        evaluation = responses * evaluated
        if not cell.is_trained:
            return Tokens(evaluation=evaluation)
        given, refilled = prompts.given.get(needs.data), rounds if needs.refill is not None else 0
        return count_tokens(config, needs, prompts.training, response, evaluation, given, refilled)

    mean_tokens = tokens_at(assumptions.response(train.max_new_tokens), assumptions.response(limit))
    longest = max(prompts.training) + train.max_new_tokens
    memory = memory_of(config, size, needs, longest, GPUS[assumptions.gpu].memory, cell.config.resources.ranks)

    gpu = GPUS[assumptions.gpu]
    half = config.model.precision == "bfloat16"
    peak = gpu.bfloat16 if half else gpu.float32
    mean = sum(prompts.training) / len(prompts.training) + assumptions.response(train.max_new_tokens)
    flops = size.flops(mean)
    teacher = model_size(teacher_settings(config.model)) if mean_tokens.teacher else None
    rate = assumptions.generation_rate or generation_rate(config, size, gpu, mean)
    critic_only = mean_tokens.critic - mean_tokens.trained if needs.critic else 0.0
    # A backward pass is two forward passes, or one where it is of no weight but an adapter's; once more to recompute.
    passes = (2 if size.frozen else 3) + config.resources.activation_checkpointing
    mean_response = assumptions.response(train.max_new_tokens)
    measured = measured_tokens(train, len(prompts.training), mean_response) if cell.is_trained else 0.0
    drawing, computing = idle_factors(cell)
    per_flop = computing / peak / assumptions.mfu
    work = {
        "rollouts": drawing * (mean_tokens.generated - measured) / rate,
        "training": passes * mean_tokens.trained * flops * per_flop,
        "scoring": (mean_tokens.scored + mean_tokens.reference) * flops * per_flop,
        "teacher": mean_tokens.teacher * teacher.flops(mean) * per_flop if teacher is not None else 0.0,
        "critic": (passes * mean_tokens.trained * bool(needs.critic) + critic_only) * flops * per_flop,
        # Drawn, then scored under the policy and the base for the KL.
        "evaluation": drawing * mean_tokens.evaluation / rate + 2 * (asked + mean_tokens.evaluation) * flops * per_flop,
    }
    kept, running = disk(config, size, needs)
    return CellCost(
        tokens=mean_tokens,
        most=tokens_at(train.max_new_tokens, limit, train.refill_rounds),
        memory=memory,
        hours={name: seconds / 3600 for name, seconds in work.items() if seconds},
        alone=calls(cell, needs, mean_tokens, asked, responses) * size.layers * LAYER_SECONDS / 3600,
        share=min(config.resources.gpus or 1, 1),
        checkpoint=kept + RECORDED * mean_tokens.generated * config.records,
        resume=running,
        samples=4.0 * mean_tokens.evaluation,
    )


def calls(cell: Cell, needs: Needs, tokens: Tokens, asked: int, responses: int) -> float:
    """Passes through the model of a cell on one rank, a backward pass counting as two, and of a response that is drawn
    each token. `tokens` are its own, those of the evaluation's prompts `asked`, of so many `responses`; a pass has at
    most `token_budget` tokens, or draws a token for `rollout_batch` responses."""
    train, settings, resources = cell.config.train, cell.config.evaluation, cell.config.resources
    limit = settings.max_new_tokens or train.max_new_tokens
    scored = 2 * (asked + tokens.evaluation) / resources.token_budget
    evaluation = -(-responses // resources.rollout_batch) * limit + scored
    if not cell.is_trained:
        return evaluation
    batches = -(-train.prompts * train.samples // resources.rollout_batch) if tokens.generated else 0
    updates = train.steps * train.epochs * train.mini_batches
    backward = 4 if resources.activation_checkpointing else 3

    def passes(count: float, least: int) -> float:
        return max(count / resources.token_budget, least) if count else 0.0

    learning = backward * passes(tokens.trained, updates) * (1 + needs.critic)
    scoring = [tokens.scored, tokens.reference, tokens.teacher, max(0.0, tokens.critic - tokens.trained)]
    drawing = train.steps * batches * train.max_new_tokens
    return evaluation + drawing + learning + sum(passes(count, train.steps) for count in scoring)


def engines(config: CellConfig) -> int:
    """Sampling engines that share out a cell's prompts: one on each rank, or its servers."""
    resources, vllm = config.resources, config.rollout.vllm_or_default
    servers = int(resources.gpus - resources.ranks) // vllm.tensor_parallel_size if vllm.mode == "server" else 0
    return max(resources.ranks, servers)


def idle_factors(cell: Cell) -> tuple[float, float]:
    """A cell's GPUs over those that draw, and over those that compute: a server's wait while the ranks train, and the
    ranks' while it draws."""
    ranks, gpus = cell.config.resources.ranks, max(cell.config.resources.gpus, cell.config.resources.ranks)
    server = cell.config.rollout.vllm_or_default.mode == "server"
    return gpus / (gpus - ranks) if server and gpus > ranks else 1.0, gpus / ranks


def needs_of(cell: Cell) -> Needs:
    """What the cell's algorithm asks for; the base asks for nothing."""
    config = cell.config
    if not cell.is_trained:
        return Needs()
    return declared_algorithm(config.algorithm, config.parameters, where=f"algorithms.{config.label}").needs


def check_positions(config: CellConfig, prompts: Prompts) -> None:
    """Raises ValueError where the longest prompt and response have more tokens than the model has positions."""
    model = from_pretrained(AutoConfig, config.model)
    limits = {"train": config.train.max_new_tokens}
    limits["evaluation"] = config.evaluation.max_new_tokens or config.train.max_new_tokens
    longest = {"train": max(prompts.training)}
    longest["evaluation"] = max(max(lengths) for lengths in prompts.evaluation.values())
    for use, limit in limits.items():
        check_length([[0] * longest[use]], limit, model, f"model.path = {config.model.path!r} ({use})")


def generation_rate(config: CellConfig, size: ModelSize, gpu: Gpu, length: float) -> float:
    """Tokens/s of one GPU that draws: a step reads the weights once and each sequence's KV cache, or is bound by
    arithmetic. The GPUs of a tensor-parallel engine share both."""
    width = 2 if config.model.precision == "bfloat16" else 4
    sequences = sequences_at_once(config, engines(config))
    read = width * size.parameters + sequences * length / 2 * size.kv_bytes(width)
    peak = gpu.bfloat16 if width == 2 else gpu.float32
    step = max(read / gpu.bandwidth, sequences * size.flops(length) / peak)
    return sequences / step * GENERATION_EFFICIENCY[config.rollout.engine]


def default_gpu(settings: Model) -> str:
    """This machine's, where the table has it; the CPU for the embedded model; otherwise an H100."""
    if device_of(settings).type == "cuda" and (found := known_gpu(torch.cuda.get_device_name())):
        return found
    return "cpu" if settings.path == "embedded" else "H100"


def suite_cost(cells: Sequence[Cell], assumptions: Assumptions) -> dict[str, CellCost]:
    """By cell. Seeds differ in the order of their prompts alone, and cost what the first one costs.

    Raises ConfigError for a GPU that is not in the table.
    """
    if assumptions.gpu not in GPUS:
        raise ConfigError(f"--gpu {assumptions.gpu!r}: choose from {', '.join(GPUS)}")
    size = model_size(cells[0].config.model)
    costs: dict[str, CellCost] = {}
    first: dict[Hashes, CellCost] = {}
    for cell in cells:
        settings = cell.config.model_copy(update={"seed": 0}).hashes()
        if settings not in first:
            first[settings] = cell_cost(cell, size, assumptions)
        costs[cell.name] = first[settings]
    return costs
