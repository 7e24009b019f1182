"""The checks of the contract catch what they are for: a loss with one deliberate fault fails just where it should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import contract
import pytest
import torch
from batches import random_batch
from contract import CHECKS, DEFAULT_CHECKS
from torch import Tensor

from algorithms import Algorithm, Batch, LossOutput, Needs, PolicyOutput
from algorithms.base import Coupling, centred, group_size, masked, sequence_log_ratio, sequence_sum, token_log_ratio


@dataclass(frozen=True, kw_only=True)
class Sound(Algorithm):
    """L = −1/|D| Σ_x 1/k Σ_i (R_i − R̄) ℓ_i + ℓ_i²/2: no fault. What follows changes one thing of it."""

    name: ClassVar[str] = "Sound"
    coupling: ClassVar[Coupling] = "sequence"

    @property
    def needs(self) -> Needs:
        return Needs(coupling=self.coupling, min_group_size=2)

    def advantage_GK(self, batch: Batch) -> Tensor:
        return centred(batch.rewards_GK, batch.valid_GK)

    def log_ratio_GK(self, policy: PolicyOutput, batch: Batch) -> Tensor:
        return sequence_log_ratio(policy, batch, "behaviour")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = self.log_ratio_GK(policy, batch)
        loss_GK = -self.advantage_GK(batch) * log_ratio_GK + log_ratio_GK.square() / 2
        return LossOutput(loss=(masked(loss_GK, batch.valid_GK) / group_size(batch.valid_GK)).sum(-1).mean())


class AgainstTheFirst(Sound):
    """Takes a group's first sample for its baseline."""

    def advantage_GK(self, batch):
        return batch.rewards_GK - batch.rewards_GK[:, :1]


class ComparesNeighbours(Sound):
    """Pairs each sample with the next one alone."""

    def advantage_GK(self, batch):
        pair_GK = batch.valid_GK[:, :-1] & batch.valid_GK[:, 1:]
        margin_GK = masked(batch.rewards_GK[:, :-1] - batch.rewards_GK[:, 1:], pair_GK)
        return torch.nn.functional.pad(margin_GK, (0, 1)) - torch.nn.functional.pad(margin_GK, (1, 0))


class FavoursEarlySamples(Sound):
    """Weights samples by their place."""

    def advantage_GK(self, batch):
        return super().advantage_GK(batch) * torch.linspace(1.1, 0.9, batch.valid_GK.shape[1])


class FavoursTheFirstPrompt(Sound):
    """Weights groups by their place."""

    def advantage_GK(self, batch):
        return super().advantage_GK(batch) * torch.linspace(1.1, 0.9, len(batch.valid_GK))[:, None]


class CentresLogRatios(Sound):
    """Couples a group, and says that sequences are independent."""

    def log_ratio_GK(self, policy, batch):
        return centred(super().log_ratio_GK(policy, batch), batch.valid_GK)


class WeighsByDetachedMean(Sound):
    """Couples a group through what autograd does not see, and says that sequences are independent."""

    def log_ratio_GK(self, policy, batch):
        log_ratio_GK = super().log_ratio_GK(policy, batch)
        return log_ratio_GK * (1 + log_ratio_GK.detach().mean(-1, keepdim=True))


class WhitensOverTheBatch(CentresLogRatios):
    """Couples the batch, and says that groups are independent."""

    coupling = "group"

    def log_ratio_GK(self, policy, batch):
        log_ratio_GK = super().log_ratio_GK(policy, batch)
        return log_ratio_GK / (1 + log_ratio_GK.square().sum())


class DeclaresTooMuch(Sound):
    """Couples nothing, and asks for whole groups."""

    coupling = "group"


class ReadsPadding(Sound):
    """Sums over all places of a response."""

    def log_ratio_GK(self, policy, batch):
        return (policy.logp_GKT - batch.behaviour_logp_GKT).sum(-1)


class ReadsPaddingInTheBackwardPass(Sound):
    """Masks after an exp, through which 0·inf and 0·NaN go back."""

    def log_ratio_GK(self, policy, batch):
        ratio_GKT = (policy.logp_GKT - batch.behaviour_logp_GKT).exp()
        return sequence_sum(ratio_GKT - 1, batch.mask_GKT)


class DividesByThePaddedLength(Sound):
    """Takes the tensor's length for a response's."""

    def log_ratio_GK(self, policy, batch):
        return super().log_ratio_GK(policy, batch) / batch.mask_GKT.shape[-1]


class DividesByAStandardDeviation(Sound):
    """Makes a signal of the last digit of equal rewards."""

    def advantage_GK(self, batch):
        rewards_GK, valid_GK = batch.rewards_GK, batch.valid_GK
        deviation_GK = masked(rewards_GK - rewards_GK.sum(-1, keepdim=True) / group_size(valid_GK), valid_GK)
        variance_G1 = deviation_GK.square().sum(-1, keepdim=True) / (group_size(valid_GK) - 1).clamp(min=1)
        return deviation_GK / (variance_G1.sqrt() + 1e-6)


class ExponentiatesFreely(Sound):
    """Overflows at log-ratios that clipped training may well reach."""

    def log_ratio_GK(self, policy, batch):
        return masked(token_log_ratio(policy, batch, "behaviour").exp() - 1, batch.mask_GKT).sum(-1)


class UsesAReference(Sound):
    """Says nothing of it."""

    def log_ratio_GK(self, policy, batch):
        return sequence_log_ratio(policy, batch, "reference")


class Remembers(Sound):
    """Changes what it is given."""

    def advantage_GK(self, batch):
        return batch.rewards_GK.mul_(0.9)


class Guesses(Sound):
    """Draws at random."""

    def advantage_GK(self, batch):
        return torch.rand_like(batch.rewards_GK)


ORDER = "the_order_of_groups_and_of_samples_does_not_matter"
FAULTS = [
    (ComparesNeighbours, ORDER),
    (AgainstTheFirst, ORDER),
    (FavoursEarlySamples, ORDER),
    (FavoursTheFirstPrompt, ORDER),
    (CentresLogRatios, "coefficients_of_a_unit_ignore_the_policy_elsewhere"),
    (CentresLogRatios, "second_derivatives_between_units_vanish"),
    (WeighsByDetachedMean, "coefficients_of_a_unit_ignore_the_policy_elsewhere"),
    (WhitensOverTheBatch, "coefficients_of_a_unit_ignore_the_policy_elsewhere"),
    (WhitensOverTheBatch, "second_derivatives_between_units_vanish"),
    (DeclaresTooMuch, "declared_coupling_is_no_larger_than_it_has_to_be"),
    (ReadsPadding, "what_stands_in_the_padding_changes_nothing"),
    (ReadsPadding, "loss_and_metrics_are_finite_scalars"),
    (ReadsPaddingInTheBackwardPass, "what_stands_in_the_padding_changes_nothing"),
    (DividesByThePaddedLength, "longer_padding_changes_nothing"),
    (DividesByAStandardDeviation, "equal_rewards_on_policy_give_no_signal_in_float32_either"),
    (ExponentiatesFreely, "log_ratios_of_hundreds_of_nats_stay_finite"),
    (UsesAReference, "nothing_is_used_that_needs_does_not_declare"),
    (Remembers, "the_loss_changes_nothing_in_its_input_and_repeats_itself"),
    (Guesses, "the_loss_changes_nothing_in_its_input_and_repeats_itself"),
]
ALL = CHECKS | DEFAULT_CHECKS


@pytest.mark.parametrize("name", ALL)
def test_a_loss_without_fault_passes_every_check(name):
    ALL[name](Sound())


@pytest.mark.parametrize(("faulty", "name"), FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_loss_with_one_fault_is_caught(faulty, name):
    with pytest.raises(AssertionError):
        ALL[name](faulty())


def test_a_batch_with_signal_has_no_tie_no_single_sample_and_no_binary_fraction():
    for seed in range(20):
        _, batch = random_batch(seed, signal=True)
        assert (batch.valid_GK.sum(-1) >= 2).all()
        for rewards_K, valid_K in zip(batch.rewards_GK, batch.valid_GK, strict=True):
            rewards = rewards_K[valid_K].tolist()
            assert len(set(rewards)) == len(rewards)
            assert all(reward * 2**20 % 1 for reward in rewards)


def test_a_batch_of_ties_and_pairs_hides_what_a_signal_in_every_group_shows(monkeypatch):
    # At seed 0 only one group has unequal rewards, and that has two samples, which are neighbours in any order.
    monkeypatch.setattr(contract, "batches", lambda **options: iter([random_batch(0, **options)]))
    CHECKS[ORDER](ComparesNeighbours())
    monkeypatch.setattr(contract, "batches", lambda **options: iter([random_batch(0, signal=True, **options)]))
    with pytest.raises(AssertionError, match="the order of groups or samples changes the loss"):
        CHECKS[ORDER](ComparesNeighbours())
