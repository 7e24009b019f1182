"""Measures what intervals and tests promise, and writes results/calibration/."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import Progress

from benchmarks.errors import BenchError
from harness.calibration.calibration_figure import draw
from harness.calibration.simulate import LEVEL, Null, Power, Rate, split_in_two, under_a_difference, under_no_difference
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown, to_csv
from harness.report.comparison import Scores
from harness.report.drawing import encode
from harness.report.recorded_cells import agreed, load_cells, of_first_protocol
from harness.statistics.intervals import MIN_SEEDS_TO_TEST, Array
from harness.statistics.power import POWER
from harness.statistics.synthetic import Components, components_of
from harness.suite.evaluation_settings import Evaluation

SEEDS = (4, 8, 12)
ALGORITHMS = (2, 7, 31)
COVERAGE = 0.935
COMPONENTS = "components.csv"
SPLITS = 1000

Setting = tuple[str, int, int]
"""Source, seeds, algorithms."""
Job = Callable[[], tuple[Null, Power]]


class CalibrationError(BenchError, ValueError):
    """Nothing to calibrate on. The message says what to give."""


@dataclass(frozen=True)
class Promise:
    """One line of the table: what was promised, and what was measured."""

    source: str
    """Whose variance components, or whose recorded runs."""
    seeds: int
    algorithms: int
    what: str
    promised: str
    measured: Rate
    holds: bool

    def row(self) -> dict[str, Any]:
        """As a row of the table."""
        row = {**asdict(self), "measured": self.measured.value, "standard_error": self.measured.error}
        return {**{key: x for key, x in row.items() if key != "holds"}, "holds": self.holds}


def calibrate(
    out: Path, runs: Sequence[Path] = (), again: Path | None = None, *, suites: int, workers: int
) -> pd.DataFrame:
    """Writes components.csv, table.{csv,md}, README.md and the figure into `out`; returns the table.

    Args:
        runs: recorded suites to take variance components from; by default those that `out` holds already.
        again: recorded runs of an A/A suite, whose seeds are split in halves.
        suites: synthetic ones of each kind.

    Raises CalibrationError where there is no components.csv and no `runs`, or too little in them, ReportError for runs
    that cannot be read.
    """
    halves = [] if again is None else recorded_halves(again)
    components = recorded_components(runs) if runs else read_components(out / COMPONENTS)
    write(out / COMPONENTS, to_csv(table_of(components)))
    promises = simulated(components, suites, workers) + halves
    table = pd.DataFrame([promise.row() for promise in promises])
    write(out / "table.csv", to_csv(table))
    write_page(out, table, components, suites)
    return table


def recorded_components(runs: Sequence[Path]) -> dict[str, Components]:
    """By suite, from algorithms whose every seed finished above the base: a run that collapsed is no normal variation,
    and stays out here as it does not in the tables."""
    found: dict[str, Components] = {}
    for folder in runs:
        if folder.name in found:
            raise CalibrationError(f"{folder}: another of these is called {folder.name}, too; rename the folder of one")
        scores, labels, k = scores_of(folder)
        best = [label for label in labels if not (scores[label].mean(axis=1) < scores["base"].mean()).any()]
        if min(len(best), k, scores["base"].shape[1]) < 2:
            raise CalibrationError(
                f"{folder}: variance components need two algorithms that did no worse than the base, two problems, and "
                "two samples of each"
            )
        found[folder.name] = components_of(np.array([scores[label] for label in best]), k)
    return found


def scores_of(folder: Path) -> tuple[dict[str, Array], list[str], int]:
    """score_SP of each label of recorded runs (the base has one seed), the trained labels, and k; of runs under both
    protocols, those that were tuned."""
    cells = of_first_protocol(load_cells(folder)[0])
    evaluation = Evaluation.model_validate(agreed(cells, "evaluation"))
    scores = Scores(cells, evaluation.benchmarks, [])
    by_label = {label: scores.of(label) for label in sorted({cell.algorithm for cell in cells})}
    seeds = {tuple(sorted(of)) for label, of in by_label.items() if label != "base"}
    one_of_each = len(scores.benchmarks) == len(seeds) == len(by_label.get("base", ())) == 1
    if not one_of_each or min(map(len, seeds)) < 2:
        raise CalibrationError(
            f"{folder}: calibration needs one benchmark, the base, and the same seeds of every algorithm, two at least"
        )
    matrices = {
        label: scores.matrices([of[seed] for seed in sorted(of)], scores.benchmarks)[0]
        for label, of in by_label.items()
    }
    return matrices, [label for label in matrices if label != "base"], evaluation.samples_of(scores.benchmarks[0])


def read_components(path: Path) -> dict[str, Components]:
    """What `calibrate` wrote. Raises CalibrationError where it isn't there."""
    if not path.is_file():
        raise CalibrationError(
            f"{path} does not exist: give the runs to take variance from, my-results/runs/embedded …"
        )
    rows = [{str(name): x for name, x in row.items()} for row in pd.read_csv(path).to_dict("records")]
    return {str(row.pop("source")): Components(**row) for row in rows}


def table_of(components: dict[str, Components]) -> pd.DataFrame:
    """A row a suite."""
    return pd.DataFrame([{"source": source, **asdict(of)} for source, of in components.items()])


def simulated(components: dict[str, Components], suites: int, workers: int) -> list[Promise]:
    """The promises under each suite's components, on synthetic suites."""
    jobs: dict[Setting, Job] = {}
    for source, of in components.items():
        for seeds in SEEDS:
            for algorithms in ALGORITHMS if seeds >= MIN_SEEDS_TO_TEST else ALGORITHMS[-1:]:
                jobs[source, seeds, algorithms] = partial(measure, of, algorithms, seeds, suites)
    with Progress(transient=True) as progress:
        task = progress.add_task("synthetic suites", total=len(jobs))
        found = {}
        for key, measured in run_jobs(jobs, workers):
            found[key] = measured
            progress.advance(task)
    return [promise for key in jobs for promise in promises_of(*key, *found[key])]


def run_jobs(jobs: Mapping[Setting, Job], workers: int) -> Iterator[tuple[Setting, tuple[Null, Power]]]:
    """The results as they come, from this process or from as many as there are workers."""
    if workers == 1:
        yield from ((key, job()) for key, job in jobs.items())
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(job): key for key, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()


def measure(components: Components, algorithms: int, seeds: int, suites: int) -> tuple[Null, Power]:
    """One job: suites without a difference, and suites with one."""
    null = under_no_difference(components, algorithms, seeds, suites, seed=seeds)
    return null, under_a_difference(components, algorithms, seeds, max(suites // 4, 2), seed=1000 + seeds)


def promises_of(source: str, seeds: int, algorithms: int, null: Null, power: Power) -> list[Promise]:
    """One setting's lines of the table."""

    def line(what: str, promised: str, measured: Rate, holds: bool) -> Promise:
        return Promise(source, seeds, algorithms, what, promised, measured, holds)

    score, apart, error, found = null.score_coverage, null.difference_coverage, null.family_wise, power.found
    lines = [
        line("coverage of a score", f"≥ {COVERAGE}", score, score.value >= COVERAGE),
        line("coverage of a difference", f"≥ {COVERAGE}", apart, apart.value >= COVERAGE),
    ]
    if error is not None:
        limit = LEVEL + 2 * error.error
        lines.append(line("family-wise error", f"≤ {LEVEL} + 2 SE", error, error.value <= limit))
    detects = f"{POWER} at Δ = {power.difference:.4f}"
    return [*lines, line("power", detects, found, abs(found.value - POWER) <= 0.05 + 2 * found.error)]


def recorded_halves(folder: Path) -> list[Promise]:
    """What an A/A suite's recorded runs show: its two names agree, and halves of its seeds are not told apart."""
    scores, labels, _ = scores_of(folder)
    first = scores[labels[0]]
    apart = max(float(np.abs(scores[label] - first).max()) for label in labels)
    rejected, covered = split_in_two(first, SPLITS, seed=0)
    seeds = len(first)

    def line(what: str, promised: str, measured: Rate, holds: bool, seeds: int) -> Promise:
        return Promise(folder.name, seeds, 2, what, promised, measured, holds)

    lines = [line("largest difference between two names", "0", Rate(apart, 0.0), apart == 0, seeds)]
    half = seeds // 2
    if half >= MIN_SEEDS_TO_TEST:
        lines.append(
            line("halves of the seeds: rejected", f"about {LEVEL}", rejected, rejected.value <= 2 * LEVEL, half)
        )
    lines.append(
        line("halves of the seeds: interval holds zero", f"≥ {COVERAGE}", covered, covered.value >= COVERAGE, half)
    )
    return lines


NOTES = (
    "Synthetic suites are drawn from the variance components of the recorded ones (components.csv: standard deviations "
    "of the chance to solve a problem), algorithms by seeds by problems, each score a binomial of k samples; the "
    "method stands in harness/statistics/synthetic.py. Problems are drawn anew for every suite.",
    "Coverage and family-wise error are measured where no algorithm differs from another. A suite with fewer than 12 "
    "seeds is not tested, so it has no family-wise error.",
    "Power is what is found of a difference that reports call detectable with 80% (Holm's hardest step with 12 seeds, "
    "an interval that leaves out zero with fewer); it holds within .05 and two standard errors, since what a report "
    "states is an estimate from its own seeds. It is that of a better algorithm: below a score near one, a worse one "
    "varies more, and a difference as large is found less often.",
    "Halves: one algorithm's recorded seeds, split at random into two groups that are compared as if they were two "
    "algorithms. The splits share runs, so their standard error is too small; a share of up to twice the level passes.",
)


def write_page(out: Path, table: pd.DataFrame, components: dict[str, Components], suites: int) -> None:
    """README.md with its figure."""
    headings = ["source", "seeds", "algorithms", "what", "promised", "measured", "holds"]
    rows = [
        [
            *(escape_markdown(row["source"]), str(row["seeds"]), str(row["algorithms"]), row["what"], row["promised"]),
            f"{row['measured']:.4f} ± {row['standard_error']:.4f}",
            "yes" if row["holds"] else "**no**",
        ]
        for _, row in table.iterrows()
    ]
    drawing = draw(table)
    for kind in ("svg", "png"):
        write(out / "figures" / f"{drawing.name}.{kind}", encode(drawing.figure, kind))
    held = int(table["holds"].sum())
    parts = [
        "# Calibration",
        f"Do 95% intervals cover, does the test err as rarely as it says, does it find what it says that it would? "
        f"{held} of {len(table)} promises hold, each measured on {suites} synthetic suites (power on a quarter of "
        "them). Made by `make calibration`; ± is a standard error.",
        f"![{drawing.caption}](figures/{drawing.name}.svg)\n\n*{escape_markdown(drawing.caption)}*",
        markdown_table(headings, rows),
        "\n".join(f"- {note}" for note in NOTES),
    ]
    write(out / "README.md", "\n\n".join(parts) + "\n")
