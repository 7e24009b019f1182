"""Pairless: sound, and what it computes worked out by hand."""

import math
from pathlib import Path

import pytest
import torch

from algorithms import Batch, PolicyOutput, load_algorithm
from harness.kit.check import examine

Pairless = load_algorithm(f"{Path(__file__).with_name('pairless.py')}:Pairless")


def test_it_keeps_the_contract():
    assert examine(Pairless()).faults == {}


def test_loss_worked_by_hand():
    # One prompt, two responses of one token: R = (1, 0), so R − R̄ = (½, −½); ℓ = (.2, −.4).
    old_GKT = torch.tensor([[[-1.0], [-2.0]]], dtype=torch.float64)
    logp_GKT = torch.tensor([[[-0.8], [-2.4]]], dtype=torch.float64)
    batch = Batch(
        mask_GKT=torch.ones(1, 2, 1, dtype=torch.bool),
        valid_GK=torch.ones(1, 2, dtype=torch.bool),
        rewards_GK=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        old_logp_GKT=old_GKT,
        behaviour_logp_GKT=old_GKT,
        sampler_logp_GKT=old_GKT,
    )
    # At c = 2: −[½ tanh .1 − ½ tanh(−.2)]/2
    loss = Pairless(scale=2.0).loss(PolicyOutput(logp_GKT=logp_GKT), batch).loss  # type: ignore[call-arg]
    assert loss.item() == pytest.approx(-(math.tanh(0.1) + math.tanh(0.2)) / 4)
