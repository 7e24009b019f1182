"""What a step's row says of the gradient coefficients of its updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

QUANTILES = {"coefficient_low": 0.05, "coefficient_median": 0.5, "coefficient_high": 0.95}
"""By the name of the metric: the share of tokens whose coefficients are at most so large."""


@torch.no_grad()
def coefficient_metrics(gradient_GKT: Tensor, mask_GKT: Tensor) -> dict[str, float]:
    """Of C = −∂L/∂log π over the response tokens of a mini-batch, from ∂L/∂log π.

    coefficient_positive, coefficient_negative: the sums of what pushes a token's probability up, and of what pushes it
    down. coefficient_zero: the share of tokens that are pushed neither way, exactly. QUANTILES are the smallest C that
    at least this share of the tokens does not exceed.
    """
    ordered_N = (-gradient_GKT[mask_GKT]).sort().values
    places = [max(0, math.ceil(share * len(ordered_N) - 1e-9) - 1) for share in QUANTILES.values()]
    positive, negative, zero, *quantiles = torch.stack(
        [
            ordered_N.clamp(min=0).sum(dtype=torch.float64),
            ordered_N.clamp(max=0).sum(dtype=torch.float64),
            (ordered_N == 0).double().mean(),
            *ordered_N[places].double(),
        ]
    ).tolist()
    return {
        "coefficient_positive": positive,
        "coefficient_negative": negative,
        "coefficient_zero": zero,
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
