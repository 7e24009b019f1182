"""Small suites of made-up cells that may be published, with checksums, for the tests of what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_runs import coefficients, config, write_cell, write_coefficients

from harness.record.cell_folder import CellFolder
from harness.record.runs_folder import recorded_cells
from harness.record.verify import record_sums

PROBLEMS, SAMPLES = 4, 8
LEVELS = {"base": 2, "grpo": 4, "gvpo": 6, "pg": 5}
"""Right samples of eight on the first problem."""


def drawn(label: str, seed: int) -> dict[str, np.ndarray]:
    """Scores that are the same wherever label and seed are: a right sample less on each further problem."""
    count_P = np.clip(LEVELS[label] + seed % 3 - np.arange(PROBLEMS), 0, SAMPLES)
    score_PK = (np.arange(SAMPLES) < count_P[:, None]).astype(float)
    return {"arithmetic": score_PK, "arithmetic-hard": score_PK[2:]}


def write_small(
    runs: Path, seeds: range = range(3), labels: tuple[str, ...] = ("grpo", "gvpo"), failed: bool = True
) -> Path:
    """The base, some algorithms, a failed cell, the gradient coefficients, and sums of all. Returns `runs`."""
    write_cell(runs, "base", None, drawn("base", 0), display="base", length=4.0)
    for label in labels:
        for seed in seeds:
            curve = [0.25, 0.5, 0.625 + seed / 8]
            write_cell(runs, label, seed, drawn(label, seed), kl=0.1 + seed / 3, curve=curve)
    if failed:
        for seed in seeds:
            write_cell(runs, "ppo", seed, {}, status="failed")
    table = coefficients(np.random.default_rng(0), prompts=2, samples=4)
    write_coefficients(runs, table[table["algorithm"].isin(labels)], left_out={"ppo": "it failed"})
    job = CellFolder(runs / "coefficients")
    job.finish({"status": "finished", "hash": "h", "left_out": {"ppo": "it failed"}})
    seal(runs)
    return runs


def write_small_ablation(runs: Path) -> Path:
    """Two points of β, an algorithm, two seeds, and the base at the reference."""
    ablation = {
        **{"quantity": "β", "axis": "log", "reference": "1", "note": None},
        "points": [{"label": "0.1", "set": ["algorithms.gvpo.parameters.beta=0.1"]}, {"label": "1", "set": []}],
    }
    settings = config(ablation=ablation, report={"baseline": "gvpo"})
    write_cell(runs / "1", "base", None, drawn("base", 0), settings=settings, suite_hash="1", display="base")
    for point in ("0.1", "1"):
        for seed in range(2):
            scores = drawn("gvpo", seed + (point == "1"))
            write_cell(runs / point, "gvpo", seed, scores, curve=[0.1, 0.2], settings=settings, suite_hash=point)
    seal(runs)
    return runs


def seal(runs: Path) -> None:
    """Gives checksums to all cells that have none."""
    for cell in recorded_cells(runs):
        if not cell.is_sealed():
            record_sums(cell)


def change(cell: Path, **fields: Any) -> None:
    """Changes a cell's manifest, and its checksums with it, as if it had been recorded so."""
    manifest = json.loads((cell / "manifest.json").read_text())
    manifest = {name: value for name, value in manifest.items() if name not in ("sha256", "sums")}
    for name, value in fields.items():
        *parents, last = name.split("__")
        section = manifest
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    CellFolder(cell).finish(manifest)
