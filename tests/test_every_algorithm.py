"""Where the update of every registered algorithm ends, on problems whose answers are known."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from algorithms import ALGORITHMS, Algorithm, Batch, LossOutput, Needs, PolicyOutput
from algorithms.base import hyperparameter, sequence_log_ratio, stop_gradient
from algorithms.gvpo import GVPO
from harness.theory.claims import to_markdown, to_table
from harness.theory.every_algorithm import (
    BETA,
    GRID,
    K,
    Setting,
    as_text,
    groups_of,
    random_setting,
    settle,
    where_it_ends,
)
from harness.theory.findings import SMALL, Record


@functools.cache
def rows(label: str) -> pd.DataFrame:
    return where_it_ends(label, ALGORITHMS[label], SMALL, 0)


def ends(label: str, cls: type[Algorithm] | None = None) -> dict[tuple[str, str], str]:
    table = where_it_ends(label, cls, SMALL, 0) if cls else rows(label)
    return dict(zip(zip(table["settings"], table["sampled_from"], strict=True), table["ends_at"], strict=True))


@pytest.mark.parametrize("label", ALGORITHMS)
def test_every_registered_algorithm_has_rows(label: str) -> None:
    table = rows(label)
    assert len(table) >= 1
    assert not table["ends_at"].isin(["diverges", "not settled"]).any()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("gvpo", {"π*"}),  # whatever policy sampled
        ("tba", {"π*"}),
        ("rloo", {"π*"}),
        ("gvpd", {"the teacher"}),
        ("sft", {"the given answers"}),
        ("rft", {"π' among R > ½"}),  # a right response is as likely as the anchor makes it
        ("offline_dpo", {"π*"}),  # of Bradley-Terry labels
        ("gspo", {"the best responses alone"}),
        ("remax", {"the best responses alone"}),
    ],
)
def test_ends_that_are_known_by_other_means(label: str, expected: set[str]) -> None:
    assert set(ends(label).values()) == expected


def test_kimi_on_policy_ends_at_a_larger_beta_since_its_baseline_contains_the_sample() -> None:
    # β k/(k−1) = .6 · 3/2 = .9 (derived in optimum.py, and measured there)
    assert ends("kimi")["beta 0.6, anchor reference", "π_θ"] == "π' e^{R/b}, b = 0.9"


def test_an_algorithm_whose_beta_is_zero_by_default_has_a_row_with_it_and_one_without() -> None:
    assert ends("ppo") == {(f"beta {BETA}", "π_θ"): "π*", ("", "π_θ"): "the best responses alone"}


@dataclass(frozen=True, kw_only=True)
class Wrong(GVPO):
    """GVPO that counts the reward twice: its β is half of what it says."""

    name: ClassVar[str] = "wrong"

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        log_ratio_GK = sequence_log_ratio(policy, batch, self.anchor)
        residual_GK = self.beta * log_ratio_GK - 2 * batch.rewards_GK
        residual_GK = residual_GK - residual_GK.mean(-1, keepdim=True)
        return LossOutput(loss=residual_GK.square().sum(-1).mean())


def test_a_loss_of_another_beta_is_told_from_one_that_reaches_the_optimum() -> None:
    assert set(ends("wrong", Wrong).values()) == {"π' e^{R/b}, b = 0.3"}


@dataclass(frozen=True, kw_only=True)
class Ascent(Algorithm):
    """Pushes down what is right: the sign that a beginner gets wrong."""

    name: ClassVar[str] = "ascent"
    scale: float = hyperparameter(1.0, "a factor")

    @property
    def needs(self) -> Needs:
        return Needs(min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        advantage_GK = stop_gradient(batch.rewards_GK - batch.rewards_GK.mean(-1, keepdim=True))
        return LossOutput(loss=self.scale * (advantage_GK * policy.logp_GKT[..., 0]).mean())


def test_a_wrong_sign_does_not_end_at_the_best_responses() -> None:
    table = where_it_ends("ascent", Ascent, SMALL, 0)
    assert table["off_best"].item() > 0.99
    assert table["ends_at"].item() not in ("π*", "the best responses alone")


def test_samples_of_the_reference_stand_for_it_without_noise() -> None:
    setting = random_setting(np.random.default_rng(0), 2)
    logits_EN = setting.problem.anchor_logp_EN
    algorithm = ALGORITHMS["a_star_po"]()
    reward_EGN = groups_of(algorithm, setting, logits_EN, logits_EN).known_EGK["reference_reward_GN"]
    assert reward_EGN.shape[-1] == GRID
    expected_E = (setting.problem.anchor_logp_EN.exp() * setting.problem.reward_EN).sum(-1)
    assert reward_EGN[:, 0].mean(-1).tolist() == pytest.approx(expected_E.tolist())


def test_groups_that_would_be_refilled_have_no_weight() -> None:
    setting = random_setting(np.random.default_rng(0), 1)
    logits_EN = torch.zeros_like(setting.problem.reward_EN)
    groups = groups_of(ALGORITHMS["dapo"](), setting, logits_EN, logits_EN.log_softmax(-1))
    equal_EG = (groups.known_EGK["reward"] == groups.known_EGK["reward"][..., :1]).all(-1)
    assert equal_EG.any()
    assert (groups.weight_EG[equal_EG] == 0).all()
    assert groups.weight_EG.sum(-1).tolist() == pytest.approx([1.0] * len(equal_EG))
    assert groups.index_GK.shape[1] == K


def test_a_field_with_a_known_rest_is_followed_to_it() -> None:
    # d log π/dt = log(½, ¼, ⅛, ⅛) − log π, up to a shift
    target = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    setting = random_setting(np.random.default_rng(0), 1)

    def field(logits_EN: torch.Tensor, _: Setting) -> torch.Tensor:
        return target - logits_EN.log_softmax(-1)

    logp_EN, speed_E = settle(field, setting, torch.zeros_like(setting.problem.reward_EN), 60)
    assert (logp_EN - target).abs().max() < 1e-8
    assert speed_E.max() < 1e-8


def test_the_page_lists_them_by_family() -> None:
    table = pd.concat([rows(label) for label in ("gvpo", "sft")])
    assert list(as_text(table)["algorithm"]) == ["SFT", "GVPO", "GVPO"]
    record = Record("claim")
    record.near("eq", "s", "q", 0.0, tolerance=1.0)
    page = to_markdown(to_table([record]), {}, "made", table)
    assert "## Where every algorithm ends" in page
    assert "| SFT | supervised |  | given | the given answers |" in page
    assert not math.isnan(table["spread"].max())
