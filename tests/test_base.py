"""The arithmetic that the losses share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.base import Choice, LogUniform, Needs, centred, covariance, hyperparameter


def test_centred_worked_example_and_its_gradient():
    # (1 + 2 + 6)/3 = 3; the fourth is no sample. A group of one is its own mean.
    x_GK = torch.tensor([[1.0, 2.0, 6.0, 9.0], [5.0, 9.0, 9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    valid_GK = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found_GK = centred(x_GK, valid_GK)
    assert found_GK.tolist() == [[-2, -1, 3, 0], [0, 0, 0, 0]]
    # ∂(x_1 − x̄)/∂x = (1 − 1/3, −1/3, −1/3)
    (gradient_GK,) = torch.autograd.grad(found_GK[0, 0], x_GK)
    torch.testing.assert_close(gradient_GK[0], torch.tensor([2 / 3, -1 / 3, -1 / 3, 0], dtype=torch.float64))


@given(
    value=st.floats(-1e6, 1e6, width=32),
    size=st.integers(1, 64),
    padding=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equal_values_are_centred_to_exactly_zero(value, size, padding, dtype):
    x_GK = torch.full((1, size + padding), value, dtype=dtype)
    x_GK[:, size:] = 7.0
    valid_GK = torch.arange(size + padding)[None] < size
    assert not centred(x_GK, valid_GK).any()
    assert covariance(x_GK, x_GK, valid_GK).item() == 0


@pytest.mark.parametrize("value", [0.0, 1.2])
def test_equal_values_keep_the_gradient_of_their_deviation(value):
    # Cov(x, y) = Σ x_i (y_i − ȳ)/(k − 1): its derivative by x_i is (y_i − ȳ)/2, whatever x is.
    x_GK = torch.full((1, 3), value, requires_grad=True)
    y_GK, valid_GK = torch.tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3, dtype=torch.bool)
    (gradient_GK,) = torch.autograd.grad(covariance(x_GK, y_GK, valid_GK).sum(), x_GK)
    torch.testing.assert_close(gradient_GK, torch.tensor([[-1.0, -0.5, 1.5]]))


def test_the_anchor_reference_needs_the_reference_and_no_other_anchor_does():
    assert Needs(anchor="reference").reference
    assert not Needs(anchor="old").reference
    assert Needs(anchor="old", reference=True).reference  # for a term beside the anchor's


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"coupling": "banana"}, "needs.coupling is 'banana'; use one of batch, group, sequence"),
        ({"data": "bogus"}, "needs.data is 'bogus'; use one of policy"),
        ({"anchor": "ref"}, "needs.anchor is 'ref'; use one of old"),
        ({"critic": "no"}, "needs.critic is 'no'; use True or False"),
        ({"min_group_size": "2"}, "needs.min_group_size is '2'; use a whole number of at least 1"),
        ({"min_group_size": -3}, "needs.min_group_size is -3"),
        ({"min_group_size": True}, "needs.min_group_size is True"),
        ({"reference_samples": 2.5}, "needs.reference_samples is 2.5; use a whole number of at least 0"),
        ({"refill": 5}, "needs.refill is 5; use a function"),
        ({"extras": 5}, "needs.extras is 5; use a tuple of names"),
        ({"extras": "length_limit_G"}, "needs.extras is 'length_limit_G'; use a tuple of names"),
    ],
)
def test_needs_that_the_harness_cannot_supply_are_refused(asked: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=re.escape(said)):
        Needs(**asked)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Choice(()), "Choice(()) is no search space; give a tuple"),
        (lambda: Choice(0.5), "Choice(0.5) is no search space"),  # type: ignore[arg-type]
        (lambda: LogUniform(0.0, 1.0), "LogUniform(0.0, 1.0) is no search space; give finite numbers, 0 < low < high"),
        (lambda: LogUniform(-1, 1), "LogUniform(-1, 1) is no"),
        (lambda: LogUniform("a", "b"), "LogUniform('a', 'b') is no"),  # type: ignore[arg-type]
        (lambda: LogUniform(1.0, 0.01), "LogUniform(1.0, 0.01) is no"),
        (lambda: LogUniform(1.0, float("inf")), "LogUniform(1.0, inf) is no"),
        (lambda: hyperparameter(0.1, "x", search=(0.1, 1)), "search is (0.1, 1), no search space; use Choice"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_searched_is_no_space(make: Callable[[], Any], said: str):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        make()
