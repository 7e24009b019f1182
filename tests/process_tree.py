"""What a process has started, and where it listens: from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [below for child in children for below in descendants(child)]


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses at which these processes take TCP connections: "loopback", or what else they are."""
    at = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                words = bytes.fromhex(local.partition(":")[0])  # of 4 bytes each, in this machine's order
                address = ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
                address = getattr(address, "ipv4_mapped", None) or address
                at[f"socket:[{inode}]"] = "loopback" if address.is_loopback else str(address)
    found: set[str] = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                socket = os.readlink(descriptor)
            except OSError:
                continue
            found |= {at[socket]} if socket in at else set()
    return found
