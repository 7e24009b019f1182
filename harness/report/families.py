"""Which family an algorithm belongs to, by which tables and figures of many algorithms are ordered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from harness.record.text import visible
from harness.report.recorded_cells import RecordedCell

MANY = 8
"""Beyond so many algorithms tables have a heading a family, and figures a panel a family."""


def families_of(cells: Sequence[RecordedCell]) -> dict[str, str]:
    """The family of each trained label, families in the order of the contract; of an algorithm whose cells were run
    before manifests named it, that of the registered class, and "other" where there is none.

    Imports torch, by the contract.
    """
    from algorithms import ALGORITHMS, Algorithm
    from algorithms.base import Family

    found = {}
    for cell in sorted(cells, key=lambda cell: cell.finished):  # a cell that failed early may not know its family
        registered = ALGORITHMS.get(str(cell.config("algorithm", "name")), Algorithm).family
        if cell.algorithm != "base":
            found[cell.algorithm] = visible(str(cell.manifest.get("family") or registered))
    order = list(get_args(Family))
    return dict(sorted(found.items(), key=lambda item: order.index(item[1]) if item[1] in order else len(order)))
