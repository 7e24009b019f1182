"""The atlas: portraits with numbers worked out by hand, what is read from docstrings, and that docs/ is up to date."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from algorithms import ALGORITHMS, Algorithm, Batch, LossOutput, PolicyOutput
from algorithms.base import Family, sequence_sum
from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.gvpo import GVPO
from algorithms.ppo import PPO
from algorithms.sft import SFT
from algorithms.topr import TOPR
from harness.kit.atlas import Entry, data, entries, entry_of, page
from harness.kit.cards import CardError, card_of, load
from harness.kit.plain_portrait import plain
from harness.kit.portrait_figures import SLIDE, sheet
from harness.kit.portraits import curves, portrait, shares
from harness.kit.traits import traits_of

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def atlas() -> list[Entry]:
    return entries()


def at(rows: pd.DataFrame, kind: str, log_ratio: float) -> float:
    line = curves(rows)[kind]
    return float(line.loc[np.isclose(line["log_ratio"], log_ratio), "coefficient"].iloc[0])


def does(algorithm: Algorithm) -> tuple[str, ...]:
    return traits_of(algorithm, portrait(algorithm, "x")).does


@dataclass(frozen=True, kw_only=True)
class Undocumented(Algorithm):
    name: ClassVar[str] = "Undocumented"

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        """REINFORCE without a baseline."""
        return LossOutput(loss=-(batch.rewards_GK * sequence_sum(policy.logp_GKT, batch.mask_GKT)).mean())


@dataclass(frozen=True, kw_only=True)
class Overflowing(Undocumented):
    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        """Fails where a response has moved."""
        moved_GK = sequence_sum(policy.logp_GKT - batch.old_logp_GKT, batch.mask_GKT)
        return LossOutput(loss=torch.exp(1000 * moved_GK).sum())


def test_the_page_is_what_the_classes_say_now(atlas: list[Entry]) -> None:
    written = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    assert written == page(atlas), "docs/algorithms.md is out of date: make atlas"


def test_the_portraits_in_docs_are_what_the_classes_do_now(atlas: list[Entry]) -> None:
    written, now = pd.read_csv(DOCS / "portraits.csv"), data(atlas)
    pd.testing.assert_frame_equal(written, now, rtol=1e-4, atol=1e-5, obj="docs/portraits.csv (make atlas)")


def test_every_algorithm_has_its_portrait_in_docs_and_nobody_else_has(atlas: list[Entry]) -> None:
    assert {path.stem for path in (DOCS / "portraits").glob("*.svg")} == set(ALGORITHMS)
    assert [path for path in (DOCS / "portraits.png", DOCS / "portraits.svg") if not path.is_file()] == []


def test_every_registered_algorithm_states_formula_source_limits_and_kin(atlas: list[Entry]) -> None:
    for card, *_ in atlas:
        assert any(text.startswith(" ") and "L = " in text for text in card.body), card.name
        assert card.short_source, card.name
        assert card.reduces_to, card.name
        assert card.pitfalls, card.name


def test_families_stay_together_in_the_order_of_the_contract(atlas: list[Entry]) -> None:
    order = list(Family.__args__)  # type: ignore[attr-defined]
    places = [order.index(entry.card.family) for entry in atlas]
    assert places == sorted(places)
    assert len(atlas) == len(ALGORITHMS)


def test_all_algorithms_fit_one_slide_and_no_title_leaves_it(atlas: list[Entry]) -> None:
    figure = sheet([entry.picture for entry in atlas])
    assert tuple(figure.get_size_inches()) == SLIDE
    figure.draw_without_rendering()
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()


def test_gvpos_portrait_is_its_weight() -> None:
    """C ∝ (R_i − R̄) − β(ℓ_i − ℓ̄). Half of 8 right: R_i − R̄ = ±½; one moved by 2: ℓ_i − ℓ̄ = 2 · 7/8 = 1.75.

    Right, β = 0.1: (0.5 − 0.175)/0.5 = 0.65. Wrong: (−0.5 − 0.175)/0.5 = −1.35. All wrong: −0.175/0.5 = −0.35.
    """
    rows = portrait(GVPO(beta=0.1), "gvpo")
    assert at(rows, "right", 2.0) == pytest.approx(0.65)
    assert at(rows, "wrong", 2.0) == pytest.approx(-1.35)
    assert at(rows, "tied", 2.0) == pytest.approx(-0.35)


def test_grpos_portrait_is_the_ratio_until_it_is_clipped() -> None:
    """ℓ nats on 8 tokens are ρ = e^(ℓ/8) each: 1 + ε = 1.2 is reached at 8 ln 1.2 = 1.459, 1 − ε at 8 ln 0.8 = −1.785.

    On-policy with r of 8 right: (1 − r/8)/√(8/7 · r/8 (1 − r/8)), over its value at r = 4, which is √(7/8):
    at r = 1, (7/8)/√(8/7 · 7/64)/√(7/8) = √7.
    """
    rows = portrait(GRPO(), "grpo")
    assert at(rows, "right", 1.4) == pytest.approx(math.exp(1.4 / 8))
    assert at(rows, "right", 1.5) == 0
    assert at(rows, "wrong", -1.75) == pytest.approx(-math.exp(-1.75 / 8))
    assert at(rows, "wrong", -1.8) == 0
    assert at(rows, "tied", 4.0) == 0
    line = shares(rows)["right"]
    assert float(line.loc[line["right"] == 1, "coefficient"].iloc[0]) == pytest.approx(math.sqrt(7), rel=1e-5)


def test_the_critic_of_a_portrait_knows_how_hard_the_prompt_is() -> None:
    """A = R − V = 1 − r/8; the whitening over the 64 responses of the batch is all but the same for every r."""
    line = shares(portrait(PPO(), "ppo"))["right"]
    assert line["coefficient"].to_list() == pytest.approx([2 * (1 - r / 8) for r in range(1, 9)], rel=0.05)


def test_given_answers_are_all_right_and_one_a_prompt() -> None:
    rows = portrait(SFT(), "sft")
    assert set(curves(rows)) == {"right"}
    assert shares(rows) == {}
    assert (rows["coefficient"] == 1).all()


def test_traits_say_who_clips_weights_pulls_back_and_ignores() -> None:
    assert does(GRPO()) == ("clips", "weights")
    assert does(GVPO()) == ("pulls back",)
    assert does(DPO()) == ("weights",)
    assert does(SFT()) == ("ignores the ratio and the reward",)
    assert does(Undocumented()) == ("ignores the ratio and the wrong",)
    assert does(GRPO(beta=0.5)) == ("clips", "weights", "pulls back")  # towards the reference


def test_traits_say_what_a_ratio_is_taken_over_and_whose_it_is() -> None:
    def compared(algorithm: Algorithm) -> str:
        return traits_of(algorithm, portrait(algorithm, "x")).compared

    assert compared(GRPO()) == "token ratio · behaviour · 1/|y|"
    assert compared(GRPO(beta=0.04)) == "token ratio · behaviour, reference · 1/|y|"
    assert compared(GVPO()) == "response ratio · old"
    assert compared(TOPR()) == "response ratio · behaviour"  # of wrong responses alone
    assert compared(Undocumented()) == "no ratio"


def test_every_portrait_fits_a_terminal_of_eighty_columns(atlas: list[Entry]) -> None:
    for entry in atlas:
        assert max(map(len, plain(entry.rows).splitlines())) <= 80


def test_a_steep_line_has_no_holes_in_a_terminal() -> None:
    """PG + KL's right line rises from 0 to beyond the chart, so every line of its upper half has a sign."""
    chart = plain(portrait(ALGORITHMS["pg"](), "pg")).splitlines()[:9]
    assert all("●" in line for line in chart)


def test_an_algorithm_of_ones_own_without_a_docstring_is_shown_as_far_as_it_goes() -> None:
    entry = entry_of(Undocumented, "mine.py:Undocumented")
    assert entry.card.body == ()
    assert entry.card.parameters == ()
    assert "not stated" in page([entry])


def test_paragraphs_are_told_apart_by_their_first_words() -> None:
    card = card_of(GVPO, "gvpo")
    assert card.body[0].startswith("The sample variance")
    assert card.body[1].startswith("    L = 1/|D|")
    assert card.reduces_to.startswith("Kimi")
    assert not any(text.startswith(("Reduces to", "Pitfalls")) for text in card.body)


def test_a_loss_that_is_not_finite_on_the_probe_is_named() -> None:
    with pytest.raises(CardError, match=r"^mine: its loss fails on the portrait's batch: the coefficient is -inf at ℓ"):
        entry_of(Overflowing, "mine")


def test_a_hyperparameter_without_a_default_is_an_error() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Demanding(Undocumented):
        scale: float

    with pytest.raises(CardError, match=r"scale.*give every hyper-parameter a sound default"):
        entry_of(Demanding, "mine")


@pytest.mark.parametrize(
    ("typed", "meant"), [("gpro", "grpo"), ("dr-grpo", "dr_grpo"), ("GVPO", "gvpo"), ("star", "a_star_po")]
)
def test_an_unknown_name_gets_the_near_ones(typed: str, meant: str) -> None:
    with pytest.raises(CardError, match=f"did you mean .*{meant}"):
        load(typed)
