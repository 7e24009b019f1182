"""What every algorithm promises, as checks of one algorithm that raise AssertionError with what is wrong.

The batches differ in what they show: in some most groups are tied or single, in others every group has a signal and no
reward is a binary fraction. A check looks at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from batches import close, coefficients, random_batch, tensors
from torch import Tensor

from algorithms import Algorithm, Batch, PolicyOutput

VARIABLES = ("logp_GKT", "entropy_GKT", "value_GKT")
"""What the harness differentiates with respect to."""

DTYPES = (torch.float32, torch.float64)
SEEDS = range(3)

Check = Callable[[Algorithm], None]
X = TypeVar("X", Batch, PolicyOutput)

CHECKS: dict[str, Check] = {}
"""For every algorithm at every setting, by what they check."""


def check(function: Check) -> Check:
    """Puts a check into CHECKS."""
    CHECKS[function.__name__] = function
    return function


def batches(**options: Any) -> Iterator[tuple[PolicyOutput, Batch]]:
    """With and without a signal in every group, at several seeds."""
    for seed in SEEDS:
        for signal in (False, True):
            yield random_batch(seed, signal=signal, **options)


def prepared(algorithm: Algorithm, **options: Any) -> Iterator[tuple[PolicyOutput, Batch]]:
    """The same, ready for a loss."""
    for policy, batch in batches(**options):
        yield policy, algorithm.prepare(batch)


def rearranged(x: X, index: Callable[[Tensor], Tensor]) -> X:
    """The batch or the policy's output with `index` applied to each tensor, extras included."""
    changed: dict[str, Any] = {name: index(value) for name, value in tensors(x).items()}
    if isinstance(x, Batch):
        changed["extras"] = {name: index(value) for name, value in x.extras.items()}
    return replace(x, **changed)


@check
def loss_and_metrics_are_finite_scalars(algorithm: Algorithm) -> None:
    for dtype in DTYPES:
        for policy, batch in prepared(algorithm, dtype=dtype):
            out = algorithm.loss(replace(policy, logp_GKT=policy.logp_GKT.requires_grad_()), batch)
            assert out.loss.shape == (), f"the loss has shape {tuple(out.loss.shape)}; it must be a scalar"
            assert out.loss.dtype == dtype, (
                f"the loss is {out.loss.dtype} for log-probs in {dtype}; keep the dtype of the input"
            )
            assert out.loss.isfinite(), f"the loss is {out.loss.item()}; does it compute with padding before masking?"
            assert out.loss.requires_grad, "the loss does not depend on the log-probs; nothing would be trained"
            for name, x in out.metrics.items():
                assert x.shape == (), f"metric {name!r} has shape {tuple(x.shape)}; a metric is a scalar"
                assert x.isfinite(), f"metric {name!r} is {x.item()}; a metric must be finite"
                assert not x.requires_grad, f"metric {name!r} keeps the graph of the loss alive; detach it"


@check
def float32_agrees_with_float64(algorithm: Algorithm) -> None:
    for exact, rough in zip(prepared(algorithm), prepared(algorithm, dtype=torch.float32), strict=True):
        found, expected = coefficients(algorithm, *rough).double(), coefficients(algorithm, *exact)
        close(found, expected, atol=2e-5, wrong="float32 and float64 disagree")


@check
def the_loss_changes_nothing_in_its_input_and_repeats_itself(algorithm: Algorithm) -> None:
    for policy, batch in prepared(algorithm):
        before = {name: x.clone() for name, x in {**tensors(policy), **tensors(batch), **batch.extras}.items()}
        first, second = algorithm.loss(policy, batch).loss, algorithm.loss(policy, batch).loss
        assert first.equal(second), "the same input gave two losses; an algorithm must be a pure function"
        for name, x in {**tensors(policy), **tensors(batch), **batch.extras}.items():
            same = torch.equal(x.nan_to_num(-1e9), before[name].nan_to_num(-1e9))
            assert same, f"{name} was changed in place; an algorithm must be a pure function"


@check
def coefficients_are_the_derivative_of_the_loss(algorithm: Algorithm) -> None:
    """Not for a loss that holds an advantage or a weight constant, which is no primitive of its coefficients."""
    for signal in (False, True):
        policy, batch = random_batch(0, signal=signal)
        batch = algorithm.prepare(batch)

        def loss(logp_GKT: Tensor, entropy_GKT: Tensor, value_GKT: Tensor, batch: Batch = batch) -> Tensor:
            policy = PolicyOutput(logp_GKT=logp_GKT, entropy_GKT=entropy_GKT, value_GKT=value_GKT)
            return algorithm.loss(policy, batch).loss

        variables = [tensors(policy)[name].requires_grad_() for name in VARIABLES]
        assert torch.autograd.gradcheck(loss, variables, eps=1e-6, atol=1e-7), (
            "autograd and finite differences disagree"
        )


@check
def log_ratios_of_hundreds_of_nats_stay_finite(algorithm: Algorithm) -> None:
    for dtype in DTYPES:
        for policy, batch in prepared(algorithm, dtype=dtype):
            even_GKT = torch.arange(batch.mask_GKT.numel()).view(batch.mask_GKT.shape) % 2 == 0
            far = replace(policy, logp_GKT=policy.logp_GKT + torch.where(even_GKT, 300.0, -300.0).to(dtype))
            out = algorithm.loss(far, batch)
            assert out.loss.isfinite(), f"the loss is {out.loss.item()} at log-ratios of 300 nats; clamp before exp"
            assert coefficients(algorithm, far, batch).isfinite().all(), "a coefficient overflows at 300 nats"
            assert all(x.isfinite() for x in out.metrics.values()), "a metric overflows at log-ratios of 300 nats"


@check
def groups_of_equal_rewards_stay_finite(algorithm: Algorithm) -> None:
    for dtype in DTYPES:
        for policy, batch in batches(dtype=dtype):
            batch = algorithm.prepare(replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, 1.2)))
            out = algorithm.loss(policy, batch)
            assert out.loss.isfinite(), "equal rewards make the loss infinite or NaN; is something over their spread?"
            c = coefficients(algorithm, policy, batch)
            assert c.isfinite().all(), "equal rewards make a coefficient infinite or NaN"


@check
def a_batch_without_any_sample_gives_zero(algorithm: Algorithm) -> None:
    policy, batch = random_batch(0)
    batch = algorithm.prepare(replace(batch, valid_GK=torch.zeros_like(batch.valid_GK)))
    out = algorithm.loss(policy, batch)
    assert out.loss.item() == 0, "a batch without samples has a loss; a rank with nothing to do would get a gradient"
    assert all(x.isfinite() for x in out.metrics.values()), f"0/0 in a metric: {out.metrics}"


@check
def what_stands_in_the_padding_changes_nothing(algorithm: Algorithm) -> None:
    for padding in (math.nan, math.inf, 1e30):
        pairs = zip(prepared(algorithm, padding=0.0), prepared(algorithm, padding=padding), strict=True)
        for (policy, batch), (dirty_policy, dirty_batch) in pairs:
            clean, dirty = algorithm.loss(policy, batch), algorithm.loss(dirty_policy, dirty_batch)
            assert dirty.loss.equal(clean.loss), f"padding of {padding} changed the loss; mask before any arithmetic"
            for name, x in clean.metrics.items():
                assert dirty.metrics[name].equal(x), f"padding of {padding} changed the metric {name!r}"
            for variable in VARIABLES:
                c = coefficients(algorithm, dirty_policy, dirty_batch, of=variable)
                same = c.equal(coefficients(algorithm, policy, batch, of=variable))
                assert same, f"padding leaks into d loss/d {variable}"
                assert (c[~batch.mask_GKT] == 0).all(), f"d loss/d {variable} under the mask is not exactly zero"


@check
def longer_padding_changes_nothing(algorithm: Algorithm) -> None:
    def longer(x: Tensor) -> Tensor:
        fill = False if x.dtype == torch.bool else math.nan
        return torch.nn.functional.pad(x, (0, 2, 0, 1) if x.dim() == 3 else (0, 1), value=fill)

    for policy, batch in prepared(algorithm):
        long_policy = rearranged(policy, longer)
        long_batch = algorithm.prepare(rearranged(replace(batch, extras={}), longer))
        wrong = "longer padding changes the loss; count tokens by the mask"
        close(algorithm.loss(long_policy, long_batch).loss, algorithm.loss(policy, batch).loss, wrong=wrong)
        for variable in VARIABLES:
            expected = longer(coefficients(algorithm, policy, batch, of=variable)).nan_to_num(0.0)
            close(coefficients(algorithm, long_policy, long_batch, of=variable), expected, wrong=wrong)


@check
def the_order_of_groups_and_of_samples_does_not_matter(algorithm: Algorithm) -> None:
    group, sample = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])

    def shuffled(x: Tensor) -> Tensor:
        return x[group][:, sample]

    for policy, batch in prepared(algorithm):
        other_policy = rearranged(policy, shuffled)
        other_batch = algorithm.prepare(rearranged(replace(batch, extras={}), shuffled))
        wrong = "the order of groups or samples changes the loss"
        close(algorithm.loss(other_policy, other_batch).loss, algorithm.loss(policy, batch).loss, wrong=wrong)
        for variable in VARIABLES:
            expected = shuffled(coefficients(algorithm, policy, batch, of=variable))
            close(coefficients(algorithm, other_policy, other_batch, of=variable), expected, wrong=wrong)


PLACES = ((0, 0), (0, 1), (1, 0))
"""Of samples whose unit is told from the others: group, sample."""


def unit_mask(algorithm: Algorithm, shape: torch.Size, g: int, k: int) -> Tensor:
    """True on the unit that holds sample (g, k)."""
    unit = torch.zeros(shape, dtype=torch.bool)
    index: tuple[int, ...] = {"batch": (), "group": (g,), "sequence": (g, k)}[algorithm.needs.coupling]
    unit[index] = True
    return unit


@check
def coefficients_of_a_unit_ignore_the_policy_elsewhere(algorithm: Algorithm) -> None:
    """By finite perturbation, since autograd's second derivative does not see what the loss detaches."""
    random = torch.Generator().manual_seed(0)
    for policy, batch in prepared(algorithm):
        for g, k in PLACES:
            unit = unit_mask(algorithm, batch.mask_GKT.shape, g, k)

            def elsewhere(x: Tensor, unit: Tensor = unit) -> Tensor:
                noise = torch.randn(x.shape, generator=random, dtype=x.dtype)
                return torch.where(unit, x, x + 0.5 * noise)

            moved = rearranged(policy, elsewhere)
            for variable in VARIABLES:
                before = coefficients(algorithm, policy, batch, of=variable)[unit]
                after = coefficients(algorithm, moved, batch, of=variable)[unit]
                moved_by, unit_name = (before - after).abs().max(), algorithm.needs.coupling
                assert moved_by <= 1e-13, (
                    f"d loss/d {variable} of one {unit_name} moved by {moved_by:.2g} with the policy elsewhere; "
                    f"declare a larger coupling, or a gradient in one pass will be wrong"
                )


@check
def second_derivatives_between_units_vanish(algorithm: Algorithm) -> None:
    for signal in (False, True):
        policy, batch = random_batch(0, signal=signal)
        batch = algorithm.prepare(batch)

        def loss(x: Tensor, batch: Batch = batch) -> Tensor:
            return algorithm.loss(PolicyOutput(logp_GKT=x[0], entropy_GKT=x[1], value_GKT=x[2]), batch).loss

        variables = torch.stack([tensors(policy)[name] for name in VARIABLES])
        hessian = torch.autograd.functional.hessian(loss, variables)
        assert hessian.isfinite().all(), "padding leaks into the second derivatives"
        for g, k in PLACES:
            unit = unit_mask(algorithm, batch.mask_GKT.shape, g, k)
            across = hessian[:, unit][:, :, :, ~unit]
            assert not across.any(), f"the cross-Hessian of one {algorithm.needs.coupling} with the others is not zero"


@check
def nothing_is_used_that_needs_does_not_declare(algorithm: Algorithm) -> None:
    needs = algorithm.needs
    for policy, batch in batches():
        frugal = replace(
            batch,
            ref_logp_GKT=batch.ref_logp_GKT if needs.reference else None,
            old_value_GKT=batch.old_value_GKT if needs.critic else None,
            final_value_GK=batch.final_value_GK if needs.critic else None,
            truncated_GK=batch.truncated_GK if needs.critic else None,
        )
        frugal_policy = PolicyOutput(
            logp_GKT=policy.logp_GKT,
            entropy_GKT=policy.entropy_GKT if needs.entropy else None,
            value_GKT=policy.value_GKT if needs.critic else None,
        )
        try:
            loss = algorithm.loss(frugal_policy, algorithm.prepare(frugal)).loss
        except (TypeError, AttributeError, ValueError) as error:
            raise AssertionError(f"the loss fails without what `needs` leaves out: {error}") from error
        full = algorithm.loss(policy, algorithm.prepare(batch)).loss
        assert loss.equal(full), "the loss uses what `needs` leaves out"


@check
def critic_and_entropy_get_a_gradient_exactly_if_declared(algorithm: Algorithm) -> None:
    for policy, batch in prepared(algorithm):
        for variable, declared in (("value_GKT", algorithm.needs.critic), ("entropy_GKT", algorithm.needs.entropy)):
            used = bool(coefficients(algorithm, policy, batch, of=variable).any())
            assert used == declared, f"needs says {declared} of {variable}, the gradient says {used}"


@check
def prepare_adds_extras_by_group_and_touches_nothing_else(algorithm: Algorithm) -> None:
    for _, batch in batches():
        once = algorithm.prepare(batch)
        for name, x in tensors(batch).items():
            assert torch.equal(x, tensors(once)[name]), f"prepare changed {name}; it may only add extras"
        for name, x in once.extras.items():
            assert x.shape[0] == batch.mask_GKT.shape[0], f"extras[{name!r}] must have G as its first dimension"
            assert torch.equal(x, algorithm.prepare(once).extras[name]), f"preparing twice changed extras[{name!r}]"


@check
def a_mini_batch_takes_its_share_of_the_extras(algorithm: Algorithm) -> None:
    index = torch.tensor([2, 0])
    for policy, batch in prepared(algorithm):
        part = batch.groups(index)
        for name, x in tensors(batch).items():
            assert torch.equal(tensors(part)[name], x[index]), name
        shapes = {name: x.shape for name, x in part.extras.items()}
        assert shapes == {name: x[index].shape for name, x in batch.extras.items()}
        assert algorithm.loss(rearranged(policy, lambda x: x[index]), part).loss.isfinite()


@check
def log_probs_of_the_wrong_shape_are_refused_and_not_broadcast(algorithm: Algorithm) -> None:
    policy, batch = next(prepared(algorithm))
    for other in (lambda x: x[:1], lambda x: x[:, :1], lambda x: x[..., :1]):
        refusal = ""
        try:
            algorithm.loss(rearranged(policy, other), batch)
        except ValueError as error:
            refusal = str(error)
        assert "the batch asks for (3, 4, 5)" in refusal, (
            f"log-probs of another shape than the mask's must be refused by a ValueError that says so (token_log_ratio "
            f"does), not {refusal!r}"
        )


DEFAULT_CHECKS: dict[str, Check] = {}
"""For algorithms at their defaults: an ablation may well couple less, or lack what makes equal rewards no signal."""


def default_check(function: Check) -> Check:
    """Puts a check into DEFAULT_CHECKS."""
    DEFAULT_CHECKS[function.__name__] = function
    return function


@default_check
def equal_rewards_on_policy_give_no_signal_in_float32_either(algorithm: Algorithm) -> None:
    """No reward here is a binary fraction: the rounded mean of its copies is another number."""
    for samples in (6, 7, 8):
        for reward in (1.2, 0.3, -1.7):
            policy, batch = random_batch(0, dtype=torch.float32, samples=samples)
            zero_GKT = torch.zeros_like(policy.logp_GKT)
            on_policy: dict[str, Any] = dict.fromkeys(
                ("old_logp_GKT", "behaviour_logp_GKT", "ref_logp_GKT"), policy.logp_GKT
            )
            no_critic: dict[str, Any] = {"old_value_GKT": zero_GKT, "final_value_GK": zero_GKT[..., 0]}
            batch = replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, reward), **on_policy, **no_critic)
            c = coefficients(algorithm, policy, algorithm.prepare(batch))
            assert not c.any(), f"rounding of equal rewards gives coefficients of up to {c.abs().max():.2g}"


@default_check
def declared_coupling_is_no_larger_than_it_has_to_be(algorithm: Algorithm) -> None:
    for policy, batch in prepared(algorithm):
        moved_logp_GKT = policy.logp_GKT.clone()
        moved_logp_GKT[1, 1] += 0.5
        moved = replace(policy, logp_GKT=moved_logp_GKT)
        change = (coefficients(algorithm, moved, batch) - coefficients(algorithm, policy, batch)).abs().sum(-1)
        if algorithm.needs.coupling == "group":
            assert change[1, 0] > 1e-6, "the samples of a group do not influence each other; declare 'sequence'"
        if algorithm.needs.coupling == "batch":
            assert change[0].sum() > 1e-6, "the groups do not influence each other; declare coupling='group'"
