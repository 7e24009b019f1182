"""The house: a wing imports only what stands below it, no file is too long, and every name is used once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "benchmarks.errors": 0,
    "benchmarks.farewell": 0,
    "benchmarks.grading_policy": 0,
    "algorithms": 1,
    "benchmarks": 1,
    "harness.record": 1,
    "harness.processes": 1,
    "harness.statistics": 2,
    "harness.suite": 2,
    "harness.theory": 2,
    "harness.model": 3,
    "harness.report": 3,
    "harness.tracking": 3,
    "harness.calibration": 4,
    "harness.site": 4,
    "harness.sampling": 4,
    "harness.training": 5,
    "harness.evaluation": 5,
    "harness.publish": 5,
    "harness.preflight": 6,
    "harness.sweep": 7,
    "harness.kit": 6,
    "harness.cli_algorithms": 8,
    "harness.cli_results": 8,
    "harness.cli": 9,
    "harness.__main__": 10,
}
MOST_LINES = 400
"""Of a file outside of the theory."""

FILES = sorted(path for top in ("algorithms", "benchmarks", "harness") for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def wing_of(module: str) -> str | None:
    """The wing that a module stands in; None outside of the house, and for the package that holds the wings."""
    found = [wing for wing in FLOORS if module == wing or module.startswith(wing + ".")]
    return max(found, key=len, default=None)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_wing_imports_only_what_stands_below_it(path: Path) -> None:
    own = wing_of(module_of(path))
    if own is None:
        assert path.name == "__init__.py", f"{path.relative_to(ROOT)} stands in no wing; FLOORS names them"
        return
    for module in imports(path):
        wing = wing_of(module)
        if wing is not None and wing != own:
            assert FLOORS[wing] < FLOORS[own], f"{module} is on floor {FLOORS[wing]}, {own} on {FLOORS[own]}"


def test_no_circle_within_a_wing() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {name: {found for found in imports(path) if found in modules} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join([*above[above.index(name) :], name])
        if name not in done:
            for below in graph[name] - {name}:
                visit(below, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_four_hundred_lines(path: Path) -> None:
    if "theory" not in path.parts:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_every_module_has_a_name_of_its_own() -> None:
    paths = defaultdict(list)
    for path in FILES:
        if path.name != "__init__.py":
            paths[path.stem].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in paths.items() if len(found) > 1} == {}


@pytest.mark.parametrize("wing", [name for name in FLOORS if (ROOT / name.replace(".", "/")).is_dir()])
def test_every_wing_says_what_it_is_for(wing: str) -> None:
    text = (ROOT / wing.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
