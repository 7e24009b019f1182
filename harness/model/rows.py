"""Responses as token ids, and rows of them ready for a forward pass.

Rows are right-padded `prompt + response`, so causal attention alone keeps padding out of every real token, and token
ids travel from the sampler to the trainer without a second tokenisation. Packed, they are one sequence without padding.

Shape suffixes: N rows (responses), L tokens of the longest row, P tokens of all rows, T tokens of the longest response,
R ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Count = TypeVar("Count", int, Tensor)


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
        rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        longest = max(map(len, rows))
        return Rows(
            input_ids_NL=torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device),
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
        """True on response tokens, False on padding."""
        device = self.input_ids_NL.device
        return torch.arange(self.T, device=device) < self.response_length_N.to(device)[:, None]

    @property
    def response_ids_NT(self) -> Tensor:
        """Token ids of the responses, anything on padding."""
        device = self.input_ids_NL.device
        at_NT = self.prompt_length_N.to(device)[:, None] + torch.arange(self.T, device=device)
        return self.input_ids_NL.gather(1, at_NT.clamp(max=self.input_ids_NL.shape[1] - 1))

    def inputs(self, packing: bool) -> dict[str, Tensor]:
        """What a model takes: the rows as they are, [N, L], or packed into one, [1, P], whose positions start anew at
        each row. By these transformers keeps attention within a row."""
        if not packing:
            return {"input_ids": self.input_ids_NL}
        device = self.input_ids_NL.device
        position_NL = torch.arange(self.input_ids_NL.shape[1], device=device).expand_as(self.input_ids_NL)
        real_NL = position_NL < self.length_N.to(device)[:, None]
        return {"input_ids": self.input_ids_NL[real_NL][None], "position_ids": position_NL[real_NL][None]}

    def prompt_end_N(self, packing: bool) -> Tensor:
        """Where each row's last prompt token stands among all tokens of `inputs`: the state there predicts the first
        token of the response."""
        if packing:
            start_N = self.length_N.cumsum(0) - self.length_N
        else:
            start_N = torch.arange(len(self)) * self.input_ids_NL.shape[1]
        return (start_N + self.prompt_length_N - 1).to(self.input_ids_NL.device)

    def pick(self, index: Tensor) -> Rows:
        """Some of the rows, cut to the longest of them."""
        length = int(self.length_N[index].max())
        return Rows(
            input_ids_NL=self.input_ids_NL[index.to(self.input_ids_NL.device), :length],
            prompt_length_N=self.prompt_length_N[index],
            response_length_N=self.response_length_N[index],
        )


def micro_batches(
    length_N: Tensor, token_budget: int, unit_N: Tensor | None = None, ranks: int = 1, *, packing: bool = False
) -> list[Tensor]:
    """Splits rows into micro-batches of at most `token_budget` tokens, of similar lengths. Padding is included, which
    there is unless rows are packed.

    With `unit_N`, rows of the same unit stay together. A single row (or unit) above the budget is a micro-batch of its
    own. With several `ranks` the parts are rounds: a micro-batch on each rank at once (`Ranks.deal`), each within the
    budget.
    """
    lengths = length_N.tolist()
    units = sorted((max(lengths[row] for row in rows), rows) for rows in _rows_of_units(unit_N, len(lengths)))
    batches: list[list[int]] = [[]]
    load_R = [0] * ranks
    for longest, rows in units:
        joined_R = _dealt(rows, lengths, load_R, len(batches[-1]))
        most = max(joined_R) if packing else _share(len(batches[-1]) + len(rows), ranks) * longest
        if batches[-1] and most > token_budget:
            batches.append([])
            joined_R = _dealt(rows, lengths, [0] * ranks, 0)
        batches[-1] += rows
        load_R = joined_R
    return [torch.tensor(rows) for rows in batches if rows]


def _rows_of_units(unit_N: Tensor | None, rows: int) -> list[list[int]]:
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, unit in enumerate(range(rows) if unit_N is None else unit_N.tolist()):
        rows_of[unit].append(row)
    return list(rows_of.values())


def _dealt(rows: Sequence[int], lengths: Sequence[int], load_R: Sequence[int], held: int) -> list[int]:
    """Real tokens of each rank once these rows are dealt too, behind the `held` ones that make up `load_R`."""
    joined_R = [*load_R]
    for place, row in enumerate(rows, start=held):
        joined_R[place % len(joined_R)] += lengths[row]
    return joined_R


def fits(length_N: Tensor, token_budget: int, unit_N: Tensor, ranks: int = 1, *, packing: bool = False) -> bool:
    """Whether each part of `micro_batches` is within the budget, or a single row: that is, whether each unit is."""
    if len(length_N) * int(length_N.max()) <= token_budget:
        return True
    if packing:
        lengths = length_N.tolist()
        units = _rows_of_units(unit_N, len(lengths))
        return all(len(r) <= ranks or max(_dealt(r, lengths, [0] * ranks, 0)) <= token_budget for r in units)
    _, unit_N = unit_N.unique(return_inverse=True)
    share_U = _share(unit_N.bincount(), ranks)
    longest_U = length_N.new_zeros(len(share_U)).scatter_reduce(0, unit_N, length_N, "amax")
    return bool(((share_U == 1) | (share_U * longest_U <= token_budget)).all())


def _share(rows: Count, ranks: int) -> Count:
    return -(-rows // ranks)


def padding_share(length_N: Tensor, token_budget: int, ranks: int = 1) -> float:
    """The share of padding among all tokens that a pass over the rows computes, where they aren't packed."""
    computed = 0
    for part_N in micro_batches(length_N, token_budget, ranks=ranks):
        mine = [part_N[rank::ranks] for rank in range(min(ranks, len(part_N)))]
        computed += sum(len(rows) * int(length_N[rows].max()) for rows in mine)
    return 1 - int(length_N.sum()) / computed


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    tokens: list[int]
    """Token ids, EOS included where the response ended by itself."""
    logp: list[float]
    """log π of each token as the engine computed it, in nats."""
    truncated: bool
    """It hit the length limit before EOS."""
