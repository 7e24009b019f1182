"""Our losses with one convention changed to a peer's: what proves that a difference is that convention and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from fed import Fed, our_loss, policy_of
from torch import Tensor
from torch.nn.functional import logsigmoid

from algorithms import ALGORITHMS, Batch, PolicyOutput
from algorithms.base import centred, group_size, masked, sequence_log_ratio, sequence_sum, token_log_ratio, token_mean
from algorithms.terms import clipped_surrogate, group_std, leave_one_out, mean_of_groups, response_mean, standardised

Restated = Callable[[Fed], Tensor]
Settings = Mapping[str, Any]


def changed(algorithm: str, settings: Settings | None = None, **changes: Callable[[Fed], Any]) -> Restated:
    """Our loss with other functions or constants under these names of its module."""

    def restated(case: Fed) -> Tensor:
        with ExitStack() as stack:
            for name, change in changes.items():
                stack.enter_context(patch(f"{ALGORITHMS[algorithm].__module__}.{name}", change(case)))
            return our_loss(algorithm, settings or {}, case)

    return restated


def by_samples(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """An average over responses: 1/Σk Σ_x Σ_i x_i, in place of `mean_of_groups`."""
    return lambda x_GK, valid_GK: x_GK[valid_GK].mean()


def by_tokens(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """An average in which a response counts by its length: 1/Σ|y| Σ_i |y_i| x_i, in place of `mean_of_groups`."""
    length_GK = case.batch.mask_GKT.sum(-1)
    return lambda x_GK, valid_GK: masked(length_GK * x_GK, valid_GK).sum() / length_GK.sum()


def over_tokens(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """1/Σ|y| Σ_i x_i of sums over tokens x, in place of `mean_of_groups`."""
    return lambda x_GK, valid_GK: x_GK[valid_GK].sum() / case.batch.mask_GKT.sum()


def std_1e4(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """(x − x̄)/(std + 1e-4), in place of `standardised`."""
    return lambda x_GK, valid_GK: centred(x_GK, valid_GK) / (group_std(x_GK, valid_GK)[:, None] + 1e-4)


def unscaled(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """x − x̄, in place of `standardised`."""
    return centred


def scaled(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """(x − x̄)/(std + 1e-6), in place of `centred`."""
    return standardised


def lone_reward(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """The reward itself for a group of one, in place of `standardised`."""
    return lambda x_GK, valid_GK: torch.where(valid_GK.sum(-1, keepdim=True) == 1, x_GK, standardised(x_GK, valid_GK))


def bessel(case: Fed) -> Callable[[Tensor, Tensor], Tensor]:
    """The variance with 1/(n−1), in place of `whitened`."""

    def whitened(x_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
        x = x_GKT[mask_GKT]
        return masked((x_GKT - x.mean()) / (x.var() + 1e-8).sqrt(), mask_GKT)

    return whitened


def dual_clip(case: Fed) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """At least 3 Â where Â < 0, in place of `clipped_surrogate`."""

    def surrogate(policy: PolicyOutput, batch: Batch, A: Tensor, *, low: float, high: float) -> Any:
        objective_GKT, metrics = clipped_surrogate(policy, batch, A, low=low, high=high)
        return torch.where(A < 0, torch.maximum(objective_GKT, 3 * A), objective_GKT), metrics

    return surrogate


def constant(value: Any) -> Callable[[Fed], Any]:
    """The value, whatever the batch."""
    return lambda case: value


def ppo_clip(advantage: Callable[[Fed], Tensor], *, responses: bool = False) -> Restated:
    """PPO's clip with ε 0.2 on each token of an advantage [G, K]; a mean over tokens, or per response."""

    def restated(case: Fed) -> Tensor:
        A_GK1 = advantage(case)[..., None]
        objective_GKT, _ = clipped_surrogate(policy_of(case), case.batch, A_GK1, low=0.2, high=0.2)
        if responses:
            return -response_mean(objective_GKT, case.batch.mask_GKT)[case.batch.valid_GK].mean()
        return -token_mean(objective_GKT, case.batch.mask_GKT)

    return restated


def others(case: Fed) -> Tensor:
    """RLOO's advantage."""
    return leave_one_out(case.batch.rewards_GK, case.batch.valid_GK)


def length_weighted(case: Fed) -> Tensor:
    """OPO's advantage."""
    length_GK, R_GK = case.batch.mask_GKT.sum(-1), case.batch.rewards_GK
    return masked(
        R_GK - (length_GK * R_GK).sum(-1, keepdim=True) / length_GK.sum(-1, keepdim=True), case.batch.valid_GK
    )


def over_batch_std(case: Fed) -> Tensor:
    """(R − R̄)/(std + 1e-4), with the std over the responses of the batch."""
    A_GK = centred(case.batch.rewards_GK, case.batch.valid_GK)
    return A_GK / (A_GK[case.batch.valid_GK].std() + 1e-4)


def sequence_clip(case: Fed) -> Tensor:
    """TRL's RLOO: PPO's clip on the ratio of whole responses, the KL in the reward."""
    batch = case.batch
    drift_GK = sequence_sum(batch.old_logp_GKT - batch.anchor_logp_GKT("reference"), batch.mask_GKT)
    A_GK = leave_one_out(batch.rewards_GK - 0.05 * drift_GK, batch.valid_GK)
    ratio_GK = sequence_log_ratio(policy_of(case), batch, "behaviour").exp()
    return -torch.minimum(ratio_GK * A_GK, ratio_GK.clamp(0.8, 1.2) * A_GK)[batch.valid_GK].mean()


def nonzero_alpha(case: Fed) -> Tensor:
    """verl's GPG: α counts responses whose reward is not zero."""
    return our_loss("gpg", {"rescale": False}, case) * len(case.rewards_B) / case.rewards_B.count_nonzero()


def held_gate(case: Fed) -> Tensor:
    """Trinity's SAPO: REINFORCE weighted with the gate, which is held constant."""
    batch, policy = case.batch, policy_of(case)
    A_GK1 = standardised(batch.rewards_GK, batch.valid_GK)[..., None]
    tau_GK1 = torch.where(A_GK1 > 0, 1.0, 1.05)
    ratio_GKT = token_log_ratio(policy, batch, "behaviour").exp()
    gate_GKT = (4 / tau_GK1 * (tau_GK1 * (ratio_GKT - 1)).sigmoid()).detach()
    return -token_mean(gate_GKT * A_GK1 * policy.logp_GKT, batch.mask_GKT)


def token_taper(case: Fed) -> Tensor:
    """Trinity's TOPR: the taper on each token's ratio, on GRPO's advantage."""
    batch, policy = case.batch, policy_of(case)
    A_GK1 = standardised(batch.rewards_GK, batch.valid_GK)[..., None]
    ratio_GKT = token_log_ratio(policy, batch, "behaviour").exp().detach()
    return -token_mean(torch.where(A_GK1 > 0, 1.0, ratio_GKT.clamp(max=1)) * A_GK1 * policy.logp_GKT, batch.mask_GKT)


def one_pair(case: Fed) -> Tensor:
    """Trinity's DPO: one margin, the sum of all pairs'."""
    log_ratio_GK = sequence_log_ratio(policy_of(case), case.batch, "reference")
    return -logsigmoid(0.1 * (log_ratio_GK[:, 0] - log_ratio_GK[:, 1]).sum())


def signed_mean(case: Fed) -> Tensor:
    """SkyRL's MaxRL: divided by the mean reward whatever its sign, and by M."""
    batch = case.batch
    mean_G1 = batch.rewards_GK.sum(-1, keepdim=True) / group_size(batch.valid_GK)
    A_GK = centred(batch.rewards_GK, batch.valid_GK) / (mean_G1 + 1e-6)
    logp_GK = sequence_sum(policy_of(case).logp_GKT, batch.mask_GKT)
    return -mean_of_groups(A_GK * logp_GK, batch.valid_GK) / case.limit
