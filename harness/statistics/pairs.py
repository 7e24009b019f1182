"""Every algorithm against every other: a pure function, with the correction over all of these tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from harness.statistics.intervals import holm


class Pair(NamedTuple):
    """The difference `first` − `second`, paired."""

    first: str
    second: str
    difference: Mapping[str, Any]
    """As `compare` gave it."""
    p_holm: float | None
    """Holm-corrected over all pairs that were tested; None where this one was not."""


def pairwise(labels: Sequence[str], compare: Callable[[str, str], Mapping[str, Any]]) -> list[Pair]:
    """All m(m − 1)/2 pairs of labels, in their order.

    `compare` gives of two labels their difference, `p_value` among its keys: None or absent where it was not tested.
    """
    pairs = list(combinations(labels, 2))
    found = [compare(first, second) for first, second in pairs]
    tested = [index for index, difference in enumerate(found) if difference.get("p_value") is not None]
    corrected = dict(zip(tested, holm([found[index]["p_value"] for index in tested]), strict=True))
    return [
        Pair(*pair, difference, corrected.get(index))
        for index, (pair, difference) in enumerate(zip(pairs, found, strict=True))
    ]
