"""Peak rates of GPUs, by name: for `plan` and for the share of the peak that a measurement reaches."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Peak rates as the maker states them, dense: FLOP/s, bytes of memory, bytes/s."""

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float


GPUS = {
    "A100-40GB": Gpu(312e12, 19.5e12, 40e9, 1.56e12),
    "A100": Gpu(312e12, 19.5e12, 80e9, 2.04e12),
    "L4": Gpu(121e12, 30.3e12, 24e9, 0.3e12),
    "L40S": Gpu(362e12, 91.6e12, 48e9, 0.86e12),
    "H100 PCIe": Gpu(756e12, 51e12, 80e9, 2.0e12),
    "H100": Gpu(989e12, 67e12, 80e9, 3.35e12),
    "H200": Gpu(989e12, 67e12, 141e9, 4.8e12),
    "B200": Gpu(2250e12, 80e12, 180e9, 8.0e12),
    # One thread, as `make perf` measures it on a two-core machine: 84 GFLOP/s of matrix products.
    "cpu": Gpu(84e9, 84e9, 4e9, 10e9),
}
"""By words that torch.cuda.get_device_name has in it, which `known_gpu` looks for."""


def known_gpu(device_name: str) -> str | None:
    """The name in GPUS of a device that torch calls so, such as "NVIDIA A100-SXM4-40GB"; None where it has none."""

    def words(name: str) -> set[str]:
        return set(re.split("[ -]", name))

    found = [name for name in GPUS if words(name) <= words(device_name)]
    return max(found, key=lambda name: len(words(name)), default=None)
