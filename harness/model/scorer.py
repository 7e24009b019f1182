"""Log-probs, entropies, values and KL of given responses: the only forward passes that the trainer makes.

Shape suffixes: N rows (responses), L tokens of the longest row, T tokens of the longest response, M response tokens of
all rows, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from harness.model.policy import Critic, PolicyModel, autocast, token_logp
from harness.model.ranks import ALONE, Ranks, gathered
from harness.model.rows import Rows, micro_batches


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores:
    """What the models say of each response token of rows, zero on padding."""

    logp_NT: Tensor
    """log π of each response token, in nats, at the scorer's temperature."""
    entropy_NT: Tensor | None = None
    """Entropy of π in nats at each response token, where it was asked for."""
    value_NT: Tensor | None = None
    """The critic's value of the state in which each response token was chosen, where there is a critic."""
    final_value_N: Tensor | None = None
    """The critic's value of the state after the last token, where there is a critic."""

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {f.name: x for f in fields(self) if (x := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class Scorer:
    """Runs a policy, and where there is one a critic, over rows."""

    model: PolicyModel
    """A PreTrainedModel will do: its logits are then computed all at once."""
    critic: Critic | None = None
    temperature: float = 1.0
    precision: str = "float32"
    ranks: Ranks = ALONE
    """Who shares the work of `score` and `kl_from`."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, PolicyModel):
            object.__setattr__(self, "model", PolicyModel(self.model))

    def __call__(self, rows: Rows, *, response_length: int, entropy: bool = False) -> RowScores:
        """log π (and entropy, and value) of each response token, [N, response_length], and the value after the last."""
        mask_NT = rows.response_mask_NT
        logp_NT, entropy_NT = self._run(rows, self.temperature, entropy=entropy)
        value_NT = final_value_N = None
        if self.critic is not None:
            value_NS = self._values(rows)
            value_NT = self._pad(value_NS[:, :-1], mask_NT, response_length)
            final_value_N = value_NS.gather(1, rows.response_length_N[:, None].to(value_NS.device))[:, 0]
        return RowScores(
            logp_NT=self._pad(logp_NT, mask_NT, response_length),
            entropy_NT=None if entropy_NT is None else self._pad(entropy_NT, mask_NT, response_length),
            value_NT=value_NT,
            final_value_N=final_value_N,
        )

    @property
    def packs(self) -> bool:
        """Whether rows are packed, policy's and critic's."""
        return self.model.packs

    def kl_from(self, base: Scorer, rows: Rows, token_budget: int = 16384) -> tuple[Tensor, Tensor]:
        """Σ_t KL(π_θ‖π_base) over the full vocabulary along each response, and Σ_t log π_θ of its tokens: both in nats
        per response, [N]."""
        found_N2 = self._in_micro_batches(lambda part: self._kl_from(base, part), rows, token_budget)
        return found_N2[:, 0], found_N2[:, 1]

    def _kl_from(self, base: Scorer, rows: Rows) -> Tensor:
        """KL and log-prob, [N, 2]."""

        def scored(logits_V: Tensor, base_logits_V: Tensor, ids: Tensor) -> Tensor:
            logp_V, base_logp_V = logits_V.log_softmax(-1), base_logits_V.log_softmax(-1)
            kl = (logp_V.exp() * (logp_V - base_logp_V)).sum(-1)
            return torch.stack([kl, logp_V.gather(-1, ids[:, None])[:, 0]])

        mask_NT = rows.response_mask_NT
        ids_M = rows.response_ids_NT[mask_NT]
        if self.model.chunk is None:
            own, its = (scorer._run(rows, scorer.temperature, output="logits")[0] for scorer in (self, base))
            found_2M = scored(own, its, ids_M)
        else:
            hidden_MH, base_hidden_MH = (scorer._run(rows, output="hidden")[0] for scorer in (self, base))
            device = hidden_MH.device
            with gathered(self.model, base.model), self._autocast(device):
                pieces = zip(
                    *(model.split(x) for model, x in ((self.model, hidden_MH), (base.model, base_hidden_MH))),
                    self.model.split(ids_M),
                    strict=True,
                )
                found_2M = torch.cat(
                    [
                        scored(self.model.head(h, self.temperature), base.model.head(b, base.temperature), ids_C)
                        for h, b, ids_C in pieces
                    ],
                    dim=1,
                )
        found_2NT = found_2M.new_zeros(2, *mask_NT.shape)
        found_2NT[:, mask_NT] = found_2M
        return found_2NT.sum(-1).T

    @torch.no_grad()
    def loglikelihood(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Σ_t log π of each response in nats, and whether each of its tokens is the most likely one, [N] both."""

        def scored(logits_V: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return token_logp(logits_V, ids, False)[0], logits_V.argmax(-1) == ids

        mask_NT = rows.response_mask_NT
        ids_M = rows.response_ids_NT[mask_NT]
        if self.model.chunk is None:
            logp_M, greedy_M = scored(self._run(rows, self.temperature, output="logits")[0], ids_M)
        else:
            hidden_MH, _ = self._run(rows, output="hidden")
            with gathered(self.model), self._autocast(hidden_MH.device):
                pieces = zip(self.model.split(hidden_MH), self.model.split(ids_M), strict=True)
                found = [scored(self.model.head(h, self.temperature), ids_C) for h, ids_C in pieces]
            logp_M, greedy_M = (torch.cat(parts) for parts in zip(*found, strict=True))
        logp_NT = logp_M.new_zeros(mask_NT.shape).masked_scatter(mask_NT, logp_M)
        return logp_NT.sum(-1), torch.ones_like(mask_NT).masked_scatter(mask_NT, greedy_M).all(-1)

    @torch.no_grad()
    def _in_micro_batches(self, work: Callable[[Rows], Tensor], rows: Rows, token_budget: int) -> Tensor:
        """`work` of all rows, [N]."""
        parts = micro_batches(rows.length_N, token_budget, ranks=self.ranks.size, packing=self.packs)
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
        """Values before each response token and after the last, [N, S = T + 1], anything behind a row's last."""
        assert self.critic is not None
        device = rows.input_ids_NL.device
        with self._autocast(device):
            value_P = self.critic(**rows.inputs(self.packs)).flatten()
        at_NS = rows.prompt_end_N(self.packs)[:, None] + torch.arange(rows.T + 1, device=device)
        return value_P[at_NS.clamp(max=len(value_P) - 1)]

    @staticmethod
    def _pad(x_NT: Tensor, mask_NT: Tensor, length: int) -> Tensor:
        x_NT = torch.where(mask_NT, x_NT, torch.zeros((), dtype=x_NT.dtype, device=x_NT.device))
        return nn.functional.pad(x_NT, (0, length - x_NT.shape[1]))


@torch.no_grad()
def score(scorer: Scorer, rows: Rows, *, response_length: int, token_budget: int, entropy: bool = False) -> RowScores:
    """The same without gradient, for all rows, in micro-batches."""
    order = micro_batches(rows.length_N, token_budget, ranks=scorer.ranks.size, packing=scorer.packs)
    parts = []
    for index in order:
        mine, _ = scorer.ranks.deal(index)
        found = scorer(rows.pick(mine), response_length=response_length, entropy=entropy)
        parts.append(collect(scorer.ranks, found, len(index)).tensors())
    inverse = torch.cat(order).argsort()
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return RowScores(**{name: x[inverse.to(x.device)] for name, x in joined.items()})


def collect(ranks: Ranks, scores: RowScores, rows: int) -> RowScores:
    """A round's scores from those of this rank's rows, without gradient where there are several ranks."""
    return RowScores(**{name: ranks.collect(x, rows) for name, x in scores.tensors().items()})
