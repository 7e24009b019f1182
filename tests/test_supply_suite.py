"""Suites with algorithms that need more than a loss: what is planned, refused, spent and reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small import command, manifest, metrics, table, write_suite

import harness.suite.plan
from benchmarks import load_benchmark
from harness.preflight import doctor
from harness.preflight.costs import Assumptions, cell_cost, count_tokens, needs_of, prompts_of
from harness.preflight.memory import memory_of
from harness.preflight.model_size import model_size
from harness.record.cell_state import Hashes
from harness.record.ledger import Tokens
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import plan

pytest_plugins = ["small_fixtures"]

ASKS = """
from dataclasses import dataclass
from typing import Any, ClassVar

from algorithms import Algorithm, LossOutput, Needs


@dataclass(frozen=True, kw_only=True)
class Asks(Algorithm):
    name: ClassVar[str] = "Asks"
    asked: ClassVar[dict[str, Any]] = {}

    @property
    def needs(self):
        return Needs(coupling="sequence", **self.asked)

    def loss(self, policy, batch):
        logp_GK = policy.logp_GKT.mul(batch.mask_GKT).sum(-1)
        read = sum(x.sum() for x in batch.extras.values())
        return LossOutput(loss=-((batch.rewards_GK - 0.5) * logp_GK).mean() + 0 * read)


@dataclass(frozen=True, kw_only=True)
class Shown(Asks):
    name = "Shown"
    asked = {"data": "demonstrations"}


@dataclass(frozen=True, kw_only=True)
class Paired(Asks):
    name = "Paired"
    asked = {"data": "pairs", "reference": True}


@dataclass(frozen=True, kw_only=True)
class Frozen(Asks):
    name = "Frozen"
    asked = {"data": "base"}


@dataclass(frozen=True, kw_only=True)
class Curious(Asks):
    name = "Curious"
    asked = {"extras": ("greedy_reward_G", "reference_reward_GN", "length_limit_G"), "reference_samples": 2}


@dataclass(frozen=True, kw_only=True)
class Taught(Asks):
    name = "Taught"
    asked = {"extras": ("teacher_logp_GK",)}


@dataclass(frozen=True, kw_only=True)
class Picky(Asks):
    name = "Picky"
    asked = {"refill": lambda rewards_K: bool(rewards_K.min() < rewards_K.max())}


@dataclass(frozen=True, kw_only=True)
class Torn(Asks):
    name = "Torn"
    asked = {"data": "pairs", "min_group_size": 3}


@dataclass(frozen=True, kw_only=True)
class Twice(Asks):
    name = "Twice"
    asked = {"data": "pairs", "refill": lambda rewards_K: True}
"""

HISTORY = ["train.history_share=0.5", "train.limit=16"]
NAMES = ("shown", "paired", "frozen", "curious", "taught", "picky")


def settings_of(base: Path) -> list[str]:
    return [f"model.teacher={base}", "train.max_new_tokens=10", "train.steps=3", "train.refresh_every=2", "seeds=1"]


@pytest.fixture(scope="module")
def asks(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("algorithms") / "asks.py"
    path.write_text(ASKS, encoding="utf-8")
    return path


def suite_of(base: Path, asks: Path, folder: Path, names=NAMES, settings=()) -> Any:
    algorithms = ["gvpo", *(f"{asks}:{name.capitalize()}" for name in names)]
    return load_suite(str(write_suite(folder, base)), [*settings_of(base), *settings], algorithms)


@pytest.fixture(scope="module")
def swept(base, asks, tmp_path_factory) -> Path:
    """The results of one sweep over all of them."""
    out = tmp_path_factory.mktemp("swept")
    options = [part for setting in settings_of(base) for part in ("--set", setting)]
    for name in ("gvpo", *(f"{asks}:{name.capitalize()}" for name in NAMES)):
        options += ["--algorithm", name]
    assert command("sweep", write_suite(out, base), *options, "--workers", 2, "--out", out / "out") == 0
    return out / "out"


def test_tokens_are_those_that_a_run_spent(swept, base, asks, tmp_path):
    for cell in plan(suite_of(base, asks, tmp_path))[1:]:
        spent = manifest(swept / "runs" / "small" / cell.name)["tokens"]
        needs, train = needs_of(cell), cell.config.train
        prompts = prompts_of(cell.config.model, train, ("arithmetic",), 12)
        assert (spent["generated"] == 0) is (cell.config.label in ("shown", "paired"))

        def counted(response: float, cell: Any = cell, needs: Any = needs, prompts: Any = prompts) -> Tokens:
            given = prompts.given.get(needs.data)
            return count_tokens(cell.config, needs, prompts.training, response, spent["evaluation"], given)  # noqa: B023

        mean = spent["generated"] / counted(1.0).generated if spent["generated"] else 0.0
        # What is drawn beside has another mean length than what is trained on, and refilling draws more.
        allowed = 0.5 if cell.config.label == "picky" else 0.03 if mean else 1e-9
        assert vars(counted(mean)) == pytest.approx(spent, rel=allowed)
        cost = cell_cost(cell, model_size(cell.config.model), Assumptions("cpu"))
        assert cost.tokens.generated == counted(5.0).generated


def test_a_plan_counts_what_is_supplied(base, asks, tmp_path):
    cells = {cell.config.label: cell for cell in plan(suite_of(base, asks, tmp_path))}
    size = model_size(cells["base"].config.model)
    costs = {label: cell_cost(cell, size, Assumptions("cpu", mean_response=2)) for label, cell in cells.items()}
    drawn = 3 * 8 * 8 * 2  # steps, prompts, samples, tokens
    assert (
        costs["gvpo"].tokens.generated == costs["taught"].tokens.generated == costs["frozen"].tokens.generated == drawn
    )
    assert costs["shown"].most.generated == costs["paired"].most.generated == 0
    assert costs["curious"].tokens.generated == drawn + 3 * 8 * (1 + 2) * 2
    assert costs["picky"].tokens.generated == drawn
    assert costs["picky"].most.generated == 3 * 8 * 8 * 10 * (1 + 4)  # four rounds, in vain
    rows = 3 * 8 * 8 * (13 + 2)
    assert costs["taught"].tokens.teacher == costs["taught"].tokens.trained == rows
    scoring = costs["taught"].hours["scoring"]  # of a model as large as the teacher, which here is the base itself
    assert costs["taught"].hours["teacher"] == pytest.approx(scoring * rows / costs["taught"].tokens.scored)
    # Step 2 of 3 draws from stale weights, and scores once more; the base scores all of its own, and nothing is stale.
    assert (costs["gvpo"].tokens.scored, costs["gvpo"].tokens.reference) == (rows * 4 / 3, 0)
    assert (costs["frozen"].tokens.scored, costs["frozen"].tokens.reference) == (rows, rows)
    memory = memory_of(cells["taught"].config, size, needs_of(cells["taught"]), 23, 80e9)
    assert memory.resident["teacher"] == 4 * size.parameters


def test_what_draws_nothing_has_no_training_reward_and_the_table_says_so(swept):
    for label in NAMES:
        rows = metrics(swept / "runs" / "small" / f"{label}-s0")
        assert [("reward" in row, "loss" in row) for row in rows] == [(label not in ("shown", "paired"), True)] * 3
    found = table(swept)
    assert found.loc[["shown", "paired"], "auc"].isna().all()
    assert found.loc[["frozen", "curious", "taught", "picky", "gvpo"], "auc"].notna().all()
    shown = next((swept / "small").glob("*.md")).read_text(encoding="utf-8")
    row = next(line for line in shown.splitlines() if line.startswith("| Shown"))
    assert "| – |" in row


def test_the_comparison_of_coefficients_leaves_out_what_is_trained_on_given_responses(swept):
    job = swept / "runs" / "small" / "coefficients"
    reasons = manifest(job)["left_out"]
    assert sorted(reasons) == ["paired", "shown"]
    assert reasons["shown"] == "it is trained on given demonstrations, and the batch holds drawn responses"
    compared = pd.read_parquet(job / "coefficients.parquet")
    assert set(compared["algorithm"]) == {"gvpo", "frozen", "curious", "taught", "picky"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("torn", [], r"Torn needs groups of at least 3 samples; its groups of pairs have 2"),
        ("twice", [], r"Twice declares both needs\.data = 'pairs' and needs\.refill"),
        ("shown", HISTORY, r"Shown is trained on given demonstrations, .*history"),
        ("picky", HISTORY, r"Picky refills its groups with other prompts, .*history"),
        ("taught", ["model.teacher_template=nosuch"], r"no template is called 'nosuch'"),
    ],
)  # fmt: skip
def test_what_cannot_be_supplied_is_refused(name, settings, message, base, asks, tmp_path):
    with pytest.raises(ConfigError, match=message):
        plan(suite_of(base, asks, tmp_path, (name,), settings))


@pytest.mark.parametrize(
    ("name", "lacks", "message"),
    [
        ("shown", "solution", r"Shown is trained on given demonstrations, and 4096 of 4096 problems .* no solution"),
        ("paired", "mistake", r"Paired is trained on given pairs, .* no mistake; the arithmetic benchmarks"),
        ("shown", "mistake", None),
    ],
)  # fmt: skip
def test_a_benchmark_that_gives_no_such_responses_is_refused(name, lacks, message, base, asks, tmp_path, monkeypatch):
    lacking: dict[str, Any] = {lacks: None}
    problems = [replace(problem, **lacking) for problem in load_benchmark("arithmetic-train").problems()]
    monkeypatch.setattr(harness.suite.plan, "training_problems", lambda _: problems)
    suite = suite_of(base, asks, tmp_path, (name,))
    if message is None:
        assert plan(suite)[-1].config.label == name
        return
    with pytest.raises(ConfigError, match=message):
        plan(suite)


def test_what_learns_from_a_teacher_is_refused_without_one(base, asks, tmp_path):
    suite = load_suite(str(write_suite(tmp_path, base)), [], ["gvpo", f"{asks}:Taught"])
    with pytest.raises(ConfigError, match=r"algorithms\.taught: Taught learns from a teacher: set model\.teacher"):
        plan(suite)


def test_a_teacher_that_is_not_to_be_had_is_refused_before_any_cell(base, asks, tmp_path, capsys):
    options = ["--set", "model.teacher=/no/such/folder", "--algorithm", f"{asks}:Taught", "--out", tmp_path / "out"]
    assert command("sweep", write_suite(tmp_path, base), *options) == 2
    assert "model.teacher: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs" / "small" / "taught-s0").exists()


def test_the_doctor_names_keys_that_no_algorithm_reads(base, asks, tmp_path):
    settings = ["model.teacher_template=plain", "train.refill_rounds=4"]
    found = {check.found for check in doctor.unused_keys(suite_of(base, asks, tmp_path, (), settings))}
    assert {
        "model.teacher has no effect: no algorithm learns from a teacher",
        "model.teacher_template has no effect: no algorithm learns from a teacher",
        "train.refill_rounds has no effect: no algorithm refills its groups",
    } <= found
    found = {check.found for check in doctor.unused_keys(suite_of(base, asks, tmp_path, ("taught", "picky"), settings))}
    assert not any("teacher" in text or "refill" in text for text in found)


def test_settings_that_few_algorithms_read_are_hashed_where_they_are_set(base, asks, tmp_path):
    def hashes(*settings, label="gvpo"):
        cells = plan(load_suite(str(write_suite(tmp_path, base)), settings, [label]))
        return next(cell.config.hashes().training for cell in cells if cell.config.label == label)

    plain = hashes()
    assert hashes("train.refill_rounds=4") == plain
    assert hashes("train.refill_rounds=3") != plain
    # A teacher is in the hash of those whom it teaches, and of no others.
    assert hashes("model.teacher=x", "model.teacher_template=r1") == plain
    taught = [("model.teacher=x",), ("model.teacher=y",), ("model.teacher=x", "model.teacher_template=r1")]
    assert len({hashes(*settings, label="gvpd") for settings in taught}) == 3


def test_recorded_cells_keep_their_hashes():
    """Runs of 12 seeds stand under these; a change here has them all trained anew."""
    cells = {cell.name: cell.config.hashes() for cell in plan(load_suite("embedded"))}
    assert cells["gvpo-s0"] == Hashes("63dd6965e0525006", "844e9e885529d61b")
    assert cells["ppo-s0"] == Hashes("e3a570bbe55253c4", "844e9e885529d61b")
