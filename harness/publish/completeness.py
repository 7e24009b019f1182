"""Whether a suite is complete enough to be published: everything that is wrong with it, a line each."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.record.cell_folder import CellFolder
from harness.record.environment import code_of_commit
from harness.report.recorded_cells import RecordedCell, RecordedSuite, newest
from harness.suite.plan import Cell

MOST_NAMED = 12
"""Cells that one line names."""


def incomplete(suite: RecordedSuite, planned: Sequence[Cell] | None) -> list[str]:
    """What keeps a suite from being published; nothing where it may be.

    Args:
        suite: as it was recorded.
        planned: the cells that its file asks for; None where the file is not known, and every algorithm is asked for
            the seeds that any has.
    """
    return [
        *missing(suite, planned),
        *unsealed(suite.cells),
        *(line for what, get in ONE_OF_EACH.items() for line in several(what, suite.cells, get)),
        *unclean(suite.cells),
        *other_settings(suite.cells, planned or ()),
    ]


def missing(suite: RecordedSuite, planned: Sequence[Cell] | None) -> Iterator[str]:
    """Cells that have not ended, or of which there is no trace."""
    recorded = {cell.name for cell in suite.cells}
    asked = {cell.name for cell in planned} if planned is not None else set(expected_names(suite))
    if suite.unfinished:
        yield f"not finished: {named(suite.unfinished)}"
    if absent := sorted(asked - recorded - set(suite.unfinished)):
        yield f"not there: {named(absent)}"
    if planned is not None and (more := sorted(recorded - asked)):
        yield f"not cells of the suite as its file has it: {named(more)}"


def expected_names(suite: RecordedSuite) -> Iterator[str]:
    """The base, and each algorithm at every seed that any algorithm has; of an ablation, at every point that the newest
    cell names."""
    points = (newest(suite.cells).config("ablation", "points") or ()) if suite.is_ablation else [{"label": ""}]
    trained = [cell for cell in suite.cells if cell.manifest["seed"] is not None]
    seeds = sorted({cell.manifest["seed"] for cell in trained})
    labels = dict.fromkeys(cell.run_label for cell in trained)
    for point, label, seed in itertools.product(points, labels, seeds):
        yield f"{point['label']}/{label}-s{seed}".removeprefix("/")
    if not any(cell.manifest["algorithm"] == "base" for cell in suite.cells):
        yield "base"


def unsealed(cells: Sequence[RecordedCell]) -> Iterator[str]:
    """Cells in folders without checksums. Those that do not fit theirs were refused when they were read."""
    names = [cell.name for cell in cells if isinstance(cell.rows, CellFolder) and not cell.rows.is_sealed()]
    if names:
        yield f"without checksums (gvpo-bench verify --record adds them): {named(names)}"


def environments(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a cell was evaluated with and, where that is known, what it was trained with."""
    return [manifest, *([manifest["trained_with"]] if manifest.get("trained_with") else [])]


ONE_OF_EACH: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "commits": lambda made: (made.get("git") or {}).get("commit"),
    "code hashes": lambda made: made.get("code_sha256"),
    "sets of versions": lambda made: made["versions"],
}
"""What the cells of a published table have in common."""


def several(what: str, cells: Sequence[RecordedCell], get: Callable[[Mapping[str, Any]], Any]) -> Iterator[str]:
    """A line where cells were made with different values."""
    names = defaultdict(list)
    for cell in cells:
        for made in environments(cell.manifest):
            names[json.dumps(get(made), sort_keys=True)].append(cell.name)
    if len(names) > 1:
        found = "; ".join(f"{value}: {named(list(dict.fromkeys(of)))}" for value, of in names.items())
        yield f"{len(names)} {what} ({found})"


def is_its_commits(made: Mapping[str, Any]) -> bool:
    """Whether the code that ran is that of the commit, by its hash: as far as this checkout holds the commit."""
    commit, code = (made.get("git") or {}).get("commit"), made.get("code_sha256")
    return None not in (commit, code) and code == code_of_commit(commit)


def unclean(cells: Sequence[RecordedCell]) -> Iterator[str]:
    """Cells of code that no commit has. One whose code is its commit's, by its hash, may have run beside other changes:
    of published tables, say, which a sweep wrote anew."""
    dirty, unknown = [], []
    for cell in cells:
        repositories = [made.get("git") for made in environments(cell.manifest)]
        if any(git and git.get("dirty") for git in repositories) and not all(
            map(is_its_commits, environments(cell.manifest))
        ):
            dirty.append(cell.name)
        if any(not git or not git.get("commit") for git in repositories):
            unknown.append(cell.name)
    if dirty:
        yield f"run with uncommitted changes: {named(dirty)}"
    if unknown:
        yield f"run from no commit: {named(unknown)}"


def other_settings(cells: Sequence[RecordedCell], planned: Sequence[Cell]) -> Iterator[str]:
    """Cells whose settings are not those of the suite's file."""
    asked = {cell.name: cell.config.hashes() for cell in planned}
    other = [
        cell.name
        for cell in cells
        if cell.name in asked
        and (cell.manifest["hash"], cell.manifest.get("evaluation_hash", asked[cell.name].evaluation))
        != tuple(asked[cell.name])
    ]
    if other:
        yield f"run with other settings than the suite's file has: {named(other)}"


def named(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
