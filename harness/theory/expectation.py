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
from algorithms.base import EXTRAS
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


def batch_loss(algorithm: Algorithm, logp_GK: Tensor, **known_GK: Tensor) -> Tensor:
    """The algorithm's loss, as training calls it (`prepare`, then `loss`), on one batch of one-token responses, scalar.

    `known_GK` holds `reward`, `anchor_logp`, `behaviour_logp` and, where they differ from a default, `old_logp` (π_θ at
    the start of the iteration; the behaviour policy), `value` (the critic's; 0) and `valid` (all), each [G, K]; and
    extras by name.
    """
    reward_GK, behaviour_logp_GK = known_GK["reward"], known_GK["behaviour_logp"]
    everyone_GK = torch.ones(logp_GK.shape, dtype=torch.bool)
    valid_GK = known_GK.get("valid", everyone_GK)
    value_GK1 = known_GK.get("value", torch.zeros_like(reward_GK))[..., None]
    batch = UncheckedBatch(
        mask_GKT=valid_GK[..., None],
        valid_GK=valid_GK,
        rewards_GK=reward_GK,
        old_logp_GKT=known_GK.get("old_logp", behaviour_logp_GK)[..., None],
        behaviour_logp_GKT=behaviour_logp_GK[..., None],
        sampler_logp_GKT=behaviour_logp_GK[..., None],
        ref_logp_GKT=known_GK["anchor_logp"][..., None],
        old_value_GKT=value_GK1,
        final_value_GK=torch.zeros_like(reward_GK),
        truncated_GK=~everyone_GK,
        extras={name: x for name, x in known_GK.items() if name in EXTRAS},
    )
    policy = PolicyOutput(logp_GKT=logp_GK[..., None], value_GKT=value_GK1)
    return algorithm.loss(policy, algorithm.prepare(batch)).loss


def separate_losses(algorithm: Algorithm, logp_BGK: Tensor, **known_BGK: Tensor) -> Tensor:
    """`batch_loss` of B batches, each by itself, [B]."""
    names = list(known_BGK)

    def one(logp_GK: Tensor, *known_GK: Tensor) -> Tensor:
        return batch_loss(algorithm, logp_GK, **dict(zip(names, known_GK, strict=True)))

    return torch.func.vmap(one)(logp_BGK, *known_BGK.values())


@dataclass(frozen=True)
class Groups:
    """The groups of an expectation, E of them side by side: their weights, and what a batch knows of their samples."""

    index_GK: Tensor
    weight_EG: Tensor
    known_EGK: dict[str, Tensor]
    """The arguments of `batch_loss`."""


def sampled_groups(
    problem: Problem, sampling_logp: Tensor, index_GK: Tensor, old_logp_EN: Tensor | None = None, beta: float = 0.0
) -> Groups:
    """Groups weighted by their probability Π_i π_s,i(y_i); log π_s is [E, N], or [E, K, N], a policy for each slot.

    With `old_logp_EN`, π_θ at the start of the iteration, the critic is exact for a KL penalty of strength `beta`:
    V = E_π_old[R − β log π_old/π'].
    """
    k = index_GK.shape[1]
    if sampling_logp.dim() == 2:
        behaviour_EGK = sampling_logp[:, index_GK]
    else:
        behaviour_EGK = sampling_logp[:, torch.arange(k), index_GK]
    known_EGK = {
        "reward": problem.reward_EN[:, index_GK],
        "anchor_logp": problem.anchor_logp_EN[:, index_GK],
        "behaviour_logp": behaviour_EGK,
    }
    if old_logp_EN is not None:
        known_EGK["old_logp"] = old_logp_EN[:, index_GK]
        known_EGK["value"] = exact_value(problem, old_logp_EN, beta)[:, None, None].expand(behaviour_EGK.shape)
    return Groups(index_GK, behaviour_EGK.sum(-1).exp(), known_EGK)


def exact_value(problem: Problem, logp_EN: Tensor, beta: float) -> Tensor:
    """E_π[R − β log π/π'], [E]: what a perfect critic says of the prompt."""
    return (logp_EN.exp() * (problem.reward_EN - beta * (logp_EN - problem.anchor_logp_EN))).sum(-1)


def _single(algorithm: Algorithm, names: Sequence[str]) -> Callable[..., Tensor]:
    """The loss of one group as a batch of its own, from log-probs [K] and what is known, [K] each."""

    def loss(logp_K: Tensor, *known_K: Tensor) -> Tensor:
        known_1K = {name: x_K[None] for name, x_K in zip(names, known_K, strict=True)}
        return batch_loss(algorithm, logp_K[None], **known_1K)

    return loss


CHUNK = 2**14
"""Groups that are differentiated at once: small enough for the cache."""


def _flat(groups: Groups, logits_EN: Tensor) -> tuple[Tensor, ...]:
    """log π_θ and everything known, [E·G, K] each."""
    logp_EGK = logits_EN.log_softmax(-1)[:, groups.index_GK]
    return (logp_EGK.flatten(0, 1), *(x_EGK.flatten(0, 1) for x_EGK in groups.known_EGK.values()))


def expected_loss(algorithm: Algorithm, groups: Groups, logits_EN: Tensor) -> Tensor:
    """Σ_g P(g) L(g), [E], with L(g) the loss of that single group."""
    single = torch.func.vmap(_single(algorithm, list(groups.known_EGK)), chunk_size=CHUNK)
    return (groups.weight_EG * single(*_flat(groups, logits_EN)).reshape(groups.weight_EG.shape)).sum(-1)


def group_slopes(algorithm: Algorithm, groups: Groups, logits_EN: Tensor) -> Tensor:
    """∂L(g)/∂log π_θ(y_i), minus the gradient coefficients, [E, G, K]."""
    slope = torch.func.vmap(torch.func.grad(_single(algorithm, list(groups.known_EGK))), chunk_size=CHUNK)
    return slope(*_flat(groups, logits_EN)).reshape(*groups.weight_EG.shape, -1)


def to_logits(slope_EN: Tensor, logp_EN: Tensor) -> Tensor:
    """From derivatives by log π_θ(y) to derivatives by the logits, last dimension: ∂log π_θ(y)/∂θ = e_y − π_θ."""
    return slope_EN - slope_EN.sum(-1, keepdim=True) * logp_EN.exp()


def expected_gradient(algorithm: Algorithm, groups: Groups, logits_EN: Tensor) -> Tensor:
    """∇ of `expected_loss` with respect to the logits, π_s held fixed as samples are, [E, N]."""
    slope_EGK = groups.weight_EG[..., None] * group_slopes(algorithm, groups, logits_EN)
    slope_EN = torch.zeros_like(logits_EN).index_add_(1, groups.index_GK.flatten(), slope_EGK.flatten(1))
    return to_logits(slope_EN, logits_EN.log_softmax(-1))


def expected_hessian(algorithm: Algorithm, groups: Groups, logits_EN: Tensor) -> Tensor:
    """The Hessian of `expected_loss` with respect to the logits, [E, N, N].

    By automatic differentiation of each group's loss by its k log-probs, and from there by hand: with
    J = ∂log π/∂θ = I − 1πᵀ and ∇²log π(y) = −(diag π − ππᵀ) for every y,
    ∇²_θ L = Jᵀ (∇²_log π L) J − (Σ_y ∂L/∂log π(y)) (diag π − ππᵀ).
    """
    count, n = logits_EN.shape
    index_GK, k = groups.index_GK, groups.index_GK.shape[1]
    hessian = torch.func.vmap(torch.func.hessian(_single(algorithm, list(groups.known_EGK))), chunk_size=CHUNK // k)
    bend_EGKK = hessian(*_flat(groups, logits_EN)).reshape(count, -1, k, k) * groups.weight_EG[..., None, None]
    place_GKK = index_GK[:, :, None] * n + index_GK[:, None, :]
    bend_ENN = torch.zeros(count, n * n, dtype=logits_EN.dtype)
    bend_ENN = bend_ENN.index_add_(1, place_GKK.flatten(), bend_EGKK.flatten(1)).reshape(count, n, n)
    slope_E = (groups.weight_EG[..., None] * group_slopes(algorithm, groups, logits_EN)).sum((1, 2))
    p_EN = logits_EN.softmax(-1)
    jacobian_ENN = torch.eye(n, dtype=logits_EN.dtype) - p_EN[:, None, :]
    softmax_ENN = torch.diag_embed(p_EN) - p_EN[:, :, None] * p_EN[:, None, :]
    return jacobian_ENN.mT @ bend_ENN @ jacobian_ENN - slope_E[:, None, None] * softmax_ENN


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended."""

    logp_EN: Tensor
    loss_E: Tensor
    gradient_E: Tensor
    """Largest absolute component of the gradient with respect to the logits."""
    curvature_E: Tensor
    """Smallest eigenvalue of the Hessian with respect to the logits: below zero at a saddle."""


def minimise(
    algorithm: Algorithm,
    groups: Groups,
    start_EN: Tensor,
    *,
    largest_move: float = float("inf"),
    steps: int = 300,
) -> Minimum:
    """Minimises the expected loss under a fixed π_s by Newton's method, all experiments side by side.

    The step is −D V |Λ|⁻¹ Vᵀ D g, with VΛVᵀ = D H D, H the Hessian and D = |diag H|^{−½}: a descent direction where the
    loss is not convex, and accurate where responses differ in probability by many orders of magnitude. Eigenvalues
    below 1e-13 count as zero and are not moved along; the shift of all logits, which changes no policy, is one. A logit
    whose curvature is below 1e-14 of the largest does not move either: after rounding, that is what a response that π_s
    never draws looks like. A step is shortened (by adding to |Λ|) until the loss falls, or, where float64 cannot
    resolve the loss, the gradient does.

    No logit moves by more than `largest_move` at once: losses that saturate need that, a quadratic one does not. An
    experiment has converged when a full step moves no logit by more than 1e-12 or nothing falls any more. The gradient
    at the end is returned: look at it.
    """
    logits_EN = start_EN.clone()
    damping_E = torch.zeros(len(logits_EN), dtype=logits_EN.dtype)
    active_E = torch.ones(len(logits_EN), dtype=torch.bool)
    loss_E = expected_loss(algorithm, groups, logits_EN)
    gradient_EN = expected_gradient(algorithm, groups, logits_EN)
    for _ in range(steps):
        pick = active_E.nonzero()[:, 0]
        if len(pick) == 0:
            break
        some = Groups(groups.index_GK, groups.weight_EG[pick], {n: x[pick] for n, x in groups.known_EGK.items()})
        hessian_ANN = expected_hessian(algorithm, some, logits_EN[pick])
        diagonal_AN = hessian_ANN.diagonal(dim1=1, dim2=2).abs()
        resolved_AN = diagonal_AN > 1e-14 * diagonal_AN.amax(-1, keepdim=True)
        scale_AN = torch.where(resolved_AN, diagonal_AN.rsqrt(), torch.zeros_like(diagonal_AN))
        eigenvalue_AN, vector_ANN = torch.linalg.eigh(scale_AN[:, :, None] * hessian_ANN * scale_AN[:, None, :])
        size_AN = eigenvalue_AN.abs()
        along_AN = (vector_ANN.mT @ (scale_AN * gradient_EN[pick])[..., None])[..., 0]
        along_AN = along_AN / (size_AN + damping_E[pick, None])
        along_AN = torch.where(size_AN > 1e-13, along_AN, torch.zeros_like(along_AN))
        step_AN = -scale_AN * (vector_ANN @ along_AN[..., None])[..., 0]
        longest_A1 = step_AN.abs().amax(-1, keepdim=True)
        step_AN = step_AN * (largest_move / longest_A1.clamp(min=1e-300)).clamp(max=1.0)

        trial_AN = logits_EN[pick] + step_AN
        trial_A = expected_loss(algorithm, some, trial_AN)
        trial_gradient_AN = expected_gradient(algorithm, some, trial_AN)
        unresolved_A = (gradient_EN[pick] * step_AN).sum(-1).abs() <= 1e-13 * loss_E[pick].abs()
        flatter_A = trial_gradient_AN.abs().amax(-1) < gradient_EN[pick].abs().amax(-1)
        better_A = torch.where(unresolved_A, flatter_A, trial_A < loss_E[pick])

        accepted = pick[better_A]
        logits_EN[accepted] = trial_AN[better_A]
        loss_E[accepted] = trial_A[better_A]
        gradient_EN[accepted] = trial_gradient_AN[better_A]
        still_A = (step_AN.abs().amax(-1) <= 1e-12) & (damping_E[pick] == 0)
        active_E[pick] = ~still_A & (damping_E[pick] < 1e9)
        eased_A = torch.where(damping_E[pick] < 1e-6, 0.0, damping_E[pick] / 30)
        damping_E[pick] = torch.where(better_A, eased_A, (damping_E[pick] * 30).clamp(min=1e-6))
    return Minimum(
        logp_EN=logits_EN.log_softmax(-1),
        loss_E=loss_E,
        gradient_E=gradient_EN.abs().amax(-1),
        curvature_E=torch.linalg.eigvalsh(expected_hessian(algorithm, groups, logits_EN))[:, 0],
    )


SamplingPolicy = Callable[[Tensor], Tensor]
"""From log π_θ to log π_s, both [E, N]."""


def on_policy(logp_EN: Tensor) -> Tensor:
    """π_s = π_θ."""
    return logp_EN


def first_update(
    algorithm: Algorithm, problem: Problem, logits_EN: Tensor, sampling_logp_EN: Tensor, index_GK: Tensor
) -> Groups:
    """The groups as they are at the first update of an iteration: π_old = π_θ, and an exact critic."""
    beta = getattr(algorithm, "beta", 0.0)
    return sampled_groups(problem, sampling_logp_EN, index_GK, logits_EN.log_softmax(-1), beta)


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

    It ends when the gradient is below 1e-14 everywhere, or after `steps`.
    """
    logits_EN = start_EN.clone()
    trace, gradient_EN = [logits_EN.log_softmax(-1)], torch.zeros_like(logits_EN)
    for step in range(1, steps + 1):
        logp_EN = logits_EN.log_softmax(-1)
        sampling_logp_EN = sampling(logp_EN)
        groups = first_update(algorithm, problem, logits_EN, sampling_logp_EN, index_GK)
        gradient_EN = expected_gradient(algorithm, groups, logits_EN)
        move_EN = step_size * decay**step * gradient_EN / sampling_logp_EN.exp().clamp(min=1e-300)
        logits_EN = logits_EN - move_EN.clamp(-largest_move, largest_move)
        logits_EN = logits_EN - logits_EN.amax(-1, keepdim=True)
        if step % every == 0:
            trace.append(logits_EN.log_softmax(-1))
        if gradient_EN.abs().max() < 1e-14:
            break
    return FixedPoint(
        logp_EN=logits_EN.log_softmax(-1), gradient_E=gradient_EN.abs().amax(-1), trace_TEN=torch.stack(trace)
    )


def solve_fixed_point(algorithm: Algorithm, problem: Problem, start_EN: Tensor, index_GK: Tensor) -> FixedPoint:
    """Newton's method on the condition that the on-policy expected gradient vanishes, from a start near by.

    For fixed points that `iterate` approaches too slowly. The Jacobian, by automatic differentiation, includes that π_s
    moves with π_θ. A step that does not lower the largest component of the gradient is halved, up to 8 times.
    """

    def field_of(logits_EN: Tensor) -> Tensor:
        groups = first_update(algorithm, problem, logits_EN, logits_EN.log_softmax(-1), index_GK)
        return expected_gradient(algorithm, groups, logits_EN)

    def jacobian_of(logits_EN: Tensor) -> Tensor:
        columns_NEN = torch.func.vmap(
            lambda direction_N: torch.func.jvp(field_of, (logits_EN,), (direction_N.expand(logits_EN.shape),))[1]
        )(torch.eye(problem.n, dtype=logits_EN.dtype))
        return columns_NEN.permute(1, 2, 0)

    logits_EN = start_EN.clone()
    gradient_EN = field_of(logits_EN)
    for _ in range(12):
        jacobian_ENN = jacobian_of(logits_EN)
        move_EN = -(torch.linalg.pinv(jacobian_ENN, rtol=1e-12) @ gradient_EN[..., None])[..., 0]
        share_E1 = torch.ones_like(logits_EN[:, :1])
        for _ in range(8):
            trial_EN = field_of(logits_EN + share_E1 * move_EN)
            worse_E1 = ~(trial_EN.abs().amax(-1, keepdim=True) < gradient_EN.abs().amax(-1, keepdim=True))
            if not worse_E1.any():
                break
            share_E1 = torch.where(worse_E1, share_E1 / 2, share_E1)
        logits_EN = torch.where(worse_E1, logits_EN, logits_EN + share_E1 * move_EN)
        gradient_EN = torch.where(worse_E1, gradient_EN, trial_EN)
        if worse_E1.all() or gradient_EN.abs().max() < 1e-14:
            break
    logp_EN = logits_EN.log_softmax(-1)
    return FixedPoint(logp_EN=logp_EN, gradient_E=gradient_EN.abs().amax(-1), trace_TEN=logp_EN[None])


def gradient_noise(algorithm: Algorithm, groups: Groups, logits_EN: Tensor) -> tuple[Tensor, Tensor]:
    """Of the gradient of a single group with respect to the logits: the expectation, [E, N], and the trace of the
    covariance, [E]."""
    slope_EGK = group_slopes(algorithm, groups, logits_EN)
    place_EGK = groups.index_GK.expand(slope_EGK.shape)
    slope_EGN = slope_EGK.new_zeros(*groups.weight_EG.shape, logits_EN.shape[1]).scatter_add_(2, place_EGK, slope_EGK)
    gradient_EGN = to_logits(slope_EGN, logits_EN.log_softmax(-1)[:, None])
    mean_EN = (groups.weight_EG[..., None] * gradient_EGN).sum(1)
    square_E = (groups.weight_EG * gradient_EGN.square().sum(-1)).sum(-1)
    return mean_EN, square_E - mean_EN.square().sum(-1)


def draw(sampling_logp_EN: Tensor, groups: int, k: int, generator: torch.Generator) -> Tensor:
    """Independent draws from π_s, [E, groups, k]."""
    index = torch.multinomial(sampling_logp_EN.exp(), groups * k, replacement=True, generator=generator)
    return index.reshape(-1, groups, k)


def pick(x_EN: Tensor, index_EGK: Tensor) -> Tensor:
    """x of each drawn response, [E, G, K]."""
    return x_EN.gather(1, index_EGK.flatten(1)).reshape(index_EGK.shape)


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
    `first_update`.
    """
    logits_EN = start_EN.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits_EN], lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / updates)
    for _ in range(updates):
        logp_EN = logits_EN.log_softmax(-1)
        old_logp_EN = logp_EN.detach()
        sampling_logp_EN = sampling(old_logp_EN)
        index_EGK = draw(sampling_logp_EN, groups, k, generator)
        value_E = exact_value(problem, old_logp_EN, getattr(algorithm, "beta", 0.0))
        loss_E = separate_losses(
            algorithm,
            pick(logp_EN, index_EGK),
            reward=pick(problem.reward_EN, index_EGK),
            anchor_logp=pick(problem.anchor_logp_EN, index_EGK),
            behaviour_logp=pick(sampling_logp_EN, index_EGK),
            old_logp=pick(old_logp_EN, index_EGK),
            value=value_E[:, None, None].expand(index_EGK.shape),
        )
        optimizer.zero_grad()
        loss_E.sum().backward()
        optimizer.step()
        schedule.step()
    return logits_EN.detach().log_softmax(-1)
