"""The commands of `gvpo-bench` for whoever reads, writes or checks an algorithm."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(algorithms)


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
