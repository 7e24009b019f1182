"""Every random number is drawn from a seed that names its purpose, so that no draw depends on what happened before."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*purpose: str | int) -> int:
    """A seed of 63 bits from the purpose of the draw, for instance ("rollout", seed, step)."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*purpose: str | int) -> torch.Generator:
    """A CPU generator: the same numbers on every device."""
    return torch.Generator().manual_seed(seed_of(*purpose))
