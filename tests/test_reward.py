"""Reward recipes, worked out by hand."""

import dataclasses
import math

import pytest

from harness.suite.rewards import REWARDS, RewardRecipe, score_of, soft_overlong_punishment


def reward(label, verdict, *, tokens=10, truncated=False, limit=100):
    return REWARDS[label].reward(verdict, tokens=tokens, truncated=truncated, max_new_tokens=limit)


@pytest.mark.parametrize(
    ("label", "correct", "wrong", "no_answer", "timeout"),
    [
        ("correct-v1", 1.0, 0.0, 0.0, 0.0),
        ("correct-untruncated-v1", 1.0, 0.0, 0.0, 0.0),
        ("correct-format-v1", 1.0, 0.1, 0.0, 0.1),
        ("correct-format-v2", 1.0, 0.1, 0.0, 0.0),
        ("dapo-v1", 1.0, -1.0, -1.0, -1.0),
    ],
)
def test_rewards_of_a_short_response_that_ended_by_itself(label, correct, wrong, no_answer, timeout):
    found = [reward(label, verdict) for verdict in ("correct", "wrong", "no_answer", "timeout", "error")]
    assert found == [correct, wrong, no_answer, timeout, timeout]


def test_a_truncated_right_answer_counts_or_does_not():
    assert reward("correct-v1", "correct", tokens=100, truncated=True) == 1.0
    assert reward("correct-untruncated-v1", "correct", tokens=100, truncated=True) == 0.0


def test_soft_overlong_punishment_as_dapo_sets_it():
    # L_max = 20,480 and L_cache = 4,096: nothing up to 16,384 tokens, half of it at 18,432, all of it from 20,480 on.
    found = [soft_overlong_punishment(tokens, 20480, 0.2) for tokens in (1, 16384, 17408, 18432, 20480, 30000)]
    assert found == pytest.approx([0.0, 0.0, -0.25, -0.5, -1.0, -1.0])
    # In the recipe, on a limit of 100: L_cache = 20, and 90 tokens are (80 − 90)/20 = −1/2.
    assert reward("dapo-v1", "correct", tokens=90) == pytest.approx(0.5)
    assert reward("dapo-v1", "wrong", tokens=100, truncated=True) == pytest.approx(-2.0)


def test_labels_are_names_with_versions():
    assert all(label == f"{recipe.name}-v{recipe.version}" == recipe.label for label, recipe in REWARDS.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["correct", "wrong", "no_answer", "failure", "truncated", "overlong"])
def test_a_reward_that_is_not_finite_is_refused(part, value):
    with pytest.raises(ValueError, match=f"reward mine-v1: {part} is {value}; every part of a reward is finite"):
        RewardRecipe(name="mine", version=1, **{part: value})


def test_a_cache_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"overlong_cache is 0\.0; it must be in \(0, 1\]"):
        dataclasses.replace(REWARDS["dapo-v1"], overlong_cache=0.0)


def test_the_score_is_correctness_whatever_training_is_rewarded_for():
    assert [score_of(verdict) for verdict in ("correct", "wrong", "no_answer", "timeout", "error")] == [1, 0, 0, 0, 0]
