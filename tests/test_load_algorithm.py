"""load_algorithm: by name, from a user's file, by entry point, and what it says when it cannot."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from batches import coefficients, random_batch

import algorithms
from algorithms import ALGORITHMS, load_algorithm

MINE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms import Algorithm, Batch, LossOutput, PolicyOutput
from algorithms.base import LogUniform, centred, hyperparameter, sequence_sum


@dataclass(frozen=True, kw_only=True)
class Mine(Algorithm):
    """REINFORCE with the group's mean as the baseline: L = −Σ (R − R̄) log π_θ."""

    name: ClassVar[str] = "Mine"

    beta: float = hyperparameter(0.1, "unused", search=LogUniform(0.03, 3.0))

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        logp_GK = sequence_sum(policy.logp_GKT, batch.mask_GKT)
        return LossOutput(loss=-(centred(batch.rewards_GK, batch.valid_GK) * logp_GK).sum())


@dataclass(frozen=True, kw_only=True)
class Nameless(Algorithm):
    beta: float = 0.1


class Undecorated(Mine):
    name: ClassVar[str] = "Undecorated"
    extra: float = 0.1


def function(policy, batch):
    return 0
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["gvpo", "grpo", "ppo", "dpo", "kimi", "pg"])
def test_name_gives_its_class(name):
    assert load_algorithm(name) is ALGORITHMS[name]


def test_class_of_a_users_file_works_like_a_built_in_one(mine):
    make: Any = load_algorithm(f"{mine}:Mine")
    algorithm = make(beta=0.5)
    assert (algorithm.name, algorithm.beta) == ("Mine", 0.5)
    policy, batch = random_batch(0)
    rewards_K = batch.rewards_GK[0]
    assert coefficients(algorithm, policy, batch)[0, :, 0].tolist() == pytest.approx(
        (rewards_K - rewards_K.mean()).tolist()
    )


def test_path_may_be_relative_or_start_at_home(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    assert load_algorithm("mine.py:Mine").name == "Mine"
    monkeypatch.setenv("HOME", str(mine.parent))
    assert load_algorithm("~/mine.py:Mine").name == "Mine"


def test_two_files_of_one_name_do_not_mix(mine, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE.replace('"Mine"', '"Other"'), encoding="utf-8")
    first, second = load_algorithm(f"{mine}:Mine"), load_algorithm(f"{other}:Mine")
    assert (first.name, second.name) == ("Mine", "Other")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.py"):
        load_algorithm(f"{tmp_path / 'nowhere.py'}:Mine")


def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_algorithm(f"{tmp_path}:Mine")


def test_file_that_is_not_python_is_refused(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(MINE, encoding="utf-8")
    with pytest.raises(ValueError, match=r"its name must end in \.py"):
        load_algorithm(f"{path}:Mine")


def test_missing_class_is_named(mine):
    with pytest.raises(ValueError, match=r"mine\.py defines no 'Yours'"):
        load_algorithm(f"{mine}:Yours")


@pytest.mark.parametrize("what", ["function", "Batch", "annotations"])
def test_what_is_no_subclass_of_algorithm_is_refused(mine, what):
    with pytest.raises(ValueError, match=r"it must be a subclass of algorithms\.Algorithm"):
        load_algorithm(f"{mine}:{what}")


@pytest.mark.parametrize("what", ["Undecorated", "Algorithm"])
def test_class_without_the_dataclass_decorator_is_refused_also_below_a_dataclass(mine, what):
    with pytest.raises(ValueError, match=r"decorate the class with @dataclass\(frozen=True, kw_only=True\)"):
        load_algorithm(f"{mine}:{what}")


def test_class_without_a_name_for_tables_is_refused(mine):
    with pytest.raises(ValueError, match="give the class `name"):
        load_algorithm(f"{mine}:Nameless")


@pytest.mark.parametrize(
    ("field", "own"),
    [
        ('name: str = "Mine"', "name"),
        ('family: str = "other"', "family"),
        ("needs: algorithms.Needs = algorithms.Needs()", "needs"),
    ],
)
def test_what_the_harness_reads_is_no_hyper_parameter(mine, field, own):
    source = MINE.replace('    name: ClassVar[str] = "Mine"\n', f'    name = "Mine"\n    {field}\n')
    mine.write_text(source.replace("from algorithms import", "import algorithms\nfrom algorithms import"))
    with pytest.raises(ValueError, match=rf"{own} is declared as a hyper-parameter; annotate it as ClassVar"):
        load_algorithm(f"{mine}:Mine")


def test_error_in_a_users_file_keeps_its_own_traceback(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('mine alone')", encoding="utf-8")
    with pytest.raises(RuntimeError, match="mine alone"):
        load_algorithm(f"{path}:Mine")


def test_unknown_name_lists_what_would_be_right():
    with pytest.raises(ValueError, match=r"unknown algorithm 'gpvo': use one of gvpo, .* path/to/file\.py:Class"):
        load_algorithm("gpvo")


@pytest.fixture
def published(monkeypatch):
    """Pretends that installed packages publish these entry points."""

    def publish(**targets):
        entries = [EntryPoint(name, value, algorithms.ENTRY_POINT_GROUP) for name, value in targets.items()]
        monkeypatch.setattr(algorithms, "entry_points", lambda group: [e for e in entries if e.group == group])

    return publish


def test_entry_point_is_found_by_its_name(published):
    published(theirs="algorithms.grpo:GRPO", other="algorithms.nowhere:Nothing")
    assert load_algorithm("theirs") is ALGORITHMS["grpo"]


def test_entry_point_to_something_else_is_refused(published):
    published(theirs="algorithms.base:Batch")
    with pytest.raises(ValueError, match=r"'theirs' is .*Batch.* subclass of algorithms\.Algorithm"):
        load_algorithm("theirs")


def test_entry_point_does_not_replace_a_built_in_name(published):
    published(gvpo="algorithms.grpo:GRPO")
    assert load_algorithm("gvpo") is ALGORITHMS["gvpo"]
