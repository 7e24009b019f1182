"""What a user gets and what a user is told: the wheel's content, the README's example."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small import command, lean_environment, table

pytest_plugins = ["small_fixtures"]

ROOT = Path(__file__).parent.parent
PACKAGES = ["algorithms", "benchmarks", "harness"]


def test_what_readme_says_of_adding_an_algorithm_is_what_happens(suite_file, tmp_path, monkeypatch, no_figures):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^##+ [^\n]*Add an algorithm[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, "README.md has no section 'Add an algorithm'"
    commands = re.search(r"^```\n(.*?)```", section[1], re.M | re.S)
    code = re.search(r"```python\n(.*?)```", section[1], re.S)
    assert commands, "the section has no block of commands"
    assert code, "the section has no python block"
    example = (ROOT / "examples" / "pairless.py").read_text(encoding="utf-8")
    assert code[1] == example, "README shows another file than examples/pairless.py"
    new, check, test, sweep = [shlex.split(line, comments=True) for line in commands[1].splitlines()]
    monkeypatch.chdir(tmp_path)

    assert new[:2] == ["gvpo-bench", "new"]
    assert command(*new[1:]) == 0
    assert command(*check[1:]) == 0  # before it is edited
    name = check[-1].rpartition(":")[0]
    assert Path(name).is_file()
    Path(name).write_text(code[1], encoding="utf-8")
    shutil.copy(ROOT / "examples" / f"test_{name}", tmp_path)
    assert command(*check[1:]) == 0
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *test[1:]]
    environment = lean_environment(PYTHONPATH=str(ROOT))
    subprocess.run(pytest_command, check=True, cwd=tmp_path, env=environment, capture_output=True)

    assert sweep[:3] == ["gvpo-bench", "sweep", "embedded"]
    small = ["--set", "train.steps=2", "--workers", "1", "--out", str(tmp_path)]
    shown = [x for x in sweep[3:] if x not in ("--seeds", "2")] + ["--seeds", "1"]
    assert command("sweep", suite_file, *shown, *small) == 0
    found = table(tmp_path)
    assert sorted(found.index) == ["base", "grpo", "gvpo", "pairless"]
    assert found.loc["pairless", "status"] == "finished"


def test_readmes_algorithm_joins_all_of_a_suites_with_the_optimizer_that_is_set(suite_file, tmp_path, no_figures):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"--set (algorithms\.pairless\.optimizer\.lr)=(\S+)`", text)
    assert shown, "README shows no `--set algorithms.pairless.optimizer.lr=…`"
    exit_code = command(
        "sweep", suite_file, "--algorithm", f"{ROOT / 'examples' / 'pairless.py'}:Pairless",
        "--set", f"{shown[1]}={shown[2]}", "--set", "train.steps=2", "--seeds", 1, "--workers", 1, "--out", tmp_path,
    )  # fmt: skip
    assert exit_code == 0
    found = table(tmp_path)
    assert sorted(found.index) == ["base", "gvpo", "pairless", "ppo"]
    assert found.loc["pairless", "lr"] == float(shown[2])


def test_wheel_holds_the_packages_with_their_suites_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", reason="builds without network need setuptools in this environment")
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES, "pyproject.toml", "README.md", "LICENSE", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("the list of files comes from git, and this is no checkout")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, *options, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("gvpo_bench-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    kinds = (".py", ".toml", ".json", ".safetensors")
    expected = [name for name in tracked if name.split("/")[0] in PACKAGES and Path(name).suffix in kinds]
    assert sorted(names) == sorted(expected)
    assert "benchmarks/suites/embedded.toml" in names
    assert sum(name.endswith("model.safetensors") for name in names) == 2  # the embedded base and its teacher
