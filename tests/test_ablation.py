"""Ablations: one suite, a point for each value, one table."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from publishing import write_small_ablation
from small import command, files, manifest
from synthetic_runs import config, write_cell

from harness.report import figures
from harness.report.ablation import write_ablation
from harness.report.comparison import ReportError
from harness.suite.config import ConfigError
from harness.suite.load import load_suite, points_of
from harness.suite.plan import plan

pytest_plugins = ["small_fixtures"]

ABLATION = """
[ablation]
quantity = "k"
axis = "log"
reference = "8"
note = "Tuned at 8."
points = [
    { label = "4", set = ["train.samples=4", "train.prompts=16"] },
    { label = "8" },
]
"""


@pytest.fixture
def ablation_file(suite_file):
    path = suite_file.with_name("by-k.toml")
    path.write_text(suite_file.read_text().replace('name = "small"', 'name = "by-k"') + ABLATION, encoding="utf-8")
    return path


def test_point_is_the_suite_with_its_keys_set_and_nothing_else(ablation_file):
    suite = load_suite(str(ablation_file), ["seeds=3"])
    points = points_of(suite)
    assert list(points) == ["4", "8"]
    assert (points["4"].train.samples, points["4"].train.prompts) == (4, 16)
    assert (points["8"].train.samples, points["8"].train.prompts) == (8, 8)
    for label, point in points.items():
        assert (point.name, point.seeds, point.ablation) == (f"by-k/{label}", 3, None)
        own = point.train.model_copy(update={"samples": 8, "prompts": 8})
        assert own == suite.train
        assert point.algorithms == suite.algorithms


def test_cells_lie_in_the_folders_of_their_points_and_the_base_is_evaluated_once(ablation_file):
    cells = plan(load_suite(str(ablation_file), ["seeds=1"]))
    assert [cell.name for cell in cells] == ["4/gvpo-s0", "4/ppo-s0", "8/base", "8/gvpo-s0", "8/ppo-s0"]
    assert len({cell.config.hashes() for cell in cells}) == 5
    assert cells[0].suite["ablation"]["reference"] == "8"


def test_suite_without_an_ablation_has_no_points(suite_file):
    assert points_of(load_suite(str(suite_file))) == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('reference = "8"', 'reference = "6"', "reference = '6' is not one of the points: 4, 8"),
        ('label = "4"', 'label = "8"', "two of them have one label; the labels are 8, 8"),
        ('label = "4"', 'label = "few"', "'few' is no number; set axis = 'categories'"),
        ('label = "4"', 'label = "0"', "0 has no place on a log axis"),
        ('label = "4"', 'label = "nan"', "nan has no place on a log axis; set axis = 'categories'"),
        ('label = "4"', 'label = "1e400"', "1e400 has no place on a log axis; set axis = 'categories'"),
        ('label = "4"', 'label = "8.0"', "two of them are one number; the labels are 8.0, 8"),
        ('"train.prompts=16"', '"train.samples = 2"', "points: 4 sets train.samples twice"),
        ('label = "4"', 'label = "a/b"', "ablation.points.0.label = 'a/b'"),
        ('"train.prompts=16"', '"seeds=16"', "points: 4 sets seeds=16; the points of one table share all but keys"),
        ('"train.prompts=16"', '"evaluation.samples=1"', "4 sets evaluation.samples=1"),
        ('"train.prompts=16"', '"train.promts=16"', "ablation point 4:\n  train.promts: unknown key; known here: "),
        ('"train.prompts=16"', '"train.prompts=15"', "ablation point 4:\n  train: mini_batches = 2 does not divide"),
        ('"train.prompts=16"', '"train.prompts"', "ablation point 4: --set train.prompts: write it as key=value"),
        ("set = [", "sets = [", "ablation.points.0.sets: unknown key; known here: label, set"),
    ],
)
def test_wrong_ablation_is_refused_with_its_point(ablation_file, old, new, message):
    ablation_file.write_text(ablation_file.read_text().replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_suite(str(ablation_file))
    assert message in str(refused.value)


@pytest.mark.parametrize("label", ["nan", "inf", "1e400"])
def test_a_label_that_is_not_finite_has_no_place_on_a_linear_axis(ablation_file, label):
    text = ablation_file.read_text().replace('"log"', '"linear"').replace('label = "4"', f'label = "{label}"')
    ablation_file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{label} has no place on a linear axis"):
        load_suite(str(ablation_file))


def test_ablation_is_not_tuned(ablation_file, tmp_path, capsys):
    assert command("tune", ablation_file, "--out", tmp_path / "out") == 2
    assert "by-k is an ablation" in capsys.readouterr().err


def test_sweep_makes_one_table_resumes_and_reuses(ablation_file, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    options = ("--set", "train.steps=2", "--algorithm", "gvpo", "--workers", 1, "--out", tmp_path)
    assert command("sweep", ablation_file, *options, "--seeds", 1) == 0
    runs = tmp_path / "runs" / "by-k"
    assert sorted(str(path.parent.relative_to(runs)) for path in runs.rglob("manifest.json")) == [
        "4/gvpo-s0", "8/base", "8/gvpo-s0",
    ]  # fmt: skip
    # 2 steps × 64 responses at both points, each at least one token long
    assert manifest(runs / "4" / "gvpo-s0")["config"]["train"]["samples"] == 4
    before = files(runs)
    assert command("sweep", ablation_file, *options, "--seeds", 2) == 0
    after = files(runs)
    changed = (".lock", "sweep.json")  # which says how many cells the sweep was asked for
    assert {path: after[path] for path in before if not path.endswith(changed)} == {
        path: state for path, state in before.items() if not path.endswith(changed)
    }
    table = pd.read_csv(tmp_path / "by-k" / "table.csv", dtype={"point": str})
    assert table["point"].tolist()[1:] == ["4", "8"]
    assert table["n_seeds"].tolist() == [1, 2, 2]
    assert (tmp_path / "by-k" / "figures" / "ablation.svg").is_file()
    assert command("report", runs, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "table.md").read_text() == (tmp_path / "by-k" / "table.md").read_text()


SETTINGS = {
    "quantity": "β", "axis": "log", "reference": "1", "note": None,
    "points": [{"label": "0.1", "set": ["algorithms.gvpo.parameters.beta=0.1"]}, {"label": "1", "set": []}],
}  # fmt: skip


def scores(point, label, seed):
    """Mean .5 + .1 for GVPO + .2 for point 1 + .01 per seed, on each of 10 problems of 100 samples."""
    mean = 0.5 + 0.1 * (label == "gvpo") + 0.2 * (point == "1") + 0.01 * seed
    score_PK = np.zeros((10, 100))
    score_PK[:, : round(100 * mean)] = 1
    return {"arithmetic": score_PK, "arithmetic-hard": score_PK[:2]}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    folder = tmp_path / "runs" / "beta"
    settings = config(ablation=SETTINGS)
    settings["evaluation"]["samples"] = 100
    write_cell(folder / "1", "base", None, scores("", "base", -20), settings=settings, suite_hash="1")
    for point in ("0.1", "1"):
        for label in ("grpo", "gvpo"):
            for seed in range(12):
                drawn = scores(point, label, seed)
                write_cell(folder / point, label, seed, drawn, curve=[0.1, 0.2], settings=settings, suite_hash=point)
    return folder


def table_of(runs):
    report = write_ablation(runs, runs.parent.parent / "beta")
    table = pd.read_csv(report.path.parent / "table.csv", dtype={"point": str}).fillna({"point": ""})
    return report, table.set_index(["point", "label"])


def test_table_compares_with_the_reference_point_and_with_the_baseline(runs):
    report, table = table_of(runs)
    assert list(table.index) == [("", "base"), ("0.1", "gvpo"), ("0.1", "grpo"), ("1", "gvpo"), ("1", "grpo")]
    # seeds 0 to 11 add .055 on average
    assert table["avg_at_k"].tolist() == pytest.approx([0.3, 0.655, 0.555, 0.855, 0.755])
    assert table.loc[("0.1", "gvpo"), "point_diff"] == pytest.approx(-0.2)
    assert table.loc[("1", "gvpo"), "algorithm_diff"] == pytest.approx(0.1)
    assert table["point_diff"].notna().tolist() == [False, True, True, False, False]
    assert table["algorithm_diff"].notna().tolist() == [False, True, False, True, False]
    # all 12 seeds differ by the same amount: 2 of 2^12 sign patterns are as extreme; four such tests in the table
    assert table.loc[("0.1", "gvpo"), "point_p_value"] == pytest.approx(2 / 2**12)
    holm = table[["point_p_holm", "algorithm_p_holm"]].to_numpy().flatten()
    assert holm[~np.isnan(holm)] == pytest.approx([4 * 2 / 2**12] * 4)
    markdown = (report.path.parent / "table.md").read_text()
    assert markdown.count("**") == 2 * 4  # the four significant differences
    assert "Holm-corrected over the 4 tests" in markdown
    assert "| 0.1 | GVPO | 12 | 0.655 ± " in markdown


def test_points_evaluated_differently_are_refused(runs):
    settings = config(ablation=SETTINGS)
    settings["evaluation"]["samples"] = 50
    for seed in range(12):
        folder = runs / "0.1" / f"gvpo-s{seed}"
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        write_cell(runs / "0.1", "gvpo", seed, scores("0.1", "gvpo", seed), curve=[0.1, 0.2], settings=settings,
                   suite_hash="0.1")  # fmt: skip
    with pytest.raises(ReportError, match="the cells disagree on evaluation"):
        table_of(runs)


def rewrite_models(folder, cells="*", **changes):
    for path in folder.glob(f"{cells}/manifest.json"):
        about = json.loads(path.read_text())
        about["config"]["model"] = about["config"].get("model", {}) | changes
        path.write_text(json.dumps(about))


def test_points_may_differ_in_lora_and_in_nothing_else_of_the_model(runs):
    rewrite_models(runs / "0.1", lora={"rank": 8})
    table_of(runs)
    rewrite_models(runs / "0.1", path="another")
    with pytest.raises(ReportError, match=r"the cells disagree on model\.path"):
        table_of(runs)


def test_only_the_cells_of_some_algorithms_have_a_teacher(runs):
    for point in ("0.1", "1"):
        rewrite_models(runs / point, path="embedded")
        rewrite_models(runs / point, "gvpo-*", teacher="embedded-teacher", teacher_template="plain")
    assert len(table_of(runs)[1]) == 5


def test_point_that_has_not_run_is_named(runs):
    shutil.rmtree(runs / "0.1")
    report, table = table_of(runs)
    assert report.unfinished == ["0.1"]
    assert "not in the table: 0.1" in report.path.read_text()
    assert table["point_diff"].isna().all()


def test_figure_has_a_line_an_algorithm_told_apart_without_colour(runs):
    _, table = table_of(runs)
    table = table.reset_index()
    names = {"gvpo": "GVPO", "grpo": "GRPO"}
    seeds = pd.DataFrame({"point": ["0.1"], "label": ["gvpo"], "avg_at_k": [0.6]})
    drawing = figures.score_against_quantity(table, seeds, names, points=["0.1", "1"], quantity="β", axis="log", k="8")
    axes = drawing.figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1"]
    lines = [line for line in axes.containers if hasattr(line, "lines")]
    looks = {(bar.lines[0].get_marker(), str(bar.lines[0].get_linestyle())) for bar in lines}
    assert len(looks) == 2
    assert sorted(lines[0].lines[0].get_ydata()) == pytest.approx([0.655, 0.855])


def test_a_folder_of_several_suites_is_no_ablation(tmp_path):
    for suite in ("large", "small"):
        write_cell(tmp_path / "runs" / suite, "base", None, {"arithmetic": np.ones((4, 8))})
    with pytest.raises(ReportError, match=r"give the folder of one suite, such as .*runs/(large|small)$"):
        write_ablation(tmp_path / "runs", tmp_path / "out")


def test_a_cell_beside_the_points_does_not_stand_for_them(tmp_path):
    runs = write_small_ablation(tmp_path / "runs" / "beta")
    shutil.copytree(runs / "1" / "base", runs / "base")
    with pytest.raises(ReportError, match=r"holds cells of its own \(base\) beside folders of cells \(0\.1, 1\)"):
        write_ablation(runs, tmp_path / "out")
