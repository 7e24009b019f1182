"""Training on what the base solves now and then: measured once, recorded, charged, and the same after a kill."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from small import command, manifest, metrics, write_suite
from tiny import tiny_lm

from benchmarks import load_benchmark
from harness.model.rows import Response
from harness.record.cell_folder import CellFolder
from harness.record.files import RecordError
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import plan
from harness.training.pass_rates import problems_within, trained_on

pytest_plugins = ["small_fixtures"]

PROBLEMS = load_benchmark("arithmetic-train").problems()[:8]


class Interrupted(Exception):
    pass


@dataclass
class Engine:
    """Answers a prompt's n-th sample with n + 1 tokens. Stops after so many calls."""

    calls: int = 10**6
    asked: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def generate(self, prompts, counts, *, temperature, max_new_tokens, seeds) -> list[list[Response]]:
        if self.calls == 0:
            raise Interrupted
        self.calls -= 1
        self.asked.append(len(prompts))
        self.seeds += seeds
        return [[Response([5] * (n + 1), [-0.5] * (n + 1), truncated=False) for n in range(k)] for k in counts]

    def release_memory(self) -> None: ...


@dataclass
class Judge:
    """The i-th problem is solved by i of its samples."""

    seen: Counter[str] = field(default_factory=Counter)

    def __call__(self, problems, responses, truncated) -> list[Any]:
        verdicts = []
        for problem in problems:
            index = next(i for i, other in enumerate(PROBLEMS) if other.id == problem.id)
            verdicts.append("correct" if self.seen[problem.id] < index else "wrong")
            self.seen[problem.id] += 1
        return verdicts


@pytest.fixture
def config(tmp_path):
    def make(*settings: str):
        suite = load_suite(
            str(write_suite(tmp_path, tmp_path)),
            ["train.limit=8", "train.prompts=2", "train.pass_rate_samples=8", "resources.rollout_batch=16", *settings],
        )
        return plan(suite)[1].config

    return make


def within(config, engine, runs, cell="gvpo-s0", judge=None):
    said: list[tuple[int, int]] = []
    kept, about = problems_within(
        config, tiny_lm(), engine, judge or Judge(), runs, CellFolder(runs / cell), lambda *done: said.append(done)
    )
    return [problem.id for problem in kept], about, said


def test_problems_within_the_range_are_kept_its_ends_included(config, tmp_path):
    # Rates: 0, 1/8, 2/8, … 7/8. Each problem's 8 samples have 1 + 2 + … + 8 = 36 tokens, and there are 8 problems.
    kept, about, said = within(config("train.pass_rate=[0.25, 0.625]"), Engine(), tmp_path)
    assert kept == [problem.id for problem in PROBLEMS[2:6]]
    assert about == {"kept": 4, "of": 8, "tokens": 8 * 36}
    assert said == [(0, 8), (2, 8), (4, 8), (6, 8), (8, 8)]  # 16 sequences side by side are two problems
    recorded = json.loads((tmp_path / "gvpo-s0" / "problems.json").read_text())
    assert recorded["kept"] == kept
    assert list(recorded["pass_rates"].values()) == [i / 8 for i in range(8)]


def test_what_is_measured_for_one_cell_is_measured_for_all_whatever_their_seed_and_range(config, tmp_path):
    asked = Engine()
    first = within(config("train.pass_rate=[0.25, 0.625]"), asked, tmp_path)
    assert asked.asked == [2, 2, 2, 2]
    assert len(set(asked.seeds)) == 8
    other = config("train.pass_rate=[0.5, 1]").model_copy(update={"seed": 3, "label": "ppo"})
    kept, about, _ = within(other, Engine(calls=0), tmp_path, "ppo-s3")
    assert kept == [problem.id for problem in PROBLEMS[4:]]
    assert about["tokens"] == first[1]["tokens"]  # charged to each


@pytest.mark.parametrize(
    "setting", ["train.temperature=0.9", "train.max_new_tokens=5", "train.pass_rate_samples=4", "train.limit=7"]
)
def test_other_answers_are_measured_anew(config, tmp_path, setting):
    within(config("train.pass_rate=[0, 1]"), Engine(), tmp_path)
    with pytest.raises(Interrupted):
        within(config("train.pass_rate=[0, 1]", setting), Engine(calls=0), tmp_path)


def test_an_interrupted_measurement_goes_on_and_finds_the_same(config, tmp_path):
    settings, judge = config("train.pass_rate=[0.25, 0.625]"), Judge()
    with pytest.raises(Interrupted):
        within(settings, Engine(calls=1), tmp_path / "killed", judge=judge)
    resumed = Engine()
    found = within(settings, resumed, tmp_path / "killed", judge=judge)
    assert resumed.asked == [2, 2, 2]  # of four portions the last three
    whole = Engine()
    assert found[:2] == within(settings, whole, tmp_path / "undisturbed")[:2]
    assert resumed.seeds == whole.seeds[2:]


@pytest.mark.parametrize("damage", ["flipped", "cut", "unsummed"])
def test_answers_that_are_damaged_are_set_aside_and_measured_anew(config, tmp_path, damage):
    settings = config("train.pass_rate=[0.25, 0.625]")
    first = within(settings, Engine(), tmp_path)
    (path,) = tmp_path.glob("pass-rates-*.json")
    whole = path.read_text()
    damaged = {
        "flipped": whole.replace('"correct": 3', '"correct": 7'),
        "cut": whole[:99],
        "unsummed": json.dumps(json.loads(whole)["answers"]),
    }[damage]
    path.write_text(damaged)
    asked = Engine()
    assert within(settings, asked, tmp_path)[:2] == first[:2]
    assert asked.asked == [2, 2, 2, 2]
    assert path.read_text() == whole
    assert [aside.read_text() for aside in (tmp_path / ".set-aside").glob("*/pass-rates-*.json")] == [damaged]


def test_a_lock_of_answers_that_is_a_link_is_refused_and_what_it_points_to_stays(config, tmp_path):
    settings = config("train.pass_rate=[0.25, 0.625]")
    within(settings, Engine(), tmp_path)
    (lock,) = tmp_path.glob("pass-rates-*.lock")
    lock.unlink()
    (tmp_path / "precious").write_text("precious")
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(RecordError, match="is a link, where the file of a lock should be"):
        within(settings, Engine(), tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"


def test_too_few_problems_for_a_step_are_refused_with_where_the_others_are(config, tmp_path):
    # 3/8 is within; 0 to 2/8 are three below, 4/8 to 7/8 four above.
    with pytest.raises(
        ConfigError,
        match=r"train\.pass_rate = \[0\.3, 0\.4\]: of 8 problems of arithmetic-train the base solves 1 at such a rate, "
        r"3 less often and 4 more often, and a step draws train\.prompts = 2; widen",
    ):
        within(config("train.pass_rate=[0.3, 0.4]"), Engine(), tmp_path)
    assert not (tmp_path / "gvpo-s0" / "problems.json").exists()


def test_history_needs_the_problems_that_are_kept_to_come_twice(config, tmp_path):
    # 6 steps of 2 prompts are 12, and 8 problems are kept: some come twice. In 3 steps none does.
    history = "train.history_share=0.5"
    assert len(within(config("train.pass_rate=[0, 1]", history), Engine(), tmp_path)[0]) == 8
    with pytest.raises(ConfigError, match=r"3 steps of 2 prompts meet none of the 8 problems"):
        within(config("train.pass_rate=[0, 1]", history, "train.steps=3"), Engine(), tmp_path)


@pytest.mark.parametrize("value", ["[0.5, 0.2]", "[-0.1, 0.5]", "[0.5, 1.1]"])
def test_what_is_no_range_of_shares_is_refused(config, value):
    with pytest.raises(ConfigError, match=r"is no range of shares; it needs 0 ≤ low ≤ high ≤ 1"):
        config(f"train.pass_rate={value}")


def test_off_it_is_in_no_hash_and_on_it_is(config):
    assert "pass_rate" not in config("train.pass_rate_samples=8").stated()["train"]
    assert "pass_rate_samples" not in config("train.pass_rate_samples=8").stated()["train"]
    assert config("train.pass_rate=[0, 1]").hashes().training != config().hashes().training


def test_a_cell_without_a_filter_is_trained_on_all(config, tmp_path):
    assert [p.id for p in trained_on(config(), CellFolder(tmp_path))] == [p.id for p in PROBLEMS]


def test_a_sweep_measures_once_trains_on_what_is_kept_and_charges_every_cell(base, tmp_path, no_figures):
    suite = write_suite(tmp_path, base)
    settings = ["train.pass_rate=[0.1, 0.9]", "train.limit=24", "train.prompts=4", "train.steps=2"]
    asked = [part for setting in settings for part in ("--set", setting)]
    out = tmp_path / "out"
    assert command("sweep", suite, *asked, "--seeds", 1, "--workers", 1, "--out", out) == 0
    runs = out / "runs" / "small"
    assert len(list(runs.glob("pass-rates-*.json"))) == 1
    measured = json.loads(next(runs.glob("pass-rates-*.json")).read_text())["answers"]
    expected = [p.id for p in load_benchmark("arithmetic-train").problems()[:24] if 1 <= measured[p.id]["correct"] <= 7]
    assert 4 <= len(expected) < 24
    tokens = sum(answers["tokens"] for answers in measured.values())
    for cell in ("gvpo-s0", "ppo-s0"):
        assert json.loads((runs / cell / "problems.json").read_text())["kept"] == expected
        found = manifest(runs / cell)
        assert found["pass_rate"] == {"kept": len(expected), "of": 24, "tokens": tokens}
        drawn = sum(row["length"] * 4 * 8 for row in metrics(runs / cell))  # 4 prompts, 8 samples
        assert found["tokens"]["generated"] == pytest.approx(tokens + drawn)
    assert manifest(runs / "base")["pass_rate"] is None

    path = next(runs.glob("pass-rates-*.json"))
    before = path.stat()
    # A seed that comes later finds the answers there.
    assert command("sweep", suite, *asked, "--seeds", 2, "--workers", 1, "--out", out) == 0
    assert manifest(runs / "gvpo-s1")["pass_rate"] == found["pass_rate"]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
