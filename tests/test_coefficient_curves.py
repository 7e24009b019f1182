"""Gradient coefficients over training: what a row says of them, and what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import Spy, run

from algorithms.rft import RFT
from harness.report.cast import cast_of
from harness.report.coefficient_curves import over_training, unrecorded_notes
from harness.report.comparison import COEFFICIENT_CURVES
from harness.training.coefficient_metrics import coefficient_metrics


def test_sums_share_of_zeros_and_quantiles_by_hand():
    # Tokens 1 to 20 have C = −3, …, 0, 0, …, 4 in some order; what is under the mask does not count.
    values = [-3.0, -1.0, 0.0, 0.0, 0.0, *[0.5] * 13, 2.0, 4.0]
    gradient_GKT = -torch.tensor([*values[::-1], 9.0]).reshape(1, 3, 7)
    mask_GKT = torch.ones(1, 3, 7, dtype=torch.bool)
    mask_GKT[0, 2, 6] = False
    assert coefficient_metrics(gradient_GKT, mask_GKT) == {
        "coefficient_positive": 13 * 0.5 + 6.0,
        "coefficient_negative": -4.0,
        "coefficient_zero": 3 / 20,
        "coefficient_low": -3.0,  # 1 of 20 tokens is at most that: 5%
        "coefficient_median": 0.5,
        "coefficient_high": 2.0,  # 19 of 20
    }


def test_a_single_token_is_every_quantile():
    found = coefficient_metrics(torch.tensor([[[0.25]]]), torch.ones(1, 1, 1, dtype=torch.bool))
    assert (found["coefficient_low"], found["coefficient_high"], found["coefficient_positive"]) == (-0.25, -0.25, 0.0)


def test_a_step_has_the_means_of_its_updates(tmp_path):
    spy = Spy(RFT())
    found = run(tmp_path, spy, steps=1, mini_batches=2, lr=1e-12)
    # RFT pushes every right token up alike, and wrong ones not at all.
    shares = []
    for _, batch in spy.updates:
        right_GKT = batch.mask_GKT & (batch.rewards_GK > 0.5)[..., None]
        shares.append(1 - float(right_GKT.sum() / batch.mask_GKT.sum()))
    assert found.rows[0]["coefficient_zero"] == pytest.approx(sum(shares) / 2)
    assert found.rows[0]["coefficient_negative"] == 0
    assert found.rows[0]["coefficient_positive"] > 0


def curves(**zeros):
    """Two seeds and three steps of each algorithm; positive sums 1, 2, 3 at seed 0 and 3, 4, 5 at seed 1."""
    rows = []
    for label, zero in zeros.items():
        for seed in (0, 1):
            for step in (1, 2, 3):
                row: dict[str, Any] = dict.fromkeys(COEFFICIENT_CURVES, 0.0 if zero is not None else np.nan)
                row |= {"algorithm": label, "seed": seed, "step": step, "coefficient_zero": zero}
                if zero is not None:
                    row |= {"coefficient_positive": step + 2.0 * seed, "coefficient_negative": -2.0 * step}
                rows.append(row)
    return pd.DataFrame(rows)


def test_figures_show_each_algorithm_in_units_of_its_largest_and_their_data_as_recorded():
    names = {"gvpo": "GVPO", "rft": "RFT"}
    sums, quantiles = over_training(curves(gvpo=0.5, rft=0.25), cast_of(names, list(names), {}, None, ()))
    assert (sums.name, quantiles.name) == ("coefficient_sums", "coefficient_quantiles")
    own = sums.data.groupby(["algorithm", "metric"])["mean"].agg(list)
    assert own["gvpo", "coefficient_positive"] == [2.0, 3.0, 4.0]
    assert own["rft", "coefficient_zero"] == [0.25] * 3
    first, *_ = sums.figure.axes
    assert first.get_title() == "GVPO   (1 ≙ 6)"  # the largest of all means: −6 at step 3
    positive, negative, zero = first.lines[:3]
    assert positive.get_ydata() == pytest.approx([2 / 6, 3 / 6, 4 / 6])
    assert negative.get_ydata() == pytest.approx([-2 / 6, -4 / 6, -1])
    assert zero.get_ydata() == pytest.approx([0.5] * 3)


def test_cells_that_recorded_none_are_named_and_have_no_figure():
    names = {"gvpo": "GVPO", "rft": "RFT"}
    old = curves(gvpo=0.5, rft=None)
    (note,) = unrecorded_notes(old, names)
    assert note.endswith("over training: RFT, whose cells were recorded without them.")
    cast = cast_of(names, list(names), {}, None, ())
    assert set(next(over_training(old, cast)).data["algorithm"]) == {"gvpo"}
    nobody = curves(gvpo=None, rft=None)
    assert "all algorithms" in unrecorded_notes(nobody, names)[0]
    assert list(over_training(nobody, cast)) == []
    assert unrecorded_notes(curves(gvpo=0.5), names) == []
    assert not list(over_training(pd.DataFrame(), cast))
    assert not unrecorded_notes(pd.DataFrame(), names)
