"""The commands of `gvpo-bench` for whoever publishes results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(calibrate)
    app.command()(watch)


def calibrate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Recorded suites to take variance from; by default what OUT/components.csv holds."),
    ] = None,
    again: Annotated[Path | None, typer.Option("--aa", help="Recorded runs of a suite of one algorithm.")] = None,
    suites: Annotated[int, typer.Option(min=100, help="Synthetic suites of each kind.")] = 4000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side; by default one a core.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the table and the figure go.")] = Path(
        "results/calibration"
    ),
) -> None:
    """Measure whether intervals cover and tests err as promised, on synthetic suites whose truth is known."""
    from rich.console import Console

    from harness.calibration.calibrate import calibrate as measure
    from harness.record.environment import cores
    from harness.record.text import say

    table = measure(out, runs or [], again, suites=suites, workers=workers or cores())
    console = Console()
    say(console, f"{int(table['holds'].sum())} of {len(table)} promises hold")
    for _, row in table[~table["holds"]].iterrows():
        say(console, f"not held: {row['source']}, {row['seeds']} seeds: {row['what']} {row['measured']:.4f}")
    say(console, f"calibration: {out / 'README.md'}")


def watch(
    folder: Annotated[Path, typer.Argument(help="A folder of runs: OUT/runs/<suite>.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; by default one that is free.")] = 0,
) -> None:
    """Show the page of a sweep in progress in the browser of this machine, as its runs go on. Ctrl-C ends it."""
    import os

    from rich.console import Console

    from harness.record.text import say
    from harness.site.watch import watch as serve

    os.nice(5)  # the cores are the sweep's
    console = Console()
    serve(folder, port=port, say=lambda text: say(console, text))
