"""Hyper-parameters: as many trials for each algorithm, on seeds and problems that no table uses.

The points of a scrambled Sobol sequence cover learning rate and clipping norm, which are the same for all algorithms
trial by trial, then the critic's learning rate, then the algorithm's own search space.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
from rich.console import Console
from scipy.stats import qmc

from algorithms.base import LogUniform
from harness.record.cell_folder import CellFolder
from harness.record.files import write
from harness.record.text import say, terminal, to_csv, visible
from harness.suite.config import ConfigError, Suite
from harness.suite.plan import declared_algorithm, plan
from harness.sweep.cells import run_cells
from harness.sweep.events import Executor
from harness.sweep.run import check_health, prepare_model

SOBOL_SEED = 0


def trials(suite: Suite, label: str) -> list[dict[str, Any]]:
    """The settings to try for one algorithm: `optimizer` and `parameters` of each trial."""
    assert suite.tuning is not None
    entry = suite.algorithms[label]
    spec, where = entry.algorithm or label, f"algorithms.{label}"
    spaces: dict[tuple[str, str], Any] = {
        ("optimizer", "lr"): LogUniform(*suite.tuning.lr),
        ("optimizer", "max_norm"): LogUniform(*suite.tuning.max_norm),
        ("optimizer", "critic_lr"): LogUniform(*suite.tuning.critic_lr),
    }
    algorithm = declared_algorithm(spec, entry.parameters, where=where)
    for f in dataclasses.fields(algorithm):  # type: ignore[arg-type]
        if (space := f.metadata.get("search")) is not None:
            spaces["parameters", f.name] = space
    points = qmc.Sobol(len(spaces), scramble=True, rng=SOBOL_SEED).random(suite.tuning.trials)
    found = []
    for point in points:
        trial: dict[str, Any] = {
            "optimizer": entry.optimizer.model_dump(exclude_unset=True),
            "parameters": dict(entry.parameters),
        }
        for ((section, name), space), u in zip(spaces.items(), point, strict=True):
            trial[section][name] = float(f"{space.at(float(u)):.3g}")
        if not declared_algorithm(spec, trial["parameters"], where=where).needs.critic:
            del trial["optimizer"]["critic_lr"]
        found.append(trial)
    return found


def run_tuning(suite: Suite, out: Path, *, executor: Executor, command: list[str], console: Console) -> bool:
    """Runs all trials and writes `trials.csv` and `best.toml` to `out/tuning/<suite>/`. Returns whether a cell failed.

    A trial's score is avg@k on the tuning problems, the mean over the tuning seeds; a failed run counts as 0.

    Raises ConfigError where the suite has no [tuning], DoctorError for what would waste the trials.
    """
    if suite.tuning is None:
        raise ConfigError(f"suite {suite.name} has no [tuning] section")
    if suite.ablation is not None:
        raise ConfigError(f"suite {suite.name} is an ablation: its points share their settings; tune a suite without")
    if suite.train.replay in suite.algorithms:
        raise ConfigError(
            f"suite {suite.name} replays the rollouts of {suite.train.replay!r}, of which there is one for each trial: "
            "tune it with --set train.replay=<path to recorded runs>/<label>, or a suite that draws"
        )
    entries = {
        f"{label}-t{i}": suite.algorithms[label].model_copy(
            update={
                "algorithm": suite.algorithms[label].algorithm or label,
                "optimizer": suite.algorithms[label].optimizer.model_copy(update=trial["optimizer"]),
                "parameters": trial["parameters"],
            }
        )
        for label in suite.algorithms
        for i, trial in enumerate(trials(suite, label))
    }
    tuning_suite = suite.model_copy(
        update={
            "name": f"{suite.name}-tuning",
            "algorithms": entries,
            "evaluation": suite.evaluation.model_copy(
                update={"benchmarks": [suite.tuning.benchmark], "hard_benchmarks": []}
            ),
        }
    )
    cells = [cell for cell in plan(tuning_suite, seeds=suite.tuning.seeds) if cell.is_trained]
    prepare_model(tuning_suite, console)
    check_health(tuning_suite, cells, out, executor.workers, console)
    runs = out / "runs" / tuning_suite.name
    outcome = run_cells(cells, runs, executor=executor, command=command, console=console)

    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        label, _, trial = cell.config.label.rpartition("-t")
        row = rows.setdefault(
            cell.config.label,
            {
                "algorithm": label,
                "trial": int(trial),
                **entries[cell.config.label].optimizer.model_dump(include={"lr", "max_norm", "critic_lr"}),
                **{f"parameters.{k}": v for k, v in entries[cell.config.label].parameters.items()},
                "score": 0.0,
            },
        )
        if cell.name not in outcome.failed:
            samples = CellFolder(runs / cell.name).samples(["score"])
            row["score"] += samples["score"].mean() / len(suite.tuning.seeds)
        row["failed"] = row.get("failed", 0) + (cell.name in outcome.failed)
    table = pd.DataFrame(rows.values()).sort_values(["algorithm", "score"], ascending=[True, False])
    folder = out / "tuning" / suite.name
    write(folder / "trials.csv", to_csv(table, float_format="%.6g"))
    best = table.groupby("algorithm", sort=False).first()
    write(folder / "best.toml", _as_toml(suite, entries, best, command))
    console.print(terminal(best.to_string(), lines=True))
    say(console, f"trials: {folder / 'trials.csv'}")
    return bool(outcome.failed)


def _as_toml(suite: Suite, entries: dict[str, Any], best: pd.DataFrame, command: list[str]) -> str:
    settings = {}
    for label, row in best.iterrows():
        entry = entries[f"{label}-t{int(row['trial'])}"]
        optimizer = entry.optimizer.model_dump(include={"lr", "max_norm", "critic_lr"}, exclude_none=True)
        settings[str(label)] = {"optimizer": optimizer, "parameters": entry.parameters}
    trials = suite.tuning.trials if suite.tuning else 0
    heading = visible(f"# The best of {trials} trials each: {' '.join(command)}")
    return f"{heading}\n\n{tomli_w.dumps({'algorithms': settings})}"
