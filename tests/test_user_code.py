"""Users' files: refused in one sentence, and never imported by the process that plans and reports."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hostile import HOSTILE, Hostile
from small import command, write_suite
from test_load_algorithm import MINE

from algorithms.base import LogUniform
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import declared_algorithm, plan
from harness.suite.user_errors import described

REFUSED = [hostile for hostile in HOSTILE if hostile.ends == "refused"]
HARMFUL = [hostile for hostile in HOSTILE if hostile.name.endswith("OnImport")]


@pytest.fixture
def suite_toml(tmp_path: Path) -> Path:
    return write_suite(tmp_path, tmp_path / "no-model")


@pytest.mark.parametrize("hostile", REFUSED, ids=lambda hostile: hostile.name)
def test_what_cannot_be_an_algorithm_is_refused_with_its_file_and_line(hostile: Hostile, suite_toml, tmp_path, capsys):
    code = command("sweep", suite_toml, "--algorithm", hostile.write(tmp_path), "--out", tmp_path / "out")
    shown = capsys.readouterr()
    assert hostile.unlike_expected(tmp_path / "out", code, shown.err) is None
    assert shown.err.startswith("gvpo-bench: ")
    assert f"algorithms.{hostile.label}" in shown.err


@pytest.mark.parametrize("hostile", HARMFUL, ids=lambda hostile: hostile.name)
def test_what_a_file_does_when_it_is_imported_it_does_not_to_the_process_that_plans(hostile, suite_toml, tmp_path):
    def state():
        functions = (os.getcwd(), sys.stdout, Path.write_bytes, Path.write_text, sys.modules["json"].dumps)
        return functions, torch.get_default_dtype(), {name for name in sys.modules if "gvpo_bench_user" in name}

    before = state()
    cells = plan(load_suite(str(suite_toml), algorithms=[hostile.write(tmp_path)]))
    assert state() == before
    assert f"{hostile.label}-s0" in [cell.name for cell in cells]


def test_a_users_file_declares_what_planning_and_tuning_ask_for(tmp_path):
    path = tmp_path / "mine.py"
    text = MINE.replace("    def loss", "    @property\n    def needs(self):\n        return NEEDS\n\n    def loss")
    needs = "Needs(critic=self.beta > 1, refill=lambda rewards_K: True, extras=('length_limit_G',), min_group_size=3)"
    path.write_text(text.replace("NEEDS", needs).replace("import Algorithm,", "import Algorithm, Needs,"))
    found = declared_algorithm(f"{path}:Mine", {"beta": 2.0}, where="here")
    assert type(found).__name__ == "Mine"
    assert found.beta == 2.0  # type: ignore[attr-defined]
    assert found.__dataclass_fields__["beta"].metadata["search"] == LogUniform(0.03, 3.0)  # type: ignore[attr-defined]
    told = found.needs
    assert (told.critic, told.extras, told.min_group_size) == (True, ("length_limit_G",), 3)
    assert told.refill is not None
    assert not declared_algorithm(f"{path}:Mine", {}, where="here").needs.critic
    with pytest.raises(ConfigError, match=r"here\.parameters\.gamma: Mine has no such hyper-parameter"):
        declared_algorithm(f"{path}:Mine", {"gamma": 2.0}, where="here")


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (
            "type('Loose', (Needs,), {'__post_init__': lambda self: None})(coupling='banana')",
            "needs.coupling is 'banana'",
        ),
        ("Needs(data='bogus')", "needs.data is 'bogus'"),
    ],
)
def test_needs_that_the_harness_cannot_supply_are_refused_in_planning(tmp_path, needs, said):
    path = tmp_path / "mine.py"
    text = MINE.replace("    def loss", f"    @property\n    def needs(self):\n        return {needs}\n\n    def loss")
    path.write_text(text.replace("import Algorithm,", "import Algorithm, Needs,"))
    with pytest.raises(ConfigError, match=f"here: needs raises ValueError: {said}"):
        declared_algorithm(f"{path}:Mine", {}, where="here")


@pytest.mark.parametrize("field", ["int = 0.5", "float = '0.1'", "float = True", "Literal['a', 'b'] = 'c'"])
def test_a_default_that_its_annotation_refuses_is_refused_in_planning(tmp_path, field):
    path = tmp_path / "mine.py"
    text = MINE.replace("import ClassVar", "import ClassVar, Literal")
    path.write_text(text.replace("    def loss", f"    gamma: {field}\n    whole: float = 1\n\n    def loss", 1))
    with pytest.raises(ConfigError, match=r"here\.parameters\.gamma: Input should be .*: mend its default"):
        declared_algorithm(f"{path}:Mine", {}, where="here")
    path.write_text(path.read_text().replace(f"gamma: {field}", "gamma: float = 2"))
    assert declared_algorithm(f"{path}:Mine", {}, where="here").gamma == 2  # type: ignore[attr-defined]


def test_an_error_is_described_by_its_first_line_and_the_users_own_place(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text("import torch\n\n\ndef fail():\n    torch.ones(2) @ torch.ones(3)\n")
    space: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    with pytest.raises(RuntimeError) as error:
        space["fail"]()
    assert described(error.value).startswith("RuntimeError: inconsistent tensor size")
    assert described(error.value).endswith("(odd.py, line 5)")


def test_an_error_without_a_text_is_described_all_the_same():
    class Mute(Exception):
        def __str__(self):
            raise SystemExit

    assert described(Mute()) == "Mute: (its text cannot be had: __str__ raises SystemExit)"


def test_a_file_that_never_ends_its_import_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.suite.user_code.LOAD_SECONDS", 0.5)
    (tmp_path / "loop.py").write_text("while True: pass")
    with pytest.raises(ConfigError, match=r"here: its file has not been loaded after 0.5 s"):
        declared_algorithm(f"{tmp_path / 'loop.py'}:Mine", {}, where="here")


def test_a_file_that_asks_gets_no_answer(tmp_path):
    (tmp_path / "asks.py").write_text("open(0).read(); raise ValueError('no answer')")
    with pytest.raises(ConfigError, match="no answer"):
        declared_algorithm(f"{tmp_path / 'asks.py'}:Mine", {}, where="here")


def test_a_pipe_is_no_file_and_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(ConfigError, match="there is no file"):
        declared_algorithm(f"{tmp_path / 'pipe.py'}:Mine", {}, where="here")


def test_a_file_that_reads_what_lies_beside_it_is_refused_before_a_cell_runs_its_copy(tmp_path):
    (tmp_path / "beside.txt").write_text("3")
    path = tmp_path / "mine.py"
    path.write_text(f"{MINE}\nfrom pathlib import Path\nPath(__file__).with_name('beside.txt').read_text()\n")
    with pytest.raises(
        ConfigError, match=r"beside\.txt.*\(a cell runs a copy of .*mine\.py:Mine, with nothing beside it\)"
    ):
        declared_algorithm(f"{path}:Mine", {}, where="here")
