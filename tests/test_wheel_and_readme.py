"""What a user gets and what a user is told: the wheel's content, the README's example."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small import command, table

pytest_plugins = ["small_fixtures"]

ROOT = Path(__file__).parent.parent
PACKAGES = ["algorithms", "benchmarks", "harness"]


def test_readmes_algorithm_runs_beside_the_suites(suite_file, tmp_path, quick_workers, no_figures):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^##+ [^\n]*Add an algorithm[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, "README.md has no section 'Add an algorithm'"
    code = re.search(r"```python\n(.*?)```", section[1], re.S)
    assert code, "the section has no python block"
    shown = re.search(r"--algorithm (\S+\.py):(\w+) --set (\S+)", section[1])
    assert shown, "the section shows no `gvpo-bench sweep … --algorithm file.py:Class --set …`"
    path = tmp_path / shown[1]
    path.write_text(code[1], encoding="utf-8")
    exit_code = command(
        "sweep", suite_file, "--algorithm", f"{path}:{shown[2]}", "--set", shown[3],
        "--set", "train.steps=2", "--seeds", 1, "--workers", 1, "--out", tmp_path,
    )  # fmt: skip
    assert exit_code == 0
    found = table(tmp_path)
    assert sorted(found.index) == sorted(["base", "gvpo", "ppo", shown[2].lower()])
    assert found.loc[shown[2].lower(), "status"] == "finished"
    key, value = shown[3].split("=")
    assert key == f"algorithms.{shown[2].lower()}.optimizer.lr"
    assert found.loc[shown[2].lower(), "lr"] == float(value)


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
    expected = [name for name in tracked if name.split("/")[0] in PACKAGES and Path(name).suffix in (".py", ".toml")]
    assert sorted(names) == sorted(expected)
    assert "benchmarks/suites/embedded.toml" in names
