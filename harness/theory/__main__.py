"""`python -m harness.theory`: the same as `gvpo-bench theory`."""

import argparse
from pathlib import Path

from harness.theory.run import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure every claim of the article against a known answer.")
    parser.add_argument("--out", type=Path, default=Path("results/theory"), help="where the table and figures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    arguments = parser.parse_args()
    table = run(arguments.out, workers=arguments.workers, seed=arguments.seed)
    print(table.holds.value_counts().to_string())
