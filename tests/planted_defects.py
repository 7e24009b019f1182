"""Losses with one deliberate fault each: what the conformance check must find, and by which property."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from algorithms import Algorithm, Batch, LossOutput, Needs, PolicyOutput
from algorithms.base import (
    Coupling,
    centred,
    clamped_ratio,
    group_size,
    hyperparameter,
    masked,
    sequence_log_ratio,
    sequence_sum,
    stop_gradient,
    token_log_ratio,
    token_mean,
)


@dataclass(frozen=True, kw_only=True)
class Sound(Algorithm):
    """L = 1/|D| Σ_x 1/k Σ_i [−(R_i − R̄) ℓ_i + ℓ_i²/2]: no fault. What follows changes one thing of it."""

    name: ClassVar[str] = "Sound"
    coupling: ClassVar[Coupling] = "sequence"

    @property
    def needs(self) -> Needs:
        return Needs(coupling=self.coupling, min_group_size=2)

    def advantage_GK(self, batch: Batch) -> Tensor:
        return centred(batch.rewards_GK, batch.valid_GK)

    def log_ratio_GK(self, policy: PolicyOutput, batch: Batch) -> Tensor:
        return sequence_log_ratio(policy, batch, "behaviour")

    def scalar(self, policy: PolicyOutput, batch: Batch) -> Any:
        log_ratio_GK = self.log_ratio_GK(policy, batch)
        loss_GK = -self.advantage_GK(batch) * log_ratio_GK + log_ratio_GK.square() / 2
        return (masked(loss_GK, batch.valid_GK) / group_size(batch.valid_GK)).sum(-1).mean()

    def metrics(self, policy: PolicyOutput, batch: Batch) -> dict[str, Any]:
        return {}

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        return LossOutput(loss=self.scalar(policy, batch), metrics=self.metrics(policy, batch))


DEFECTS: dict[type[Algorithm], str] = {}
"""The property that finds each."""


def found_by(name: str):
    """Registers a class as a planted defect."""

    def register(cls: type[Algorithm]) -> type[Algorithm]:
        decorated = dataclass(frozen=True, kw_only=True)(cls)
        DEFECTS[decorated] = name
        return decorated

    return register


# Of what is returned


@found_by("loss_is_a_finite_scalar")
class ReturnsNothing(Sound):
    def loss(self, policy, batch):
        super().loss(policy, batch)


@found_by("loss_is_a_finite_scalar")
class ReturnsATensor(Sound):
    def loss(self, policy, batch):
        return self.scalar(policy, batch)


@found_by("loss_is_a_finite_scalar")
class ReturnsAFloat(Sound):
    def scalar(self, policy, batch):
        return super().scalar(policy, batch).item()


@found_by("loss_is_a_finite_scalar")
class ReturnsAVector(Sound):
    def scalar(self, policy, batch):
        return super().scalar(policy, batch) * torch.ones(3, dtype=policy.logp_GKT.dtype)


@found_by("loss_is_a_finite_scalar")
class ReturnsAnInteger(Sound):
    def scalar(self, policy, batch):
        return super().scalar(policy, batch).long()


@found_by("loss_is_a_finite_scalar")
class ComputesInFloat32(Sound):
    def scalar(self, policy, batch):
        return super().scalar(policy, batch).float()


@found_by("loss_is_a_finite_scalar")
class Raises(Sound):
    def scalar(self, policy, batch):
        raise ArithmeticError("the moon is in the wrong house")


@found_by("something_is_trained")
class DetachesEverything(Sound):
    def scalar(self, policy, batch):
        return super().scalar(policy, batch).detach()


@found_by("metrics_are_finite_scalars")
class DividesInAMetric(Sound):
    def metrics(self, policy, batch):
        return {"spread": batch.rewards_GK.max() / batch.rewards_GK.std()}


@found_by("metrics_are_finite_scalars")
class LogsAVector(Sound):
    def metrics(self, policy, batch):
        return {"ratios": self.log_ratio_GK(policy, batch).flatten()}


# Of its gradient


@found_by("gradient_is_that_of_the_loss")
class DetachesAWeight(Sound):
    def advantage_GK(self, batch):
        return super().advantage_GK(batch)

    def log_ratio_GK(self, policy, batch):
        log_ratio_GK = super().log_ratio_GK(policy, batch)
        return log_ratio_GK * clamped_ratio(log_ratio_GK.detach(), batch.valid_GK)[0]


@found_by("gradient_is_that_of_the_loss")
class WeighsWithoutGradient(Sound):
    def log_ratio_GK(self, policy, batch):
        with torch.no_grad():
            weight_GK = super().log_ratio_GK(policy, batch).tanh()
        return super().log_ratio_GK(policy, batch) * (1 + weight_GK)


@found_by("float32_agrees_with_float64")
class SubtractsLargeNumbers(Sound):
    def log_ratio_GK(self, policy, batch):
        return (super().log_ratio_GK(policy, batch) + 1e6) - 1e6


# Of padding and order


@found_by("padding_is_not_read")
class ReadsPadding(Sound):
    def log_ratio_GK(self, policy, batch):
        return (policy.logp_GKT - batch.behaviour_logp_GKT).sum(-1)


@found_by("padding_is_not_read")
class MultipliesByTheMask(Sound):
    def log_ratio_GK(self, policy, batch):
        return (batch.mask_GKT * (policy.logp_GKT - batch.behaviour_logp_GKT)).sum(-1)


@found_by("padding_is_not_read")
class MasksAfterAnExp(Sound):
    def log_ratio_GK(self, policy, batch):
        return sequence_sum((policy.logp_GKT - batch.behaviour_logp_GKT).clamp(max=20).exp().log(), batch.mask_GKT)


@found_by("length_of_the_padding_does_not_matter")
class DividesByThePaddedLength(Sound):
    def log_ratio_GK(self, policy, batch):
        return super().log_ratio_GK(policy, batch) / batch.mask_GKT.shape[-1]


@found_by("invalid_samples_take_no_part")
class CountsInvalidSamples(Sound):
    def advantage_GK(self, batch):
        return batch.rewards_GK - batch.rewards_GK.mean(-1, keepdim=True)


@found_by("invalid_samples_take_no_part")
class TakesTheBestOfAll(Sound):
    def advantage_GK(self, batch):
        return batch.rewards_GK - batch.rewards_GK.amax(-1, keepdim=True)


@found_by("order_of_samples_does_not_matter")
class AgainstTheFirst(Sound):
    def advantage_GK(self, batch):
        return batch.rewards_GK - batch.rewards_GK[:, :1]


@found_by("order_of_samples_does_not_matter")
class ComparesNeighbours(Sound):
    def advantage_GK(self, batch):
        pair_GK = batch.valid_GK[:, :-1] & batch.valid_GK[:, 1:]
        margin_GK = masked(batch.rewards_GK[:, :-1] - batch.rewards_GK[:, 1:], pair_GK)
        return torch.nn.functional.pad(margin_GK, (0, 1)) - torch.nn.functional.pad(margin_GK, (1, 0))


@found_by("order_of_samples_does_not_matter")
class TakesTheFirstForTheLongest(Sound):
    def log_ratio_GK(self, policy, batch):
        longest_G1 = batch.mask_GKT[:, :1].sum(-1).clamp(min=1)
        return super().log_ratio_GK(policy, batch) / longest_G1


@found_by("order_of_samples_does_not_matter")
class AveragesAcrossPrompts(Sound):
    def advantage_GK(self, batch):
        valid_GK = batch.valid_GK
        mean_K = batch.rewards_GK.sum(0) / valid_GK.sum(0).clamp(min=1)
        return masked(batch.rewards_GK - mean_K, valid_GK)


@found_by("order_of_prompts_does_not_matter")
class FavoursTheFirstPrompt(Sound):
    def advantage_GK(self, batch):
        return super().advantage_GK(batch) * torch.linspace(1.1, 0.9, len(batch.valid_GK))[:, None]


# Of coupling


@found_by("coupling_is_true")
class CentresLogRatios(Sound):
    def log_ratio_GK(self, policy, batch):
        return centred(super().log_ratio_GK(policy, batch), batch.valid_GK)


@found_by("coupling_is_true")
class WeighsByAHeldMean(Sound):
    def log_ratio_GK(self, policy, batch):
        log_ratio_GK = super().log_ratio_GK(policy, batch)
        mean_G1 = stop_gradient(log_ratio_GK.sum(-1, keepdim=True) / group_size(batch.valid_GK))
        return log_ratio_GK * (1 + mean_G1)


@found_by("split_does_not_matter")
class WeighsByTheBatchsRatios(Sound):
    coupling = "group"

    def log_ratio_GK(self, policy, batch):
        log_ratio_GK = super().log_ratio_GK(policy, batch)
        return log_ratio_GK / (1 + log_ratio_GK.square().sum())


# Of extremes


@found_by("partial_groups_are_finite")
class DividesByOneLess(Sound):
    def advantage_GK(self, batch):
        k_G1 = batch.valid_GK.sum(-1, keepdim=True)
        return super().advantage_GK(batch) * k_G1 / (k_G1 - 1)


@found_by("equal_rewards_are_finite")
class DividesByTheSpread(Sound):
    def advantage_GK(self, batch):
        advantage_GK = super().advantage_GK(batch)
        variance_G1 = advantage_GK.square().sum(-1, keepdim=True) / group_size(batch.valid_GK)
        only_G1 = batch.valid_GK.sum(-1, keepdim=True) < 2
        return advantage_GK / torch.where(only_G1, 1.0, variance_G1.sqrt())


@found_by("rounding_of_equal_rewards_is_no_signal")
class DividesByAStandardDeviation(Sound):
    def advantage_GK(self, batch):
        rewards_GK, valid_GK = batch.rewards_GK, batch.valid_GK
        deviation_GK = masked(rewards_GK - rewards_GK.sum(-1, keepdim=True) / group_size(valid_GK), valid_GK)
        variance_G1 = deviation_GK.square().sum(-1, keepdim=True) / (group_size(valid_GK) - 1).clamp(min=1)
        return deviation_GK / (variance_G1.sqrt() + 1e-6)


@found_by("empty_and_truncated_responses_are_finite")
class DividesByTheLength(Sound):
    def log_ratio_GK(self, policy, batch):
        length_GK = torch.where(batch.valid_GK, batch.mask_GKT.sum(-1), 1)
        return super().log_ratio_GK(policy, batch) / length_GK


@found_by("tiny_probabilities_are_finite")
class TakesTheLogOfAProbability(Sound):
    def log_ratio_GK(self, policy, batch):
        return super().log_ratio_GK(policy, batch) + sequence_sum(
            masked(policy.logp_GKT, batch.mask_GKT).exp().log(), batch.mask_GKT
        )


@found_by("large_log_ratios_are_finite")
class ExponentiatesFreely(Sound):
    def log_ratio_GK(self, policy, batch):
        return masked(token_log_ratio(policy, batch, "behaviour").exp() - 1, batch.mask_GKT).sum(-1)


@found_by("large_rewards_are_finite")
class TiltsFreely(Sound):
    def advantage_GK(self, batch):
        return batch.rewards_GK.exp() - 1


# Of purity


@found_by("input_stays_as_it_is")
class ScalesTheRewards(Sound):
    def advantage_GK(self, batch):
        return batch.rewards_GK.mul_(0.9)


@found_by("input_stays_as_it_is")
class MasksTheLogProbsInPlace(Sound):
    def log_ratio_GK(self, policy, batch):
        policy.logp_GKT.clamp_(min=-0.5)
        return super().log_ratio_GK(policy, batch)


@found_by("input_stays_as_it_is")
class PreparesInPlace(Sound):
    def prepare(self, batch):
        batch.rewards_GK.sub_(0.1)
        return batch


@found_by("nothing_is_kept_between_calls")
class KeepsABaseline(Sound):
    kept: ClassVar[dict[str, Tensor]] = {}

    def advantage_GK(self, batch):
        mean = batch.rewards_GK.mean()
        self.kept["mean"] = 0.9 * self.kept.get("mean", mean).to(mean.dtype) + 0.1 * mean
        return masked(batch.rewards_GK - self.kept["mean"], batch.valid_GK)


@found_by("nothing_is_kept_between_calls")
class AnnealsByTheClock(Sound):
    def advantage_GK(self, batch):
        return super().advantage_GK(batch) * (1 + time.perf_counter() % 1)


@found_by("no_random_numbers_are_drawn")
class Guesses(Sound):
    def advantage_GK(self, batch):
        return masked(torch.rand_like(batch.rewards_GK), batch.valid_GK)


@found_by("no_random_numbers_are_drawn")
class DrawsAndDrops(Sound):
    def advantage_GK(self, batch):
        random.random()
        return super().advantage_GK(batch)


@found_by("global_state_stays_as_it_is")
class SetsTheDefaultDtype(Sound):
    def scalar(self, policy, batch):
        torch.set_default_dtype(torch.float64)
        return super().scalar(policy, batch)


@found_by("global_state_stays_as_it_is")
class TurnsGradientsOff(Sound):
    def metrics(self, policy, batch):
        torch.set_grad_enabled(False)
        return {"reward": batch.rewards_GK.mean()}


# Of needs


@found_by("what_is_read_is_declared")
class UsesAReference(Sound):
    def log_ratio_GK(self, policy, batch):
        return sequence_log_ratio(policy, batch, "reference")


@found_by("what_is_read_is_declared")
class UsesTheSampler(Sound):
    def log_ratio_GK(self, policy, batch):
        return sequence_sum(policy.logp_GKT - batch.sampler_logp_GKT, batch.mask_GKT)


@found_by("what_is_read_is_declared")
class UsesTheEntropyIfThereIsOne(Sound):
    def scalar(self, policy, batch):
        loss = super().scalar(policy, batch)
        return loss if policy.entropy_GKT is None else loss - 0.01 * token_mean(policy.entropy_GKT, batch.mask_GKT)


@found_by("what_is_read_is_declared")
class UsesAnOldPolicySilently(Sound):
    def log_ratio_GK(self, policy, batch):
        return sequence_log_ratio(policy, batch, "old")


@found_by("what_is_read_is_declared")
class UsesAGreedyReward(Sound):
    def advantage_GK(self, batch):
        return masked(batch.rewards_GK - batch.extra("greedy_reward_G")[:, None], batch.valid_GK)


@found_by("what_is_declared_is_read")
class AsksForAReference(Sound):
    @property
    def needs(self):
        return Needs(coupling="sequence", reference=True)


@found_by("what_is_declared_is_read")
class AsksForAnEntropy(Sound):
    @property
    def needs(self):
        return Needs(coupling="sequence", entropy=True)


@found_by("what_is_declared_is_read")
class MistakesItsAnchor(Sound):
    @property
    def needs(self):
        return Needs(coupling="sequence", anchor="old")


@found_by("what_is_declared_is_read")
class RefillsForEver(Sound):
    @property
    def needs(self):
        return Needs(coupling="sequence", refill=lambda rewards_K: False)


@found_by("critic_gets_a_gradient")
class NeverTrainsItsCritic(Sound):
    @property
    def needs(self):
        return Needs(coupling="sequence", critic=True)

    def advantage_GK(self, batch):
        return masked(batch.rewards_GK - batch.old_value_GKT[..., 0], batch.valid_GK)


@found_by("off_policy_is_not_weighted")
class WeighsAllTheSame(Sound):
    @property
    def needs(self):
        return Needs(coupling="sequence", off_policy=True)

    def scalar(self, policy, batch):
        weight_GK, _ = clamped_ratio(sequence_log_ratio(policy, batch, "behaviour"), batch.valid_GK)
        return -(masked(weight_GK * self.advantage_GK(batch), batch.valid_GK)).sum() / batch.valid_GK.sum().clamp(min=1)


@found_by("every_hyper_parameter_changes_something")
class IgnoresItsTemperature(Sound):
    temperature: float = hyperparameter(1.0, "divides nothing")


# Of prepare


@found_by("prepare_adds_extras_by_group")
class PreparesOneNumber(Sound):
    def prepare(self, batch):
        return batch.with_extras(mean=batch.rewards_GK.mean())

    def advantage_GK(self, batch):
        return super().advantage_GK(batch) + 0 * batch.extra("mean")


@found_by("prepare_adds_extras_by_group")
class RewritesTheRewards(Sound):
    def prepare(self, batch):
        return replace(batch, rewards_GK=centred(batch.rewards_GK, batch.valid_GK))


class _Whitens(Sound):
    def white_GK(self, batch: Batch) -> Tensor:
        valid_GK = batch.valid_GK
        deviation_GK = centred(batch.rewards_GK.reshape(1, -1), valid_GK.reshape(1, -1)).view_as(valid_GK.double())
        variance = deviation_GK.square().sum() / valid_GK.sum().clamp(min=1)
        return deviation_GK / (variance + 1e-8).sqrt()

    def prepare(self, batch):
        return batch.with_extras(white_GK=self.white_GK(batch))


@found_by("extras_of_prepare_are_read")
class PreparesEachMiniBatch(_Whitens):
    def advantage_GK(self, batch):
        return self.prepare(batch).extra("white_GK")


@found_by("mini_batch_is_not_whitened")
class WhitensTheMiniBatch(_Whitens):
    def prepare(self, batch):
        return batch

    def advantage_GK(self, batch):
        return self.white_GK(batch)
