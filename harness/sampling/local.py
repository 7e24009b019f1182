"""Sampling engines behind one interface. An engine turns prompts into responses with the log-probs it drew them at.

Temperature is the only sampling setting: a model's own generation_config is never read, since top-p, top-k and
penalties break both the support condition and the parity of log-probs with the trainer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.model.packing import sampling_attention
from harness.model.policy import PolicyModel, autocast, scaled
from harness.model.rows import Response
from harness.record.seeding import generator


class LocalEngine(ABC):
    """Samples from a model of this process, sharing its weights.

    A sample's random numbers depend on its prompt's seed and its place in the group alone, so the result changes
    neither with `batch`, the sequences generated side by side, nor with the other prompts, but for the rounding of
    matrix products of another size.
    """

    def __init__(
        self, model: PreTrainedModel, *, eos_ids: Sequence[int], batch: int, precision: str = "float32"
    ) -> None:
        self.model, self.batch, self.precision = model, batch, precision
        self.eos_ids = torch.tensor(list(eos_ids))

    def sync(self, policy: PolicyModel) -> None:
        """See `Engine`."""
        self.model = policy.model

    def release_memory(self) -> None:
        """Nothing to do: its memory is the trainer's."""
        return

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> list[list[Response]]:
        """See `Engine`."""
        uniform_NT = torch.cat(
            [
                torch.rand(count, max_new_tokens, generator=generator("engine", seed), dtype=torch.float64)
                for count, seed in zip(counts, seeds, strict=True)
            ]
        )
        groups: list[list[Response]] = [[] for _ in prompts]
        owner_N = torch.arange(len(prompts)).repeat_interleave(torch.tensor(counts))
        device = next(self.model.parameters()).device
        # Autocast is around all passes, so that weights are cast once: in inference mode it would not keep them.
        without_gradient = torch.inference_mode if self.precision == "float32" else torch.no_grad
        with without_gradient(), sampling_attention(self.model), autocast(device, self.precision):
            for rows in torch.arange(len(owner_N)).split(self.batch):
                owners = owner_N[rows].tolist()
                drawn = self._decode(prompts, owners, uniform_NT[rows], temperature)
                for owner, response in zip(owners, drawn, strict=True):
                    groups[owner].append(response)
        return groups

    @abstractmethod
    def _decode(
        self, prompts: Sequence[Sequence[int]], owners: list[int], uniform_NT: Tensor, temperature: float
    ) -> list[Response]:
        """A response of at most T tokens to `prompts[owners[n]]` for each row n."""


class CachedEngine(LocalEngine):
    """Decodes with a preallocated KV cache, prefills each prompt once a group, and drops finished rows."""

    def _decode(
        self, prompts: Sequence[Sequence[int]], owners: list[int], uniform_NT: Tensor, temperature: float
    ) -> list[Response]:
        device = next(self.model.parameters()).device
        N, T = uniform_NT.shape
        uniform_NT, eos_ids = uniform_NT.to(device), self.eos_ids.to(device)
        distinct = sorted(set(owners))
        place_of = {i: g for g, i in enumerate(distinct)}
        row_N = torch.tensor([place_of[i] for i in owners], device=device)
        # Left-padded, so that every row's next token stands at the same place of the cache.
        length = max(len(prompts[i]) for i in distinct)
        padding = [length - len(prompts[i]) for i in distinct]
        ids_GL = torch.tensor([[*[0] * pad, *prompts[i]] for pad, i in zip(padding, distinct, strict=True)])
        padded = any(padding)
        real_GL = torch.arange(length) >= torch.tensor(padding)[:, None]

        cache = DynamicCache(config=self.model.config)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise ValueError(
                f"{type(self.model).__name__} has attention layers that the cached engine does not keep "
                "(sliding-window or linear): set rollout.engine = 'transformers'"
            )
        real_GL = real_GL.long().to(device)
        logits_GV = self.model(
            input_ids=ids_GL.to(device),
            attention_mask=real_GL if padded else None,
            position_ids=(real_GL.cumsum(-1) - 1).clamp(min=0) if padded else None,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        cache.layers = [_PreallocatedLayer(layer, row_N, length + T) for layer in cache.layers]
        # Rows still in the cache: A shrinks as responses end. C are the places of the cache.
        alive_A, logits_AV = torch.arange(N, device=device), logits_GV[row_N]
        real_AC = nn.functional.pad(real_GL, (0, T), value=1)[row_N]
        position_A1 = real_GL.sum(-1, keepdim=True)[row_N]

        drawn = []
        for t in range(T):
            token_A, logp_A = sample(logits_AV, uniform_NT[alive_A, t], temperature)
            drawn.append((alive_A, token_A, logp_A))
            going = torch.isin(token_A, eos_ids, invert=True).nonzero()[:, 0]
            if t == T - 1 or not len(going):
                break
            if len(going) < len(alive_A):
                cache.batch_select_indices(going)
                alive_A, token_A, real_AC, position_A1 = (x[going] for x in (alive_A, token_A, real_AC, position_A1))
            logits_AV = self.model(
                input_ids=token_A[:, None],
                attention_mask=real_AC[:, : length + t + 1] if padded else None,
                position_ids=position_A1 + t if padded else None,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]

        tokens: list[list[int]] = [[] for _ in owners]
        logps: list[list[float]] = [[] for _ in owners]
        for n, token, logp in zip(*(torch.cat(x).tolist() for x in zip(*drawn, strict=True)), strict=True):
            tokens[n].append(token)
            logps[n].append(logp)
        ends = set(self.eos_ids.tolist())
        return [Response(*row, truncated=row[0][-1] not in ends) for row in zip(tokens, logps, strict=True)]


def sample(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at `uniform_N`, and its log-prob, [N] each.

    Temperature 0 takes the most likely token; its log-prob is that of temperature 1.
    """
    logp_NV = scaled(logits_NV, temperature or 1.0).log_softmax(-1)
    if temperature == 0:
        token_N = logp_NV.argmax(-1)
    else:
        cumulative_NV = logp_NV.double().exp().cumsum(-1)
        target_N1 = uniform_N[:, None] * cumulative_NV[:, -1:]
        token_N = torch.searchsorted(cumulative_NV, target_N1, right=True)[:, 0].clamp(max=logp_NV.shape[-1] - 1)
    return token_N, logp_NV.gather(-1, token_N[:, None])[:, 0]


class _PreallocatedLayer(DynamicLayer):
    """A cache layer whose buffer has room for the whole response, so that a step copies one position and not all."""

    def __init__(self, prompt: DynamicLayer, row_N: Tensor, capacity: int) -> None:
        super().__init__()
        self.length = prompt.get_seq_length()
        self.dtype, self.device, self.is_initialized = prompt.dtype, prompt.device, True
        self.keys, self.values = (self._room_for(x, row_N, capacity) for x in (prompt.keys, prompt.values))

    def _room_for(self, x_GHLD: Tensor, row_N: Tensor, capacity: int) -> Tensor:
        # index_select copies whole rows; indexing would go element by element.
        return nn.functional.pad(x_GHLD, (0, 0, 0, capacity - self.length)).index_select(0, row_N)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def batch_select_indices(self, indices: Tensor) -> None:
        self.keys, self.values = (x.index_select(0, indices) for x in (self.keys, self.values))

    def get_seq_length(self) -> int:
        return self.length


class TransformersEngine(LocalEngine):
    """transformers' own `generate`, for every model that it knows. Slower; one prefill for each sample."""

    def _decode(
        self, prompts: Sequence[Sequence[int]], owners: list[int], uniform_NT: Tensor, temperature: float
    ) -> list[Response]:
        device = next(self.model.parameters()).device
        length = max(len(prompts[i]) for i in owners)
        ids_NL = torch.zeros(len(owners), length, dtype=torch.long)
        mask_NL = torch.zeros(len(owners), length, dtype=torch.long)
        for n, i in enumerate(owners):
            ids_NL[n, length - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask_NL[n, length - len(prompts[i]) :] = 1
        draw = _Draw(uniform_NT.to(device), temperature)
        eos_ids = self.eos_ids.tolist()
        # `generate` fills whatever its argument leaves open from the model's own generation_config.
        own, self.model.generation_config = self.model.generation_config, GenerationConfig()
        try:
            sequences_NL = self.model.generate(
                ids_NL.to(device),
                attention_mask=mask_NL.to(device),
                logits_processor=LogitsProcessorList([draw]),
                generation_config=GenerationConfig(
                    max_new_tokens=uniform_NT.shape[1],
                    do_sample=False,
                    eos_token_id=eos_ids or None,
                    pad_token_id=eos_ids[0] if eos_ids else 0,
                ),
            )
        finally:
            self.model.generation_config = own
        responses = []
        for tokens, logp in zip(sequences_NL[:, length:].tolist(), torch.stack(draw.logp, 1).tolist(), strict=True):
            ends = [t for t, token in enumerate(tokens) if token in eos_ids]
            length_of = ends[0] + 1 if ends else len(tokens)
            responses.append(Response(tokens[:length_of], logp[:length_of], truncated=not ends))
        return responses


class _Draw(LogitsProcessor):
    """Draws the token itself and leaves `generate` no choice: our random numbers, and a log-prob a token instead of
    the logits of all."""

    def __init__(self, uniform_NT: Tensor, temperature: float) -> None:
        self.uniform_NT, self.temperature = uniform_NT, temperature
        self.logp: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token_N, logp_N = sample(scores, self.uniform_NT[:, len(self.logp)], self.temperature)
        self.logp.append(logp_N)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token_N[:, None], 0.0)
