"""Compares this library with one peer, and writes what it found as JSON. Runs in the peers' environment.

python parity/peer.py verl found.json
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fed import Row, coefficients, fed, measure

PEERS = {
    "trl": "trl",
    "verl": "verl",
    "ms-swift": "swift",
    "openrlhf": "openrlhf",
    "skyrl": "skyrl",
    "areal": "areal",
    "trinity-rft": "trinity",
}
"""Distributions, and who compares them: the module with_<name>."""


def dialect(row: Row) -> dict[str, Any] | None:
    """The peer's coefficients on the batch of dialects, response by response."""
    if not row.dialect:
        return None
    case = fed("pairs" if row.algorithm in ("dpo", "ipo", "offline_dpo") else "dialect", 0)
    C_BT = coefficients(row.theirs(case), case.logp_BT).view_as(case.logp_BT)
    return {"name": row.dialect, "coefficients": [c[m].tolist() for c, m in zip(C_BT, case.bool_BT, strict=True)]}


def main(distribution: str, out: str) -> None:
    """Runs all rows of one peer."""
    module = importlib.import_module(f"with_{PEERS[distribution]}")
    found = [
        {
            "algorithm": row.algorithm,
            "peer": distribution,
            "version": version(distribution),
            "function": row.function,
            "peer_settings": row.peer_settings,
            "our_settings": dict(row.settings),
            "kinds": list(row.kinds),
            "factor": row.factor,
            "differs": row.differs,
            "note": row.note,
            "constant": row.constant,
            "dialect": dialect(row),
            **measure(row),
        }
        for row in module.rows()
    ]
    Path(out).write_text(json.dumps({"stubbed": list(module.STUBBED), "rows": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
