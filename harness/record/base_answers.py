"""What the base answered to the training problems, once for all cells of a suite: `<runs>/pass-rates-<key>.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.record.files import write_json
from harness.record.sums import is_sealed, read_record, seal

NAME, KEY, ANSWERS = "pass-rates-{}.json", "key", "answers"


def answers_path(runs: Path, key: str) -> Path:
    """Where the answers lie, by the key of all that decides them."""
    return runs / NAME.format(key)


def answer_files(runs: Path) -> list[Path]:
    """Those of a folder of runs."""
    return sorted(runs.glob(NAME.format("*")))


def read_answers(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The answers so far, and what is wrong with the file, as a phrase: then there are none.

    A file without a checksum, or of another key, is as good as none: numbers hang on it, and its problems can be asked
    again. One of an earlier version, which does not say its key, is taken for that of its name.
    """
    record, faults = read_record(path)
    if record is not None and not is_sealed(record):
        return {}, [f"{path.name} carries no checksum"]
    if record is None:
        return {}, faults
    if not isinstance(record.get(ANSWERS), dict):
        return {}, [f"{path.name} holds no answers"]
    if record.get(KEY, _key(path)) != _key(path):
        return {}, [f"{path.name} is that of key {record[KEY]}"]
    return record[ANSWERS], []


def write_answers(path: Path, answers: Mapping[str, Any]) -> None:
    """Replaces the answers so far."""
    write_json(path, seal({KEY: _key(path), ANSWERS: answers}))


def _key(path: Path) -> str:
    return path.stem.removeprefix("pass-rates-")
