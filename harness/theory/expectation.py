"""Expectations of an algorithm's loss over groups, and the policies that minimise them or stand still under them.

An algorithm sees what it would see in training: one batch of groups. An expectation is taken outside it, as the sum
over groups of their probability under π_s times the loss of that single group. A group that merely enumerates the
responses would be the expectation under the uniform π_s, and under nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms import Algorithm, Batch, PolicyOutput
from harness.theory.problem import Problem

MAX_GROUPS = 4096
"""Largest number of ordered groups that is summed exactly."""


@dataclass(frozen=True, kw_only=True)
class UncheckedBatch(Batch):
    """A Batch of one problem under vmap, where the checks cannot run because they branch on the data. `Problem` makes
    them instead."""

    def __post_init__(self) -> None:
        pass


def ordered_groups(responses: int | Sequence[int], k: int) -> Tensor:
    """Every ordered group of k responses, drawn with replacement, [n^k, k].

    Raises ValueError beyond MAX_GROUPS of them.
    """
    pool = torch.arange(responses) if isinstance(responses, int) else torch.tensor(list(responses))
    if len(pool) ** k > MAX_GROUPS:
        raise ValueError(f"{len(pool)}^{k} groups are more than {MAX_GROUPS}: take a Monte Carlo estimate")
    return torch.cartesian_prod(*[pool] * k).reshape(-1, k)


def group_probability(sampling_logp_KN: Tensor, index_GK: Tensor) -> Tensor:
    """Π_i π_s,i(y_i) of each group, [G]; slot i has a sampling policy of its own, log-probs [K, N] or one for all, [N]."""
    k = index_GK.shape[1]
    per_slot_KN = sampling_logp_KN.expand(k, sampling_logp_KN.shape[-1])
    return per_slot_KN[torch.arange(k), index_GK].sum(-1).exp()


def batch_loss(
    algorithm: Algorithm,
    logp_GK: Tensor,
    *,
    reward_GK: Tensor,
    anchor_logp_GK: Tensor,
    behaviour_logp_GK: Tensor,
    old_logp_GK: Tensor | None = None,
    value: Tensor | float = 0.0,
    valid_GK: Tensor | None = None,
) -> Tensor:
    """The algorithm's loss, as training calls it (`prepare`, then `loss`), on one batch of one-token responses, scalar.

    `old_logp_GK` is π_θ at the start of the iteration, the behaviour policy where it is not given. `value` is the
    critic's estimate for the prompt.
    """
    everyone_GK = torch.ones(logp_GK.shape, dtype=torch.bool) if valid_GK is None else valid_GK
    value_GK1 = torch.zeros_like(reward_GK[..., None]) + value
    old_logp_GK = behaviour_logp_GK if old_logp_GK is None else old_logp_GK
    batch = UncheckedBatch(
        mask_GKT=everyone_GK[..., None],
        valid_GK=everyone_GK,
        rewards_GK=reward_GK,
        old_logp_GKT=old_logp_GK[..., None],
        behaviour_logp_GKT=behaviour_logp_GK[..., None],
        sampler_logp_GKT=behaviour_logp_GK[..., None],
        ref_logp_GKT=anchor_logp_GK[..., None],
        old_value_GKT=value_GK1,
        final_value_GK=torch.zeros_like(reward_GK),
        truncated_GK=torch.zeros(logp_GK.shape, dtype=torch.bool),
    )
    policy = PolicyOutput(logp_GKT=logp_GK[..., None], value_GKT=value_GK1)
    return algorithm.loss(policy, algorithm.prepare(batch)).loss


def group_losses(algorithm: Algorithm, logp_GK: Tensor, value: Tensor | float = 0.0, **batch_GK: Tensor) -> Tensor:
    """The loss of each group as a batch of its own, [G]; the arguments are those of `batch_loss`."""
    names = list(batch_GK)

    def single(logp_K: Tensor, *others_K: Tensor) -> Tensor:
        others = {name: x_K[None] for name, x_K in zip(names, others_K, strict=True)}
        return batch_loss(algorithm, logp_K[None], value=value, **others)  # type: ignore[arg-type]

    return torch.func.vmap(single)(logp_GK, *batch_GK.values())


def expected_loss(
    algorithm: Algorithm,
    logits_N: Tensor,
    reward_N: Tensor,
    anchor_logp_N: Tensor,
    sampling_logp_KN: Tensor,
    index_GK: Tensor,
    old_logp_N: Tensor | None = None,
    value: Tensor | float = 0.0,
) -> Tensor:
    """Σ_g P(g) L(g) over the ordered groups `index_GK`, scalar.

    `sampling_logp_KN` is π_s, [N], or one policy per slot of the group, [K, N]; as an argument of its own it is held
    fixed when the expectation is differentiated with respect to the logits, as samples are.
    """
    k = index_GK.shape[1]
    sampling_logp_KN = sampling_logp_KN.expand(k, len(logits_N))
    old_logp_GK = {} if old_logp_N is None else {"old_logp_GK": old_logp_N[index_GK]}
    loss_G = group_losses(
        algorithm,
        logits_N.log_softmax(-1)[index_GK],
        value,
        reward_GK=reward_N[index_GK],
        anchor_logp_GK=anchor_logp_N[index_GK],
        behaviour_logp_GK=sampling_logp_KN[torch.arange(k), index_GK],
        **old_logp_GK,
    )
    return (group_probability(sampling_logp_KN, index_GK) * loss_G).sum()


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended."""

    logp_EN: Tensor
    loss_E: Tensor
    gradient_E: Tensor
    """Largest absolute component of the gradient with respect to the logits."""
    steps: int


def minimise(
    loss: Callable[..., Tensor], start_EN: Tensor, *arguments_E: Tensor, steps: int = 200, chunk: int | None = None
) -> Minimum:
    """Minimises loss(logits_N, *arguments) of each experiment by Newton's method, all experiments side by side.

    The step is −V |Λ|⁻¹ Vᵀ g, with VΛVᵀ the Hessian by automatic differentiation: a descent direction where the loss is
    not convex. Eigenvalues below 1e-13 of the largest count as zero and are not moved along; the shift of all logits,
    which changes no policy, is one. A step is shortened (by adding to |Λ|) until the loss does not rise. An experiment
    has converged when a step moves no logit by more than 1e-11, or the loss can no longer fall in float64; the run ends
    when all have, or after `steps`. The gradient at the end is returned: look at it.
    """
    logits_EN = start_EN.clone()
    count, n = logits_EN.shape
    value_of = torch.func.vmap(loss, chunk_size=chunk)
    gradient_of = torch.func.vmap(torch.func.grad(loss), chunk_size=chunk)
    hessian_of = torch.func.vmap(torch.func.hessian(loss), chunk_size=chunk)
    damping_E = torch.zeros(count, dtype=logits_EN.dtype)
    active_E = torch.ones(count, dtype=torch.bool)
    loss_E = value_of(logits_EN, *arguments_E)
    taken = 0
    while active_E.any() and taken < steps:
        taken += 1
        pick = active_E.nonzero()[:, 0]
        inputs = (logits_EN[pick], *(x[pick] for x in arguments_E))
        gradient_AN, hessian_ANN = gradient_of(*inputs), hessian_of(*inputs)
        scale_A = hessian_ANN.abs().amax((1, 2)).clamp(min=1e-300)
        eigenvalue_AN, vector_ANN = torch.linalg.eigh(hessian_ANN)
        size_AN = eigenvalue_AN.abs()
        kept_AN = size_AN > 1e-13 * scale_A[:, None] * n
        along_AN = torch.where(kept_AN, (vector_ANN.mT @ gradient_AN[..., None])[..., 0], torch.zeros_like(size_AN))
        divisor_AN = torch.where(kept_AN, size_AN, torch.ones_like(size_AN)) + (damping_E[pick] * scale_A)[:, None]
        step_AN = -(vector_ANN @ (along_AN / divisor_AN)[..., None])[..., 0]
        trial_AN = inputs[0] + step_AN
        trial_A = value_of(trial_AN, *inputs[1:])
        better_A = trial_A <= loss_E[pick]
        flat_A = (gradient_AN * step_AN).sum(-1).abs() <= 1e-15 * loss_E[pick].abs()
        still_A = (step_AN.abs().amax(-1) <= 1e-11) | flat_A
        accept_A = better_A | (still_A & (damping_E[pick] == 0))
        logits_EN[pick[accept_A]] = trial_AN[accept_A]
        loss_E[pick[accept_A]] = trial_A[accept_A]
        eased_A = torch.where(damping_E[pick] < 1e-6, 0.0, damping_E[pick] / 30)
        damping_E[pick] = torch.where(accept_A, eased_A, (damping_E[pick] * 30).clamp(min=1e-6))
        active_E[pick] = ~still_A & (damping_E[pick] < 1e12)
    return Minimum(
        logp_EN=logits_EN.log_softmax(-1),
        loss_E=loss_E,
        gradient_E=gradient_of(logits_EN, *arguments_E).abs().amax(-1),
        steps=taken,
    )


def minimise_expected_loss(
    algorithm: Algorithm,
    problem: Problem,
    start_EN: Tensor,
    sampling_logp: Tensor,
    index_GK: Tensor,
    steps: int = 200,
) -> Minimum:
    """`minimise` of `expected_loss` under a fixed π_s: [E, N], or [E, K, N] for one policy per slot."""

    def loss(logits_N: Tensor, reward_N: Tensor, anchor_logp_N: Tensor, sampling_logp_KN: Tensor) -> Tensor:
        return expected_loss(algorithm, logits_N, reward_N, anchor_logp_N, sampling_logp_KN, index_GK)

    # The Hessian holds N copies of every group: about 32 MiB per intermediate tensor.
    chunk = max(1, 2**22 // (problem.n * index_GK.numel()))
    arguments = (problem.reward_EN, problem.anchor_logp_EN, sampling_logp)
    return minimise(loss, start_EN, *arguments, steps=steps, chunk=chunk)


SamplingPolicy = Callable[[Tensor], Tensor]
"""From log π_θ to log π_s, both [E, N]."""


def on_policy(logp_EN: Tensor) -> Tensor:
    """π_s = π_θ."""
    return logp_EN


def expected_gradient(
    algorithm: Algorithm, problem: Problem, logits_EN: Tensor, sampling_logp_EN: Tensor, index_GK: Tensor
) -> Tensor:
    """∇ of `expected_loss` with respect to the logits at the first update of an iteration, [E, N].

    π_old = π_θ there. The critic is exact for a KL penalty with the problem's β where the algorithm has a β > 0:
    V = E_π_old[R − β log π_old/π'].
    """

    def loss(
        logits_N: Tensor, reward_N: Tensor, anchor_logp_N: Tensor, sampling_logp_N: Tensor, old_logp_N: Tensor
    ) -> Tensor:
        beta = getattr(algorithm, "beta", 0.0)
        value = (old_logp_N.exp() * (reward_N - beta * (old_logp_N - anchor_logp_N))).sum()
        return expected_loss(
            algorithm, logits_N, reward_N, anchor_logp_N, sampling_logp_N, index_GK, old_logp_N, value
        )

    old_logp_EN = logits_EN.log_softmax(-1)
    return torch.func.vmap(torch.func.grad(loss))(
        logits_EN, problem.reward_EN, problem.anchor_logp_EN, sampling_logp_EN, old_logp_EN
    )


@dataclass(frozen=True)
class FixedPoint:
    """Where repeated iterations of one update each ended."""

    logp_EN: Tensor
    gradient_E: Tensor
    """Largest absolute component of the expected gradient with respect to the logits at the last step."""
    trace_TEN: Tensor
    """log π_θ at every `every`-th step, the start first."""


def iterate(
    algorithm: Algorithm,
    problem: Problem,
    start_EN: Tensor,
    index_GK: Tensor,
    *,
    sampling: SamplingPolicy = on_policy,
    step_size: float,
    steps: int,
    decay: float = 1.0,
    largest_move: float = 1.0,
    every: int = 1,
) -> FixedPoint:
    """Iterations of one exact expected update each, with fresh samples from `sampling(π_θ)` and π_old = π_θ.

    The expected gradient is not the gradient of any one function when π_s moves with π_θ, so this follows it. It is
    scaled by 1/π_s per logit (the natural gradient where π_s = π_θ), and no logit moves by more than `largest_move`;
    neither moves a fixed point. η may decay, η_t = η · decay^t:

        θ ← θ − clip(η_t ∇L / π_s, ± largest_move)

    It ends when the gradient is below 1e-15 everywhere, or after `steps`.
    """
    logits_EN = start_EN.clone()
    trace, gradient_EN = [logits_EN.log_softmax(-1)], torch.zeros_like(logits_EN)
    for step in range(1, steps + 1):
        logp_EN = logits_EN.log_softmax(-1)
        sampling_logp_EN = sampling(logp_EN)
        gradient_EN = expected_gradient(algorithm, problem, logits_EN, sampling_logp_EN, index_GK)
        move_EN = step_size * decay**step * gradient_EN / sampling_logp_EN.exp().clamp(min=1e-300)
        logits_EN = logits_EN - move_EN.clamp(-largest_move, largest_move)
        logits_EN = logits_EN - logits_EN.amax(-1, keepdim=True)
        if step % every == 0:
            trace.append(logits_EN.log_softmax(-1))
        if gradient_EN.abs().max() < 1e-15:
            break
    return FixedPoint(
        logp_EN=logits_EN.log_softmax(-1), gradient_E=gradient_EN.abs().amax(-1), trace_TEN=torch.stack(trace)
    )


def group_gradients(
    algorithm: Algorithm,
    logits_N: Tensor,
    reward_N: Tensor,
    anchor_logp_N: Tensor,
    sampling_logp_N: Tensor,
    index_GK: Tensor,
    value: Tensor | float = 0.0,
) -> Tensor:
    """∇ of the loss of each single group with respect to the logits, [G, N], with π_old = π_θ.

    From the coefficients: ∇_θ log π_θ(y) = e_y − π_θ.
    """
    logp_N = logits_N.log_softmax(-1)
    logp_GK = logp_N[index_GK].requires_grad_()
    loss_G = group_losses(
        algorithm,
        logp_GK,
        value,
        reward_GK=reward_N[index_GK],
        anchor_logp_GK=anchor_logp_N[index_GK],
        behaviour_logp_GK=sampling_logp_N[index_GK],
        old_logp_GK=logp_N[index_GK],
    )
    (slope_GK,) = torch.autograd.grad(loss_G.sum(), logp_GK)
    hits_GN = torch.zeros(len(index_GK), len(logits_N), dtype=slope_GK.dtype).scatter_add_(1, index_GK, slope_GK)
    return hits_GN - slope_GK.sum(-1, keepdim=True) * logp_N.exp()


def draw(sampling_logp_EN: Tensor, groups: int, k: int, generator: torch.Generator) -> Tensor:
    """Independent draws from π_s, [E, groups, k]."""
    index = torch.multinomial(sampling_logp_EN.exp(), groups * k, replacement=True, generator=generator)
    return index.reshape(-1, groups, k)


def train(
    algorithm: Algorithm,
    problem: Problem,
    start_EN: Tensor,
    *,
    sampling: SamplingPolicy,
    groups: int,
    k: int,
    updates: int,
    lr: float,
    generator: torch.Generator,
) -> Tensor:
    """log π_θ after training on samples, [E, N]: each update draws `groups` fresh groups of k from `sampling(π_θ)`,
    and takes one Adam step on their loss, with a learning rate that falls linearly to zero.

    Every experiment is a batch of its own. π_old is π_θ before the update; the critic is exact, as in
    `expected_gradient`.
    """
    logits_EN = start_EN.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits_EN], lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / updates)
    beta = getattr(algorithm, "beta", 0.0)

    def loss(
        logp_GK: Tensor, reward_GK: Tensor, anchor_GK: Tensor, behaviour_GK: Tensor, old_GK: Tensor, value: Tensor
    ) -> Tensor:
        return batch_loss(
            algorithm,
            logp_GK,
            reward_GK=reward_GK,
            anchor_logp_GK=anchor_GK,
            behaviour_logp_GK=behaviour_GK,
            old_logp_GK=old_GK,
            value=value,
        )

    for _ in range(updates):
        logp_EN = logits_EN.log_softmax(-1)
        old_logp_EN = logp_EN.detach()
        sampling_logp_EN = sampling(old_logp_EN)
        index_EGK = draw(sampling_logp_EN, groups, k, generator)
        value_E = (old_logp_EN.exp() * (problem.reward_EN - beta * (old_logp_EN - problem.anchor_logp_EN))).sum(-1)

        def at(x_EN: Tensor, index_EGK: Tensor = index_EGK) -> Tensor:
            return x_EN.gather(1, index_EGK.flatten(1)).reshape(index_EGK.shape)

        tables = (logp_EN, problem.reward_EN, problem.anchor_logp_EN, sampling_logp_EN, old_logp_EN)
        optimizer.zero_grad()
        torch.func.vmap(loss)(*map(at, tables), value_E).sum().backward()
        optimizer.step()
        schedule.step()
    return logits_EN.detach().log_softmax(-1)
