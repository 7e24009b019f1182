"""Log-probs, entropies, values and KL of given responses: the only forward passes that the trainer makes.

Rows are right-padded `prompt + response`, so causal attention alone keeps padding out of every real token, or packed
(rows.py, packing.py); token ids travel from the sampler to here without a second tokenisation.

Shape suffixes: N rows (responses), L tokens of the longest row, T tokens of the longest response, M response tokens of
all rows, H hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from harness.model.ranks import Ranks
from harness.model.rows import Rows


class Critic(nn.Module):
    """A value head on a body of its own, which starts from the base's weights; the first values are zero."""

    def __init__(self, body: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.body = body
        trained = [weight for weight in body.parameters() if weight.requires_grad]
        self.head = nn.Linear(hidden_size, 1, dtype=next(iter(trained or body.parameters())).dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, **positions: Tensor) -> Tensor:
        """The value after each token of `Rows.inputs`, float32 or wider."""
        hidden_NLH = self.body(input_ids=input_ids, **positions, use_cache=False).last_hidden_state
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

    With `packing`, the rows go through it as one sequence without padding, under the attention of that name
    (`packed_attention`), which from now on is the model's.
    """

    def __init__(self, model: PreTrainedModel, chunk: int | None = None, packing: str | None = None) -> None:
        super().__init__()
        self.model, self.chunk, self.packing, self.packs = model, chunk, packing, packing is not None
        if packing is not None:
            model.set_attn_implementation(packing)

    def of(self, model: PreTrainedModel) -> PolicyModel:
        """Another model in the same way."""
        return PolicyModel(model, self.chunk, self.packing)

    def forward(
        self, rows: Rows, temperature: float = 1.0, *, output: str = "logp", entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """By `output`: "logp", log π of each response token [N, T] and, with `entropy`, its entropy, both anything on
        padding; "logits", those that predict each response token over the temperature, [M, V]; "hidden", the states
        before the head, [M, H].
        """
        # One tuple for all: FSDP finds the tensors to hang its backward pass on in tuples, and in no class of ours.
        if output == "logits":
            return self._response_logits(rows, temperature), None
        if output == "hidden":
            return self._hidden(rows), None
        mask_NT = rows.response_mask_NT
        if self.needs_chunks(rows):
            logp_M, entropy_M = self.in_chunks(self._hidden(rows), rows.response_ids_NT[mask_NT], temperature, entropy)
        elif self.packs:
            logits_MV = self._response_logits(rows, temperature)
            logp_M, entropy_M = token_logp(logits_MV, rows.response_ids_NT[mask_NT], entropy)
        else:
            return token_logp(self._logits(rows, temperature), rows.response_ids_NT, entropy)

        def to_rows(x_M: Tensor) -> Tensor:
            return torch.zeros(mask_NT.shape, dtype=x_M.dtype, device=x_M.device).masked_scatter(mask_NT, x_M)

        return to_rows(logp_M), None if entropy_M is None else to_rows(entropy_M)

    def needs_chunks(self, rows: Rows) -> bool:
        """Whether the rows have more tokens to score than a chunk holds."""
        if self.packs:
            scored = int(rows.response_length_N.sum())
        else:
            scored = len(rows) * (rows.input_ids_NL.shape[1] - int(rows.prompt_length_N.min()) + 1)
        return self.chunk is not None and scored > self.chunk

    def split(self, x_M: Tensor) -> tuple[Tensor, ...]:
        """Chunks of at most `chunk` tokens."""
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
        hidden_NLH = self.model.base_model(**rows.inputs(self.packs), use_cache=False).last_hidden_state
        return hidden_NLH.flatten(0, 1)[self._predicting_M(rows)]

    def _predicting_M(self, rows: Rows) -> Tensor:
        """Where among all tokens the state stands that predicts each response token."""
        row_M, t_M = rows.response_mask_NT.nonzero(as_tuple=True)
        return rows.prompt_end_N(self.packs)[row_M] + t_M

    def _response_logits(self, rows: Rows, temperature: float) -> Tensor:
        if not self.packs:
            return self._logits(rows, temperature)[rows.response_mask_NT]
        keep_M = self._predicting_M(rows)
        output = self.model(**rows.inputs(packing=True), use_cache=False, logits_to_keep=keep_M)
        return scaled(output.logits[0], temperature)

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
        raise ValueError(f"resources.logprob_chunk = {requested}: {message}; leave it at 0")
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


def recompute_activations(model: nn.Module, *, compiled: bool = False) -> None:
    """Keeps only the input of each decoder layer for the backward pass, which computes the rest again, in layers that
    are `compiled` or not.

    transformers' own switch asks for training mode, which brings dropout.
    """
    forward = functools.partial(_recomputed, _compiled if compiled else _plain)
    for layer in decoder_layers(model):
        # A bound method and not a closure: a deep copy of the model is bound to its own layers.
        layer.forward = MethodType(forward, layer)


def compile_layers(model: nn.Module) -> None:
    """Has torch compile the decoder layers' passes, but for those of sampling, whose cache has another length each
    time. Layers of a kind share what is compiled."""
    for layer in decoder_layers(model):
        layer.forward = MethodType(_compiled, layer)


def _plain(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(layer).forward(layer, *args, **kwargs)


def _compiled(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if kwargs.get("past_key_values") is not None:
        return _plain(layer, *args, **kwargs)
    return _compiled_forward(type(layer).forward)(layer, *args, **kwargs)


@functools.cache
def _compiled_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(forward)
    return compiled


def _recomputed(forward: Callable[..., Any], layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(layer, *args, **kwargs)
    return checkpoint(forward, layer, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
