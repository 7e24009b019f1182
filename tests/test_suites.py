"""The suites that come with gvpo-bench."""

import tomllib
from pathlib import Path

import pytest
from small import needs_data

from algorithms import ALGORITHMS
from harness.suite.load import load_suite, points_of, suite_files
from harness.suite.plan import build_algorithm, plan
from harness.sweep.tuning import trials

RESULTS = Path(__file__).parent.parent / "results"
SIX = ["gvpo", "grpo", "ppo", "dpo", "kimi", "pg"]

COMPARISONS = ["embedded", "embedded-reuse", "embedded-stale"]
ABLATIONS = ["embedded-beta", "embedded-k", "embedded-history", "embedded-terms", "embedded-lora", "embedded-replay"]

each_comparison = pytest.mark.parametrize("name", COMPARISONS)
each_ablation = pytest.mark.parametrize("name", ABLATIONS)


def test_the_embedded_suites_are_there():
    assert {*COMPARISONS, *ABLATIONS} <= set(suite_files())


@each_comparison
def test_suite_plans_its_algorithms_at_twelve_seeds_or_more_and_the_base(name):
    suite = load_suite(name)
    assert suite.name == name
    assert list(suite.algorithms)[:6] == SIX
    assert set(suite.algorithms) == set(ALGORITHMS) - {"rebel"}  # on all pairs of a group it is GVPO
    assert suite.seeds >= 12  # fewer cannot be tested
    assert len(plan(suite)) == 1 + len(suite.algorithms) * suite.seeds


@each_ablation
def test_ablation_can_be_tested_and_its_points_draw_and_train_on_as_many_samples(name):
    suite = load_suite(name)
    assert suite.name == name
    assert suite.seeds >= 12
    cells = plan(suite)
    assert suite.ablation is not None
    assert len(cells) == 1 + len(suite.ablation.points) * len(suite.algorithms) * suite.seeds
    for point in points_of(suite).values():
        assert point.train.prompts * point.train.samples == 256
        updates = point.train.mini_batches * point.train.epochs
        assert updates == suite.train.mini_batches * suite.train.epochs
        # fresh data and one update would make β and the terms a learning rate and nothing
        assert updates * point.train.refresh_every > 1


def test_paper_suites_have_the_settings_of_the_authors_code_and_only_pinned_models():
    names = [name for name in suite_files() if name.startswith("qwen")]
    assert len(names) == 5
    for name in names:
        suite = load_suite(name)
        assert (suite.name, len(suite.model.revision or "")) == (name, 40)
        assert suite.algorithms["gvpo"].parameters["beta"] == 0.1
        header = suite_files()[name].read_text(encoding="utf-8").partition("name = ")[0]
        for source in ("arXiv 2504.19599", "the authors' code", "ours, not known from either"):
            assert source in header, name
        for point in points_of(suite).values() or [suite]:
            assert point.train.prompts * point.train.samples == 1024 * 4
            assert point.train.mini_batches == 4
            # 15 passes over 7,498 problems at 4 samples of each
            assert point.train.steps * 4096 == pytest.approx(
                15 * 7498 * point.train.samples, rel=0.01
            ) or name.endswith("k")
            for label, entry in point.algorithms.items():
                assert entry.optimizer.lr == 1e-6
                build_algorithm(label, entry.parameters, where=label)


def test_published_rows_of_table_1_name_source_and_protocol():
    suite = load_suite("qwen2.5-math-7b-table1")
    assert suite.evaluation.samples_of("aime24") == 32
    assert suite.evaluation.samples_of("math500") == 1
    rows = {row.label: row for row in suite.report.published}
    assert rows["GVPO"].scores == {
        "aime24": 20.72, "amc83": 62.65, "math500": 83.80, "minerva": 45.95, "olympiadbench": 46.96,
    }  # fmt: skip
    for row in rows.values():
        assert "arXiv" in row.source
        assert row.protocol
        assert set(row.scores) == set(suite.evaluation.benchmarks)


@needs_data
@pytest.mark.parametrize("name", ["smollm2-arithmetic", "smollm2-svamp"])
def test_pretrained_suites_compare_eight_algorithms_or_more_on_a_shared_gpu_and_claim_no_tuning(name):
    suite = load_suite(name)
    assert (suite.name, suite.model.path, suite.model.template) == (name, "smollm2", "qa-3shot")
    assert suite.resources.cells_on_gpu == 8
    assert set(suite.algorithms) >= set(SIX)
    assert len(suite.algorithms) >= 8
    assert not any(entry.tuned for entry in suite.algorithms.values())
    assert len({entry.optimizer.lr for entry in suite.algorithms.values()}) == 1
    cells = plan(suite)
    assert len(cells) == 1 + 5 * len(suite.algorithms)
    # Seed by seed over all algorithms, so that a sweep that is stopped leaves whole seeds.
    assert [cell.config.seed for cell in cells[1:]] == sorted(cell.config.seed for cell in cells[1:])


@each_comparison
def test_no_two_labels_run_the_same_algorithm_with_the_same_parameters(name):
    trained = [cell for cell in plan(load_suite(name)) if cell.is_trained and cell.config.seed == 0]
    assert len({(c.config.algorithm, str(c.config.parameters)) for c in trained}) == len(trained)


def test_the_suites_differ_in_what_their_names_say():
    on_policy, reuse, stale = (load_suite(n).train for n in ("embedded", "embedded-reuse", "embedded-stale"))
    assert (on_policy.refresh_every, on_policy.epochs) == (1, 1)
    assert (reuse.refresh_every, reuse.epochs * reuse.mini_batches) == (1, 64)  # updates a batch
    assert (stale.refresh_every, stale.epochs) == (16, 1)


CLIP_UNSEARCHED = ("grpo", "ppo", "reinforce_pp", "reinforce_pp_baseline")
"""Their published settings are those of a search in which ε stayed at 0.2, whose points `trials` no longer gives. A
search with ε replaces both, the recorded trials and the suites' settings."""


@each_comparison
def test_hyperparameters_are_the_best_of_the_recorded_trials(name):
    path = RESULTS / "tuning" / name / "best.toml"
    if not path.is_file():
        pytest.skip(f"{path.relative_to(RESULTS.parent)} is not recorded")
    suite = load_suite(name)
    best = tomllib.loads(path.read_text(encoding="utf-8"))["algorithms"]
    assert sorted(best) == sorted(suite.algorithms)
    for label, entry in best.items():
        own = suite.algorithms[label]
        if label in CLIP_UNSEARCHED:
            assert "clip" not in own.parameters, label
            continue
        assert {key: getattr(own.optimizer, key) for key in entry["optimizer"]} == entry["optimizer"], label
        assert own.parameters == entry.get("parameters", {}), label
        tried = [(trial["optimizer"]["lr"], trial["optimizer"]["max_norm"]) for trial in trials(suite, label)]
        assert (own.optimizer.lr, own.optimizer.max_norm) in tried, label
