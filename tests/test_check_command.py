"""`gvpo-bench check` and `gvpo-bench new`: what they print, and the exit codes that they end with."""

import io
import subprocess
import sys

import pytest
from rich.console import Console
from small import command, lean_environment

from algorithms import Needs
from harness.kit.check import ORDERED, Examination, Finding, show
from harness.kit.properties import Fault
from harness.kit.random_batches import random_case
from harness.kit.template import write_module

BY_NAME = {found.name: found for found in ORDERED}
GOOD = """
from dataclasses import dataclass
from typing import ClassVar

from algorithms import Algorithm, LossOutput, Needs
from algorithms.base import centred, sequence_log_ratio


@dataclass(frozen=True, kw_only=True)
class Mine(Algorithm):
    name: ClassVar[str] = "Mine"

    def loss(self, policy, batch):
        print("noise")
        loss_GK = -centred(batch.rewards_GK, batch.valid_GK) * sequence_log_ratio(policy, batch, "behaviour")
        return LossOutput(loss=loss_GK.sum() / BY)
"""
SOUND = GOOD.replace("BY", "batch.valid_GK.sum().clamp(min=1)")
PADDED = GOOD.replace("BY", "batch.valid_GK.shape[1]")


def check(tmp_path, capsys, source, name="Mine"):
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    code = command("check", f"{path}:{name}")
    return code, capsys.readouterr()


def test_a_sound_loss_ends_with_0_a_line_a_property_and_facts(tmp_path, capsys):
    code, shown = check(tmp_path, capsys, SOUND)
    assert code == 0
    assert "✓ What stands in the padding changes nothing" in shown.out
    assert "Sound: every property holds" in shown.out
    assert "Beside π_θ it reads rewards, π_behaviour." in shown.out
    assert "noise" not in shown.out
    assert "'sequence' is true as well" in shown.out  # the default coupling is right, and wasteful


def test_the_report_can_be_read_at_80_columns():
    found = BY_NAME["invalid_samples_take_no_part"]
    fault = Fault("with two samples more " * 8, random_case(Needs(), 0))
    page = io.StringIO()
    show(Examination([Finding(found, fault)], ["A fact. " * 20], 1.0), "mine", Console(file=page, width=80))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("  ") for line in lines) > 10  # what is wrong stands below its sentence, indented


def test_a_faulty_loss_ends_with_1_and_its_smallest_counterexample(tmp_path, capsys):
    code, shown = check(tmp_path, capsys, PADDED)
    text = " ".join(shown.out.split())
    assert code == 1
    assert "✗ Samples that are not valid take no part." in text
    assert "1 property does not hold" in text
    assert "The smallest such batch has" in text
    assert "prompt 0, sample 0: reward" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("raise ValueError('mine alone')\n", "ValueError: mine alone (mine.py, line 1)"),
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("Other = 1\n", "defines no 'Mine'"),
        ("Mine = 1\n", "it must be a subclass"),
        (SOUND.replace("@dataclass(frozen=True, kw_only=True)\n", ""), "decorate the class"),
        (SOUND.replace('    name: ClassVar[str] = "Mine"\n', "    name: str\n"), "give the class `name"),
        (SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: float\n'), "every hyper-parameter needs a default"),
        (
            SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: int = 0.5\n'),
            "parameters.beta: Input should be a valid int",
        ),
        (SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: float = "0.1"\n'), "it is '0.1': mend its default"),
        (SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: float = True\n'), "parameters.beta: Input should be"),
        (SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: object = print\n'), "a hyper-parameter is a finite number"),
        (SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: "not valid(" = 1.0\n'), "parameters cannot be checked"),
    ],
)
def test_what_cannot_be_loaded_ends_with_2_and_no_traceback(tmp_path, capsys, source, said):
    code, shown = check(tmp_path, capsys, source)
    assert code == 2
    assert shown.err.startswith("gvpo-bench: ")
    assert said in shown.err
    assert "Traceback" not in shown.err


def test_what_cannot_be_made_is_not_shown_and_ends_without_a_traceback(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(SOUND + "\n    def __post_init__(self):\n        raise ValueError('never')\n", encoding="utf-8")
    assert command("algorithms", f"{path}:Mine") != 0
    shown = capsys.readouterr().err
    assert "Mine() raises ValueError: never (mine.py, line" in shown
    assert "Traceback" not in shown


def test_an_end_of_the_process_beyond_a_range_is_a_range(tmp_path, capsys):
    ranged = SOUND.replace('= "Mine"\n', '= "Mine"\n    beta: float = 1\n').replace(
        "loss_GK = -", "loss_GK = -self.beta * "
    )
    ranged += "\n    def __post_init__(self):\n        if self.beta < 1:\n            raise SystemExit(3)\n"
    code, shown = check(tmp_path, capsys, ranged)
    assert (code, "Sound" in shown.out) == (0, True), shown


def test_needs_that_raise_when_asked_again_end_no_check(tmp_path, capsys):
    asked = "ASKED = []\n\n\n@dataclass"
    moody = SOUND.replace("@dataclass", asked, 1).replace('= "Mine"\n', '= "Mine"\n    beta: float = 1.0\n')
    moody += "\n    @property\n    def needs(self):\n        ASKED.append(1)\n"
    moody += "        return Needs(critic=1 / (2 - len(ASKED)) > 2)\n"
    code, shown = check(tmp_path, capsys, moody)
    assert "Traceback" not in shown.err
    assert code in (0, 1), shown


def test_an_unknown_name_ends_with_2(capsys):
    assert command("check", "gpvo") == 2
    assert "unknown algorithm 'gpvo'" in capsys.readouterr().err


def test_state_of_a_module_is_found_by_loading_it_anew(tmp_path, capsys):
    remembers = SOUND.replace("loss_GK = -", "loss_GK = -first(batch) * ").replace(
        "@dataclass", "FIRST = []\n\n\ndef first(batch):\n    FIRST or FIRST.append(batch.rewards_GK.sum().item())\n"
        "    return FIRST[0]\n\n\n@dataclass", 1
    )  # fmt: skip
    code, shown = check(tmp_path, capsys, remembers)
    text = " ".join(shown.out.split())
    assert code == 1
    assert "✗ The same input gives the same output" in text
    assert "A batch after another one" in text


def test_new_writes_a_module_that_passes_the_check_and_a_test_that_passes(tmp_path, capsys):
    assert command("new", "MyFirstLoss", "--out", tmp_path / "made") == 0
    shown = capsys.readouterr().out
    module, test = tmp_path / "made" / "my_first_loss.py", tmp_path / "made" / "test_my_first_loss.py"
    assert f"gvpo-bench check {module}:MyFirstLoss" in shown
    assert command("check", f"{module}:MyFirstLoss") == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        env=lean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_new_writes_is_formatted_and_documented_as_the_project_is(tmp_path):
    written = write_module("MyLoss", tmp_path)
    config = ["--config", "pyproject.toml"]
    for arguments in (["check", *config], ["format", "--check", *config]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, str(written.module)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_new_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "test_mine.py").write_text("mine", encoding="utf-8")
    assert command("new", "Mine", "--out", tmp_path) == 3
    assert "exists already; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "mine.py").exists()
    assert (tmp_path / "test_mine.py").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["mine", "My-Loss", "1Loss", "None", "", "Größe", "a/B"])
def test_new_refuses_what_cannot_name_a_class(tmp_path, capsys, name):
    assert command("new", name, "--out", tmp_path) == 2
    assert "cannot name a class" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
