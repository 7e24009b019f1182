"""Log-probs, entropies, values and KL of given responses: the only forward passes that the trainer makes.

Rows are right-padded `prompt + response`, so causal attention alone keeps padding out of every real token, and token
ids travel from the sampler to here without a second tokenisation.

Shape suffixes: N rows (responses), L tokens of the longest row, T tokens of the longest response, M response tokens of
all rows, H hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from algorithms.base import PolicyOutput
from harness.model.ranks import ALONE, Ranks, gathered


@dataclass(frozen=True)
class Rows:
    """Responses with their prompts, ready for a forward pass."""

    input_ids_NL: Tensor
    """Prompt and response, contiguous, padded on the right."""
    prompt_length_N: Tensor
    response_length_N: Tensor

    @staticmethod
    def of(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], device: torch.device | str) -> Rows:
        """From token ids. The padding's value is of no importance; it is 0."""
        rows = [torch.tensor([*p, *r]) for p, r in zip(prompts, responses, strict=True)]
        return Rows(
            input_ids_NL=nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device),
            prompt_length_N=torch.tensor([len(p) for p in prompts]),
            response_length_N=torch.tensor([len(r) for r in responses]),
        )

    def __len__(self) -> int:
        return len(self.input_ids_NL)

    @property
    def length_N(self) -> Tensor:
        """Tokens of each row, padding not counted."""
        return self.prompt_length_N + self.response_length_N

    @property
    def T(self) -> int:
        """Tokens of the longest response."""
        return int(self.response_length_N.max())

    @property
    def response_mask_NT(self) -> Tensor:
        device = self.input_ids_NL.device
        return torch.arange(self.T, device=device) < self.response_length_N.to(device)[:, None]

    @property
    def response_ids_NT(self) -> Tensor:
        """Token ids of the responses, anything on padding."""
        device = self.input_ids_NL.device
        at_NT = self.prompt_length_N.to(device)[:, None] + torch.arange(self.T, device=device)
        return self.input_ids_NL.gather(1, at_NT.clamp(max=self.input_ids_NL.shape[1] - 1))

    def pick(self, index: Tensor) -> Rows:
        """Some of the rows, cut to the longest of them."""
        length = int(self.length_N[index].max())
        return Rows(
            input_ids_NL=self.input_ids_NL[index.to(self.input_ids_NL.device), :length],
            prompt_length_N=self.prompt_length_N[index],
            response_length_N=self.response_length_N[index],
        )


def micro_batches(length_N: Tensor, token_budget: int, unit_N: Tensor | None = None, ranks: int = 1) -> list[Tensor]:
    """Splits rows into micro-batches of at most `token_budget` tokens, padding included, of similar lengths.

    With `unit_N`, rows of the same unit stay together. A single row (or unit) above the budget is a micro-batch of its
    own. With several `ranks` the parts are rounds: a micro-batch on each rank at once (`Ranks.deal`), each within the
    budget.
    """
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, unit in enumerate(range(len(length_N)) if unit_N is None else unit_N.tolist()):
        rows_of[unit].append(row)
    lengths = length_N.tolist()
    units = sorted((max(lengths[row] for row in rows), rows) for rows in rows_of.values())
    batches: list[list[int]] = []
    for longest, rows in units:
        if batches and _share(len(batches[-1]) + len(rows), ranks) * longest <= token_budget:
            batches[-1] += rows
        else:
            batches.append([*rows])
    return [torch.tensor(rows) for rows in batches]


def fits(part_N: Tensor, length_N: Tensor, token_budget: int, ranks: int = 1) -> bool:
    """Whether a part of `micro_batches` is within the budget, or nothing smaller than it could be."""
    share = _share(len(part_N), ranks)
    return share == 1 or share * int(length_N[part_N].max()) <= token_budget


def _share(rows: int, ranks: int) -> int:
    return -(-rows // ranks)


def padding_share(length_N: Tensor, token_budget: int, ranks: int = 1) -> float:
    """The share of padding among all tokens that a pass over the rows computes."""
    computed = 0
    for part_N in micro_batches(length_N, token_budget, ranks=ranks):
        mine = [part_N[rank::ranks] for rank in range(min(ranks, len(part_N)))]
        computed += sum(len(rows) * int(length_N[rows].max()) for rows in mine)
    return 1 - int(length_N.sum()) / computed


class Critic(nn.Module):
    """A value head on a body of its own, which starts from the base's weights; the first values are zero."""

    def __init__(self, body: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids_NL: Tensor) -> Tensor:
        """The value after each token, [N, L], float32 or wider."""
        hidden_NLH = self.body(input_ids=input_ids_NL, use_cache=False).last_hidden_state
        return widen(self.head(hidden_NLH)[..., 0]).clone()  # FSDP warns of outputs that are views


def widen(x: Tensor) -> Tensor:
    """At least float32: log-probs of half-precision logits are taken in float32."""
    return x if x.dtype == torch.float64 else x.float()


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """The logits over the temperature, float32 or wider."""
    return widen(logits) if temperature == 1 else widen(logits) / temperature


def autocast(
    device: torch.device, precision: str, *, keep_weights: bool = True
) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast over float32 weights, or nothing. With `keep_weights` each is cast once and not at each use."""
    if precision != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=keep_weights)


def token_logp(logits_V: Tensor, ids: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """log π of each token in nats and, with `entropy`, the entropy of its distribution, in the shape of `ids`."""
    logp_V = logits_V.log_softmax(-1)
    logp = logp_V.gather(-1, ids[..., None])[..., 0].clone()  # FSDP warns of outputs that are views
    return logp, -(logp_V.exp() * logp_V).sum(-1) if entropy else None


LOGITS_AT_ONCE = 2**26
"""Of one micro-batch, where nothing else is said: 256 MiB in float32. A ninth of 4,096 tokens over 150,000 words."""


class PolicyModel(nn.Module):
    """A causal LM that puts out log-probs instead of logits, so that these need never exist all at once.

    With `chunk`, a micro-batch of more tokens goes through the head and the log-softmax that many tokens at a time, and
    once more in the backward pass: chunk × V logits instead of N × L × V, and none of padding.
    """

    def __init__(self, model: PreTrainedModel, chunk: int | None = None) -> None:
        super().__init__()
        self.model, self.chunk = model, chunk

    def forward(
        self, rows: Rows, temperature: float = 1.0, *, output: str = "logp", entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """By `output`: "logp", log π of each response token [N, T] and, with `entropy`, its entropy, both anything on
        padding; "logits", those that predict each response token over the temperature, [N, T, V]; "hidden", the states
        before the head, of the response tokens alone, [M, H].
        """
        # One tuple for all: FSDP finds the tensors to hang its backward pass on in tuples, and in no class of ours.
        if output == "logits":
            return self._logits(rows, temperature), None
        if output == "hidden":
            return self._hidden(rows), None
        if not self.needs_chunks(rows):
            return token_logp(self._logits(rows, temperature), rows.response_ids_NT, entropy)
        mask_NT = rows.response_mask_NT
        logp_M, entropy_M = self.in_chunks(self._hidden(rows), rows.response_ids_NT[mask_NT], temperature, entropy)

        def to_rows(x_M: Tensor) -> Tensor:
            return torch.zeros(mask_NT.shape, dtype=x_M.dtype, device=x_M.device).masked_scatter(mask_NT, x_M)

        return to_rows(logp_M), None if entropy_M is None else to_rows(entropy_M)

    def needs_chunks(self, rows: Rows) -> bool:
        start = int(rows.prompt_length_N.min()) - 1
        return self.chunk is not None and len(rows) * (rows.input_ids_NL.shape[1] - start) > self.chunk

    def split(self, x_M: Tensor) -> tuple[Tensor, ...]:
        assert self.chunk is not None
        return x_M.split(self.chunk)

    def head(self, hidden_MH: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits over the temperature, [M, V]."""
        return scaled(self.model.get_output_embeddings()(hidden_MH), temperature)

    def in_chunks(
        self, hidden_MH: Tensor, ids_M: Tensor, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """log π of each token and, with `entropy`, its entropy, [M], from the states before the head."""

        def chunk(hidden_CH: Tensor, ids_C: Tensor) -> tuple[Tensor, Tensor | None]:
            return token_logp(self.head(hidden_CH, temperature), ids_C, entropy)

        # The reentrant kind adds each chunk's gradient of the head straight to what is there; the other one would
        # hold two of them, each as large as the head.
        run = chunk
        if torch.is_grad_enabled():
            run = functools.partial(checkpoint, chunk, use_reentrant=True, preserve_rng_state=False)
        pieces = zip(self.split(hidden_MH), self.split(ids_M), strict=True)
        logp, entropies = zip(*(run(*piece) for piece in pieces), strict=True)
        return torch.cat(logp), torch.cat(entropies) if entropy else None

    def _hidden(self, rows: Rows) -> Tensor:
        hidden_NLH = self.model.base_model(input_ids=rows.input_ids_NL, use_cache=False).last_hidden_state
        row_M, t_M = rows.response_mask_NT.nonzero(as_tuple=True)
        return hidden_NLH[row_M, rows.prompt_length_N.to(row_M.device)[row_M] - 1 + t_M]

    def _logits(self, rows: Rows, temperature: float) -> Tensor:
        device, T = rows.input_ids_NL.device, rows.T
        start = int(rows.prompt_length_N.min()) - 1
        keep_L = torch.arange(start, rows.input_ids_NL.shape[1], device=device)
        logits_NLV = self.model(input_ids=rows.input_ids_NL, use_cache=False, logits_to_keep=keep_L).logits
        if int(rows.prompt_length_N.max()) - 1 == start:
            return scaled(logits_NLV[:, :T], temperature)
        offset_N = rows.prompt_length_N.to(device) - 1 - start
        at_NT = (offset_N[:, None] + torch.arange(T, device=device)).clamp(max=logits_NLV.shape[1] - 1)
        row_N1 = torch.arange(len(rows), device=device)[:, None]
        return scaled(logits_NLV[row_N1, at_NT], temperature)


@torch.no_grad()
def logprob_chunk(model: PreTrainedModel, requested: int, token_budget: int) -> int | None:
    """Tokens of which the logits shall exist at once; None for all of a micro-batch.

    `requested` 0 takes as many as make LOGITS_AT_ONCE logits, and all of them where the token budget stays below that.

    Raises ValueError where chunks are requested and the model's logits are more than its head's output; where they were
    not requested, it warns.
    """
    head = model.get_output_embeddings()
    chunk = requested or max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    if not requested and chunk >= token_budget:
        return None
    why = "it has no output embeddings"
    if head is not None:
        probe_1L = torch.arange(4, device=next(model.parameters()).device)[None]
        logits_1LV = model(input_ids=probe_1L, use_cache=False).logits
        ours_1LV = head(model.base_model(input_ids=probe_1L, use_cache=False).last_hidden_state)
        difference = float((logits_1LV - ours_1LV).abs().max())
        if difference <= 1e-6 * float(logits_1LV.abs().max()):
            return chunk
        why = f"its logits differ from its head's output by up to {difference:.3g} (soft-capped or scaled?)"
    message = f"{type(model).__name__} cannot compute log-probs in chunks of tokens: {why}"
    if requested:
        raise ValueError(f"train.logprob_chunk = {requested}: {message}; leave it at 0")
    warnings.warn(f"{message}. The logits of a whole micro-batch will be in memory at once", stacklevel=2)
    return None


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The blocks that a model, or one within it, is made of: what is sharded, and recomputed, one by one.

    Raises ValueError where transformers does not say which they are.
    """
    found = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    names = {name for module in found for name in module._no_split_modules or ()}
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        kinds = ", ".join(type(module).__name__ for module in found)
        raise ValueError(f"transformers does not say which modules of {kinds} are its decoder layers")
    return layers


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Shares out the parameters over the ranks, layer by layer, in place; nothing where there is one rank."""
    if not ranks.alone:
        ranks.shard(model, decoder_layers(model))


def recompute_activations(model: nn.Module) -> None:
    """Keeps only the input of each decoder layer for the backward pass, which computes the rest again.

    transformers' own switch asks for training mode, which brings dropout.
    """
    for layer in decoder_layers(model):
        # A bound method and not a closure: a deep copy of the model is bound to its own layers.
        layer.forward = MethodType(_recomputed, layer)


def _recomputed(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(layer).forward(layer, *args, **kwargs)
    return checkpoint(type(layer).forward, layer, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


@dataclass(frozen=True)
class Scorer:
    """Runs a policy, and where there is one a critic, over rows."""

    model: PolicyModel
    """A PreTrainedModel will do: its logits are then computed all at once."""
    critic: Critic | None = None
    temperature: float = 1.0
    precision: str = "float32"
    ranks: Ranks = ALONE
    """Who shares the work of `score`, `final_value` and `kl_from`."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, PolicyModel):
            object.__setattr__(self, "model", PolicyModel(self.model))

    def __call__(self, rows: Rows, *, response_length: int, entropy: bool = False) -> PolicyOutput:
        """log π (and entropy, and value) of each response token, [N, response_length], zero on padding.

        `logp_GKT` and its companions carry rows N where an algorithm has groups [G, K].
        """
        mask_NT = rows.response_mask_NT
        logp_NT, entropy_NT = self._run(rows, self.temperature, entropy=entropy)
        value_NT = None
        if self.critic is not None:
            value_NT = self._pad(self._values(rows)[:, :-1], mask_NT, response_length)
        return PolicyOutput(
            logp_GKT=self._pad(logp_NT, mask_NT, response_length),
            entropy_GKT=None if entropy_NT is None else self._pad(entropy_NT, mask_NT, response_length),
            value_GKT=value_NT,
        )

    def final_value(self, rows: Rows, token_budget: int) -> Tensor:
        """The critic's value after the last token of each row, [N], in micro-batches, without gradient."""

        def final(part: Rows) -> Tensor:
            value_NT = self._values(part)
            return value_NT.gather(1, part.response_length_N[:, None].to(value_NT.device))[:, 0]

        return self._in_micro_batches(final, rows, token_budget)

    def kl_from(self, base: Scorer, rows: Rows, token_budget: int = 16384) -> Tensor:
        """Σ_t KL(π_θ‖π_base) over the full vocabulary along each response, in nats per response, [N]."""
        return self._in_micro_batches(lambda part: self._kl_from(base, part), rows, token_budget)

    def _kl_from(self, base: Scorer, rows: Rows) -> Tensor:
        def kl(logits_V: Tensor, base_logits_V: Tensor) -> Tensor:
            logp_V, base_logp_V = logits_V.log_softmax(-1), base_logits_V.log_softmax(-1)
            return (logp_V.exp() * (logp_V - base_logp_V)).sum(-1)

        mask_NT = rows.response_mask_NT
        if self.model.chunk is None:
            logits_NTV, _ = self._run(rows, self.temperature, output="logits")
            base_logits_NTV, _ = base._run(rows, base.temperature, output="logits")
            return torch.where(mask_NT, kl(logits_NTV, base_logits_NTV), 0.0).sum(-1)
        hidden_MH, base_hidden_MH = (scorer._run(rows, output="hidden")[0] for scorer in (self, base))
        device = hidden_MH.device
        with gathered(self.model, base.model), self._autocast(device):
            pieces = zip(self.model.split(hidden_MH), self.model.split(base_hidden_MH), strict=True)
            kl_M = torch.cat(
                [kl(self.model.head(h, self.temperature), base.model.head(b, base.temperature)) for h, b in pieces]
            )
        return kl_M.new_zeros(mask_NT.shape).masked_scatter(mask_NT, kl_M).sum(-1)

    @torch.no_grad()
    def loglikelihood(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Σ_t log π of each response in nats, and whether each of its tokens is the most likely one, [N] both."""
        logits_NTV, _ = self._run(rows, self.temperature, output="logits")
        targets_NT, mask_NT = rows.response_ids_NT, rows.response_mask_NT
        logp_NT = logits_NTV.log_softmax(-1).gather(-1, targets_NT[..., None])[..., 0]
        greedy_NT = logits_NTV.argmax(-1) == targets_NT
        return torch.where(mask_NT, logp_NT, 0.0).sum(-1), (greedy_NT | ~mask_NT).all(-1)

    @torch.no_grad()
    def _in_micro_batches(self, work: Callable[[Rows], Tensor], rows: Rows, token_budget: int) -> Tensor:
        """`work` of all rows, [N]."""
        parts = micro_batches(rows.length_N, token_budget, ranks=self.ranks.size)
        found = [self.ranks.collect(work(rows.pick(self.ranks.deal(part)[0])), len(part)) for part in parts]
        x_N = torch.cat(found)
        return x_N[torch.cat(parts).argsort().to(x_N.device)]

    def _run(self, rows: Rows, temperature: float = 1.0, **options: Any) -> tuple[Tensor, Tensor | None]:
        with self._autocast(rows.input_ids_NL.device):
            return self.model(rows, temperature, **options)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        # Casts of sharded weights would stay whole for as long as they are kept.
        return autocast(device, self.precision, keep_weights=self.ranks.alone)

    def _values(self, rows: Rows) -> Tensor:
        """Values before each response token and after the last, [N, T + 1]."""
        assert self.critic is not None
        device = rows.input_ids_NL.device
        with self._autocast(device):
            value_NL = self.critic(rows.input_ids_NL)
        at_NT = rows.prompt_length_N.to(device)[:, None] - 1 + torch.arange(rows.T + 1, device=device)
        return value_NL.gather(1, at_NT.clamp(max=value_NL.shape[1] - 1))

    @staticmethod
    def _pad(x_NT: Tensor, mask_NT: Tensor, length: int) -> Tensor:
        x_NT = torch.where(mask_NT, x_NT, torch.zeros((), dtype=x_NT.dtype, device=x_NT.device))
        return nn.functional.pad(x_NT, (0, length - x_NT.shape[1]))


@torch.no_grad()
def score(
    scorer: Scorer, rows: Rows, *, response_length: int, token_budget: int, entropy: bool = False
) -> PolicyOutput:
    """The same without gradient, for all rows, in micro-batches."""
    outputs = []
    order = micro_batches(rows.length_N, token_budget, ranks=scorer.ranks.size)
    for index in order:
        mine, _ = scorer.ranks.deal(index)
        output = scorer(rows.pick(mine), response_length=response_length, entropy=entropy)
        outputs.append(collect(scorer.ranks, output, len(index)))
    inverse = torch.cat(order).argsort()
    return join(outputs, inverse)


def collect(ranks: Ranks, output: PolicyOutput, rows: int) -> PolicyOutput:
    """A round's outputs from those of this rank's rows, without gradient where there are several ranks."""
    found = {f.name: x for f in fields(output) if (x := getattr(output, f.name)) is not None}
    return PolicyOutput(**{name: ranks.collect(x, rows) for name, x in found.items()})


def join(outputs: Sequence[PolicyOutput], inverse: Tensor) -> PolicyOutput:
    """Concatenates outputs of micro-batches and restores the rows' order."""

    def merge(parts: Iterator[Tensor | None]) -> Tensor | None:
        tensors = [part for part in parts if part is not None]
        return torch.cat(tensors)[inverse.to(tensors[0].device)] if tensors else None

    logp = merge(o.logp_GKT for o in outputs)
    assert logp is not None
    return PolicyOutput(
        logp_GKT=logp,
        entropy_GKT=merge(o.entropy_GKT for o in outputs),
        value_GKT=merge(o.value_GKT for o in outputs),
    )
