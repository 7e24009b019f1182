"""The command `gvpo-bench`. Everything heavy is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import cli_algorithms, cli_results

if TYPE_CHECKING:
    from harness.suite.config import Suite

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Head-to-head benchmarks of RL post-training algorithms in one harness.\n\n"
    "Exit codes: 0 done; 1 a cell failed; 2 wrong input; 3 refused to mix or overwrite runs; 130 interrupted.",
)

SuiteArgument = Annotated[str, typer.Argument(help="A TOML file, or the name of a suite that comes with gvpo-bench.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set train.steps=3")
]
OutOption = Annotated[Path, typer.Option("--out", help="Runs go to OUT/runs/<suite>, the report to OUT/<suite>.")]
MY_RESULTS = Path("my-results")
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes side by side; by default one a core.")]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Run the cells on Ray: HOST:PORT, auto (a running one) or local."),
]


@app.command()
def sweep(
    suite: SuiteArgument,
    settings: SetOption = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option(
            help="A label of the suite, to run no others; or another name or path/to/file.py:Class, to run it beside "
            "the suite's (with the baseline's optimizer, unless --set says otherwise)."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N−1; by default the suite's.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="tuned|default|both", help="The suite's settings, those that nobody tuned, or both."),
    ] = None,
    keep_checkpoints: Annotated[
        bool | None, typer.Option(help="Keep trained models, for other evaluations; by default the suite's.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop then, and report the seeds that are whole; the same command goes on."),
    ] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: OutOption = MY_RESULTS,
) -> None:
    """Run every algorithm of a suite at every seed, then write the table and the figures.

    What is finished is not run again; what was interrupted goes on.
    """
    from rich.console import Console

    started, console = time.monotonic(), Console()
    overrides = [*(settings or []), *([f"seeds={seeds}"] if seeds else [])]
    if protocol is not None:
        overrides.append(f"protocols={['tuned', 'default'] if protocol == 'both' else [protocol]}")
    if keep_checkpoints is not None:
        overrides.append(f"resources.keep_checkpoints={str(keep_checkpoints).lower()}")
    loaded = _load(suite, overrides, algorithm, out)
    from harness.publish.raw_rows import require_unpublished
    from harness.sweep.executors import Until, open_executor
    from harness.sweep.run import run_sweep

    require_unpublished(out / loaded.name)
    with open_executor(ray, workers, loaded) as executor:
        until = executor if minutes is None else Until(executor, started + 60 * minutes)
        failed = run_sweep(loaded, out, executor=until, command=_command(), console=console)
    raise typer.Exit(int(failed))


@app.command()
def plan(
    suite: SuiteArgument,
    settings: SetOption = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="Only this label of the suite, or a further one.")] = None,
    gpu: Annotated[str | None, typer.Option(help="H100, A100, …; by default this machine's, or an H100.")] = None,
    mean_response: Annotated[
        float | None, typer.Option(min=1, help="Mean length of a response, in tokens; by default half of the limit.")
    ] = None,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the peak that training reaches.")] = 0.4,
    generation_rate: Annotated[
        float | None, typer.Option(min=1, help="Tokens/s that a GPU draws; by default from its bandwidth.")
    ] = None,
) -> None:
    """Say what a suite will cost, without starting it: tokens, memory, GPU hours, disk.

    From the suite, the prompts and the model's config alone; no weights are loaded.
    """
    from rich.console import Console

    loaded = _load(suite, settings, algorithm)
    from harness.preflight.bill import render
    from harness.preflight.costs import Assumptions, default_gpu, suite_cost
    from harness.suite.plan import plan as cells_of

    cells = cells_of(loaded)
    assumptions = Assumptions(
        gpu=gpu or default_gpu(loaded.model),
        mean_response=mean_response,
        mfu=mfu,
        generation_rate=generation_rate,
    )
    console = Console()
    for part in render(loaded, cells, suite_cost(cells, assumptions), assumptions):
        console.print(part, highlight=False)


@app.command()
def doctor(
    suite: SuiteArgument,
    settings: SetOption = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="Only this label of the suite, or a further one.")] = None,
    workers: WorkersOption = None,
    out: OutOption = MY_RESULTS,
) -> None:
    """Check what would waste a sweep's hours, in seconds: every sweep begins with this. Exit code 2 where one fails."""
    from rich.console import Console

    loaded = _load(suite, settings, algorithm, out)
    from harness.preflight.doctor import DoctorError, examine, shown, table_of
    from harness.suite.plan import plan as cells_of
    from harness.sweep.executors import room_for
    from harness.sweep.run import prepare_model

    console = Console()
    cells = cells_of(loaded)
    prepare_model(loaded, console)
    with shown(console) as say:
        checks = examine(loaded, cells, out, workers=workers or room_for(loaded), say=say)
    console.print(table_of(checks, loaded.name), highlight=False)
    raise typer.Exit(DoctorError.exit_code if any(check.status == "fail" for check in checks) else 0)


@app.command()
def tune(
    suite: SuiteArgument,
    settings: SetOption = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="Only this label of the suite, or a further one.")] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: OutOption = MY_RESULTS,
) -> None:
    """Try the same number of settings for each algorithm, on its tuning seeds and problems.

    Writes OUT/tuning/<suite>/trials.csv, and best.toml to copy into the suite.
    """
    from rich.console import Console

    loaded = _load(suite, settings, algorithm, out)
    from harness.sweep.executors import open_executor
    from harness.sweep.tuning import run_tuning

    with open_executor(ray, workers, loaded) as executor:
        failed = run_tuning(loaded, out, executor=executor, command=_command(), console=Console())
    raise typer.Exit(int(failed))


@app.command("eval")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A transformers checkpoint, by folder or hub id; a GGUF file; 'embedded' or 'smollm2'."),
    ],
    benchmark: Annotated[
        list[str] | None, typer.Option(help="gsm8k, math500, aime24, …; may be given several times.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Instead: a task of lm-eval (pip install 'gvpo-bench\\[lm-eval]').")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="A folder with tasks of lm-eval.")] = None,
    revision: Annotated[str | None, typer.Option(help="The hub revision of the checkpoint.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt template: none, plain (by default), qa-3shot, qwen-math, r1, or chat, the tokenizer's own. A "
            "task has a prompt of its own, to which only chat can be applied."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="k of avg@k; 1 by default.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 is greedy, the default; of tasks their own.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of a response in tokens; by default 1024, of tasks their own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    engine: Annotated[str, typer.Option(help="cached, transformers or vllm.")] = "cached",
    batch: Annotated[int, typer.Option(min=1, help="Sequences generated side by side.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Grader processes.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="For manifest, samples and scores; goes on where it was interrupted.")
    ] = None,
) -> None:
    """Evaluate a checkpoint: avg@k, pass@k and maj@k with 95% intervals over problems; truncation and parse failures
    apart from wrong answers."""
    from rich.console import Console

    from harness.evaluation.eval_settings import EvalSettings, Output
    from harness.suite.config import ConfigError, Model

    if bool(benchmark) == bool(task):
        raise ConfigError("eval: give --benchmark (ours) or --task (lm-eval's), and not both")
    checkpoint = Model(path=model, revision=revision, template=template or ("plain" if benchmark else "none"))
    settings = EvalSettings(
        samples=samples or 1, temperature=temperature, max_new_tokens=max_new_tokens, limit=limit, seed=seed
    )
    output = Output(out, _command(), Console())
    if benchmark:
        from harness.evaluation.evaluation_run import run_evaluation

        run_evaluation(checkpoint, benchmark, settings, engine=engine, batch=batch, workers=workers, output=output)
        return
    if samples is not None or template not in (None, "chat"):
        raise ConfigError("eval --task: the task says how many samples it takes and what its prompts are")
    try:
        from harness.evaluation.lm_eval_model import run_tasks
    except ImportError as error:
        raise ConfigError(f"eval --task needs lm-eval: pip install 'gvpo-bench[lm-eval]' ({error})") from None
    run_tasks(checkpoint, task or [], settings, include_path=include_path, engine=engine, batch=batch, output=output)


@app.command("lm-eval-tasks")
def lm_eval_tasks(
    samples: Annotated[int, typer.Option(min=1, help="Responses to each problem.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of a response, in tokens.")] = 1024,
) -> None:
    """Print the folder of our benchmarks as tasks of lm-eval: lm_eval --include_path "$(gvpo-bench lm-eval-tasks)"."""
    from harness.evaluation.task_folder import own_tasks

    print(own_tasks(samples=samples, temperature=temperature, max_new_tokens=max_new_tokens))


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help="JSON lines: gold, response, and for agreement expected.")],
    out: Annotated[Path | None, typer.Option("--out", help="A new JSON-lines file with a verdict a row.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Grader processes.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="Limit of one response before its worker is killed.")] = 5.0,
) -> None:
    """Grade recorded responses with math-verify, in worker processes that can be killed."""
    from rich.console import Console

    from harness.evaluation.grade import run_grading

    run_grading(file, workers=workers, seconds=seconds, out=out, console=Console())


@app.command()
def theory(
    out: Annotated[Path, typer.Option("--out", help="Where the table and the figures go.")] = Path("results/theory"),
    seed: Annotated[int, typer.Option(help="Of the random problems.")] = 0,
    workers: WorkersOption = None,
) -> None:
    """Measure every claim of the article against problems with a known answer, in float64, with the same algorithms."""
    from rich.console import Console

    from harness.record.environment import cores
    from harness.record.text import say
    from harness.theory.claims import run

    table = run(out, workers=workers or cores(), seed=seed)
    console = Console()
    console.print(table["holds"].value_counts().to_string())
    say(console, f"table and figures: {out}")


def _load(source: str, overrides: list[str] | None, algorithms: list[str] | None, out: Path | None = None) -> Suite:
    from harness.record.disk_errors import require_writable
    from harness.suite.load import load_suite

    loaded = load_suite(source, overrides or [], algorithms or [])
    if out is not None:
        require_writable(out)
    return loaded


def _command() -> list[str]:
    return ["gvpo-bench", *sys.argv[1:]]


cli_algorithms.register(app)
cli_results.register(app)


def main() -> None:
    """Entry point: turns the project's own errors, and a file system's refusals, into a message and an exit code."""
    _check_packages()
    from benchmarks.errors import BenchError, ExitCode
    from harness.record.text import visible

    try:
        app()
    except SystemExit as done:
        if done.code == ExitCode.INTERRUPTED:  # typer's own word for Ctrl-C
            print("interrupted; the same command goes on from here", file=sys.stderr)
        raise
    except BenchError as error:
        print(f"gvpo-bench: {visible(str(error), lines=True)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from harness.record.disk_errors import refusal

        if (told := refusal(error)) is None:
            raise
        print(f"gvpo-bench: {visible(told)}", file=sys.stderr)
        raise SystemExit(ExitCode.FAILED) from None


def _check_packages() -> None:
    """The packages' names are generic: says so where another project's shadow them."""
    here = Path(__file__).resolve().parent.parent
    for name in ("algorithms", "benchmarks", "harness"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if found != here:
            print(
                f"gvpo-bench: the package {name!r} found first is {spec.origin if spec else None}, not "
                f"gvpo-bench's own in {here}. Run from another folder, or take that one off PYTHONPATH",
                file=sys.stderr,
            )
            raise SystemExit(2)  # ExitCode.INPUT, whose own package may be the one that is shadowed


if __name__ == "__main__":  # torchrun -m harness.cli
    main()
