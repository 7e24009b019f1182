"""The recorded trials of a search: held to equal budgets, drawn, and put on a page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.record.files import RecordError
from harness.report.trials import read_trials, trials_of_suite
from harness.report.tuning_figures import tuning_drawings
from harness.report.tuning_page import best_trials, write_tuning_page

SCORES = {"grpo": [0.9, 0.2, 0.6], "sft": [0.0, 0.5, 0.4]}


def recorded(**changes: Any) -> pd.DataFrame:
    """Three trials each of an algorithm with two hyper-parameters of its own and of one with none."""
    rows = [
        {
            "algorithm": label,
            "trial": trial,
            "lr": 10.0**-trial / 1e3,
            "max_norm": 1.0,
            "critic_lr": None,
            "parameters.anchor": "old" if label == "grpo" else None,
            "parameters.beta": [0.0, 0.01, 0.0][trial] if label == "grpo" else None,
            "parameters.clip": [0.1, 0.2, 0.4][trial] if label == "grpo" else None,
            "score": score,
            "failed": int(score == 0),
            "sampler": "sobol",
            "seeds": 1,
            "token_budget": 1000,
            "generated_tokens": 600 + trial,
            "trained_tokens": 700,
            "extra_tokens": 0,
        }
        for label, scores in SCORES.items()
        for trial, score in enumerate(scores)
    ]
    return pd.DataFrame(rows).assign(**changes)


def written(folder: Path, trials: pd.DataFrame) -> Path:
    path = folder / "trials.csv"
    trials.to_csv(path, index=False)
    return path


def test_trials_lie_beside_the_runs():
    assert trials_of_suite(Path("results/runs/small")) == Path("results/tuning/small/trials.csv")


def test_what_was_written_is_read(tmp_path):
    trials = read_trials(written(tmp_path, recorded()))
    assert list(trials["score"]) == [0.9, 0.2, 0.6, 0.0, 0.5, 0.4]
    assert trials["token_budget"].eq(1000).all()


def test_trials_from_before_budgets_were_recorded_are_read(tmp_path):
    old = recorded().drop(
        columns=["sampler", "seeds", "token_budget", "generated_tokens", "trained_tokens", "extra_tokens"]
    )
    trials = read_trials(written(tmp_path, old))
    assert trials[["seeds", "token_budget", "generated_tokens"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("trials", "told"),
    [
        (recorded().iloc[:-1], "grpo has trials 3 and sft 2"),
        (recorded(token_budget=[1000] * 3 + [4000] * 3), "sft has token_budget 4,000 and grpo 1,000"),
        (recorded(seeds=[2] * 3 + [1] * 3), "grpo has seeds 2 and sft 1"),
        (recorded(sampler=["sobol"] * 3 + ["spread-sobol"] * 3), "sft has sampler spread-sobol and grpo sobol"),
        (recorded(seeds=[1, 2, 1, 1, 1, 1]), "seeds differs between the trials of one algorithm"),
    ],
)
def test_unequal_budgets_are_refused(tmp_path, trials, told):
    path = written(tmp_path, trials)
    with pytest.raises(RecordError, match=told) as refused:
        read_trials(path)
    assert str(path) in str(refused.value)


HEADING = "algorithm,trial,lr,max_norm,score,failed\n"


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", *(HEADING + row for row in ("grpo,0,1,1,high,0\n", "grpo,0,1,1,,0\n", "grpo,0,0,1,0.5,0\n"))],
)
def test_a_file_that_is_no_table_of_trials_is_named(tmp_path, text):
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"trials\.csv is no table of trials"):
        read_trials(path)


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("grpo,0,1,1,0.5,0\ngrpo,0,1,1,0.9,0\n", "trial"),
        ("grpo,0.5,1,1,0.5,0\n", "trial"),
        ("grpo,first,1,1,0.5,0\n", "trial"),
        ("grpo,0,1,1,1.5,0\n", "score"),
        ("grpo,0,1,1,-0.5,0\n", "score"),
        ("grpo,0,1,1,0.5,maybe\n", "failed"),
        ("grpo,0,1,1,0.5,-1\n", "failed"),
    ],
)
def test_trials_that_cannot_have_been_recorded_are_refused(tmp_path, rows, wrong):
    (path := tmp_path / "trials.csv").write_text(HEADING + rows)
    with pytest.raises(RecordError, match=rf"wrong or missing: {wrong}\)"):
        read_trials(path)


def test_folder_for_the_trials_is_refused(tmp_path):
    (path := tmp_path / "trials.csv").mkdir()
    with pytest.raises(RecordError, match=r"trials\.csv is a folder"):
        read_trials(path)


def test_the_best_trial_is_one_row_with_what_it_lacks():
    clip = [None, 0.2, 0.4] + [None] * 3
    best = best_trials(recorded(**{"parameters.clip": clip}))
    assert best["trial"].to_dict() == {"grpo": 0, "sft": 1}
    assert best.loc[["grpo"], "parameters.clip"].isna().all()  # and not that of another trial


def test_figures_draw_what_their_data_say():
    drawings = {
        drawing.name: drawing for drawing in tuning_drawings(recorded(), {"grpo": "GRPO", "sft": "SFT"}, "grpo")
    }
    assert list(drawings) == ["best_after_trials", "score_against_lr", "score_against_parameters"]
    best = drawings["best_after_trials"]
    own = best.data[best.data["algorithm"] == "grpo"]
    assert own["best"].to_list() == pytest.approx([17 / 30, 0.8, 0.9])  # as in test_best_of.py
    first, second = best.figure.axes[:2]
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["GRPO", "SFT"]
    assert first.lines[-1].get_ydata() == pytest.approx([17 / 30, 0.8, 0.9])
    assert second.lines[0].get_ydata() == pytest.approx([17 / 30, 0.8, 0.9])  # the baseline behind the other
    assert list(drawings["score_against_lr"].data["lr"]) == pytest.approx([1e-3, 1e-4, 1e-5] * 2)


def test_a_choice_that_holds_zero_is_drawn_in_steps_and_what_never_varied_is_not_drawn():
    drawing = tuning_drawings(recorded(), {"grpo": "GRPO", "sft": "SFT"}, None)[-1]
    assert list(drawing.data["parameter"].unique()) == ["beta", "clip"]  # the anchor is no number, SFT has none
    beta, clip = drawing.figure.axes[:2]
    assert [tick.get_text() for tick in beta.get_xticklabels()] == ["0", "0.01"]
    assert [np.asarray(line.get_xdata()).item() for line in beta.lines] == [0, 1, 0]
    assert clip.get_xscale() == "log"


def test_only_named_algorithms_are_drawn():
    assert tuning_drawings(recorded(), {"ppo": "PPO"}, "ppo") == []
    assert len(tuning_drawings(recorded(), {"sft": "SFT"}, "grpo")) == 2  # nothing of its own was searched


def test_the_page_says_what_trials_took_and_found(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    write_tuning_page(
        tmp_path, recorded(), suite="small", names={"grpo": "GRPO", "sft": "SFT"}, baseline="grpo", about={"trials": 3}
    )
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# small: tuning\n")
    # 600 + 601 + 602 tokens; 3 × 700; the expected best of one of the three, and the best
    assert (
        "| GRPO | 3 | 0 | 1.8 k | 2.1 k | 0 | 0.567 | 0.567 | 0.900 | 0.001 | 1 | anchor old, beta 0.0, clip 0.1 |"
        in page
    )
    assert "| SFT | 3 | 1 | 1.8 k | 2.1 k | 0 | 0.300 | 0.300 | 0.500 | 0.0001 | 1 |  |" in page
    assert "Every trial of every algorithm may draw 1,000 response tokens" in page
    # the learning rates fall while clip rises; two of the three β are the same: ranks 2 1 0 with .5 2 .5
    assert "is 0.50 in size in the median, and -1.00 at most (grpo, clip)" in page
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}"
        for name in ("best_after_trials", "score_against_lr", "score_against_parameters")
        for kind in ("svg", "png", "csv")
    }
    assert read_trials(tmp_path / "trials.csv")["score"].sum() == pytest.approx(2.6)


def test_the_page_says_where_tokens_were_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    trials = recorded(trained_tokens=[700] * 3 + [None] * 3, generated_tokens=[600] * 3 + [None] * 3)
    write_tuning_page(tmp_path, trials, suite="s", names={"grpo": "GRPO", "sft": "SFT"}, baseline=None, about={})
    assert "Tokens are not recorded of: sft." in (tmp_path / "README.md").read_text()
