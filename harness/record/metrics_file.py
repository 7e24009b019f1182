"""The rows of a training, a step each, as lines of JSON that are appended."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.record.files import RecordError, write


def read_rows(path: Path, steps: int | None = None) -> list[dict[str, Any]]:
    """The rows so far, in order, or those of the first steps; a last line that a kill cut short is left out.

    Raises RecordError where any other line is not JSON, or a step is missing.
    """
    text = path.read_bytes() if path.is_file() else b""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(keepends=True)[:steps], start=1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(json.loads(line))
            step = rows[-1]["step"]
            if type(step) is not int or step != number:
                raise ValueError(f"but of step {step}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RecordError(
                f"{path}, line {number}, is not the row of step {number} ({error}): the file is damaged. Remove "
                f"{path.parent} to run the cell again"
            ) from None
    return rows


def keep_rows(path: Path, steps: int) -> None:
    """Drops the rows after a step, whatever they hold."""
    rows = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    write(path, b"".join(rows[:steps]))


def add_row(path: Path, row: Mapping[str, float | str]) -> None:
    """Appends a row. Raises ValueError on NaN or infinity, OSError where the file is a link."""
    line = json.dumps(row, allow_nan=False) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        file.write(line)
