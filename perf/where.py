"""Where the time of a part of a step goes, by torch's profiler."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_linear"}


def kind_of(operator: str) -> str:
    """What an operator's own time is counted as."""
    if operator in PRODUCTS:
        return "matrix products"
    if "scaled_dot_product" in operator:
        return "attention"
    return "other operators" if operator.startswith("aten::") else "Python and dispatch"


def where_the_time_goes(run: Callable[[], None], times: int = 5) -> dict[str, float]:
    """Shares of the wall time, which add up to 1. What no operator accounts for is Python and dispatch; the profiler
    itself makes that larger than it is."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(times):
            run()
        wall = time.perf_counter() - started
    seconds = Counter({"Python and dispatch": 0.0})
    for event in profiler.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    seconds["Python and dispatch"] += wall - seconds.total()
    return {kind: spent / wall for kind, spent in seconds.items()}
