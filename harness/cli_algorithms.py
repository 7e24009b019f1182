"""The commands of `gvpo-bench` for whoever reads, writes or checks an algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NameArgument = Annotated[str | None, typer.Argument(help="A name, path/to/mine.py:Mine or an entry point.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(algorithms)
    app.command()(atlas)
    app.command()(check)
    app.command()(new)


def algorithms(
    name: NameArgument = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the portrait, or the sheet of all, as .svg, .png, .pdf or .csv."),
    ] = None,
) -> None:
    """List the algorithms, a line each; or show one: equation, source, needs, hyper-parameters, portrait."""
    if name is None and out is None:
        typer.echo(_list())
        return
    from harness.kit.atlas import entries, entry_of, in_characters, require_kind, write_portrait
    from harness.kit.cards import load
    from harness.record.text import visible

    cls = None if name is None else load(name)
    if out is not None:
        require_kind(out)
    found = entries() if cls is None or name is None else [entry_of(cls, name)]
    if out is None:
        typer.echo(visible(in_characters(found[0]), lines=True))
    else:
        write_portrait(out, found)
        typer.echo(visible(f"portrait: {out}"))


def atlas(
    out: Annotated[Path, typer.Option("--out", help="Where algorithms.md and the portraits go.")] = Path("docs"),
) -> None:
    """Write the page of all algorithms, with their portraits, from their classes and docstrings."""
    from harness.kit.atlas import write_atlas
    from harness.record.text import visible

    typer.echo(visible(f"atlas: {write_atlas(out)}"))


def _list() -> str:
    """A table of 80 columns: a line an algorithm, under the name of its family."""
    from harness.kit.cards import card_of, families

    cards = {family: [card_of(cls, name) for name, cls in members.items()] for family, members in families().items()}
    rows = [("name", "algorithm", "needs", "source")]
    rows += [(card.name, card.label, card.short_needs, card.short_source) for found in cards.values() for card in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    heading, *lines = lines
    shown = [heading]
    for family, found in cards.items():
        shown += ["", family.upper(), *lines[: len(found)]]
        lines = lines[len(found) :]
    return "\n".join([*shown, "", "gvpo-bench algorithms NAME shows one, with its equation and its portrait."])


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
    from harness.record.text import visible

    print(visible(next_steps(write_module(name, folder)), lines=True))
