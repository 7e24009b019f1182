"""The commands of `gvpo-bench` for whoever reads, writes or checks an algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(algorithms)
    app.command()(check)
    app.command()(new)


def algorithms() -> None:
    """List the algorithms with their hyper-parameters, defaults and search spaces."""
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from algorithms import ALGORITHMS

    table = Table("name", "algorithm", "hyper-parameter", "default", "search space", "what it does", show_lines=False)
    for name, cls in ALGORITHMS.items():
        for i, f in enumerate(dataclasses.fields(cls)):  # type: ignore[arg-type]
            space = f.metadata["search"]
            shown = (name, cls.name) if i == 0 else ("", "")
            table.add_row(*shown, f.name, str(f.default), "" if space is None else str(space), f.metadata["doc"])
        table.add_section()
    Console().print(table)


def check(
    algorithm: Annotated[str, typer.Argument(help="A name of `gvpo-bench algorithms`, or path/to/mine.py:Mine.")],
) -> None:
    """Hold an algorithm against every property that the harness relies on; exit code 1 where one does not hold."""
    from rich.console import Console

    from benchmarks.errors import ExitCode
    from harness.kit.check import examine, load_to_check, show

    loaded, fresh = load_to_check(algorithm)
    examination = examine(loaded, fresh)
    show(examination, algorithm, Console())
    raise typer.Exit(ExitCode.FAILED if examination.faults else 0)


def new(
    name: Annotated[str, typer.Argument(help="Of the class, such as MyLoss; its module is named after it.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the module and its test are written.")] = Path(),
) -> None:
    """Write an algorithm that passes the check, to be edited, and its test."""
    from harness.kit.template import next_steps, write_module

    print(next_steps(write_module(name, folder)))
