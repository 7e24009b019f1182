"""Log-probs, entropies, values and KL of given responses: the only forward passes that the trainer makes.

Rows are right-padded `prompt + response`, so causal attention alone keeps padding out of every real token, and token
ids travel from the sampler to here without a second tokenisation.

Shape suffixes: N rows (responses), L tokens of the longest row, T tokens of the longest response, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from algorithms.base import PolicyOutput


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

    def pick(self, index: Tensor) -> Rows:
        """Some of the rows, cut to the longest of them."""
        length = int(self.length_N[index].max())
        return Rows(
            input_ids_NL=self.input_ids_NL[index.to(self.input_ids_NL.device), :length],
            prompt_length_N=self.prompt_length_N[index],
            response_length_N=self.response_length_N[index],
        )


def micro_batches(length_N: Tensor, token_budget: int, unit_N: Tensor | None = None) -> list[Tensor]:
    """Splits rows into micro-batches of at most `token_budget` tokens, padding included, of similar lengths.

    With `unit_N`, rows of the same unit stay together. A single row (or unit) above the budget is a micro-batch of its
    own.
    """
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, unit in enumerate(range(len(length_N)) if unit_N is None else unit_N.tolist()):
        rows_of[unit].append(row)
    lengths = length_N.tolist()
    units = sorted((max(lengths[row] for row in rows), rows) for rows in rows_of.values())
    batches: list[list[int]] = []
    for longest, rows in units:
        if batches and (len(batches[-1]) + len(rows)) * longest <= token_budget:
            batches[-1] += rows
        else:
            batches.append([*rows])
    return [torch.tensor(rows) for rows in batches]


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
        return widen(self.head(hidden_NLH)[..., 0])


def widen(x: Tensor) -> Tensor:
    """At least float32: log-probs of half-precision logits are taken in float32."""
    return x if x.dtype == torch.float64 else x.float()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast over float32 weights, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


@dataclass(frozen=True)
class Scorer:
    """Runs a policy, and where there is one a critic, over rows."""

    model: PreTrainedModel
    critic: Critic | None = None
    temperature: float = 1.0
    precision: str = "float32"

    def __call__(self, rows: Rows, *, response_length: int, entropy: bool = False) -> PolicyOutput:
        """log π (and entropy, and value) of each response token, [N, response_length], zero on padding.

        `logp_GKT` and its companions carry rows N where an algorithm has groups [G, K].
        """
        logits_NTV, mask_NT = self._response_logits(rows)
        targets_NT = self._gather_positions(rows, shift=1)
        logp_NTV = logits_NTV.log_softmax(-1)
        logp_NT = logp_NTV.gather(-1, targets_NT[..., None])[..., 0]
        entropy_NT = -(logp_NTV.exp() * logp_NTV).sum(-1) if entropy else None
        value_NT = None
        if self.critic is not None:
            value_NT = self._pad(self._values(rows)[:, :-1], mask_NT, response_length)
        return PolicyOutput(
            logp_GKT=self._pad(logp_NT, mask_NT, response_length),
            entropy_GKT=None if entropy_NT is None else self._pad(entropy_NT, mask_NT, response_length),
            value_GKT=value_NT,
        )

    @torch.no_grad()
    def final_value(self, rows: Rows, token_budget: int) -> Tensor:
        """The critic's value after the last token of each row, [N], in micro-batches."""
        parts = micro_batches(rows.length_N, token_budget)
        values = []
        for index in parts:
            part = rows.pick(index)
            value_NT = self._values(part)
            values.append(value_NT.gather(1, part.response_length_N[:, None].to(value_NT.device))[:, 0])
        value_N = torch.cat(values)
        return value_N[torch.cat(parts).argsort().to(value_N.device)]

    @torch.no_grad()
    def loglikelihood(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Σ_t log π of each response in nats, and whether each of its tokens is the most likely one, [N] both."""
        logits_NTV, mask_NT = self._response_logits(rows)
        targets_NT = self._gather_positions(rows, shift=1)
        logp_NT = logits_NTV.log_softmax(-1).gather(-1, targets_NT[..., None])[..., 0]
        greedy_NT = logits_NTV.argmax(-1) == targets_NT
        return torch.where(mask_NT, logp_NT, 0.0).sum(-1), (greedy_NT | ~mask_NT).all(-1)

    @torch.no_grad()
    def kl_from(self, base: Scorer, rows: Rows) -> Tensor:
        """Σ_t KL(π_θ‖π_base) over the full vocabulary along each response, in nats per response, [N]."""
        logits_NTV, mask_NT = self._response_logits(rows)
        logp_NTV = logits_NTV.log_softmax(-1)
        base_logp_NTV = base._response_logits(rows)[0].log_softmax(-1)
        kl_NT = (logp_NTV.exp() * (logp_NTV - base_logp_NTV)).sum(-1)
        return torch.where(mask_NT, kl_NT, 0.0).sum(-1)

    def _response_logits(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Logits that predict each response token, over the temperature, [N, T, V], and the mask [N, T]."""
        device = rows.input_ids_NL.device
        start = int(rows.prompt_length_N.min()) - 1
        keep_L = torch.arange(start, rows.input_ids_NL.shape[1], device=device)
        with autocast(device, self.precision):
            logits_NLV = self.model(input_ids=rows.input_ids_NL, use_cache=False, logits_to_keep=keep_L).logits
        T = int(rows.response_length_N.max())
        offset_N = rows.prompt_length_N.to(device) - 1 - start
        mask_NT = torch.arange(T, device=device) < rows.response_length_N.to(device)[:, None]
        if int(rows.prompt_length_N.max()) - 1 == start:
            return widen(logits_NLV[:, :T]) / self.temperature, mask_NT
        at_NT = (offset_N[:, None] + torch.arange(T, device=device)).clamp(max=logits_NLV.shape[1] - 1)
        row_N1 = torch.arange(len(rows), device=device)[:, None]
        return widen(logits_NLV[row_N1, at_NT]) / self.temperature, mask_NT

    def _gather_positions(self, rows: Rows, shift: int) -> Tensor:
        """Token ids at response positions, [N, T]; `shift` 1 is the token itself, 0 the one before it."""
        device = rows.input_ids_NL.device
        T = int(rows.response_length_N.max())
        at_NT = rows.prompt_length_N.to(device)[:, None] - 1 + shift + torch.arange(T, device=device)
        return rows.input_ids_NL.gather(1, at_NT.clamp(max=rows.input_ids_NL.shape[1] - 1))

    def _values(self, rows: Rows) -> Tensor:
        """Values before each response token and after the last, [N, T + 1]."""
        assert self.critic is not None
        device = rows.input_ids_NL.device
        with autocast(device, self.precision):
            value_NL = self.critic(rows.input_ids_NL)
        T = int(rows.response_length_N.max())
        at_NT = rows.prompt_length_N.to(device)[:, None] - 1 + torch.arange(T + 1, device=device)
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
    order = []
    for index in micro_batches(rows.length_N, token_budget):
        order.append(index)
        outputs.append(scorer(rows.pick(index), response_length=response_length, entropy=entropy))
    inverse = torch.cat(order).argsort()
    return join(outputs, inverse)


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
