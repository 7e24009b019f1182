"""From a TOML file, or a suite of the package by name, to a `Suite`, with what a command line overrides.

Does not import torch.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.suite.config import AlgorithmEntry, ConfigError, Suite


def suite_files() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    folder = Path(str(files("benchmarks"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(source: str, overrides: Sequence[str] = (), algorithms: Sequence[str] = ()) -> Suite:
    """Reads a suite from a TOML file, or one of the package's by name, and applies `key.sub=value` overrides.

    `algorithms` that are labels of the suite leave out its others; any other name or `path/to/file.py:Class` joins
    those that remain, with the optimizer of the suite's baseline.

    Raises ConfigError, which lists every wrong key at once.
    """
    path = Path(source)
    if not path.is_file():
        if source.removesuffix(".toml") not in suite_files():
            raise ConfigError(
                f"there is no suite file {source}; the suites that come with gvpo-bench: {', '.join(suite_files())}"
            )
        path = suite_files()[source.removesuffix(".toml")]
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _choose_algorithms(raw, algorithms)
    for override in overrides:
        _apply_override(raw, override)
    suite = _validated(raw, str(path))
    points_of(suite)
    return suite


def _validated(raw: dict[str, Any], where: str) -> Suite:
    try:
        return Suite.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def points_of(suite: Suite) -> dict[str, Suite]:
    """The suites that an ablation stands for, by the label of their point, named `<suite>/<label>`.

    Raises ConfigError, which names the point, where its settings don't make a suite. A suite without an ablation has
    no points.
    """
    points = {}
    for point in suite.ablation.points if suite.ablation is not None else []:
        where = f"suite {suite.name}, ablation point {point.label}"
        raw = suite.model_dump(mode="json", exclude_unset=True, exclude={"ablation"})
        for override in point.set:
            try:
                _apply_override(raw, override)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
        points[point.label] = _validated(raw, where).model_copy(update={"name": f"{suite.name}/{point.label}"})
    return points


def _choose_algorithms(raw: dict[str, Any], chosen: Sequence[str]) -> None:
    entries, report = raw.get("algorithms"), raw.get("report")
    if not chosen or not isinstance(entries, dict) or not isinstance(report, dict):
        return  # validation has more to say about a suite without them
    baseline = entries.get(report.get("baseline"), {})
    labels = [spec for spec in chosen if spec in entries]
    if labels:
        entries = raw["algorithms"] = {label: entry for label, entry in entries.items() if label in labels}
        if report.get("baseline") not in labels:
            report["baseline"] = labels[0]
    for spec in chosen:
        label = spec.rpartition(":")[2].lower()
        if spec in labels:
            continue
        if label in entries:
            raise ConfigError(f"--algorithm {spec}: the suite already has one labelled {label!r}; rename the class")
        entries[label] = {"algorithm": spec, "optimizer": dict(baseline.get("optimizer", {})), "tuned": False}


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write it as key=value, for instance train.steps=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
    section[last] = value


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "the suite as a whole"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"])
        return f"{key}: unknown key" + (f"; known here: {', '.join(known)}" if known else "")
    if item["type"] == "missing":
        return f"{key}: missing; it has no default"
    if item["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key} = {item['input']!r}: {message}"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """The keys of the section that an unknown key stands in."""
    section: type[BaseModel] = Suite
    parents = [part for part in location[:-1] if isinstance(part, str)]  # not the places in lists
    if parents[:1] == ["algorithms"] and len(parents) > 1:
        section, parents = AlgorithmEntry, parents[2:]
    for part in parents:
        annotation = section.model_fields[part].annotation
        kinds = (annotation, *getattr(annotation, "__args__", ()))
        section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(section.model_fields)
