"""Runs of several machines or laboratories as one suite, where they can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness.publish.completeness import environments, named
from harness.publish.raw_rows import PublishError, opened
from harness.record.files import RecordError, hash_of
from harness.report.recorded_cells import RecordedCell, RecordedSuite
from harness.report.trials import require_equal_budgets
from harness.suite.cell_config import NO_NUMBER, OWN

COMPARABLE = ("template", "converted_from", "weights")
"""What the manifests of one table have in common where they say it; earlier ones may not."""
SECTIONS = ("model", "train", "rollout", "evaluation")
"""Parts of the config that the cells of one table share. How they are shown is the newest cell's to say."""
VERSIONS = ("gvpo-bench", "grader", "math-verify")
"""Those by which verdicts and algorithms may differ; others are in the table's provenance."""
MAY_DIFFER = {"model": OWN, "train": NO_NUMBER["train"]}
"""Of those parts: what only the cells of some algorithms have, and what decides no number."""
TIMED = "seconds"
"""The metric that no two runs of a cell share."""


class Joined(NamedTuple):
    """Several suites as one."""

    suite: RecordedSuite
    twice: list[str]
    """Cells that more than one had, with the same numbers."""


def joined(folders: Sequence[Path]) -> Joined:
    """The cells of several folders of runs, or published folders, as one suite.

    Raises PublishError, which lists with both values everything in which they cannot be compared.
    """
    parts = {folder: opened(folder) for folder in folders}
    if len(parts) < 2:
        raise PublishError("merge joins two folders or more, each given once")
    cells: dict[str, tuple[Path, RecordedCell]] = {}
    twice, wrong = [], list(incomparable(parts))
    for folder, suite in parts.items():
        for cell in suite.cells:
            if cell.name not in cells:
                cells[cell.name] = (folder, cell)
                continue
            other, first = cells[cell.name]
            if difference := other_numbers(first, cell):
                wrong.append(
                    f"cell {cell.name} is there twice, and not the same: {difference[0]} in {other}, {difference[1]} "
                    f"in {folder}; leave it out of one of them"
                )
            else:
                twice.append(cell.name)
    trials = trials_of_all(parts.values())
    if trials is not None:
        try:
            require_equal_budgets(trials, "trials of " + " and ".join(map(str, parts)))
        except RecordError as error:
            wrong.append(str(error))
    if wrong:
        raise PublishError("these cannot be joined:" + "".join(f"\n  {line}" for line in wrong))
    return Joined(_as_one(list(parts.values()), [cell for _, cell in cells.values()], trials), twice)


def trials_of_all(parts: Iterable[RecordedSuite]) -> pd.DataFrame | None:
    """The trials of every algorithm, from the first part that has some of it; None where none has any."""
    found: list[pd.DataFrame] = []
    known: set[str] = set()
    for suite in parts:
        if suite.trials is not None:
            more = suite.trials[~suite.trials["algorithm"].isin(known)]
            known |= set(more["algorithm"])
            found += [] if more.empty else [more]
    return pd.concat(found, ignore_index=True) if found else None


def _as_one(
    parts: Sequence[RecordedSuite], cells: Sequence[RecordedCell], trials: pd.DataFrame | None
) -> RecordedSuite:
    """The first part, with the cells and trials of all; its gradient coefficients are of one batch and one trained
    policy."""
    first, labels = parts[0], {cell.algorithm for cell in parts[0].cells}
    recorded = {cell.name for cell in cells}
    left_out = dict(first.left_out)
    if first.coefficients is not None:
        others = sorted({cell.algorithm for cell in cells} - labels - {"base"})
        left_out |= dict.fromkeys(others, "its runs were joined from elsewhere, where the batch was not this one")
    return replace(
        first,
        cells=sorted(cells, key=lambda cell: cell.name),
        unfinished=sorted({name for part in parts for name in part.unfinished} - recorded),
        left_out=left_out,
        trials=trials,
    )


def incomparable(parts: Mapping[Path, RecordedSuite]) -> Iterator[str]:
    """What cells that would stand in one table do not have in common, with each value and where it is."""
    found: dict[str, dict[str, list[str]]] = {}
    for folder, suite in parts.items():
        for cell in suite.cells:
            for what, value in facts(cell):
                values = found.setdefault(what, {})
                values.setdefault(json.dumps(value, sort_keys=True), []).append(f"{folder}: {cell.name}")
    for what, values in found.items():
        if len(values) > 1:
            yield f"{what}: " + "; ".join(f"{value} ({named(of[:1])})" for value, of in values.items())


def facts(cell: RecordedCell) -> Iterator[tuple[str, Any]]:
    """What a cell has in common with those that it is compared with, by names such as train.steps.

    Of an ablation, each point has its own.
    """
    manifest, point = cell.manifest, cell.name.rpartition("/")[0]
    prefix = f"{point}: " if point else ""
    for section in SECTIONS:
        yield from leaves(f"{prefix}{section}", shared(section, cell.config(section) or {}))
    if cell.algorithm != "base":
        for section in ("algorithm", "tuning"):
            yield from leaves(f"{prefix}{section} of {cell.run_label}", cell.config(section) or {})
    yield f"{prefix}suite_hash", manifest["suite_hash"]
    yield from ((name, manifest[name]) for name in COMPARABLE if manifest.get(name) is not None)
    for made in environments(manifest):
        yield "code_sha256", made.get("code_sha256")
        for package in VERSIONS:
            yield f"version of {package}", made["versions"].get(package)
    if cell.finished:
        yield "problems", problems(cell)


def shared(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section without what MAY_DIFFER."""
    return {key: value for key, value in values.items() if key not in MAY_DIFFER.get(section, ())}


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of a tree of settings, each by its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(f"{name}.{key}", inner)
    else:
        yield name, value


def problems(cell: RecordedCell) -> str:
    """Which problems a cell was scored on, with how many samples: their numbers, and a hash of their ids."""
    counts = cell.rows.samples(["benchmark", "problem_id"]).value_counts(sort=False).sort_index()
    of_each = counts.groupby(level="benchmark").agg(["size", "sum"])
    texts = [f"{name} {row['size']} problems, {row['sum']} samples" for name, row in of_each.iterrows()]
    return f"{', '.join(texts)} (ids {hash_of(counts.reset_index().to_numpy().tolist())})"


def other_numbers(first: RecordedCell, second: RecordedCell) -> tuple[str, str] | None:
    """In what two records of one cell differ, seconds apart; None where all numbers are the same."""
    if first.manifest["status"] != second.manifest["status"]:
        return str(first.manifest["status"]), str(second.manifest["status"])
    if not first.finished:
        return None
    samples = [cell.samples().astype({"kl": float}) for cell in (first, second)]
    if not samples[0].equals(samples[1]):
        return _texts("score", [frame["score"].mean() for frame in samples], "other samples")
    metrics = [[_untimed(row) for row in cell.rows.metrics()] for cell in (first, second)]
    if metrics[0] != metrics[1]:
        rewards = [pd.Series([row.get("reward") for row in rows], dtype=float).mean() for rows in metrics]
        return _texts("mean training reward", rewards, "other metrics of its training")
    return None


def _untimed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of a cell share of a row of metrics; raw rows lack what is None."""
    return {name: value for name, value in row.items() if name != TIMED and value is not None}


def _texts(what: str, values: Sequence[float], otherwise: str) -> tuple[str, str]:
    """Both values where they differ as they are shown, else that something else does."""
    first, second = (f"{what} {value:.6g}" for value in values)
    return first, second if first != second else f"{second} with {otherwise}"
