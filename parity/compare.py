"""This library against the field: feeds peers the same batches, and writes results/parity/.

.venv/bin/python parity/compare.py            # `make parity` builds .venv-parity first
.venv/bin/python parity/compare.py --only trl # one peer, and nothing written
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from peer import PEERS  # noqa: E402

Found = dict[str, Any]


def run(peer: str, python: Path) -> dict[str, Any]:
    """What peer.py finds in the peers' environment. Raises RuntimeError, with its traceback, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [python, ROOT / "parity" / "peer.py", peer, out]
        done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{peer} could not be compared; its process said:\n{done.stderr[-4000:]}")
        return json.loads(out.read_text())


def read_not_run() -> dict[str, Any]:
    """parity/read_not_run.toml: peers whose public code was read, and algorithms that no peer has."""
    return tomllib.loads((ROOT / "parity" / "read_not_run.toml").read_text())


def main() -> None:
    """Runs all peers and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-parity" / "bin" / "python")
    parser.add_argument("--only", choices=PEERS, help="compare one peer, print its rows, write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "parity")
    options = parser.parse_args()
    if not options.python.is_file():
        sys.exit(f"parity: there is no {options.python}; `make parity` builds the peers' environment")
    peers = [options.only] if options.only else list(PEERS)
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(peers, pool.map(lambda peer: run(peer, options.python), peers), strict=True))
    if options.only:
        for row in found[options.only]["rows"]:
            print(row["algorithm"], row["peer_settings"], row["loss"], row["coefficients"], row["explained"], sep="\t")
        return
    import parity_page

    parity_page.publish(found, read_not_run(), options.out)


if __name__ == "__main__":
    main()
