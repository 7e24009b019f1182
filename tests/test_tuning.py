"""Tuning: as many trials for each algorithm, over shared points, on seeds and problems that no table uses."""

import dataclasses
import json
import shutil
import tomllib

import numpy as np
import pandas as pd
import pytest
from small import command, manifest, write_suite

from algorithms import ALGORITHMS
from harness.preflight.checks import Check
from harness.suite.load import load_suite
from harness.sweep.tuning import trials

pytest_plugins = ["small_fixtures"]

EVERY = ["gvpo", "grpo", "ppo", "dpo", "kimi", "pg"]


@pytest.fixture(scope="module")
def suite():
    """The embedded suite, for its trials alone."""
    return load_suite("embedded")


@pytest.mark.parametrize("label", EVERY)
def test_trials_are_as_many_for_each_algorithm_and_lie_in_the_ranges(suite, label):
    found = trials(suite, label)
    assert len(found) == suite.tuning.trials
    spaces = {f.name: f.metadata["search"] for f in dataclasses.fields(ALGORITHMS[label])}  # type: ignore[arg-type]
    searched = {name for name, space in spaces.items() if space is not None}
    for trial in found:
        for name in ("lr", "max_norm"):
            low, high = getattr(suite.tuning, name)
            assert low <= trial["optimizer"][name] <= high
        assert searched <= set(trial["parameters"])
        for name in searched:
            space, value = spaces[name], trial["parameters"][name]
            assert value in space.values if hasattr(space, "values") else space.low <= value <= space.high
        assert ("critic_lr" in trial["optimizer"]) == (label == "ppo")


@pytest.mark.parametrize("alike", [("gvpo", "dpo", "kimi", "pg", "dapo"), ("grpo", "ppo", "gspo", "reinforce_pp")])
def test_algorithms_with_as_many_hyperparameters_get_the_same_learning_rates_and_clipping(suite, alike):
    shared = [
        [(trial["optimizer"]["lr"], trial["optimizer"]["max_norm"]) for trial in trials(suite, label)]
        for label in alike
    ]
    assert all(points == shared[0] for points in shared)
    assert len(set(shared[0])) == suite.tuning.trials


def test_every_clipped_ratio_is_tuned_where_it_clips(suite):
    for label in ("grpo", "ppo", "reinforce_pp", "reinforce_pp_baseline", "dr_grpo"):
        assert len({trial["parameters"]["clip"] for trial in trials(suite, label)}) == suite.tuning.trials
        assert all(0.05 <= trial["parameters"]["clip"] <= 0.8 for trial in trials(suite, label))


def test_trials_cover_both_halves_of_each_range(suite):
    """Eight points of a Sobol sequence in base 2: four fall into each half of every coordinate."""
    low, high = suite.tuning.lr
    middle = (low * high) ** 0.5  # 1.7e-4
    assert sum(trial["optimizer"]["lr"] < middle for trial in trials(suite, "gvpo")) == 4


@pytest.mark.parametrize(("sampler", "low", "high"), [("sobol", 0.8, 0.85), ("spread-sobol", 0.0, 0.3)])
def test_spread_points_vary_the_learning_rate_and_an_algorithms_own_apart(sampler, low, high):
    suite = load_suite("embedded", [f"tuning.sampler={sampler}"])
    assert suite.tuning is not None
    found = trials(suite, "gvpo")
    lr, beta = ([np.log(x) for x in of] for of in zip(*map(lr_and_beta, found), strict=True))
    assert low <= abs(np.corrcoef(lr, beta)[0, 1]) <= high
    middle = (suite.tuning.lr[0] * suite.tuning.lr[1]) ** 0.5
    assert sum(trial["optimizer"]["lr"] < middle for trial in found) == 4  # each range is covered as before


def lr_and_beta(trial):
    return trial["optimizer"]["lr"], trial["parameters"]["beta"]


def test_trials_are_the_same_at_every_call(suite):
    assert trials(suite, "gvpo") == trials(suite, "gvpo")


def test_trials_keep_the_entrys_other_parameters():
    suite = load_suite("embedded-stale")
    assert {trial["parameters"]["anchor"] for trial in trials(suite, "gvpo")} == {"behaviour"}


COUNTING = """
from dataclasses import dataclass

from algorithms.base import Algorithm, Choice, hyperparameter


@dataclass(frozen=True)
class Counting(Algorithm):
    name = "Counting"
    rounds: int = hyperparameter(1, "How often.", search=Choice((1, 2)))
    whole: bool = hyperparameter(True, "Whether all.", search=Choice((False, True)))

    def loss(self, policy, batch):
        raise NotImplementedError
"""


def test_what_a_choice_holds_is_tried_as_it_is(tmp_path):
    (tmp_path / "counting.py").write_text(COUNTING)
    entry = f"algorithms.counting.algorithm='{tmp_path / 'counting.py'}:Counting'"
    found = [trial["parameters"] for trial in trials(load_suite("embedded", [entry], ["counting"]), "counting")]
    assert {type(parameters["rounds"]) for parameters in found} == {int}
    assert {type(parameters["whole"]) for parameters in found} == {bool}


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    settings = ["--set", "train.steps=2", "--set", "resources.checkpoint_every=0", "--set", "tracking.tensorboard=true"]
    assert command("tune", write_suite(folder, base), *settings, "--workers", 1, "--out", folder) == 0
    return folder


def test_trials_use_the_tuning_seeds_and_problems_and_no_others(tuned):
    runs = tuned / "runs" / "small-tuning"
    cells = sorted(path for path in runs.iterdir() if path.is_dir())
    assert [cell.name for cell in cells] == [f"{label}-t{i}-s1000" for label in ("gvpo", "ppo") for i in range(2)]
    for cell in cells:
        assert set(pd.read_parquet(cell / "samples.parquet")["benchmark"]) == {"arithmetic-tune"}
        assert manifest(cell)["seed"] == 1000


def test_trackers_are_told_of_trials(tuned):
    told = {path.name for path in (tuned / "tracking" / "small-tuning" / "tensorboard").iterdir()}
    assert told == {f"{label}-t{i}-s1000" for label in ("gvpo", "ppo") for i in range(2)}


def test_every_trial_is_recorded_with_its_score(tuned):
    table = pd.read_csv(tuned / "tuning" / "small" / "trials.csv")
    assert table.groupby("algorithm").size().to_dict() == {"gvpo": 2, "ppo": 2}
    for row in table.itertuples():
        samples = pd.read_parquet(
            tuned / "runs" / "small-tuning" / f"{row.algorithm}-t{row.trial}-s1000" / "samples.parquet"
        )
        assert row.score == pytest.approx(samples["score"].mean(), rel=1e-5)


def test_every_trial_is_recorded_with_its_budget_and_what_it_took(tuned):
    table = pd.read_csv(tuned / "tuning" / "small" / "trials.csv")
    assert set(table["seeds"]) == {1}
    assert set(table["token_budget"]) == {2 * 8 * 8 * 4}  # steps, prompts, samples, tokens of a response
    assert table["generated_tokens"].between(1, 2 * 8 * 8 * 4).all()
    for row in table.itertuples():
        spent = manifest(tuned / "runs" / "small-tuning" / f"{row.algorithm}-t{row.trial}-s1000")["tokens"]
        assert (row.generated_tokens, row.trained_tokens) == (spent["generated"], spent["trained"])
        assert row.extra_tokens == spent["scored"] + spent["critic"] + spent["reference"]


def test_another_algorithm_joins_the_trials_that_are_there(tuned, tmp_path):
    """One of the two again, into a copy: what was found of the other stays, and nothing is run twice."""
    shutil.copytree(tuned, tmp_path / "copy")
    folder = tmp_path / "copy" / "tuning" / "small"
    before = {name: (folder / name).read_text() for name in ("trials.csv", "best.toml")}
    settings = ["--set", "train.steps=2", "--set", "resources.checkpoint_every=0"]
    arguments = ["--algorithm", "ppo", "--workers", 1, "--out", tmp_path / "copy"]
    assert command("tune", tuned / "small.toml", *settings, *arguments) == 0
    assert (folder / "trials.csv").read_text() == before["trials.csv"]
    old, new = (tomllib.loads(text) for text in (before["best.toml"], (folder / "best.toml").read_text()))
    assert old == new
    comments = [line for line in (folder / "best.toml").read_text().splitlines() if line.startswith("#")]
    assert len(comments) == 2  # the commands that found the one and the other
    assert "--algorithm ppo" in comments[1]


def test_trials_of_another_budget_are_not_joined(tuned, tmp_path, capsys):
    shutil.copytree(tuned, tmp_path / "copy")
    arguments = ["--algorithm", "ppo", "--workers", 1, "--out", tmp_path / "copy"]
    assert command("tune", tuned / "small.toml", "--set", "train.steps=3", *arguments) == 3
    assert "ppo has token_budget 768 and gvpo 512, which is no fair search" in capsys.readouterr().err
    assert command("tune", tuned / "small.toml", "--set", "tuning.trials=4", *arguments) == 3
    assert "ppo has trials 4 and gvpo 2" in capsys.readouterr().err


def test_best_settings_that_are_gone_are_not_guessed(tuned, tmp_path, capsys):
    shutil.copytree(tuned, tmp_path / "copy")
    (tmp_path / "copy" / "tuning" / "small" / "best.toml").unlink()
    arguments = ["--algorithm", "ppo", "--workers", 1, "--out", tmp_path / "copy"]
    assert command("tune", tuned / "small.toml", "--set", "train.steps=2", *arguments) == 3
    assert "best.toml does not hold what trials.csv beside it found" in capsys.readouterr().err


def test_the_search_has_a_page_with_its_figures(tuned):
    folder = tuned / "tuning" / "small"
    page = (folder / "README.md").read_text()
    assert page.startswith("# small: tuning")
    for name in ("best_after_trials", "score_against_lr", "score_against_parameters"):
        assert f"](figures/{name}.svg)" in page
        assert all((folder / "figures" / f"{name}.{kind}").stat().st_size for kind in ("svg", "png", "csv"))


def test_best_has_the_highest_score_and_can_be_copied_into_the_suite(tuned):
    table = pd.read_csv(tuned / "tuning" / "small" / "trials.csv")
    best = tomllib.loads((tuned / "tuning" / "small" / "best.toml").read_text(encoding="utf-8"))
    assert list(best["algorithms"]) == ["gvpo", "ppo"]
    raw = tomllib.loads((tuned / "small.toml").read_text(encoding="utf-8"))
    for label, entry in best["algorithms"].items():
        own = table[table["algorithm"] == label]
        winners = own[own["score"] == own["score"].max()]
        assert any(
            entry["optimizer"]["lr"] == pytest.approx(row.lr, rel=1e-5)
            and entry["optimizer"]["max_norm"] == pytest.approx(row.max_norm, rel=1e-5)
            for row in winners.itertuples()
        )
        raw["algorithms"][label] = entry
    suite = load_suite(str(tuned / "small.toml"))
    copied = type(suite).model_validate_json(json.dumps(raw))
    assert copied.algorithms["gvpo"].parameters["beta"] in [t["parameters"]["beta"] for t in trials(suite, "gvpo")]


def test_suite_without_tuning_is_refused(tuned, tmp_path, capsys):
    text = (tuned / "small.toml").read_text()
    start, end = text.index("[tuning]"), text.index("[algorithms.gvpo]")
    path = tmp_path / "untuned.toml"
    path.write_text(text[:start] + text[end:])
    assert command("tune", path, "--out", tmp_path / "out") == 2
    assert "suite small has no [tuning] section" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_trials_that_would_waste_their_hours_are_not_started(tuned, tmp_path, monkeypatch, capsys):
    found = [Check("disk", "fail", "9 GB needed, 1 free", "free some")]
    monkeypatch.setattr("harness.sweep.run.examine", lambda *_, **__: found)
    assert command("tune", tuned / "small.toml", "--out", tmp_path / "out") == 2
    assert "disk: 9 GB needed, 1 free. free some" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
