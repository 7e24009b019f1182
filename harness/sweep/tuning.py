"""Hyper-parameters: as many trials for each algorithm, on seeds and problems that no table uses.

The points of a scrambled Sobol sequence (scipy.stats.qmc) cover learning rate and clipping norm, then the critic's
learning rate, then the algorithm's own search space: every algorithm has as many points over the same ranges, and those
with as many hyper-parameters of their own have the very same learning rates and norms, trial by trial.

Why Sobol, and no sampler that learns from its trials: all points are known before the first run, so trials run side by
side, go on after a kill, and are the same on every machine; their order means nothing, which the expected best after n
trials takes for granted; and eight trials are fewer than the ten that Optuna's TPE draws at random before it learns.
Optuna's QMCSampler draws from the same class of scipy's.

The scramble that the recorded searches drew is an unlucky one: over its eight points the learning rate and the one
hyper-parameter of most algorithms have a correlation of 0.82, and which of them a score is due to is not to be told.
`tuning.sampler = "spread-sobol"` has scipy swap coordinates between the points until their centred discrepancy is low
(optimization="random-cd"), and none above 0.3 is left. It is for new searches: of one table, all must have the same.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tomli_w
from rich.console import Console
from scipy.stats import qmc

from algorithms import ALGORITHMS
from algorithms.base import LogUniform
from harness.record.cell_folder import CellFolder
from harness.record.files import RecordError, write
from harness.record.ledger import Tokens
from harness.record.text import say, terminal, visible
from harness.report.drawing import place
from harness.report.trials import BUDGET, PARAMETER, SPENT, TRIALS, read_trials, require_equal_budgets
from harness.report.tuning_page import best_trials, write_tuning_page
from harness.suite.config import AlgorithmEntry, ConfigError, Suite
from harness.suite.plan import Cell, declared_algorithm, plan
from harness.sweep.cells import run_cells
from harness.sweep.events import Executor
from harness.sweep.run import check_health, prepare_model
from harness.tracking.tracked import tracked

SOBOL_SEED = 0
BEST = "best.toml"
OPTIMIZER = ("lr", "max_norm", "critic_lr")
"""What is searched of every algorithm's optimiser; the last where there is a critic."""


def trials(suite: Suite, label: str) -> list[dict[str, Any]]:
    """The settings to try for one algorithm: `optimizer` and `parameters` of each trial."""
    assert suite.tuning is not None
    entry = suite.algorithms[label]
    spec, where = entry.algorithm or label, f"algorithms.{label}"
    spaces: dict[tuple[str, str], Any] = {
        ("optimizer", name): LogUniform(*getattr(suite.tuning, name)) for name in OPTIMIZER
    }
    algorithm = declared_algorithm(spec, entry.parameters, where=where)
    for f in dataclasses.fields(algorithm):  # type: ignore[arg-type]
        if (space := f.metadata.get("search")) is not None:
            spaces["parameters", f.name] = space
    spread: Literal["random-cd"] | None = "random-cd" if suite.tuning.sampler == "spread-sobol" else None
    sobol = qmc.Sobol(len(spaces), scramble=True, optimization=spread, rng=SOBOL_SEED)
    points = sobol.random(suite.tuning.trials)
    found = []
    for point in points:
        trial: dict[str, Any] = {
            "optimizer": entry.optimizer.model_dump(exclude_unset=True),
            "parameters": dict(entry.parameters),
        }
        for ((section, name), space), u in zip(spaces.items(), point, strict=True):
            value = space.at(float(u))
            trial[section][name] = float(f"{value:.3g}") if isinstance(space, LogUniform) else value
        if not declared_algorithm(spec, trial["parameters"], where=where).needs.critic:
            del trial["optimizer"]["critic_lr"]
        found.append(trial)
    return found


def run_tuning(suite: Suite, out: Path, *, executor: Executor, command: list[str], console: Console) -> bool:
    """Runs all trials of the suite's algorithms and writes `out`/tuning/<suite>/: trials.csv, best.toml, README.md and
    figures/. Returns whether a cell failed.

    A trial's score is avg@k on the tuning problems, the mean over the tuning seeds; a failed run counts as 0.
    Algorithms that were tuned before and are not among the suite's keep their trials, where these had the same budget.

    Raises ConfigError where the suite has no [tuning], DoctorError for what would waste the trials, RecordError where
    the trials that are there had another budget: all before anything runs.
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
    folder = out / "tuning" / suite.name
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
            "protocols": ["tuned"],
            "algorithms": entries,
            "evaluation": suite.evaluation.model_copy(
                update={"benchmarks": [suite.tuning.benchmark], "hard_benchmarks": []}
            ),
        }
    )
    cells = [cell for cell in plan(tuning_suite, seeds=suite.tuning.seeds) if cell.is_trained]
    kept, best, found_by = _kept(folder, suite)
    rows = {name: trial_row(name, entry, suite) for name, entry in entries.items()}
    require_equal_budgets(pd.concat([kept, pd.DataFrame(rows.values())]), str(folder / TRIALS))
    prepare_model(tuning_suite, console)
    check_health(tuning_suite, cells, out, executor.workers, console)
    runs = out / "runs" / tuning_suite.name
    with tracked(suite.tracking, tuning_suite.name, cells, runs, out / "tracking" / tuning_suite.name, console):
        outcome = run_cells(cells, runs, executor=executor, command=command, console=console)

    for name, row in rows.items():
        own = [cell for cell in cells if cell.config.label == name]
        row |= result_row(runs, [cell for cell in own if cell.name not in outcome.failed], len(own))
    found = pd.DataFrame(rows.values())
    for label, trial in best_trials(found)["trial"].items():
        entry = entries[f"{label}-t{trial}"]
        optimizer = entry.optimizer.model_dump(include=set(OPTIMIZER), exclude_none=True)
        best[str(label)] = {"optimizer": optimizer, "parameters": entry.parameters}
    found_by.append(visible(f"# The best of {suite.tuning.trials} trials each: {' '.join(command)}"))
    table = _in_order(pd.concat([kept, found], ignore_index=True))
    write(
        folder / BEST,
        "\n".join(dict.fromkeys(found_by)) + f"\n\n{tomli_w.dumps({'algorithms': dict(sorted(best.items()))})}",
    )
    displays = {cell.config.label.rpartition("-t")[0]: cell for cell in cells}
    names = {label: getattr(ALGORITHMS.get(label), "name", label) for label in sorted(best, key=place)}
    for label, cell in displays.items():
        names[label] = (CellFolder(runs / cell.name).manifest() or {}).get("display", label)
    write_tuning_page(
        folder,
        table,
        suite=suite.name,
        names=names,
        baseline=suite.report.baseline,
        about=suite.tuning.model_dump(mode="json"),
    )
    shown = best_trials(found).drop(columns=["failed", *BUDGET, *SPENT])
    console.print(terminal(shown.to_string(), lines=True))
    say(console, f"trials: {folder / 'README.md'}")
    return bool(outcome.failed)


def trial_row(name: str, entry: AlgorithmEntry, suite: Suite) -> dict[str, Any]:
    """What is known of a trial before it runs: its settings, and its budget in response tokens over all seeds."""
    assert suite.tuning is not None
    label, _, trial = name.rpartition("-t")
    train, seeds = suite.train, len(suite.tuning.seeds)
    return {
        "algorithm": label,
        "trial": int(trial),
        **entry.optimizer.model_dump(include=set(OPTIMIZER)),
        **{f"{PARAMETER}{key}": value for key, value in entry.parameters.items()},
        "score": 0.0,
        "failed": 0,
        "sampler": suite.tuning.sampler,
        "seeds": seeds,
        "token_budget": seeds * train.steps * train.prompts * train.samples * train.max_new_tokens,
    }


def result_row(runs: Path, finished: Sequence[Cell], seeds: int) -> dict[str, Any]:
    """What came of a trial of so many seeds: its score, and its tokens where all of them finished."""
    folders = [CellFolder(runs / cell.name) for cell in finished]
    score = sum(folder.samples(["score"])["score"].mean() for folder in folders) / seeds
    row = {"score": score, "failed": seeds - len(finished), **dict.fromkeys(SPENT)}
    if len(finished) == seeds:
        ledgers = [Tokens(**(folder.manifest() or {})["tokens"]) for folder in folders]
        spent = [(ledger.generated, ledger.trained, ledger.extra) for ledger in ledgers]
        row |= dict(zip(SPENT, map(sum, zip(*spent, strict=True)), strict=True))
    return row


def _kept(folder: Path, suite: Suite) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """What an earlier search found of algorithms that are not tuned now: their trials, their best settings, and the
    comments that say which commands found them."""
    if not (folder / TRIALS).exists():
        return pd.DataFrame(), {}, []
    kept = read_trials(folder / TRIALS)
    kept = kept[~kept["algorithm"].isin(suite.algorithms)]
    if kept.empty:
        return pd.DataFrame(), {}, []
    try:
        text = (folder / BEST).read_text(encoding="utf-8")
        best = tomllib.loads(text)["algorithms"]
        best = {label: best[label] for label in dict.fromkeys(kept["algorithm"])}
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(
            f"{folder / BEST} does not hold what {TRIALS} beside it found ({type(error).__name__}: {error}): tune all "
            "algorithms of the suite in one run, or these elsewhere (--out)"
        ) from None
    return kept, best, [line for line in text.splitlines() if line.startswith("#")]


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Algorithms by label, their trials from the best to the worst; the parameters between optimiser and score."""
    parameters = sorted(name for name in map(str, table) if name.startswith(PARAMETER))
    columns = ["algorithm", "trial", *OPTIMIZER, *parameters, "score", "failed", *BUDGET, *SPENT]
    table = table.sort_values(["algorithm", "score", "trial"], ascending=[True, False, True], ignore_index=True)
    return table.reindex(columns=columns)
