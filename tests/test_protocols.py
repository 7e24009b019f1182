"""The two protocols: which cells they make, with which settings, and what the report makes of them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rich.console
from small import command, manifest, write_suite
from synthetic_runs import config, write_cell

from algorithms import ALGORITHMS
from harness.report.suite_report import write_report
from harness.suite.config import ConfigError, Model
from harness.suite.load import load_suite
from harness.suite.plan import plan
from harness.suite.protocols import ELSEWHERE, OPTIMIZERS, default_optimizer
from harness.suite.user_code import parameters_of
from harness.sweep.cells import planned

pytest_plugins = ["small_fixtures"]

BOTH = 'protocols=["tuned", "default"]'


@pytest.fixture(scope="module")
def cells():
    """Of two algorithms of the embedded suite at one seed, under both protocols, by name."""
    suite = load_suite("embedded", [BOTH, "seeds=1"], ["gvpo", "ppo"])
    return {cell.name: cell for cell in plan(suite)}


def test_each_protocol_has_cells_of_its_own(cells):
    assert list(cells) == ["base", "gvpo-s0", "ppo-s0", "gvpo@default-s0", "ppo@default-s0"]


def test_whoever_watches_is_told_the_protocols_apart(cells):
    told = [cell.algorithm for cell in planned(list(cells.values()))]
    assert told == ["base", "gvpo", "ppo", "gvpo@default", "ppo@default"]


def test_default_is_the_class_untouched_with_the_declared_optimizer(cells):
    gvpo, ppo = cells["gvpo@default-s0"].config, cells["ppo@default-s0"].config
    assert gvpo.parameters == parameters_of(ALGORITHMS["gvpo"]())
    assert (gvpo.optimizer.lr, gvpo.optimizer.max_norm, gvpo.optimizer.critic_lr) == (1.7e-4, 1.0, None)
    assert ppo.optimizer.critic_lr == 5.5e-4  # which only PPO has use for
    assert cells["gvpo@default-s0"].suite["tuning"] is None


def test_the_other_protocol_leaves_a_suites_cells_what_they_were(cells):
    alone = {cell.name: cell for cell in plan(load_suite("embedded", ["seeds=1"], ["gvpo", "ppo"]))}
    assert {name: cells[name].config.hashes() for name in alone} == {
        name: cell.config.hashes() for name, cell in alone.items()
    }
    assert "protocol" not in alone["gvpo-s0"].config.stated()
    assert cells["gvpo@default-s0"].config.stated()["protocol"] == "default"


def test_equal_settings_under_two_protocols_are_two_cells():
    suite = load_suite("embedded", [BOTH, "seeds=1", "algorithms.gpg.optimizer={lr=1.7e-4, max_norm=1.0}"], ["gpg"])
    _, tuned, default = plan(suite)
    assert (tuned.config.optimizer, tuned.config.parameters) == (default.config.optimizer, default.config.parameters)
    assert tuned.config.hashes() != default.config.hashes()


def test_the_embedded_default_is_the_middle_of_what_its_suites_search():
    own = OPTIMIZERS["embedded"]
    for name in ("embedded", "embedded-reuse", "embedded-stale"):
        tuning = load_suite(name).tuning
        for key in ("lr", "max_norm", "critic_lr"):
            low, high = getattr(tuning, key)
            assert getattr(own, key) == float(f"{(low * high) ** 0.5:.2g}")


def test_a_model_that_is_not_ours_has_the_fields_defaults():
    assert default_optimizer(Model(path="Qwen/Qwen2.5-Math-7B"), critic=True) == ELSEWHERE
    assert default_optimizer(Model(path="smollm2"), critic=False).critic_lr is None


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('protocols=["tuned", "tuned"]', "name one twice"),
        ('protocols=["fast"]', "protocols.0 = 'fast'"),
        ("protocols=[]", "protocols = "),
    ],
)
def test_protocols_that_make_no_sense_are_refused(setting, told):
    with pytest.raises(ConfigError, match=told):
        load_suite("embedded", [setting])


def test_an_ablation_has_settings_of_its_own():
    with pytest.raises(ConfigError, match=r"protocols = \['default'\] with \[ablation\]"):
        load_suite("embedded-beta", ['protocols=["default"]'])


def test_a_sweep_of_both_protocols(base, tmp_path, no_figures):
    settings = ["--algorithm", "gvpo", "--seeds", 1, "--set", "train.steps=1", "--set", "resources.checkpoint_every=0"]
    suite = write_suite(tmp_path, base)
    assert command("sweep", suite, *settings, "--protocol", "both", "--workers", 1, "--out", tmp_path) == 0
    runs = tmp_path / "runs" / "small"
    tuned, default = manifest(runs / "gvpo-s0"), manifest(runs / "gvpo@default-s0")
    assert tuned["suite_hash"] == default["suite_hash"]
    assert (default["algorithm"], default["config"]["protocol"]) == ("gvpo", "default")
    assert default["config"]["algorithm"]["optimizer"]["lr"] == ELSEWHERE.lr
    assert "protocol" not in tuned["config"]
    rows = pd.read_csv(tmp_path / "small" / "protocols.csv")
    assert list(rows["algorithm"]) == ["gvpo"]
    assert pd.read_csv(tmp_path / "small" / "seeds.csv")["algorithm"].tolist() == ["base", "gvpo", "gvpo@default"]


PROBLEMS = 4
RIGHT = {  # problems of four that each seed solves, in all of its samples
    ("grpo", None): (3, 4),
    ("grpo", "default"): (2, 2),
    ("gvpo", None): (2, 4),
    ("gvpo", "default"): (3, 4),
}


def write_both(runs: Path, *, only: str | None = "both", **changes: Any) -> None:
    settings = config(**changes)
    settings["evaluation"] = settings["evaluation"] | {"samples": 2, "hard_benchmarks": []}

    def solved(problems: int) -> dict[str, np.ndarray]:
        return {"arithmetic": np.array([[1.0, 1.0] if p < problems else [0.0, 0.0] for p in range(PROBLEMS)])}

    write_cell(runs, "base", None, solved(1), settings=settings)
    for (label, protocol), each in RIGHT.items():
        if only in ("both", protocol):
            for seed, problems in enumerate(each):
                own = settings | ({"tuning": None} if protocol else {})
                lr = 1.7e-4 if protocol else 1e-4
                write_cell(
                    runs, label, seed, solved(problems), curve=[0.3, 0.5], settings=own, protocol=protocol, lr=lr
                )


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Figures are drawn but not rasterised."""
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    return tmp_path / "runs" / "small"


def reported(runs: Path) -> tuple[Any, Path]:
    out = runs.parent.parent / "small"
    return write_report(runs, out), out


def test_both_protocols_stand_side_by_side(runs):
    write_both(runs)
    report, out = reported(runs)
    rows = pd.read_csv(out / "protocols.csv", index_col="algorithm")
    assert list(rows.index) == ["grpo", "gvpo"]  # in the order of the first table, tuned scores 7/8 and 6/8
    # tuned: (3 + 4)/8 and (2 + 4)/8; by default (2 + 2)/8 and (3 + 4)/8
    assert rows["tuned_avg_at_k"].tolist() == pytest.approx([7 / 8, 6 / 8])
    assert rows["default_avg_at_k"].tolist() == pytest.approx([4 / 8, 7 / 8])
    assert rows["gain"].tolist() == pytest.approx([3 / 8, -1 / 8])
    # GVPO's default less GRPO's: 7/8 − 4/8
    assert rows.loc["gvpo", "default_diff"] == pytest.approx(3 / 8)
    assert rows["default_diff"].isna().tolist() == [True, False]
    assert rows["gain_matched_seeds"].tolist() == [2, 2]
    assert rows["default_lr"].tolist() == [1.7e-4, 1.7e-4]
    table = pd.read_csv(out / "table.csv", index_col="algorithm")
    assert table.loc["gvpo", "avg_at_k"] == pytest.approx(6 / 8)  # the first tables are of the tuned runs
    assert table.loc["gvpo", "default_avg_at_k"] == pytest.approx(7 / 8)
    markdown = (out / "table.md").read_text()
    assert "| algorithm | seeds | avg@2 | avg@2 by default | Δ to " in markdown
    assert "default: nothing is tuned; the hyper-parameters are those of each algorithm's class, lr 0.00017" in markdown
    assert (out / "figures" / "tuned_and_default.svg").is_file()
    assert "git commit: `0123abc`" in (out / "README.md").read_text()  # of the cells of both
    assert report.protocol == "tuned"


def test_the_terminal_shows_both(runs, no_figures):
    write_both(runs)
    report, _ = reported(runs)
    console = rich.console.Console(width=120, record=True)
    console.print(report.render())
    assert "by default" in console.export_text()


def test_one_protocol_alone_is_a_table_like_any_other(runs, no_figures):
    write_both(runs, only="default")
    report, out = reported(runs)
    assert report.protocol == "default"
    table = pd.read_csv(out / "table.csv", index_col="algorithm")
    assert table["avg_at_k"].to_dict() == pytest.approx({"base": 0.25, "gvpo": 7 / 8, "grpo": 4 / 8})
    assert "default_avg_at_k" not in table
    page = (out / "README.md").read_text()
    assert "Protocol: default. Nothing is tuned; " in page
    assert "Tuning: " not in page
    assert not (out / "protocols.csv").exists()


def test_an_algorithm_of_one_protocol_alone_keeps_its_row(runs, no_figures):
    write_both(runs)
    (runs / "gvpo-s0").rename(runs / ".gvpo-s0")
    (runs / "gvpo-s1").rename(runs / ".gvpo-s1")
    report, out = reported(runs)
    rows = pd.read_csv(out / "protocols.csv", index_col="algorithm")
    assert (rows.loc["gvpo", "tuned_status"], rows.loc["gvpo", "default_seeds"]) == ("not run", 2)
    assert rows.loc["gvpo", "default_avg_at_k"] == pytest.approx(7 / 8)
    assert "gvpo" not in set(report.table["algorithm"])


def test_a_cell_that_failed_by_default_is_named(runs, no_figures):
    write_both(runs)
    write_cell(runs, "gvpo", 2, {}, status="failed", protocol="default", lr=1.7e-4)
    report, out = reported(runs)
    assert report.failed == ["gvpo@default-s2"]
    assert "failed: gvpo@default-s2: FloatingPointError" in (out / "table.md").read_text()


def test_trials_of_the_suite_are_drawn_in_its_report(runs):
    write_both(runs)
    trials = pd.DataFrame(
        [(label, t, 1e-4, 1.0, 0.5, 0) for label in ("grpo", "gvpo") for t in range(2)],
        columns=["algorithm", "trial", "lr", "max_norm", "score", "failed"],
    )
    folder = runs.parent.parent / "tuning" / "small"
    folder.mkdir(parents=True)
    trials.to_csv(folder / "trials.csv", index=False)
    _, out = reported(runs)
    assert {"best_after_trials.csv", "score_against_lr.png"} <= {path.name for path in (out / "figures").iterdir()}
