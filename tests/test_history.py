"""Earlier samples: what a checkpoint keeps of them comes back as it was, in a few bytes a token."""

from __future__ import annotations

import json
import pickle

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.training.batch import Sample
from harness.training.history import mix_in_history, pack, unpack

PROMPTS = {"a": [1, 2], "b": [3], "c": [4, 5, 6]}


@st.composite
def samples_of(draw, problem):
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6))
    logp = st.lists(st.floats(-1e3, 0, width=32), min_size=len(tokens), max_size=len(tokens))
    return Sample(
        prompt=PROMPTS[problem],
        tokens=tokens,
        sampler_logp=draw(logp),
        reward=draw(st.floats(-2, 2)),
        truncated=draw(st.booleans()),
        verdict=draw(st.sampled_from(["correct", "wrong", "no_answer"])),
        behaviour_logp=draw(logp),
    )


histories = st.fixed_dictionaries({}, optional={p: st.lists(samples_of(p), max_size=4) for p in PROMPTS})


@given(histories)
def test_packed_samples_come_back_to_the_last_digit(history):
    about, packed = pack(history)
    assert unpack(json.loads(json.dumps(about)), packed, PROMPTS) == history


def test_samples_are_packed_one_after_another():
    first = Sample([1, 2], [7, 8, 9], [-1.0, -2.0, -3.0], 1.0, False, "correct", [-1.5, -2.5, -3.5])
    second = Sample([3], [5], [-4.0], 0.0, True, "wrong", [-4.5])
    about, packed = pack({"a": [first], "b": [second]})
    assert about["a"] == [{"length": 3, "reward": 1.0, "truncated": False, "verdict": "correct"}]
    assert packed["tokens"].tolist() == [7, 8, 9, 5]
    assert packed["sampler_logp"].tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert packed["behaviour_logp"].dtype == torch.float32
    assert pack({}) == ({}, {})


def test_a_sample_takes_four_bytes_for_each_number_of_a_token():
    # As lists of Python's numbers they took 8 bytes of list each, and 24 to 28 of each number.
    n = 10_000
    sample = Sample([1], list(range(n)), [-0.5] * n, 1.0, False, "correct", [-0.25] * n)
    assert len(pickle.dumps(sample)) < 3 * 4 * n + 1000


def test_a_group_is_filled_up_with_the_most_recent_samples():
    old = [Sample([1], [i], [-1.0], 0.0, False, "wrong") for i in range(4)]
    fresh = [Sample([1], [9], [-1.0], 1.0, False, "correct")]
    assert [sample.tokens[0] for sample in mix_in_history(fresh, old, 3)] == [9, 2, 3]
    assert mix_in_history(fresh, old, 1) == fresh
