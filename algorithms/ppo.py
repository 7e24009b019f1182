"""Proximal Policy Optimization with a separate critic (arXiv 1707.06347, eq. 7, 11; GAE: arXiv 1506.02438, eq. 16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from algorithms.base import (
    Algorithm,
    Batch,
    Choice,
    Family,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    hyperparameter,
    masked,
    require,
    token_mean,
)
from algorithms.terms import clipped_surrogate, whitened


@dataclass(frozen=True, kw_only=True)
class PPO(Algorithm):
    """Clipped surrogate on advantages from a critic, plus the critic's clipped squared error, both token means:

        L = −mean_t min[ρ Â, clip(ρ, 1−ε, 1+ε) Â]
            + mean_t ½ max[(V − G)², (clip(V, V_old ± ε_v) − G)²] − c mean_t H(π_θ)
        δ_t = r_t + γ V_{t+1} − V_t,   A_t = δ_t + γλ A_{t+1},   G_t = A_t + V_t,   ρ = π_θ/π_behaviour

    r_t is −β log(π_old/π_ref) at every token, plus R at the last. After EOS the value is 0; a truncated response
    bootstraps from the critic. Â is A whitened over the rollout batch. The critic is a model of its own with its own
    optimiser, so the two halves of L share no parameter and need no coefficient between them.

    Reduces to: REINFORCE++ with γ = λ = 1 and a critic that says 0.

    Pitfalls: a critic costs as much again as the policy, and has a learning rate of its own. On stale samples it stops
    where the clip stops it.
    """

    name: ClassVar[str] = "PPO"
    family: ClassVar[Family] = "clipped ratio"

    clip: float = hyperparameter(0.2, "ε of the clipped importance ratio", search=LogUniform(0.05, 0.8))
    value_clip: float = hyperparameter(0.5, "ε_v, how far the value may move from its old one; the reward's unit")
    gamma: float = hyperparameter(1.0, "γ, the discount per token")
    gae_lambda: float = hyperparameter(1.0, "λ of generalised advantage estimation")
    whiten: bool = hyperparameter(True, "standardise the advantages over the tokens of the rollout batch")
    beta: float = hyperparameter(
        0.0, "coefficient of the per-token KL penalty in the reward; 0 leaves it out", search=Choice((0.0, 0.01, 0.03))
    )
    entropy_coefficient: float = hyperparameter(0.0, "c, the bonus per nat of entropy; 0 leaves it out")

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, f"ppo: clip is {self.clip}; it must lie between 0 and 1")
        require(self.value_clip > 0, f"ppo: value_clip is {self.value_clip}; it must be positive")
        require(0 <= self.gamma <= 1, f"ppo: gamma is {self.gamma}; it must lie in [0, 1]")
        require(0 <= self.gae_lambda <= 1, f"ppo: gae_lambda is {self.gae_lambda}; it must lie in [0, 1]")
        require(self.beta >= 0, f"ppo: beta is {self.beta}; it must not be negative")
        require(self.entropy_coefficient >= 0, f"ppo: entropy_coefficient is {self.entropy_coefficient}; at least 0")

    @property
    def needs(self) -> Needs:
        return Needs(critic=True, reference=self.beta > 0, entropy=self.entropy_coefficient != 0, coupling="sequence")

    def prepare(self, batch: Batch) -> Batch:
        """Generalised advantage estimation: adds `advantage_GKT` and `return_GKT`."""
        value_GKT, final_GK, truncated_GK = batch.old_value_GKT, batch.final_value_GK, batch.truncated_GK
        if value_GKT is None or final_GK is None or truncated_GK is None:
            raise ValueError("ppo needs old_value_GKT, final_value_GK and truncated_GK in the batch")
        mask_GKT = batch.mask_GKT
        after_GKT = torch.cat([mask_GKT[..., 1:], torch.zeros_like(mask_GKT[..., :1])], -1)
        last_GKT = mask_GKT & ~after_GKT

        reward_GKT = masked(batch.rewards_GK[..., None].expand_as(value_GKT), last_GKT)
        if self.beta > 0:
            reward_GKT = reward_GKT - self.beta * (batch.old_logp_GKT - batch.anchor_logp_GKT("reference"))
        bootstrap_GKT = masked((final_GK * truncated_GK)[..., None].expand_as(value_GKT), last_GKT)
        next_value_GKT = torch.cat([value_GKT[..., 1:], torch.zeros_like(value_GKT[..., :1])], -1) + bootstrap_GKT
        delta_GKT = masked(reward_GKT + self.gamma * next_value_GKT - value_GKT, mask_GKT)

        advantage_GKT = torch.zeros_like(delta_GKT)
        running_GK = torch.zeros_like(delta_GKT[..., 0])
        for t in reversed(range(delta_GKT.shape[-1])):
            running_GK = delta_GKT[..., t] + self.gamma * self.gae_lambda * running_GK
            advantage_GKT[..., t] = running_GK
        return_GKT = advantage_GKT + value_GKT
        if self.whiten:
            advantage_GKT = whitened(advantage_GKT, mask_GKT)
        return batch.with_extras(advantage_GKT=advantage_GKT, return_GKT=return_GKT)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        mask_GKT, old_value_GKT = batch.mask_GKT, batch.old_value_GKT
        if policy.value_GKT is None or old_value_GKT is None:
            raise ValueError("ppo needs the critic's values: PolicyOutput.value_GKT and Batch.old_value_GKT")
        advantage_GKT, return_GKT = batch.extra("advantage_GKT"), batch.extra("return_GKT")

        objective_GKT, metrics = clipped_surrogate(policy, batch, advantage_GKT, low=self.clip, high=self.clip)
        value_GKT = masked(policy.value_GKT, mask_GKT)
        near_GKT = old_value_GKT + (value_GKT - old_value_GKT).clamp(-self.value_clip, self.value_clip)
        value_error_GKT = torch.maximum((value_GKT - return_GKT).square(), (near_GKT - return_GKT).square()) / 2

        loss: Tensor = token_mean(value_error_GKT, mask_GKT) - token_mean(objective_GKT, mask_GKT)
        if self.entropy_coefficient != 0:
            if policy.entropy_GKT is None:
                raise ValueError("ppo with entropy_coefficient needs PolicyOutput.entropy_GKT, which is None")
            loss = loss - self.entropy_coefficient * token_mean(policy.entropy_GKT, mask_GKT)

        return LossOutput(loss=loss, metrics={**metrics, "value_error": token_mean(value_error_GKT, mask_GKT)})
