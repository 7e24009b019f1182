"""What every algorithm promises. A new entry of ALGORITHMS is tested by being there."""

import dataclasses
import math
import re
from dataclasses import fields, replace
from typing import Any, cast

import pytest
import torch
from batches import random_batch, tensors

from algorithms import ALGORITHMS
from harness.kit.check import ORDERED, Subject, contradiction_of
from harness.kit.random_batches import random_case

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
        ("opmd", {"baseline": "log_mean_exp"}),
        ("dppo", {"divergence": "kl", "threshold": 0.05}),
    )
]
every_class = pytest.mark.parametrize(("name", "cls"), ALGORITHMS.items(), ids=ALGORITHMS)
every_default = pytest.mark.parametrize("algorithm", DEFAULTS)
every_algorithm = pytest.mark.parametrize("algorithm", DEFAULTS + VARIANTS)


def contradicted(found, algorithm):
    subject = Subject(algorithm, lambda: dataclasses.replace(algorithm), algorithm.needs)
    fault = contradiction_of(found, subject)
    return None if fault is None else fault.text


@pytest.mark.parametrize("found", [found for found in ORDERED if not found.advice], ids=lambda found: found.name)
@every_algorithm
def test_an_algorithm_keeps_the_contract(found, algorithm):
    assert contradicted(found, algorithm) is None


@pytest.mark.parametrize("found", [found for found in ORDERED if found.advice], ids=lambda found: found.name)
@every_default
def test_an_algorithm_at_its_defaults_leaves_nothing_to_advise(found, algorithm):
    assert contradicted(found, algorithm) is None


@every_algorithm
def test_log_probs_of_the_wrong_shape_are_refused_and_not_broadcast(algorithm):
    case = random_case(algorithm.needs, 0)
    batch, logp_GKT = algorithm.prepare(case.batch), case.policy.logp_GKT
    wide_GKT = torch.cat([logp_GKT, logp_GKT], dim=1)
    for other_GKT in (logp_GKT[:1], wide_GKT, logp_GKT[..., :1]):
        wrong = {n: None if x is None else other_GKT for n, x in vars(case.policy).items()}
        with pytest.raises(ValueError, match=r"the batch asks for \(3, "):
            algorithm.loss(replace(case.policy, **cast(Any, wrong)), batch)


@pytest.mark.parametrize("algorithm", [p for p in DEFAULTS + VARIANTS if cast(Any, p.values[0]).needs.reference])
def test_a_declared_reference_that_is_missing_is_named(algorithm):
    policy, batch = random_batch(0)
    with pytest.raises(ValueError, match="ref_logp_GKT"):
        algorithm.loss(policy, algorithm.prepare(replace(batch, ref_logp_GKT=None)))


@every_class
def test_class_is_a_documented_frozen_dataclass(name, cls):
    module = __import__(cls.__module__, fromlist=["_"])
    assert cls.__module__ == f"algorithms.{name}", f"{name} should be the one algorithm of algorithms/{name}.py"
    source = (module.__doc__ or "").splitlines()[0]
    assert re.search(r"arXiv \d{4}\.\d{5}|eq\.", source), f"line 1 of {cls.__module__} must name the formula's source"
    assert "L = " in (cls.__doc__ or ""), f"the docstring of {cls.__name__} must state the loss"
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        cls().something = 1.0
    with pytest.raises(TypeError, match="positional"):
        cls(0.1)


@every_class
def test_every_hyper_parameter_says_what_it_does(name, cls):
    for f in fields(cls):
        assert f.metadata.get("doc", "").strip(), f"{name}.{f.name} has no doc line; define it with hyperparameter()"


@every_class
def test_beta_is_tuned_and_every_point_of_a_search_space_is_a_valid_setting(name, cls):
    spaces = {f.name: f.metadata["search"] for f in fields(cls) if f.metadata["search"] is not None}
    if "beta" in {f.name for f in fields(cls)}:
        assert "beta" in spaces, f"{name}: β decides the ranking, so it must be in the search space"
    for field_name, space in spaces.items():
        for u in (0.0, 0.25, 0.5, 0.75, 1 - 1e-9):
            assert getattr(cls(**{field_name: space.at(u)}), field_name) == space.at(u)


@every_class
def test_nan_is_refused_as_a_hyper_parameter(name, cls):
    for f in fields(cls):
        if isinstance(f.default, float):
            with pytest.raises(ValueError, match=rf"\w+: {f.name} is nan"):
                cls(**{f.name: math.nan})


@pytest.mark.parametrize(
    "cls", [cls for cls in ALGORITHMS.values() if "anchor" in {f.name for f in fields(cast(Any, cls))}]
)
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


@pytest.mark.parametrize("name", ["entropy_GKT", "value_GKT"])
def test_output_of_the_policy_must_agree_in_shape(name):
    policy, _ = random_batch(0)
    with pytest.raises(ValueError, match=rf"PolicyOutput\.{name} has shape"):
        replace(policy, **{name: policy.logp_GKT[..., :1]})


def test_unknown_anchor_is_refused_by_the_batch_too():
    with pytest.raises(ValueError, match="anchor is 'oldest'"):
        random_batch(0)[1].anchor_logp_GKT("oldest")  # type: ignore[arg-type]
