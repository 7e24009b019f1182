"""Who may import whom."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported(path):
    """The top-level packages that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(path.parent.name if node.level else (node.module or "").split(".")[0])
    return names


def files(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"{folder}/ holds no Python file"
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in found]


@pytest.mark.parametrize("path", files("algorithms") + files("benchmarks") + files("harness"))
def test_every_module_can_be_imported_where_its_extra_is_installed(path):
    try:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    except ModuleNotFoundError as error:
        if error.name not in {"lm_eval", "ray", "vllm"}:
            raise
        pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("path", files("algorithms") + files("benchmarks"))
def test_neither_losses_nor_problems_know_the_harness(path):
    assert "harness" not in imported(path)


@pytest.mark.parametrize("path", files("algorithms"))
def test_losses_import_torch_and_the_standard_library_alone(path):
    assert imported(path) <= {"algorithms", "torch"} | sys.stdlib_module_names


def test_importing_the_algorithms_costs_torch_and_nothing_more():
    heavy = ["transformers", "datasets", "pandas", "pyarrow", "scipy", "seaborn", "matplotlib", "pydantic", "typer"]
    code = f"import sys, algorithms; print([m for m in {[*heavy, 'benchmarks', 'harness']} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
