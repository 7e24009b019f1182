"""From a TOML file, or a suite of the package by name, to a `Suite`, with what a command line overrides.

Does not import torch.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import tomllib
from collections.abc import Iterator, Sequence
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
    path = _suite_path(source)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows writes a mark before it
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8, a number of 5,000 digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _choose_algorithms(raw, algorithms)
    for override in overrides:
        _apply_override(raw, override)
    suite = _validated(raw, str(path))
    points_of(suite)
    return suite


def _suite_path(source: str) -> Path:
    path = Path(source)
    with contextlib.suppress(OSError):  # a name too long for a file's
        if path.is_file():
            return path
    name = source.removesuffix(".toml")
    if name not in suite_files():
        raise ConfigError(
            f"there is no suite file {source}; the suites that come with gvpo-bench: {', '.join(suite_files())}"
        )
    return suite_files()[name]


def _validated(raw: dict[str, Any], where: str) -> Suite:
    try:
        wrong = list(_impossible(raw))
        if not wrong:
            return Suite.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        wrong = [_explain(item) for item in error.errors()]
    except RecursionError:
        wrong = ["tables within tables, too many of them"]
    raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in wrong))


def _impossible(value: Any, key: str = "") -> Iterator[str]:
    """What no setting can be, wherever it stands: a number that is not finite, an integer beyond TOML's 64 bits, or a
    text that is none."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _impossible(name, f"the key {name!r}")
            yield from _impossible(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _impossible(inner, key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} = {value}: every number is finite"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield f"{key}: an integer of {value.bit_length()} bits; TOML's have 64"
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{key} = {_shortened(repr(value))}: no text in UTF-8"


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
    if not isinstance(report.get("baseline"), str):
        return
    baseline = entries.get(report["baseline"])
    optimizer = baseline.get("optimizer", {}) if isinstance(baseline, dict) else {}
    labels = [spec for spec in chosen if spec in entries]
    if labels:
        entries = raw["algorithms"] = {label: entry for label, entry in entries.items() if label in labels}
        if report["baseline"] not in labels:
            report["baseline"] = labels[0]
    for spec in chosen:
        label = spec.rpartition(":")[2].lower()
        if spec in labels:
            continue
        if label in entries:
            raise ConfigError(f"--algorithm {spec}: the suite already has one labelled {label!r}; rename the class")
        entries[label] = {"algorithm": spec, "optimizer": copy.deepcopy(optimizer), "tuned": False}


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write it as key=value, for instance train.steps=3")
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        read = {"value": text}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--set {_shortened(override)}: {error}") from None
    if len(read) > 1:
        raise ConfigError(f"--set {_shortened(repr(override))} sets more than one key; give each a --set of its own")
    *parents, last = key.strip().split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
    section[last] = read["value"]


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
    return f"{key} = {_shortened(repr(item['input']))}: {message}"


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


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
