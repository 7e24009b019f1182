"""SFT, RFT and online RFT, worked by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from batches import close, coefficients, worked_example

from algorithms import RFT, SFT, OnlineRFT

# Means of log π over the tokens of each response: (−1.5, −3, −1) and −4.
EXAMPLE: dict[str, Any] = {
    "rewards": [[1.0, 0.0, 1.0], [0.5]],
    "logp": [[[-1.0, -2.0], [-3.0], [-0.5, -0.5, -1.0, -2.0]], [[-4.0]]],
    "behaviour": [[[-9.0, -2.0], [-1.0], [-0.5, -3.5, -1.0, -2.0]], [[-5.0]]],
}


def test_sft_is_the_mean_negative_log_likelihood_of_tokens_then_responses_then_prompts():
    policy, batch = worked_example(**EXAMPLE)
    # (1.5 + 3 + 1)/3 and 4, over |D| = 2
    close(SFT().loss(policy, batch).loss, (5.5 / 3 + 4) / 2)
    # 1/(|y|·k·|D|): 1/(2·3·2), 1/(1·3·2), 1/(4·3·2); 1/(1·1·2)
    close(coefficients(SFT(), policy, batch), [[[1 / 12] * 2, [1 / 6], [1 / 24] * 4], [[0.5]]])


def test_sft_reads_no_reward():
    policy, batch = worked_example(**EXAMPLE)
    other = replace(batch, rewards_GK=-batch.rewards_GK)
    close(coefficients(SFT(), policy, other), coefficients(SFT(), policy, batch))


@pytest.mark.parametrize("cls", [RFT, OnlineRFT])
def test_rft_is_sft_on_the_responses_whose_reward_is_above_the_threshold(cls):
    policy, batch = worked_example(**EXAMPLE)
    out = cls().loss(policy, batch)
    # (1.5 + 1)/3; the reward of ½ is not above ½; the wrong ones stay in k and in |D|
    close(out.loss, 2.5 / 3 / 2)
    close(coefficients(cls(), policy, batch), [[[1 / 12] * 2, [0.0], [1 / 24] * 4], [[0.0]]])
    close(out.metrics["right_share"], 2 / 4)


def test_lower_threshold_lets_more_in():
    policy, batch = worked_example(**EXAMPLE)
    close(RFT(threshold=0.4).loss(policy, batch).loss, (2.5 / 3 + 4) / 2)
    close(RFT(threshold=-1.0).loss(policy, batch).loss, SFT().loss(policy, batch).loss)


@pytest.mark.parametrize("cls", [RFT, OnlineRFT])
def test_without_a_right_response_nothing_is_learnt(cls):
    policy, batch = worked_example(**{**EXAMPLE, "rewards": [[0.0, 0.0, 0.0], [0.5]]})
    assert cls().loss(policy, batch).loss.item() == 0
    assert not coefficients(cls(), policy, batch).any()


def test_group_of_one_counts_as_much_as_a_group_of_three():
    policy, batch = worked_example(**{**EXAMPLE, "rewards": [[1.0, 1.0, 1.0], [1.0]]})
    weight_GK = (coefficients(RFT(), policy, batch) * batch.mask_GKT).sum(-1)
    close(weight_GK.sum(-1), torch.tensor([0.5, 0.5]))


def test_they_differ_in_where_the_responses_come_from():
    assert [cls().needs.data for cls in (SFT, RFT, OnlineRFT)] == ["demonstrations", "base", "policy"]


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_threshold_must_be_finite(threshold):
    with pytest.raises(ValueError, match=r"rft: threshold is .*inf; it must be finite"):
        RFT(threshold=threshold)
