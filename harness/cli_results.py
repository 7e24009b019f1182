"""The commands of `gvpo-bench` for whoever publishes results."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def _from_the_root(folder: Path) -> Path:
    """OUT and the suite's name are read off a path, of which "." and "suite" alone hold neither."""
    return Path(os.path.abspath(folder))


FolderArgument = Annotated[
    Path,
    typer.Argument(
        help="A folder of runs (OUT/runs/<suite>), or a published one (results/<suite>).", callback=_from_the_root
    ),
]
BaselineOption = Annotated[str | None, typer.Option(help="The label that differences are taken from.")]
HighlightOption = Annotated[
    list[str] | None, typer.Option(metavar="LABEL", help="Have this row and line stand out; repeatable.")
]


class HubType(StrEnum):
    """What a repository of the hub is."""

    space = "space"
    dataset = "dataset"


class TableFormat(StrEnum):
    """What a table is written as."""

    md = "md"
    tex = "tex"
    csv = "csv"
    parquet = "parquet"


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    for command in (report, watch, table, publish, merge, site, verify, calibrate):
        app.command()(command)


def report(
    folder: FolderArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="By default OUT/<suite>, beside the runs; of raw rows it is needed.")
    ] = None,
    baseline: BaselineOption = None,
    highlight: HighlightOption = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write a site, too: OUT/site/index.html, which opens from the disk.")
    ] = False,
) -> None:
    """Write table and figures of finished runs anew."""
    from rich.console import Console

    from harness.publish.raw_rows import opened, require_unpublished
    from harness.record.text import say
    from harness.record.verify import unsealed
    from harness.report.choice import report_of
    from harness.report.page import publish as write_publication

    if out is None:
        require_unpublished(folder)
        out = folder.parent.parent / folder.name
    require_unpublished(out)
    if html:
        from harness.site.vendored import require_libraries

        require_libraries()
    made = report_of(opened(folder), baseline=baseline, highlight=tuple(highlight or ()))
    page = write_publication(out, made.publication)
    console = Console()
    console.print(made.render())
    say(console, f"report: {page}")
    if html:
        from harness.site.site_files import write_site
        from harness.site.site_suite import suite_pages

        say(console, f"site: {write_site(out / 'site', [suite_pages(made.publication)])}")
    if count := unsealed(folder):
        say(console, f"{count} cells were recorded without checksums: gvpo-bench verify --record adds them")


def verify(
    folder: FolderArgument,
    record: Annotated[
        bool, typer.Option("--record", help="Add checksums of what is there now to cells that were recorded without.")
    ] = False,
) -> None:
    """Compare: all that cells have recorded with its checksums; or everything that is published with what follows from
    its raw rows. Exit code 1 where something does not fit."""
    from benchmarks.errors import ExitCode
    from harness.publish.raw_rows import is_published
    from harness.publish.recompute import verify_published
    from harness.record.text import visible
    from harness.record.verify import verify_runs
    from harness.suite.config import ConfigError

    if is_published(folder):
        if record:
            raise ConfigError(f"verify --record is for runs, and {folder} is published: leave --record out")
        lines = verify_published(folder)
        damaged = bool(lines)
        lines = lines or ["every table and every figure's data follow from the raw rows"]
    else:
        lines, damaged = verify_runs(folder, record=record)
    for line in lines:
        typer.echo(visible(line))
    raise typer.Exit(ExitCode.FAILED if damaged else 0)


def table(
    folder: FolderArgument,
    columns: Annotated[
        str, typer.Option(help="Columns of table.csv, by commas: avg_at_k,diff,p_holm. Each brings its interval.")
    ] = "",
    algorithms: Annotated[
        str, typer.Option(help="Labels, by commas, in the order of the rows: base,gvpo,grpo. By default all.")
    ] = "",
    kind: Annotated[TableFormat | None, typer.Option("--format", help="By default as --out ends, or else md.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new file; by default the terminal.")] = None,
) -> None:
    """Cut the table that a paper needs: some columns, some algorithms, in Markdown, LaTeX, CSV or Parquet."""
    from harness.publish.cutting import FORMATS, cut, write_cut
    from harness.publish.raw_rows import opened
    from harness.report.choice import report_of

    publication = report_of(opened(folder)).publication
    found = cut(publication, _listed(columns), _listed(algorithms))
    ending = out.suffix.removeprefix(".") if out is not None else ""
    text = write_cut(found, kind or (ending if ending in FORMATS else "md"), out)
    typer.echo(f"table: {out}" if text is None else text, nl=text is None)


def publish(
    runs: FolderArgument,
    results: Annotated[Path, typer.Option("--out", help="The suite goes to OUT/<suite>.")] = Path("results"),
    suite: Annotated[
        Path | None,
        typer.Option(help="The suite's file, which says what cells there are; by default gvpo-bench's of that name."),
    ] = None,
    readme: Annotated[
        Path, typer.Option(help="Whose table between <!-- results: <suite> --> and <!-- end --> is written anew.")
    ] = Path("README.md"),
    baseline: BaselineOption = None,
    highlight: HighlightOption = None,
    git_url: Annotated[
        str | None, typer.Option("--push-git", metavar="URL", help="Push the site of all that is published there.")
    ] = None,
    branch: Annotated[str, typer.Option(help="Of --push-git.")] = "gh-pages",
    hub: Annotated[
        str | None, typer.Option("--push-hub", metavar="REPO", help="Push that site to the Hugging Face hub.")
    ] = None,
    hub_type: Annotated[HubType, typer.Option(help="What --push-hub pushes to.")] = HubType.space,
) -> None:
    """Freeze a complete suite: raw rows, tables, figures, a card, checksums. Refuses with all that is wrong with it.

    Nothing leaves this machine unless --push-git or --push-hub says where to.
    """
    from rich.console import Console

    from harness.publish.freeze import publish_suite
    from harness.publish.raw_rows import PublishError
    from harness.publish.readme_table import update_readme
    from harness.record.text import say

    if git_url is not None or hub is not None:
        from harness.site.vendored import require_libraries

        require_libraries()
    console = Console()
    folder = publish_suite(runs, results, file=suite, baseline=baseline, highlight=highlight or ())
    say(console, f"published: {folder}")
    try:
        known = update_readme(readme, results, folder.name)
        say(console, f"{readme}: {'its table is up to date' if known else f'no marker names {folder.name}'}")
    except PublishError as error:  # the suite itself is published
        say(console, f"{readme} is left as it is: {error}")
    if git_url is not None or hub is not None:
        _push(results, console, git_url, branch, hub, hub_type)


def _push(
    results: Path, console: Console, git_url: str | None, branch: str, hub: str | None, hub_type: HubType
) -> None:
    from tempfile import TemporaryDirectory

    from harness.publish.push import published_site, push_git, push_hub
    from harness.record.text import say

    with TemporaryDirectory() as scratch:
        folder = published_site(results, Path(scratch) / "site").parent
        if git_url is not None:
            commit = push_git(folder, git_url, branch)
            say(console, f"{git_url}, {branch}: {f'commit {commit}' if commit else 'holds this site already'}")
        if hub is not None:
            say(console, f"site: {push_hub(folder, hub, hub_type.value)}")


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or published ones, of one suite.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder, for what they come to together.")],
) -> None:
    """Join what several machines ran of a suite into one table, or refuse with both values of what differs."""
    from rich.console import Console

    from harness.publish.freeze import freeze
    from harness.publish.joining import joined
    from harness.publish.raw_rows import PublishError
    from harness.record.text import say

    if out.exists():
        raise PublishError(f"{out} exists; give another --out, or remove it")
    found = joined([_from_the_root(folder) for folder in folders])
    console = Console()
    if found.twice:
        say(console, f"in more than one, with the same numbers, and taken once: {', '.join(found.twice)}")
    say(console, f"{len(found.suite.cells)} cells: {freeze(out, found.suite)}")


def site(
    results: Annotated[Path, typer.Argument(help="The folder of published suites.")] = Path("results"),
    out: Annotated[Path, typer.Option("--out", help="Where the site goes.")] = Path("site"),
) -> None:
    """Write one site of all published suites, from their raw rows: OUT/index.html, which opens from the disk."""
    from rich.console import Console

    from harness.publish.push import published_site
    from harness.record.text import say
    from harness.site.vendored import require_libraries

    require_libraries()
    say(Console(), f"site: {published_site(results, out)}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
    folder: Annotated[Path, typer.Argument(help="A folder of runs: OUT/runs/<suite>.", callback=_from_the_root)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; by default one that is free.")] = 0,
) -> None:
    """Show the page of a sweep in progress in the browser of this machine, as its runs go on. Ctrl-C ends it."""
    from rich.console import Console

    from harness.record.text import say
    from harness.site.watch import watch as serve

    os.nice(5)  # the cores are the sweep's
    console = Console()
    serve(folder, port=port, say=lambda text: say(console, text))
