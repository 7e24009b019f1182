"""Whether a published folder holds what follows from its raw rows: every table to the byte, every figure's data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from harness.publish.raw_rows import opened
from harness.publish.results_card import CARD, results_card
from harness.record.files import RecordError
from harness.record.sums import own_faults
from harness.report.choice import report_of
from harness.report.page import FIGURES, PAGE, PICTURES, Publication
from harness.report.recorded_cells import RecordedSuite

CLOSE = 1e-9
"""The relative difference up to which figures draw the same data; another processor may round otherwise."""
MOST_NAMED = 20
"""Differences in one file that are named one by one."""


def published_files(publication: Publication, suite: RecordedSuite) -> dict[str, bytes]:
    """What is published beside pictures and raw rows, by the names of the files."""
    texts = {PAGE: publication.page(), CARD: results_card(publication, suite)}
    return {**publication.tables, **publication.figure_data(), **texts}


def verify_published(folder: Path) -> list[str]:
    """Makes every table and every figure's data anew from the raw rows of a published folder. Returns what differs, a
    line each: nothing where all is as it was published.

    Where the raw rows themselves do not fit their checksums, nothing is made of them.
    """
    try:
        suite = opened(folder)
    except RecordError as error:
        return [str(error)]
    publication = report_of(suite).publication
    lines = own_faults(folder)
    for name, expected in published_files(publication, suite).items():
        path = folder / name
        if not path.is_file():
            lines.append(f"{name} is missing")
        else:
            lines += differences(name, path.read_bytes(), expected)
    for drawing in publication.drawings:
        pictures = [f"{FIGURES}/{drawing.name}.{kind}" for kind in PICTURES]
        lines += [f"{name} is missing" for name in pictures if not (folder / name).is_file()]
    return list(dict.fromkeys(lines))


def differences(name: str, published: bytes, expected: bytes) -> list[str]:
    """Where a published file is not the one that follows from the raw rows, a line a difference.

    The data of figures and of table.parquet are compared as data; all else byte for byte.
    """
    if published == expected:
        return []
    try:
        if name.endswith(".parquet"):
            found = frame_differences(_parquet(published), _parquet(expected), 0.0)
            return _named(name, found)
        if name.endswith(".csv"):
            found = frame_differences(_csv(published), _csv(expected), CLOSE if name.startswith(FIGURES) else 0.0)
            return _named(name, found, exact=not name.startswith(FIGURES))
    except (ValueError, OSError) as error:
        return [f"{name} cannot be read ({error})"]
    return _named(name, line_differences(published.decode(errors="replace"), expected.decode()), exact=True)


def _named(name: str, found: Iterator[str], *, exact: bool = False) -> list[str]:
    every = list(found) or (["other bytes for the same values"] if exact else [])
    more = [f"{name}: {len(every) - MOST_NAMED} more"] if len(every) > MOST_NAMED else []
    return [f"{name}: {text}" for text in every[:MOST_NAMED]] + more


def line_differences(published: str, expected: str) -> Iterator[str]:
    """The lines of two texts that differ, with both."""
    pairs = zip_longest(published.splitlines(), expected.splitlines(), fillvalue="")
    for number, (found, right) in enumerate(pairs, start=1):
        if found != right:
            yield f"line {number} is {_short(found, right)!r}, and {_short(right, found)!r} follows from the raw rows"


def _short(text: str, other: str, width: int = 60) -> str:
    """The part of a text in which it differs from another."""
    start = next((place for place, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    start = max(0, start - width // 3)
    return ("…" if start else "") + text[start : start + width] + ("…" if len(text) > start + width else "")


def frame_differences(published: pd.DataFrame, expected: pd.DataFrame, close: float) -> Iterator[str]:
    """The values of two tables that differ, by row and column, with both."""
    if list(published.columns) != list(expected.columns):
        both = set(map(str, published.columns)) ^ set(map(str, expected.columns))
        yield f"the columns differ ({', '.join(sorted(both)) or 'in their order'})"
        return
    if len(published) != len(expected):
        yield f"it has {len(published)} rows, and {len(expected)} follow from the raw rows"
        return
    for place, column in enumerate(expected.columns):
        found, right = published.iloc[:, place], expected.iloc[:, place]
        for row in np.flatnonzero(~_same(found, right, close)).tolist():
            key = " ".join(map(str, expected.iloc[row].tolist()[:2]))
            follows = f"{right.iloc[row]} follows from the raw rows"
            yield f"row {row + 1} ({key}): {column} is {found.iloc[row]}, and {follows}"


def _same(found: pd.Series, right: pd.Series, close: float) -> np.ndarray:
    missing = (found.isna() & right.isna()).to_numpy(dtype=bool)
    if pd.api.types.is_numeric_dtype(found) and pd.api.types.is_numeric_dtype(right):
        x, y = found.to_numpy(dtype=float, na_value=np.nan), right.to_numpy(dtype=float, na_value=np.nan)
        return missing | np.isclose(x, y, rtol=close, atol=close)
    return missing | (found.astype(str) == right.astype(str)).to_numpy(dtype=bool)


def _csv(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), float_precision="round_trip")


def _parquet(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content))
