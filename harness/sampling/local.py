"""Sampling engines behind one interface. An engine turns prompts into responses with the log-probs it drew them at.

Temperature is the only sampling setting: a model's own generation_config is never read, since top-p, top-k and
penalties break both the support condition and the parity of log-probs with the trainer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.model.packing import sampling_attention
from harness.model.policy import PolicyModel, autocast, widen
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

    @torch.no_grad()
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
        with sampling_attention(self.model):
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
        length = max(len(prompts[i]) for i in distinct)
        # Left-padded, so that every row's next token stands at the same place of the cache.
        ids_GL = torch.zeros(len(distinct), length, dtype=torch.long)
        real_GL = torch.zeros(len(distinct), length, dtype=torch.bool)
        for g, i in enumerate(distinct):
            ids_GL[g, length - len(prompts[i]) :] = torch.tensor(prompts[i])
            real_GL[g, length - len(prompts[i]) :] = True
        padded = not bool(real_GL.all())
        row_N = torch.tensor([distinct.index(i) for i in owners], device=device)

        cache = DynamicCache(config=self.model.config)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise ValueError(
                f"{type(self.model).__name__} has attention layers that the cached engine does not keep "
                "(sliding-window or linear): set rollout.engine = 'transformers'"
            )
        real_NL = real_GL.to(device)
        with autocast(device, self.precision):
            logits_NV = self.model(
                input_ids=ids_GL.to(device),
                attention_mask=real_NL.long() if padded else None,
                position_ids=(real_NL.long().cumsum(-1) - 1).clamp(min=0) if padded else None,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        cache.layers = [_PreallocatedLayer(layer, row_N, length + T) for layer in cache.layers]
        logits_NV, real_NL = logits_NV[row_N], real_NL[row_N]
        position_N1 = real_NL.sum(-1, keepdim=True)

        tokens_NT = torch.zeros(N, T, dtype=torch.long, device=device)
        logp_NT = torch.zeros(N, T, dtype=logits_NV.dtype if logits_NV.dtype == torch.float64 else torch.float32)
        logp_NT = logp_NT.to(device)
        length_N = torch.full((N,), T, device=device)
        ended_N = torch.zeros(N, dtype=torch.bool, device=device)
        alive_A = torch.arange(N, device=device)  # rows still in the cache; A shrinks as responses end
        for t in range(T):
            token_A, logp_A = sample(logits_NV, uniform_NT[alive_A, t], temperature)
            tokens_NT[alive_A, t], logp_NT[alive_A, t] = token_A, logp_A
            over_A = torch.isin(token_A, eos_ids)
            ended_N[alive_A[over_A]] = True
            length_N[alive_A[over_A]] = t + 1
            going_A = ~over_A
            if t == T - 1 or not going_A.any():
                break
            if over_A.any():
                cache.batch_select_indices(going_A.nonzero().flatten())
                alive_A, token_A = alive_A[going_A], token_A[going_A]
            attention_mask = None
            if padded:
                seen_AT = torch.ones(len(alive_A), t + 1, dtype=torch.long, device=device)
                attention_mask = torch.cat([real_NL[alive_A].long(), seen_AT], 1)
            with autocast(device, self.precision):
                logits_NV = self.model(
                    input_ids=token_A[:, None],
                    attention_mask=attention_mask,
                    position_ids=position_N1[alive_A] + t,
                    past_key_values=cache,
                    use_cache=True,
                ).logits[:, -1]

        lengths, ended = length_N.tolist(), ended_N.tolist()
        tokens, logps = tokens_NT.tolist(), logp_NT.tolist()
        return [
            Response(tokens=tokens[n][: lengths[n]], logp=logps[n][: lengths[n]], truncated=not ended[n])
            for n in range(N)
        ]


def sample(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at `uniform_N`, and its log-prob, [N] each.

    Temperature 0 takes the most likely token; its log-prob is that of temperature 1.
    """
    logp_NV = (widen(logits_NV) / (temperature or 1.0)).log_softmax(-1)
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
        _, heads, length, size = x_GHLD.shape
        buffer_NHCD = x_GHLD.new_empty(len(row_N), heads, capacity, size)
        buffer_NHCD[:, :, :length] = x_GHLD[row_N]
        return buffer_NHCD

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

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
            with autocast(device, self.precision):
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
