"""GVPD, the distillation of GVPO++, worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from batches import close, coefficients, padded, random_batch, worked_example
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms import GVPD

# log π_θ = (−1, −3, −2) and −3; log π_T = (−2, −2, −2) and −9: d = (1, −1, 0) and 6. Lengths 1, 2, 2 and 1.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.0, 0.0, 1.0], [0.0]],
    "logp": [[[-1.0], [-1.0, -2.0], [-0.5, -1.5]], [[-3.0]]],
}


def example():
    policy, batch = worked_example(**EXAMPLE)
    return policy, batch.with_extras(teacher_logp_GK=padded([[-2.0, -2.0, -2.0], [-9.0]], 2, 3))


def test_without_weights_it_is_the_variance_of_the_difference_to_the_teacher():
    policy, batch = example()
    algorithm = GVPD(length_normalised=False)
    # d̄ = 0: (1 + 1)/2, and 0 for the group of one, over |D| = 2
    out = algorithm.loss(policy, batch)
    close(out.loss, 0.5)
    close(out.metrics["log_ratio_to_teacher"], (0 + 6) / 2)
    close(coefficients(algorithm, policy, batch), [[[-0.5], [0.5] * 2, [0.0] * 2], [[0.0]]])  # −2(d − d̄)/2/2


def test_length_normalised_weights_have_a_mean_of_one_and_weight_the_mean_too():
    policy, batch = example()
    # 1/|y| = (1, ½, ½), times 3/2: f = (1.5, .75, .75). d̄ = (1.5 − .75)/3 = .25: d − d̄ = (.75, −1.25, −.25)
    # (1.5·.5625 + .75·1.5625 + .75·.0625)/2 = 1.03125
    close(GVPD().loss(policy, batch).loss, 1.03125 / 2)
    # −2 f (d − d̄)/2/2: −.5·1.5·.75, .5·.75·1.25, .5·.75·.25
    close(coefficients(GVPD(), policy, batch), [[[-0.5625], [0.46875] * 2, [0.09375] * 2], [[0.0]]])


def test_verdicts_are_not_read():
    policy, batch = example()
    close(
        coefficients(GVPD(), policy, replace(batch, rewards_GK=-5 * batch.rewards_GK)),
        coefficients(GVPD(), policy, batch),
    )


def test_teacher_that_is_missing_is_named():
    policy, batch = worked_example(**EXAMPLE)
    with pytest.raises(ValueError, match=r"no 'teacher_logp_GK'; declare it in needs\.extras"):
        GVPD().loss(policy, batch)


seeds = st.integers(0, 2**32 - 1)
either = st.sampled_from([GVPD(), GVPD(length_normalised=False)])
few = settings(max_examples=30, deadline=None)


@few
@given(seeds, either)
def test_coefficients_of_a_group_sum_to_zero_for_either_weight(seed, algorithm):
    policy, batch = random_batch(seed, tokens=9)
    close(coefficients(algorithm, policy, batch)[..., 0].sum(-1), torch.zeros(3), atol=1e-11)


@few
@given(seeds, either, st.floats(-10.0, 10.0))
def test_it_is_at_rest_at_the_teacher_up_to_a_constant_a_prompt(seed, algorithm, constant):
    """A teacher with another tokenizer has scores of whole responses, whose constant is another as well."""
    policy, batch = random_batch(seed)
    own_GK = torch.where(batch.mask_GKT, policy.logp_GKT, 0.0).sum(-1)
    there = batch.with_extras(teacher_logp_GK=own_GK + constant * torch.tensor([[1.0], [-2.0], [0.5]]))
    close(algorithm.loss(policy, there).loss, 0.0)
    close(coefficients(algorithm, policy, there), torch.zeros(3, 4, 5), atol=1e-11)


@few
@given(seeds, either)
def test_a_response_that_the_teacher_likes_better_is_pushed_up(seed, algorithm):
    policy, batch = random_batch(seed)
    teacher_GK = batch.extras["teacher_logp_GK"].clone()
    before = coefficients(algorithm, policy, batch)[0, 0, 0]
    teacher_GK[0, 0] += 1.0
    assert coefficients(algorithm, policy, batch.with_extras(teacher_logp_GK=teacher_GK))[0, 0, 0] > before
