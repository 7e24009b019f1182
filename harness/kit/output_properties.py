"""Of what a loss returns, and of its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from algorithms.base import Algorithm, Batch, Needs, stopped_gradients
from harness.kit.calls import CallError, evaluate, loss_of, prepare, undisturbed
from harness.kit.extreme_cases import extreme_cases
from harness.kit.properties import Subject, difference, not_finite, number, of_place, overall, per_case
from harness.kit.random_batches import Case, ordinary_cases, random_case, tensors
from harness.training.judgement import NOTHING_TRAINED, fault_of_dependence, fault_of_metrics


def plain_cases(needs: Needs) -> Iterator[Case]:
    """Batches in which every prompt has several samples and no two equal rewards, in float64 and in float32."""
    for seed in (0, 1):
        case = random_case(needs, seed, "no two rewards equal", signal=True)
        yield case
        yield case.to(torch.float32)


@per_case("The loss is a finite scalar in the dtype of the log-probs.", plain_cases, always=True)
def loss_is_a_finite_scalar(subject: Subject, case: Case) -> str | None:
    return not_finite(evaluate(subject.algorithm, case))


@overall("The loss depends on the log-probs, so that something is trained.")
def something_is_trained(subject: Subject) -> str | None:
    trains = False
    for case in with_extremes(subject.needs):
        try:
            outcome = evaluate(subject.algorithm, case)
        except CallError:
            continue  # which another property says
        if not outcome.depends:
            return f"{fault_of_dependence(None)} ({case.label})"
        trains = trains or bool(outcome.gradient["logp_GKT"].any())
    return None if trains else f"∂L/∂log π is zero everywhere on every batch: {NOTHING_TRAINED}"


def with_extremes(needs: Needs) -> Iterator[Case]:
    """Ordinary and extreme batches."""
    yield from ordinary_cases(needs)
    for cases in extreme_cases(needs).values():
        yield from cases


@per_case("Metrics are finite scalars without a graph.", with_extremes)
def metrics_are_finite_scalars(subject: Subject, case: Case) -> str | None:
    try:
        return fault_of_metrics(evaluate(subject.algorithm, case).output)
    except CallError:
        return None  # which another property says


def smooth_cases(needs: Needs) -> Iterator[Case]:
    """Batches at whose random log-probs no clip is likely to bend."""
    yield random_case(needs, 0, "ragged, with ties")
    yield random_case(needs, 1, "ragged, no two rewards equal", signal=True)
    yield random_case(needs, 3, "off-policy", signal=True, off_policy=0.8)


STEP = 1e-5
"""Of a finite difference, in nats."""


class _Diverged(Exception):
    """The loss held other things constant than it did at the base point."""


@per_case("The gradient is that of the loss: autograd and finite differences agree.", smooth_cases)
def gradient_is_that_of_the_loss(subject: Subject, case: Case) -> str | None:
    outcome = evaluate(subject.algorithm, case)
    if not_finite(outcome):
        return None
    with undisturbed(), torch.enable_grad():
        batch = prepare(subject.algorithm, case.cloned().batch)
        held: list[Tensor] = []

        def record(x: Tensor) -> Tensor:
            held.append(x.clone())
            return x

        with stopped_gradients(record):
            base = _loss(subject.algorithm, case, batch)
        scale = max(float(x.abs().max()) for x in outcome.gradient.values() if x.numel())
        noise = 1e-15 * max(abs(base), 1.0) / STEP * 100
        for name, x_GKT in tensors(case.policy).items():
            for place in case.batch.mask_GKT.nonzero().tolist():
                at = tuple(place)

                def moved(step: float, name: str = name, x_GKT: Tensor = x_GKT, at: tuple[int, ...] = at) -> float:
                    y_GKT = x_GKT.clone()
                    y_GKT[at] += step
                    with stopped_gradients(_replay(held)):
                        return _loss(subject.algorithm, case.with_policy(**{name: y_GKT}), batch)

                expected = float(outcome.gradient[name][at])
                try:
                    fault = _disagreement(moved, base, expected, 1e-4 * scale + noise)
                except _Diverged:
                    continue
                if fault is not None:
                    return (
                        f"{of_place(name, at)} is {number(expected)} by autograd and {number(fault)} by finite "
                        f"differences. What the loss holds constant on purpose must pass through stop_gradient() of "
                        f"algorithms.base and not through detach() or no_grad()"
                    )
    return None


def _loss(algorithm: Algorithm, case: Case, batch: Batch) -> float:
    return float(loss_of(algorithm, case.cloned().policy, batch).loss)


def _replay(held: list[Tensor]):  # type: ignore[no-untyped-def]
    left = iter(held)

    def repeat(x: Tensor) -> Tensor:
        known = next(left, None)
        if known is None or known.shape != x.shape:
            raise _Diverged
        return known

    return repeat


def _disagreement(moved, base: float, gradient: float, tolerance: float) -> float | None:  # type: ignore[no-untyped-def]
    """The finite difference that the gradient contradicts: not where the loss bends, and it is one of the two sides."""
    ahead, behind = moved(STEP), moved(-STEP)
    central = (ahead - behind) / (2 * STEP)
    if abs(central - gradient) <= tolerance:
        return None
    sides = sorted(((ahead - base) / STEP, (base - behind) / STEP))
    # The curvature alone sets the two sides apart by twice the third of these; a kink does so at any step.
    nearer = sorted(((moved(STEP / 8) - base) * 8 / STEP, (base - moved(-STEP / 8)) * 8 / STEP))
    bends = nearer[1] - nearer[0] > 0.5 * (sides[1] - sides[0]) > tolerance
    if bends and sides[0] - tolerance <= gradient <= sides[1] + tolerance:
        return None
    return central


def exact_cases(needs: Needs) -> list[Case]:
    """Ordinary batches that are not far off-policy."""
    return [case for case in ordinary_cases(needs) if case.label != "far off-policy"]


@per_case("float32 and float64 agree.", exact_cases)
def float32_agrees_with_float64(subject: Subject, case: Case) -> str | None:
    exact, rough = evaluate(subject.algorithm, case), evaluate(subject.algorithm, case.to(torch.float32))
    scale = max(float(x.abs().max()) for x in exact.gradient.values() if x.numel())
    as_double = type(rough)(rough.loss.double(), {n: x.double() for n, x in rough.gradient.items()}, rough.output)
    wrong = difference(as_double, exact, rtol=1e-3, atol=2e-5 * min(1.0, scale) + 1e-9)
    return wrong and f"in float32 {wrong} as in float64"
