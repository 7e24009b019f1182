"""Unusual losses that are sound: the conformance check must refuse none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planted_defects import Sound

from algorithms import Algorithm, Batch, LossOutput, Needs, PolicyOutput
from algorithms.base import (
    Anchor,
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
class LogBarrier(Algorithm):
    """REINFORCE with a barrier that keeps a response's log-ratio within ± a bound: −log(1 − (ℓ/c)²) beyond a margin."""

    name: ClassVar[str] = "Log barrier"
    bound: float = hyperparameter(8.0, "c, in nats")
    weight: float = hyperparameter(0.1, "of the barrier")

    @property
    def needs(self) -> Needs:
        return Needs(anchor="behaviour", coupling="sequence")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, "behaviour")
        inside_GK = (log_ratio_GK / self.bound).square().clamp(max=0.99)
        loss_GK = -centred(batch.rewards_GK, batch.valid_GK) * log_ratio_GK - self.weight * (1 - inside_GK).log()
        return LossOutput(loss=masked(loss_GK, batch.valid_GK).sum() / batch.valid_GK.sum().clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class HeldSequenceWeight(Algorithm):
    """Token-mean policy gradient under a sequence-level weight that is held constant."""

    name: ClassVar[str] = "Held weight"
    cap: float = hyperparameter(2.0, "largest weight")

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        ratio_GK, share = clamped_ratio(sequence_log_ratio(policy, batch, "behaviour"), batch.valid_GK)
        weight_GK = stop_gradient(ratio_GK.clamp(max=self.cap) * centred(batch.rewards_GK, batch.valid_GK))
        loss = -token_mean(weight_GK[..., None] * masked(policy.logp_GKT, batch.mask_GKT), batch.mask_GKT)
        return LossOutput(loss=loss, metrics={"clamped": share, "weights": weight_GK.abs().mean()})


@dataclass(frozen=True, kw_only=True)
class PairwiseHinge(Algorithm):
    """max(0, m − (ℓ_better − ℓ_worse)) over the ordered pairs of a group, averaged over all pairs of the batch."""

    name: ClassVar[str] = "Pairwise hinge"
    margin: float = hyperparameter(1.0, "m, in nats")
    anchor: Anchor = hyperparameter("reference", "of the log-ratio")

    @property
    def needs(self) -> Needs:
        return Needs(anchor=self.anchor, coupling="group", min_group_size=2, off_policy=True)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        rewards_GK, valid_GK = batch.rewards_GK, batch.valid_GK
        pair_GKK = (rewards_GK[:, :, None] > rewards_GK[:, None]) & valid_GK[:, :, None] & valid_GK[:, None]
        hinge_GKK = (self.margin - (log_ratio_GK[:, :, None] - log_ratio_GK[:, None])).clamp(min=0)
        return LossOutput(loss=masked(hinge_GKK, pair_GKK).sum() / pair_GKK.sum().clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class WorstPrompts(Algorithm):
    """τ log mean exp of the prompts' losses over τ: a softmax over the prompts of a mini-batch, which couples them."""

    name: ClassVar[str] = "Worst prompts"
    tau: float = hyperparameter(1.0, "τ, the temperature of the softmax")

    @property
    def needs(self) -> Needs:
        return Needs(anchor="old")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, "old")
        error_GK = masked((batch.rewards_GK - 0.1 * log_ratio_GK).square(), batch.valid_GK)
        loss_G = error_GK.sum(-1) / group_size(batch.valid_GK)[:, 0]
        return LossOutput(loss=self.tau * (loss_G / self.tau).logsumexp(0))


@dataclass(frozen=True, kw_only=True)
class EntropyOfTheRight(Algorithm):
    """Log-likelihood of what was rewarded, and a bonus on the entropy of what was not."""

    name: ClassVar[str] = "Entropy of the right"
    bonus: float = hyperparameter(0.01, "per nat")

    @property
    def needs(self) -> Needs:
        return Needs(entropy=True, coupling="sequence")

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        entropy_GKT = policy.entropy_GKT
        if entropy_GKT is None:
            raise ValueError("needs the entropy")
        right_GK = (batch.rewards_GK > 0.5).to(policy.logp_GKT.dtype)
        logp_GK = sequence_sum(policy.logp_GKT, batch.mask_GKT)
        bonus_GK = (1 - right_GK) * sequence_sum(entropy_GKT, batch.mask_GKT)
        gain_GK = masked(right_GK * logp_GK + self.bonus * bonus_GK, batch.valid_GK)
        return LossOutput(loss=-(gain_GK / group_size(batch.valid_GK)).sum(-1).mean())


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(Algorithm):
    """REINFORCE against the mean of the others."""

    name: ClassVar[str] = "Leave one out"

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        valid_GK, rewards_GK = batch.valid_GK, batch.rewards_GK
        others_GK = (rewards_GK.sum(-1, keepdim=True) - rewards_GK) / (group_size(valid_GK) - 1).clamp(min=1)
        several_G1 = valid_GK.sum(-1, keepdim=True) > 1
        advantage_GK = masked(rewards_GK - others_GK, valid_GK & several_G1)
        logp_GK = sequence_sum(policy.logp_GKT, batch.mask_GKT)
        return LossOutput(loss=-(advantage_GK * logp_GK).sum() / valid_GK.sum().clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class RankBased(Algorithm):
    """The advantage of a response is the share of its group that it beats, minus the share that beats it."""

    name: ClassVar[str] = "Rank"

    @property
    def needs(self) -> Needs:
        return Needs(coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        rewards_GK, valid_GK = batch.rewards_GK, batch.valid_GK
        both_GKK = valid_GK[:, :, None] & valid_GK[:, None]
        sign_GKK = masked((rewards_GK[:, :, None] - rewards_GK[:, None]).sign(), both_GKK)
        ratio_GKT, _ = clamped_ratio(token_log_ratio(policy, batch, "behaviour"), batch.mask_GKT)
        advantage_GK = sign_GKK.sum(-1) / group_size(valid_GK)
        return LossOutput(loss=-token_mean(advantage_GK[..., None] * ratio_GKT, batch.mask_GKT))


SOUND = (Sound, LogBarrier, HeldSequenceWeight, PairwiseHinge, WorstPrompts, EntropyOfTheRight, LeaveOneOut, RankBased)
