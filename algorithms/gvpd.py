"""Group Variance Policy Distillation (GVPD, of GVPO++, arXiv 2609.21432; after its abstract and a reader's notes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from algorithms.base import (
    Algorithm,
    Batch,
    Family,
    LossOutput,
    Needs,
    PolicyOutput,
    group_size,
    hyperparameter,
    masked,
    token_log_prob,
)
from algorithms.terms import response_length


@dataclass(frozen=True, kw_only=True)
class GVPD(Algorithm):
    """The weighted variance, within each group, of the student's minus the teacher's sequence log-probability:

        L = 1/|D| Σ_x 1/(k(x)−1) Σ_i f_i (d_i − d̄)²,   d_i = log π_θ(y_i) − log π_T(y_i),   d̄ = Σ f_i d_i / Σ f_i

    It is GVPO whose reward is the teacher's log-ratio to the anchor, log π_T/π', with β = 1: the anchor cancels. f_i is
    1, or 1/|y_i| scaled to a mean of 1 in its group. The optimum is the teacher, for every positive f and every
    sampling policy with its support. Only sequence scores of the teacher enter, so it may have another tokenizer.

    Reduces to: GVPO with β = 1 on the rewards log π_T(y_i)/π'(y_i), where f = 1.

    Pitfalls: verdicts are not read. Without 1/|y| the longest responses, whose scores differ most, decide. The form of
    f is this project's: the paper says that any positive weight will do and tries one by length.
    """

    name: ClassVar[str] = "GVPD"
    family: ClassVar[Family] = "distillation"

    length_normalised: bool = hyperparameter(True, "f_i ∝ 1/|y_i|; False is f_i = 1")

    @property
    def needs(self) -> Needs:
        return Needs(extras=("teacher_logp_GK",), coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK = batch.valid_GK
        k_G1 = group_size(valid_GK)
        difference_GK = token_log_prob(policy, batch).sum(-1) - batch.extra("teacher_logp_GK")
        weight_GK = valid_GK.to(difference_GK.dtype)
        if self.length_normalised:
            weight_GK = weight_GK / response_length(batch.mask_GKT)
            weight_GK = weight_GK * k_G1 / weight_GK.sum(-1, keepdim=True).clamp(min=torch.finfo(weight_GK.dtype).tiny)
        mean_G1 = (weight_GK * difference_GK).sum(-1, keepdim=True) / k_G1
        variance_G = (weight_GK * (difference_GK - mean_G1).square()).sum(-1) / (k_G1[:, 0] - 1).clamp(min=1)
        # A group of one has no variance; rounding would leave it one.
        loss_G = masked(variance_G, valid_GK.sum(-1) > 1)
        return LossOutput(loss=loss_G.mean(), metrics={"log_ratio_to_teacher": mean_G1.mean()})
