"""What pairing and replay take from the variance of differences, and what a point costs: by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import config, write_cell

from harness.report.ablation import write_ablation
from harness.report.cast import cast_of
from harness.report.cost_figure import cost_of_point, cost_per_point

MEANS = {
    # hundredths at seeds 0 to 3
    "own": {"gvpo": (50, 52, 54, 56), "grpo": (50, 50, 54, 54)},
    "GRPO": {"gvpo": (50, 51, 54, 55), "grpo": (50, 50, 54, 54)},
}
SETTINGS = {
    "quantity": "rollouts of", "axis": "categories", "reference": "own", "note": None,
    "points": [{"label": "own"}, {"label": "GRPO", "set": ["train.replay=grpo"]}],
}  # fmt: skip


def of_mean(hundredths: int) -> dict[str, np.ndarray]:
    score_PK = np.zeros((4, 100))
    score_PK[:, :hundredths] = 1
    return {"arithmetic": score_PK, "arithmetic-hard": score_PK[:2]}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    folder = tmp_path / "runs" / "same-data"
    for point, algorithms in MEANS.items():
        settings = config(ablation=SETTINGS)
        settings["evaluation"]["samples"] = 100
        settings["train"] = settings["train"] | ({"replay": "grpo"} if point == "GRPO" else {})
        for label, means in algorithms.items():
            for seed, mean in enumerate(means):
                cell = write_cell(folder / point, label, seed, of_mean(mean), curve=[0.1, 0.2], settings=settings)
                if (point, label) == ("GRPO", "gvpo"):
                    about = json.loads((cell / "manifest.json").read_text())
                    about["replay"] = {"cell": f"grpo-s{seed}", "off_policy": True}
                    about["tokens"] |= {"replayed": about["tokens"]["generated"], "generated": 0}
                    (cell / "manifest.json").write_text(json.dumps(about))
    settings = config(ablation=SETTINGS)
    settings["evaluation"]["samples"] = 100
    write_cell(folder / "own", "base", None, of_mean(30), settings=settings)
    return folder


def test_report_says_how_much_variance_pairing_and_replay_remove(runs, tmp_path):
    report = write_ablation(runs, tmp_path / "same-data")
    rows = pd.read_csv(tmp_path / "same-data" / "pairing.csv").set_index("point")
    # own: d = 0, 2, 0, 2 hundredths: Var d = 4/3, sd = 1.1547; Var x = (9 + 1 + 1 + 9)/3 = 20/3, Var y = 16/3
    own, replay = rows.loc["own"], rows.loc["GRPO"]
    assert (own["first"], own["second"], own["matched_seeds"]) == ("gvpo", "grpo", 4)
    assert own["sd"] == pytest.approx(0.011547, abs=1e-6)
    assert own["removed"] == pytest.approx(1 - (4 / 3) / (36 / 3))
    assert np.isnan(own["ratio"])
    # GRPO: d = 0, 1, 0, 1: a quarter of the variance, in proportion to own's, so the interval has no width
    assert replay["ratio"] == pytest.approx(0.25)
    assert (replay["ratio_ci_low"], replay["ratio_ci_high"]) == (pytest.approx(0.25), pytest.approx(0.25))
    text = (tmp_path / "same-data" / "table.md").read_text()
    assert "| GVPO − GRPO | 0.0115 | 89% (" in text
    assert "| 0.25 (0.25 to 0.25) |" in text
    assert "At GRPO, pairing removes" in text
    assert "the variance of a difference is 0.25 times that at own (geometric mean; 0.25 to 0.25)" in text
    assert "of 1 pairs it is lower for 1 and higher for 0 with 95% confidence." in text
    assert "GRPO: GVPO were trained on the rollouts that GRPO drew at the same seed: off-policy data" in text
    assert "GVPO declare that they are right whatever policy sampled" in text
    table = report.table.set_index(["point", "label"])
    assert table.loc[("GRPO", "gvpo"), "generated_tokens"] == 0
    replayed = table["replayed_tokens"].to_dict()
    assert replayed["GRPO", "gvpo"] == table["generated_tokens"].to_dict()["GRPO", "grpo"]


def test_a_point_costs_mean_cost_over_mean_gain():
    # (10 + 30)/2 = 20 over (0.1 + 0.3)/2 = 20 points; each seed by itself has the same price
    same = cost_of_point(np.array([10.0, 30.0]), np.array([0.1, 0.3]))
    assert same[:3] == pytest.approx((1.0, 1.0, 1.0))
    # 12 seconds for 30 points or 50: of the four draws of two seeds one in four has 30 twice, and one 50 twice
    other = cost_of_point(np.array([12.0, 12.0]), np.array([0.3, 0.5]))
    assert other[:3] == pytest.approx((12 / 40, 12 / 50, 12 / 30))
    assert np.isinf(cost_of_point(np.array([10.0, 30.0]), np.array([0.1, -0.3])).mean)
    assert cost_of_point(np.zeros(2), np.array([0.1, 0.2])).mean == 0


def test_costs_are_drawn_of_those_who_gained_and_paid():
    seeds = pd.DataFrame(
        {
            "algorithm": ["gvpo", "gvpo", "rft", "rft", "sft", "sft"],
            "avg_at_k": [0.6, 0.8, 0.3, 0.3, 0.5, 0.5],
            "seconds": [10.0, 30.0, 5.0, 5.0, 4.0, 4.0],
            "generated_tokens": [100.0, 300.0, 50.0, 50.0, 0.0, 0.0],
            "trained_tokens": [200.0, 200.0, 50.0, 50.0, 40.0, 40.0],
        }
    )
    scored = pd.DataFrame({"algorithm": ["base", "gvpo", "sft", "rft"], "avg_at_k": [0.3, 0.7, 0.5, 0.3]})
    names = {"gvpo": "GVPO", "sft": "SFT", "rft": "RFT"}
    found = cost_per_point(seeds, scored, cast_of(names, list(names), {}, None, ()))
    assert found is not None
    figure, data = found
    price = data.set_index(["algorithm", "cost"])["per_point"]
    assert price["gvpo", "seconds"] == pytest.approx(20 / 40)
    assert price["sft", "trained_tokens"] == pytest.approx(40 / 20)
    assert np.isinf(price["rft", "seconds"])  # as good as the base
    assert price["sft", "generated_tokens"] == 0  # drew nothing
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "seconds a point", "generated tokens a point", "trained tokens a point",
    ]  # fmt: skip
    marks = [len(axes.containers) for axes in figure.axes]
    assert marks == [2, 1, 2]
