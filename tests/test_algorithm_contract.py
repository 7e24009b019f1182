"""What every algorithm promises. A new entry of ALGORITHMS is tested by being there."""

import dataclasses
import math
from dataclasses import fields, replace
from typing import Any, cast

import pytest
import torch
from batches import close, coefficients, random_batch, tensors

from algorithms import ALGORITHMS, Batch, PolicyOutput

DEFAULTS = [pytest.param(cls(), id=name) for name, cls in ALGORITHMS.items()]
VARIANTS = [
    pytest.param(ALGORITHMS[name](**settings), id=f"{name}-{'-'.join(settings)}")
    for name, settings in (
        ("gvpo", {"beta": 1.0, "anchor": "reference"}),
        ("gvpo", {"variance_term": False}),
        ("gvpo", {"covariance_term": False, "anchor": "behaviour"}),
        ("grpo", {"beta": 0.04}),
        ("ppo", {"beta": 0.03, "entropy_coefficient": 0.01, "gamma": 0.9, "gae_lambda": 0.95}),
        ("ppo", {"whiten": False}),
        ("dpo", {"anchor": "old"}),
        ("kimi", {"anchor": "behaviour"}),
        ("pg", {"importance_weight": False, "anchor": "reference"}),
    )
]
every_class = pytest.mark.parametrize(("name", "cls"), ALGORITHMS.items(), ids=ALGORITHMS)
every_default = pytest.mark.parametrize("algorithm", DEFAULTS)
every_algorithm = pytest.mark.parametrize("algorithm", DEFAULTS + VARIANTS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

VARIABLES = ("logp_GKT", "entropy_GKT", "value_GKT")
"""What the harness differentiates with respect to."""


def prepared(algorithm, seed=0, **options):
    policy, batch = random_batch(seed, **options)
    return policy, algorithm.prepare(batch)


def rearranged(x, index):
    """The batch or the policy's output with `index` applied to each tensor, extras included."""
    changed = {name: index(value) for name, value in tensors(x).items()}
    if isinstance(x, Batch):
        changed["extras"] = {name: index(value) for name, value in x.extras.items()}
    return replace(x, **changed)


@both_dtypes
@every_algorithm
def test_loss_and_metrics_are_finite_scalars(algorithm, dtype):
    policy, batch = prepared(algorithm, dtype=dtype)
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


@every_algorithm
def test_float32_agrees_with_float64(algorithm):
    exact, rough = prepared(algorithm), prepared(algorithm, dtype=torch.float32)
    close(coefficients(algorithm, *rough).double(), coefficients(algorithm, *exact), atol=2e-5)


@every_algorithm
def test_loss_changes_nothing_in_its_input_and_repeats_itself(algorithm):
    policy, batch = prepared(algorithm)
    before = {name: x.clone() for name, x in {**tensors(policy), **tensors(batch), **batch.extras}.items()}
    first, second = algorithm.loss(policy, batch).loss, algorithm.loss(policy, batch).loss
    assert first.equal(second), "the same input gave two losses; an algorithm must be a pure function"
    for name, x in {**tensors(policy), **tensors(batch), **batch.extras}.items():
        same = torch.equal(x.nan_to_num(-1e9), before[name].nan_to_num(-1e9))
        assert same, f"{name} was changed in place; an algorithm must be a pure function"


@every_algorithm
def test_coefficients_are_the_derivative_of_the_loss(algorithm):
    if algorithm.name == "PG + KL":
        pytest.skip("the advantage and the importance weight are constants by definition, so L is not a primitive of C")
    policy, batch = prepared(algorithm)

    def loss(logp_GKT, entropy_GKT, value_GKT):
        return algorithm.loss(PolicyOutput(logp_GKT=logp_GKT, entropy_GKT=entropy_GKT, value_GKT=value_GKT), batch).loss

    variables = [tensors(policy)[name].requires_grad_() for name in VARIABLES]
    assert torch.autograd.gradcheck(loss, variables, eps=1e-6, atol=1e-7), "autograd and finite differences disagree"


@both_dtypes
@every_algorithm
def test_log_ratios_of_hundreds_of_nats_stay_finite(algorithm, dtype):
    policy, batch = prepared(algorithm, dtype=dtype)
    sign_GKT = torch.where(torch.arange(batch.mask_GKT.numel()).view(batch.mask_GKT.shape) % 2 == 0, 1.0, -1.0).to(
        dtype
    )
    far = replace(policy, logp_GKT=policy.logp_GKT + 300 * sign_GKT)
    out = algorithm.loss(far, batch)
    assert out.loss.isfinite(), f"the loss is {out.loss.item()} at log-ratios of 300 nats; clamp them before exp"
    assert coefficients(algorithm, far, batch).isfinite().all(), "a coefficient overflows at log-ratios of 300 nats"
    assert all(x.isfinite() for x in out.metrics.values()), "a metric overflows at log-ratios of 300 nats"


@both_dtypes
@every_algorithm
def test_groups_of_equal_rewards_stay_finite(algorithm, dtype):
    policy, batch = random_batch(0, dtype=dtype)
    batch = algorithm.prepare(replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, 0.3)))
    out = algorithm.loss(policy, batch)
    assert out.loss.isfinite(), "equal rewards make the loss infinite or NaN; is something divided by their spread?"
    assert coefficients(algorithm, policy, batch).isfinite().all(), "equal rewards make a coefficient infinite or NaN"


@pytest.mark.parametrize("reward", [1.2, 0.3, -1.7])
@pytest.mark.parametrize("samples", [6, 7, 8])
@every_default
def test_equal_rewards_on_policy_give_no_signal_in_float32_either(algorithm, samples, reward):
    """No reward here is a binary fraction: the rounded mean of its copies is another number."""
    policy, batch = random_batch(0, dtype=torch.float32, samples=samples)
    zero_GKT = torch.zeros_like(policy.logp_GKT)
    on_policy: dict[str, Any] = dict.fromkeys(("old_logp_GKT", "behaviour_logp_GKT", "ref_logp_GKT"), policy.logp_GKT)
    no_critic: dict[str, Any] = {"old_value_GKT": zero_GKT, "final_value_GK": zero_GKT[..., 0]}
    batch = replace(batch, rewards_GK=torch.full_like(batch.rewards_GK, reward), **on_policy, **no_critic)
    c = coefficients(algorithm, policy, algorithm.prepare(batch))
    assert not c.any(), f"rounding of equal rewards gives coefficients of up to {c.abs().max():.2g}"


@every_algorithm
def test_batch_without_any_sample_gives_zero(algorithm):
    policy, batch = random_batch(0)
    batch = algorithm.prepare(replace(batch, valid_GK=torch.zeros_like(batch.valid_GK)))
    out = algorithm.loss(policy, batch)
    assert out.loss.item() == 0, "a batch without samples has a loss; a rank with nothing to do would get a gradient"
    assert all(x.isfinite() for x in out.metrics.values()), f"0/0 in a metric: {out.metrics}"


@every_algorithm
@pytest.mark.parametrize("padding", [math.nan, math.inf, 1e30])
def test_what_stands_in_the_padding_changes_nothing(algorithm, padding):
    policy, batch = prepared(algorithm, padding=0.0)
    dirty_policy, dirty_batch = prepared(algorithm, padding=padding)
    clean, dirty = algorithm.loss(policy, batch), algorithm.loss(dirty_policy, dirty_batch)
    assert dirty.loss.equal(clean.loss), f"padding of {padding} changed the loss; mask before any arithmetic"
    for name, x in clean.metrics.items():
        assert dirty.metrics[name].equal(x), f"padding of {padding} changed the metric {name!r}"
    for variable in VARIABLES:
        c = coefficients(algorithm, dirty_policy, dirty_batch, of=variable)
        assert c.equal(coefficients(algorithm, policy, batch, of=variable)), f"padding leaks into d loss/d {variable}"
        assert (c[~batch.mask_GKT] == 0).all(), f"d loss/d {variable} under the mask is not exactly zero"


@every_algorithm
def test_longer_padding_changes_nothing(algorithm):
    policy, batch = prepared(algorithm)

    def longer(x):
        fill = False if x.dtype == torch.bool else math.nan
        return torch.nn.functional.pad(x, (0, 2, 0, 1) if x.dim() == 3 else (0, 1), value=fill)

    long_policy = rearranged(policy, longer)
    long_batch = algorithm.prepare(rearranged(replace(batch, extras={}), longer))
    close(algorithm.loss(long_policy, long_batch).loss, algorithm.loss(policy, batch).loss)
    for variable in VARIABLES:
        expected = longer(coefficients(algorithm, policy, batch, of=variable)).nan_to_num(0.0)
        close(coefficients(algorithm, long_policy, long_batch, of=variable), expected)


@every_algorithm
def test_the_order_of_groups_and_of_samples_does_not_matter(algorithm):
    policy, batch = prepared(algorithm)
    group, sample = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])

    def shuffled(x):
        return x[group][:, sample]

    other_policy = rearranged(policy, shuffled)
    other_batch = algorithm.prepare(rearranged(replace(batch, extras={}), shuffled))
    close(algorithm.loss(other_policy, other_batch).loss, algorithm.loss(policy, batch).loss)
    for variable in VARIABLES:
        expected = shuffled(coefficients(algorithm, policy, batch, of=variable))
        close(coefficients(algorithm, other_policy, other_batch, of=variable), expected)


def unit_mask(algorithm, shape, g, k):
    """True on the unit that holds sample (g, k)."""
    unit = torch.zeros(shape, dtype=torch.bool)
    index = {"batch": (), "group": (g,), "sequence": (g, k)}[algorithm.needs.coupling]
    unit[index] = True
    return unit


@every_algorithm
@pytest.mark.parametrize("seed", range(3))
def test_coefficients_of_a_unit_ignore_the_policy_elsewhere(algorithm, seed):
    """By finite perturbation, since autograd's second derivative does not see what the loss detaches."""
    policy, batch = prepared(algorithm, seed)
    random = torch.Generator().manual_seed(seed)
    for g, k in ((0, 0), (0, 1), (1, 0)):
        unit = unit_mask(algorithm, batch.mask_GKT.shape, g, k)

        def elsewhere(x, unit=unit):
            noise = torch.randn(x.shape, generator=random, dtype=x.dtype)
            return torch.where(unit, x, x + 0.5 * noise)

        moved = rearranged(policy, elsewhere)
        for variable in VARIABLES:
            before = coefficients(algorithm, policy, batch, of=variable)[unit]
            after = coefficients(algorithm, moved, batch, of=variable)[unit]
            assert torch.allclose(before, after, rtol=0, atol=1e-13), (
                f"d loss/d {variable} of one {algorithm.needs.coupling} moved by {(before - after).abs().max():.2g} "
                f"with the policy elsewhere; declare a larger coupling, or a gradient in one pass will be wrong"
            )


@every_algorithm
def test_second_derivatives_between_units_vanish(algorithm):
    policy, batch = prepared(algorithm)
    variables = torch.stack([tensors(policy)[name] for name in VARIABLES])

    def loss(x):
        return algorithm.loss(PolicyOutput(logp_GKT=x[0], entropy_GKT=x[1], value_GKT=x[2]), batch).loss

    hessian = torch.autograd.functional.hessian(loss, variables)
    assert hessian.isfinite().all(), "padding leaks into the second derivatives"
    for g, k in ((0, 0), (0, 1), (1, 0)):
        unit = unit_mask(algorithm, batch.mask_GKT.shape, g, k)
        across = hessian[:, unit][:, :, :, ~unit]
        assert not across.any(), f"the cross-Hessian of one {algorithm.needs.coupling} with the others is not zero"


@every_default
def test_declared_coupling_is_no_larger_than_it_has_to_be(algorithm):
    """A default's declaration: an ablation may well couple less than the full loss."""
    policy, batch = prepared(algorithm)
    moved_logp_GKT = policy.logp_GKT.clone()
    moved_logp_GKT[1, 1] += 0.5
    moved = replace(policy, logp_GKT=moved_logp_GKT)
    change = (coefficients(algorithm, moved, batch) - coefficients(algorithm, policy, batch)).abs().sum(-1)
    if algorithm.needs.coupling == "group":
        assert change[1, 0] > 1e-6, "the samples of a group do not influence each other; declare coupling='sequence'"
    if algorithm.needs.coupling == "batch":
        assert change[0].sum() > 1e-6, "the groups do not influence each other; declare coupling='group'"


@every_algorithm
def test_nothing_is_used_that_needs_does_not_declare(algorithm):
    policy, batch = random_batch(0)
    needs = algorithm.needs
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
    loss = algorithm.loss(frugal_policy, algorithm.prepare(frugal)).loss
    assert loss.equal(algorithm.loss(policy, algorithm.prepare(batch)).loss), "the loss uses what `needs` leaves out"


@pytest.mark.parametrize("algorithm", [p for p in DEFAULTS + VARIANTS if cast(Any, p.values[0]).needs.reference])
def test_a_declared_reference_that_is_missing_is_named(algorithm):
    policy, batch = random_batch(0)
    with pytest.raises(ValueError, match="ref_logp_GKT"):
        algorithm.loss(policy, algorithm.prepare(replace(batch, ref_logp_GKT=None)))


@every_algorithm
def test_critic_and_entropy_get_a_gradient_exactly_if_declared(algorithm):
    policy, batch = prepared(algorithm)
    for variable, declared in (("value_GKT", algorithm.needs.critic), ("entropy_GKT", algorithm.needs.entropy)):
        used = bool(coefficients(algorithm, policy, batch, of=variable).any())
        assert used == declared, f"needs says {declared} of {variable}, the gradient says {used}"


@every_algorithm
def test_prepare_adds_extras_by_group_and_touches_nothing_else(algorithm):
    _, batch = random_batch(0)
    once = algorithm.prepare(batch)
    for name, x in tensors(batch).items():
        assert torch.equal(x, tensors(once)[name]), f"prepare changed {name}; it may only add extras"
    for name, x in once.extras.items():
        assert x.shape[0] == batch.mask_GKT.shape[0], f"extras[{name!r}] must have G as its first dimension"
        assert torch.equal(x, algorithm.prepare(once).extras[name]), f"preparing twice changed extras[{name!r}]"


@every_algorithm
def test_a_mini_batch_takes_its_share_of_the_extras(algorithm):
    policy, batch = prepared(algorithm)
    index = torch.tensor([2, 0])
    part = batch.groups(index)
    for name, x in tensors(batch).items():
        assert torch.equal(tensors(part)[name], x[index]), name
    assert {name: x.shape for name, x in part.extras.items()} == {n: x[index].shape for n, x in batch.extras.items()}
    assert algorithm.loss(rearranged(policy, lambda x: x[index]), part).loss.isfinite()


@every_class
def test_class_is_a_documented_frozen_dataclass(name, cls):
    module = __import__(cls.__module__, fromlist=["_"])
    assert cls.__module__ == f"algorithms.{name}", f"{name} should be the one algorithm of algorithms/{name}.py"
    assert "eq." in (module.__doc__ or ""), f"the docstring of {cls.__module__} must name the source of the formula"
    assert "L = " in (cls.__doc__ or ""), f"the docstring of {cls.__name__} must state the loss"
    field_name = fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), field_name, 1.0)
    with pytest.raises(TypeError, match="positional"):
        cls(0.1)


@every_class
def test_every_hyper_parameter_says_what_it_does(name, cls):
    for f in fields(cls):
        assert f.metadata.get("doc", "").strip(), f"{name}.{f.name} has no doc line; define it with hyperparameter()"


@every_class
def test_beta_is_tuned_and_every_point_of_a_search_space_is_a_valid_setting(name, cls):
    spaces = {f.name: f.metadata["search"] for f in fields(cls) if f.metadata["search"] is not None}
    assert "beta" in spaces, f"{name}: β decides the ranking, so it must be in the search space"
    for field_name, space in spaces.items():
        for u in (0.0, 0.25, 0.5, 0.75, 1 - 1e-9):
            assert getattr(cls(**{field_name: space.at(u)}), field_name) == space.at(u)


@every_class
def test_nan_is_refused_as_a_hyper_parameter(name, cls):
    for f in fields(cls):
        if isinstance(f.default, float):
            with pytest.raises(ValueError, match=f"{name}: {f.name} is nan"):
                cls(**{f.name: math.nan})


@pytest.mark.parametrize("cls", [cls for cls in ALGORITHMS.values() if hasattr(cls, "anchor")])
def test_unknown_anchor_is_refused(cls):
    with pytest.raises(ValueError, match="anchor is 'referense'; use one of old, behaviour, reference"):
        cls(anchor="referense")


def test_names_in_tables_are_unique():
    names = [cls.name for cls in ALGORITHMS.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_reward_that_is_not_finite_is_refused_with_its_place(bad):
    _, batch = random_batch(0)
    rewards_GK = batch.rewards_GK.clone()
    rewards_GK[1, 0] = bad
    with pytest.raises(ValueError, match=rf"rewards_GK\[1, 0\] is {bad}; a reward must be finite \(1 of 12"):
        replace(batch, rewards_GK=rewards_GK)


@pytest.mark.parametrize("name", [n for n in tensors(random_batch(0)[1]) if n != "mask_GKT"])
def test_field_of_the_wrong_shape_is_named(name):
    _, batch = random_batch(0)
    x = tensors(batch)[name]
    for wrong in (x[:1], x[:, :1], x[..., :1], x[..., None], torch.cat([x, x])):
        with pytest.raises(ValueError, match=rf"Batch\.{name} has shape .*; the mask asks for"):
            replace(batch, **cast(Any, {name: wrong}))


def test_mask_of_the_wrong_shape_is_not_broadcast():
    _, batch = random_batch(0)
    for wrong in (batch.mask_GKT[:1], batch.mask_GKT[..., 0], batch.mask_GKT[:, :, :1]):
        with pytest.raises(ValueError, match="the mask asks for"):
            replace(batch, mask_GKT=wrong)


@pytest.mark.parametrize("name", ["mask_GKT", "valid_GK", "truncated_GK"])
def test_mask_must_be_boolean(name):
    _, batch = random_batch(0)
    with pytest.raises(ValueError, match=rf"Batch\.{name} holds torch\.float32; it must be torch\.bool"):
        replace(batch, **cast(Any, {name: tensors(batch)[name].float()}))


def test_padding_of_a_batch_is_set_to_zero():
    _, batch = random_batch(0)
    for name, x in tensors(batch).items():
        if x.dtype != torch.bool:
            assert not x[~(batch.mask_GKT if x.dim() == 3 else batch.valid_GK)].any(), name


def test_samples_that_are_not_valid_have_no_response_tokens():
    _, batch = random_batch(0)
    assert not replace(batch, mask_GKT=torch.ones_like(batch.mask_GKT)).mask_GKT[~batch.valid_GK].any()


@every_algorithm
def test_log_probs_of_the_wrong_shape_are_refused_and_not_broadcast(algorithm):
    policy, batch = prepared(algorithm)
    for wrong in (lambda x: x[:1], lambda x: x[:, :1], lambda x: x[..., :1]):
        with pytest.raises(ValueError, match=r"PolicyOutput\.logp_GKT has shape .*; the batch asks for \(3, 4, 5\)"):
            algorithm.loss(rearranged(policy, wrong), batch)


@pytest.mark.parametrize("name", ["entropy_GKT", "value_GKT"])
def test_output_of_the_policy_must_agree_in_shape(name):
    policy, _ = random_batch(0)
    with pytest.raises(ValueError, match=rf"PolicyOutput\.{name} has shape"):
        replace(policy, **{name: policy.logp_GKT[..., :1]})


def test_unknown_anchor_is_refused_by_the_batch_too():
    with pytest.raises(ValueError, match="anchor is 'oldest'"):
        random_batch(0)[1].anchor_logp_GKT("oldest")  # type: ignore[arg-type]
