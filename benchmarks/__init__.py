"""The problems and how they are graded. Imports the standard library only; `datasets` and math-verify when used."""

from __future__ import annotations

from benchmarks.arithmetic import ARITHMETIC
from benchmarks.benchmark import Benchmark, DataError, Problem, Verdict
from benchmarks.math_problems import MATH_BENCHMARKS
from benchmarks.word_arithmetic import SUMS

__all__ = ["BENCHMARKS", "Benchmark", "DataError", "Problem", "Verdict", "load_benchmark"]

_ALL: tuple[Benchmark, ...] = (*ARITHMETIC, *SUMS, *MATH_BENCHMARKS)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises ValueError that lists the names."""
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark is called {name!r}; choose from {', '.join(sorted(BENCHMARKS))}")
    return BENCHMARKS[name]
