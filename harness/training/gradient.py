"""Gradient coefficients, and the one backward pass that applies them for every algorithm.

The loss of the whole mini-batch is differentiated with respect to the log-probs (entropies, values); what comes out is
pushed through the model in whatever micro-batches fit. The gradient is therefore that of the mini-batch for every
split of it.

Where the mini-batch needs several micro-batches there are two ways, with the same result:
    two passes  score everything without gradient, take all coefficients at once, forward again with gradient;
    one pass    for each micro-batch, take its coefficients with all other log-probs held at any value. Right only where
                coefficients do not depend on other units' log-probs, which an algorithm declares as its `coupling`.

With several ranks (model/ranks.py) a micro-batch is a round: each rank runs its share of the rows, all of them gather
the log-probs and take the same coefficients, and each pushes those of its own rows through its backward pass. A group
may lie on any number of ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from algorithms.base import Algorithm, Batch, Coupling, PolicyOutput
from harness.model.rows import Rows, fits, micro_batches
from harness.model.scorer import RowScores, Scorer, collect, score
from harness.training.judgement import judged_gradients, judged_loss

Passes = Literal["auto", "one", "two"]


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """∂L/∂(log-prob, entropy, value) over the mini-batch. The article's gradient coefficient is C = −∂L/∂log π."""

    loss: float
    metrics: dict[str, float]
    logp_GKT: Tensor
    entropy_GKT: Tensor | None
    value_GKT: Tensor | None
    extra_pass: bool = False
    """A forward pass without gradient was spent on them."""


def differentiate(algorithm: Algorithm, policy: PolicyOutput, batch: Batch) -> Coefficients:
    """The gradient of the loss with respect to everything the policy put out.

    That of the log-probs is multiplied by `batch.correction_GKT`, where there is one.

    Raises LossError for what is no loss, FloatingPointError where it or a coefficient is not finite.
    """
    leaves = {
        f.name: value.detach().clone().requires_grad_()
        for f in fields(policy)
        if (value := getattr(policy, f.name)) is not None
    }
    with torch.enable_grad():
        output = judged_loss(algorithm, PolicyOutput(**leaves), batch)
    found = judged_gradients(algorithm, output.loss, leaves)
    if batch.correction_GKT is not None:
        found["logp_GKT"] = found["logp_GKT"] * batch.correction_GKT
    loss = float(output.loss.detach())
    for name, grad in found.items():
        bad = ~torch.isfinite(grad)
        if bad.any():
            g, k, t = bad.nonzero()[0].tolist()
            raise FloatingPointError(
                f"{type(algorithm).__name__}: ∂loss/∂{name} is {float(grad[g, k, t])} at prompt {g}, sample {k}, "
                f"token {t} of the mini-batch ({int(bad.sum())} of {bad.numel()} are not finite); the loss is {loss}"
            )
    if not torch.isfinite(output.loss):
        raise FloatingPointError(f"{type(algorithm).__name__}: the loss is {loss}")
    metrics = {name: float(value) for name, value in output.metrics.items()}
    return Coefficients(
        loss=loss,
        metrics=metrics,
        logp_GKT=found["logp_GKT"],
        entropy_GKT=found.get("entropy_GKT"),
        value_GKT=found.get("value_GKT"),
    )


def truncated_ratio(behaviour_logp: Tensor, sampler_logp: Tensor, cap: float) -> Tensor:
    """min(c, π_behaviour/π_sampler) of each token: truncated importance sampling (Ionides 2008) between the trainer's
    and the sampling engine's probabilities under the same weights.

    The weights that sampled, and not those of now: from there on an algorithm has its own ratio π_θ/π_behaviour.
    """
    return (behaviour_logp - sampler_logp).clamp(max=math.log(cap)).exp()


def accumulate_gradient(
    scorer: Scorer,
    algorithm: Algorithm,
    batch: Batch,
    rows: Rows,
    *,
    token_budget: int,
    passes: Passes = "auto",
    first_pass: PolicyOutput | None = None,
) -> Coefficients:
    """Adds the gradient of the algorithm's loss on one mini-batch to the parameters' `.grad`.

    `rows` are the valid samples of `batch` in the order of `batch.valid_GK.nonzero()`. `passes` "auto" takes one where
    the units that the algorithm couples fit into `token_budget`. `first_pass` is what a pass under the present weights
    already gave, [G, K, T]: it saves the first of two passes. Returns the coefficients of the whole mini-batch.

    Raises ValueError where one pass is demanded and the coupled units do not fit.
    """
    place_N = places(batch.valid_GK)
    coupling, ranks, packs = algorithm.needs.coupling, scorer.ranks.size, scorer.packs
    one_is_right = one_pass_is_right(coupling, batch.valid_GK, rows.length_N, token_budget, ranks, packing=packs)
    if passes == "one" and not one_is_right:
        raise ValueError(
            f"{type(algorithm).__name__} couples the log-probs of a {coupling}, which does not fit "
            f"into {token_budget} tokens: raise token_budget or take two passes"
        )
    if one_is_right and passes != "two":
        split = micro_batches(rows.length_N, token_budget, units(coupling, batch.valid_GK), ranks, packing=packs)
        return _one_pass(scorer, algorithm, batch, rows, split, place_N)
    return _two_passes(scorer, algorithm, batch, rows, token_budget, place_N, first_pass)


def places(valid_GK: Tensor) -> Tensor:
    """Where each valid sample stands among all G · K, [N]."""
    return valid_GK.cpu().flatten().nonzero().flatten()


def units(coupling: Coupling, valid_GK: Tensor) -> Tensor:
    """The number of what each valid sample is coupled in, [N]: equal where the loss couples their log-probs."""
    place_N = places(valid_GK)
    return {
        "sequence": place_N,
        "group": place_N // valid_GK.shape[1],
        "batch": torch.zeros_like(place_N),
    }[coupling]


def one_pass_is_right(
    coupling: Coupling,
    valid_GK: Tensor,
    length_N: Tensor,
    token_budget: int,
    ranks: int = 1,
    *,
    packing: bool = False,
) -> bool:
    """Whether what the algorithm couples is within the budget everywhere in the mini-batch; else it takes two passes.

    `length_N` are the tokens of each valid sample, prompt and response. `gvpo-bench plan` asks this too.
    """
    return fits(length_N, token_budget, units(coupling, valid_GK), ranks, packing=packing)


def _one_pass(
    scorer: Scorer, algorithm: Algorithm, batch: Batch, rows: Rows, split: list[Tensor], place_N: Tensor
) -> Coefficients:
    # Any value would do for the log-probs still to come; the old ones keep them plausible.
    table = PolicyOutput(
        logp_GKT=batch.old_logp_GKT.clone(),
        entropy_GKT=torch.zeros_like(batch.old_logp_GKT) if algorithm.needs.entropy else None,
        value_GKT=None if batch.old_value_GKT is None else batch.old_value_GKT.clone(),
    )
    for part in split:
        live = _forward(scorer, algorithm, batch, rows, part)
        _write(table, collect(scorer.ranks, live, len(part)), place_N[part])
        coefficients = differentiate(algorithm, table, batch)
        _backward(scorer, live, coefficients, part, place_N)
    return coefficients if len(split) == 1 else differentiate(algorithm, table, batch)


def _two_passes(
    scorer: Scorer,
    algorithm: Algorithm,
    batch: Batch,
    rows: Rows,
    token_budget: int,
    place_N: Tensor,
    first_pass: PolicyOutput | None,
) -> Coefficients:
    extra_pass = first_pass is None
    if first_pass is None:
        entropy, length = algorithm.needs.entropy, batch.mask_GKT.shape[-1]
        first_pass = to_groups(
            score(scorer, rows, response_length=length, token_budget=token_budget, entropy=entropy), batch.valid_GK
        )
    coefficients = replace(differentiate(algorithm, first_pass, batch), extra_pass=extra_pass)
    for part in micro_batches(rows.length_N, token_budget, ranks=scorer.ranks.size, packing=scorer.packs):
        live = _forward(scorer, algorithm, batch, rows, part)
        _backward(scorer, live, coefficients, part, place_N)
    return coefficients


def _forward(scorer: Scorer, algorithm: Algorithm, batch: Batch, rows: Rows, part: Tensor) -> RowScores:
    """This rank's rows of a part."""
    mine, _ = scorer.ranks.deal(part)
    with torch.enable_grad():
        return scorer(rows.pick(mine), response_length=batch.mask_GKT.shape[-1], entropy=algorithm.needs.entropy)


VARIABLES = ("logp", "entropy", "value")
"""What a loss is differentiated with respect to: fields of rows with _NT, of groups with _GKT."""


def by_group(x_N: Tensor, valid_GK: Tensor) -> Tensor:
    """Rows [N, …] in the order of `valid_GK.nonzero()` as groups [G, K, …], zero where there is no sample."""
    x_GK = torch.zeros((*valid_GK.shape, *x_N.shape[1:]), dtype=x_N.dtype, device=valid_GK.device)
    x_GK[valid_GK] = x_N.to(valid_GK.device)
    return x_GK


def to_groups(rows: RowScores, valid_GK: Tensor) -> PolicyOutput:
    """What a pass without gradient says of the rows of groups, as a loss takes it."""
    found = {name: getattr(rows, f"{name}_NT") for name in VARIABLES}
    return PolicyOutput(**{f"{name}_GKT": by_group(x, valid_GK) for name, x in found.items() if x is not None})


def _pairs(groups: PolicyOutput | Coefficients, rows: RowScores) -> list[tuple[Tensor, Tensor]]:
    """The variables that both have, as groups [G, K, T] and as rows [N, T]."""
    found = [(getattr(groups, f"{name}_GKT"), getattr(rows, f"{name}_NT")) for name in VARIABLES]
    return [(x_GKT, x_NT) for x_GKT, x_NT in found if x_GKT is not None and x_NT is not None]


def _write(table: PolicyOutput, live: RowScores, place_N: Tensor) -> None:
    """Puts rows into their places of a [G, K, T] table."""
    for into_GKT, x_NT in _pairs(table, live):
        into_GKT.view(-1, into_GKT.shape[-1])[place_N.to(into_GKT.device)] = x_NT.detach()


def _backward(scorer: Scorer, live: RowScores, coefficients: Coefficients, part: Tensor, place_N: Tensor) -> None:
    """Pushes the coefficients of this rank's rows of a part through the model."""
    mine, counts = scorer.ranks.deal(part)
    # The gradient is the sum over ranks, of which FSDP takes the mean. Rows that do not count only keep the others
    # company.
    weight = scorer.ranks.size if counts else 0
    pairs = _pairs(coefficients, live)
    torch.autograd.backward(
        [x_NT for _, x_NT in pairs],
        [
            weight * grad_GKT.view(-1, grad_GKT.shape[-1])[place_N[mine].to(grad_GKT.device)].to(x_NT.dtype)
            for grad_GKT, x_NT in pairs
        ],
    )
