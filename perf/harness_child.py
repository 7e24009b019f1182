"""The harness's training loop in blocks of steps: `harness_child.py CELL.json`, the settings of one cell."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from blocks import Blocks

from benchmarks import load_benchmark
from benchmarks.judges import judge_for
from harness.model.language import frozen_base, load_model
from harness.record.cell_folder import CellFolder
from harness.sampling.engine import open_engine
from harness.suite.cell_config import CellConfig
from harness.suite.plan import build_algorithm
from harness.training.train import train


def main() -> None:
    """Trains as the cell's settings say, a step of training a step."""
    blocks = Blocks()
    torch.set_num_threads(1)
    config = CellConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lm = load_model(config.model)
    benchmark = load_benchmark(config.train.benchmark)
    algorithm = build_algorithm(config.algorithm, config.parameters, where=config.label)
    with (
        judge_for([benchmark]) as judges,
        open_engine(
            config.rollout, config.resources, lm.model, eos_ids=lm.eos_ids, precision=config.model.precision
        ) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        train(
            config,
            algorithm,
            lm,
            frozen_base(lm, config.resources),
            engine,
            benchmark.problems(),
            judges[benchmark.name],
            CellFolder(Path(folder)),
            lambda step, row: blocks.tick(),
        )


if __name__ == "__main__":
    main()
