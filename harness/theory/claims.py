"""Runs every claim in worker processes, and writes the table and the figures."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.theory import (
    decomposition,
    estimator,
    fixed_batch,
    optimum,
    policy_gradient_tie,
    rounds,
    sampling_policies,
)
from harness.theory.every_algorithm import NOTE, as_text, every_algorithm
from harness.theory.findings import FULL, Record, Size
from harness.theory.theory_figures import draw

Part = Callable[[Size, int], Record]

PARTS: tuple[Part, ...] = (
    optimum.gvpo,
    optimum.dpo,
    optimum.partition,
    optimum.others,
    sampling_policies.exact,
    sampling_policies.budget,
    sampling_policies.efficiency,
    estimator.exact,
    estimator.monte_carlo,
    decomposition.identity,
    decomposition.ablations,
    policy_gradient_tie.identity,
    rounds.law,
    fixed_batch.one_batch,
)
"""In the order of the table."""

LONGEST_FIRST: tuple[Part, ...] = (optimum.others, optimum.gvpo, sampling_policies.efficiency)
"""Started before the rest, so that no worker ends with the longest part alone."""

COMMAND = "gvpo-bench theory"


def run(out: Path, *, workers: int = 2, seed: int = 0, size: Size = FULL) -> pd.DataFrame:
    """Measures every claim and writes `table.{md,csv,tex}` and `figures/` under `out`; returns the table.

    Each part runs in a spawned process with one thread, `workers` at a time. The files are replaced one by one, and
    only after every part has finished. Raises whatever a part raises.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed")
    began = time.perf_counter()
    queue = [*LONGEST_FIRST, *(part for part in PARTS if part not in LONGEST_FIRST)]
    records: dict[Part, Record] = {}
    ends: pd.DataFrame
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        waiting = {pool.submit(part, size, seed): part for part in queue}
        every = pool.submit(every_algorithm, size, seed)
        for done in as_completed(waiting):
            part, record = waiting[done], done.result()
            records[part] = record
            spent = sum(row.seconds for row in record.rows)
            name = f"{part.__module__.rpartition('.')[2]}.{part.__name__}"
            print(f"[{len(records)}/{len(PARTS)}] {name}: {len(record.rows)} rows, {spent:.1f} s", flush=True)
        ends = every.result()
        print(f"every_algorithm: {len(ends)} rows", flush=True)
    table = to_table([records[part] for part in PARTS])
    frames = {name: frame for part in PARTS for name, frame in records[part].frames.items()}
    command = f"{COMMAND} --seed {seed} --workers {workers}"
    write_results(out, table, frames, ends, command=command, began=began)
    return table


def one_thread() -> None:
    """Small matrices are slower on several threads, and the processes share the cores."""
    torch.set_num_threads(1)
    # torch's second derivative of logsigmoid under vmap; its values are right, and tested against plain autograd.
    warnings.filterwarnings("ignore", message="An output with one or more elements was resized")


def to_table(records: list[Record]) -> pd.DataFrame:
    """One row per measurement, in the order of the claims."""
    table = pd.DataFrame([asdict(row) for record in records for row in record.rows])
    return table.sort_values("claim", kind="stable", ignore_index=True)


def write_results(
    out: Path, table: pd.DataFrame, frames: dict[str, pd.DataFrame], ends: pd.DataFrame, *, command: str, began: float
) -> None:
    """The table in three formats, the figures and the numbers behind them, and where every algorithm ends."""
    out.mkdir(parents=True, exist_ok=True)
    draw(frames, out / "figures")
    for name, frame in frames.items():
        write(out / "figures" / f"{name}.csv", frame.to_csv(index=False))
    packages = ("torch", "numpy", "pandas", "matplotlib", "seaborn")
    made = (
        f"Made by `{command}` in {time.perf_counter() - began:.0f} s ({table.seconds.sum():.0f} s of CPU time in all "
        f"workers, a busy machine shows in the difference), with Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + "."
    )
    write(out / "table.csv", table.to_csv(index=False))
    write(out / "table.md", to_markdown(table, frames, made, ends))
    write(out / "optimum_by_algorithm.csv", ends.to_csv(index=False))
    write(out / "optimum_by_algorithm.md", f"# Where every algorithm ends\n\n{made}\n\n{_ends(ends)}\n")
    write(out / "table.tex", to_latex(table, made))


SHOWN = ["equation", "setting", "quantity", "measured", "expected", "tolerance", "holds", "samples"]


def to_markdown(table: pd.DataFrame, frames: dict[str, pd.DataFrame], made: str, ends: pd.DataFrame) -> str:
    """First what does not hold, then every claim, then where every algorithm ends, and the gradient coefficients side
    by side."""
    holds = table.holds.value_counts()
    lines = [
        "# The theory, measured",
        "",
        made,
        "",
        f"{holds.get('yes', 0)} rows hold, {holds.get('no', 0)} do not, and {holds.get('n.a.', 0)} report a number of "
        "which nothing was claimed. `holds` is about the equation named in the row: the article's (seed), a report "
        "about it, or one derived here. Rewards have no unit; KL, entropy, ℓ and margins are in nats; TV is total "
        "variation. Expectations are sums over all ordered groups in float64 unless `samples` says otherwise.",
        "",
        "## What does not hold as stated",
        "",
        _markdown(table.loc[table.holds == "no", SHOWN]),
    ]
    for claim, part in table.groupby("claim", sort=False):
        lines += ["", f"## {claim}", "", _markdown(part[SHOWN])]
    if len(ends):
        lines += ["", "## Where every algorithm ends", "", _ends(ends)]
    if "coefficients" in frames:
        frame = frames["coefficients"]
        for where, part in frame.groupby("where", sort=False):
            wide = part.pivot(index=["response", "reward", "log-ratio"], columns="algorithm", values="coefficient")
            wide = wide[list(part.algorithm.unique())]
            wide.loc[("Σ w", "", ""), :] = wide.sum()
            wide = wide.reset_index()
            lines += ["", f"## w_i = −∂L/∂log π_θ(y_i) of one batch, {where}", "", _markdown(wide)]
    return "\n".join(lines) + "\n"


def _ends(ends: pd.DataFrame) -> str:
    return f"{_markdown(as_text(ends))}\n\n{NOTE}"


def _markdown(table: pd.DataFrame) -> str:
    rows = [[_cell(value).replace("|", "\\|") for value in row] for row in table.itertuples(index=False)]
    return markdown_table(list(map(str, table.columns)), rows, left=len(table.columns))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)


def to_latex(table: pd.DataFrame, made: str) -> str:
    """A longtable; its Greek letters want XeLaTeX or LuaLaTeX."""
    shown = table[["claim", *SHOWN]].map(_cell)
    body = shown.to_latex(index=False, escape=True, longtable=True, caption="The theory, measured.", label="tab:theory")
    return f"% {made}\n% Compile with XeLaTeX or LuaLaTeX and \\usepackage{{booktabs,longtable}}.\n{body}"
