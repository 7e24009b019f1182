"""`gvpo-bench doctor`, which every sweep starts with: what would waste its hours is found in seconds.

Nothing here changes a run; the policy that is perturbed is this process's own.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import rich.box
import torch
from packaging.requirements import Requirement
from rich.table import Table

from benchmarks import Problem, Verdict, load_benchmark
from benchmarks.arithmetic import Arithmetic
from benchmarks.errors import BenchError
from benchmarks.judges import judge_for
from harness.model.ranks import Ranks, environment_alone, visible_gpus
from harness.preflight.checks import COLOURS, Check, Status, evaluated, suites_of
from harness.preflight.costs import needs_of, prompts_of
from harness.preflight.memory import disk, memory_of
from harness.preflight.model_checks import on_the_model
from harness.preflight.model_size import model_size
from harness.preflight.overlap import overlaps
from harness.suite.config import Resources, Suite
from harness.suite.plan import Cell, build_algorithm, training_problems


class DoctorError(BenchError, RuntimeError):
    """A sweep that would waste its hours. The message lists the failed checks."""


def examine(suite: Suite, cells: Sequence[Cell], out: Path, *, workers: int) -> list[Check]:
    """All checks of a suite, in the order in which they are shown."""
    checks = [*versions(), *hardware(suite, cells), storage(cells, out, workers), *data(suite), *overlaps(suite)]
    if not on_gpu(suite):
        suite = suite.model_copy(update={"model": suite.model.model_copy(update={"device": "cpu"})})
    if on_gpu(suite) or not Ranks.of_group().alone:
        # In a process of its own, which is no rank, so that this one holds no memory of the GPU while the cells run.
        with ProcessPoolExecutor(1, get_context("spawn"), _become_one_rank, (suite.resources,)) as pool:
            checks += pool.submit(on_the_model, suite).result()
    else:
        checks += on_the_model(suite)
    return [*checks, *self_test(suite), *unused_keys(suite)]


def trains_on_gpu(suite: Suite) -> bool:
    """Whether cells do: where they take GPUs, and under torchrun where its processes have some."""
    device = Ranks.of_group().device
    asked = suite.resources.gpus > 0 if device is None else device.type == "cuda"
    return asked and suite.model.device != "cpu"


def on_gpu(suite: Suite) -> bool:
    """Whether this machine has the GPU that a cell trains on."""
    return trains_on_gpu(suite) and torch.cuda.is_available()


def _become_one_rank(resources: Resources) -> None:
    """This process, a child, sees what one rank of a cell does."""
    environment = environment_alone()
    os.environ.clear()
    os.environ.update(environment)
    if resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus()[: resources.gpus // resources.ranks])


def versions() -> Iterator[Check]:
    """Installed packages against what this version of gvpo-bench declares."""
    try:
        declared = [Requirement(text) for text in importlib.metadata.requires("gvpo-bench") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Check("versions", "warn", "gvpo-bench itself is not installed", "pip install --editable .")
        return
    wrong = []
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed == "none" or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed}, wanted {requirement.specifier}")
    torch_version = f"torch {torch.__version__}"
    if wrong:
        yield Check("versions", "fail", "; ".join(wrong), "pip install --constraint constraints.txt --editable .")
    else:
        yield Check("versions", "ok", f"{len(declared)} requirements met, {torch_version}")


def hardware(suite: Suite, cells: Sequence[Cell]) -> Iterator[Check]:
    """The device that the cells will use, and whether the largest fits into it."""
    if not on_gpu(suite):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        remedy = ""
        if suite.resources.gpus > 0:
            remedy = "a cell asks for a GPU and this machine has none: these checks say little of where it will run"
        elif suite.model.precision == "bfloat16":
            remedy = "bfloat16 is slow without a GPU: set resources.gpus, or model.precision = 'float32'"
        yield Check("device", "warn" if remedy else "ok", f"the CPU, {cores} cores", remedy)
        return
    free, whole = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    yield Check("device", "ok", f"{torch.cuda.device_count()} × {name}, {free / 1e9:.0f} of {whole / 1e9:.0f} GB free")
    size = model_size(suite.model)
    longest = max(prompts_of(suite.model, suite.train, (), None).training) + suite.train.max_new_tokens
    ranks = int(os.environ.get("WORLD_SIZE", suite.resources.ranks))  # torchrun's, if it is there
    largest = max(memory_of(cell.config, size, needs_of(cell), longest, whole, ranks).peak for cell in cells)
    yield Check(
        "memory",
        "ok" if largest < free else "warn",
        f"about {largest / 1e9:.3g} GB for the largest cell",
        "" if largest < free else "see gvpo-bench plan; lower resources.token_budget or rollout_batch",
    )


def storage(cells: Sequence[Cell], out: Path, workers: int) -> Check:
    """Free space where the runs go, against the checkpoints that they will leave."""
    existing = out.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    size = model_size(cells[0].config.model)
    sizes = [disk(cell.config, size, needs_of(cell)) for cell in cells]
    needed = sum(kept for kept, _ in sizes) + workers * max(running for _, running in sizes)
    status: Status = "fail" if needed > free else "warn" if 2 * needed > free else "ok"
    remedy = f"free some, give another --out, or --seeds fewer than {len(cells)} cells need"
    return Check(
        "disk", status, f"{needed / 1e9:.3g} GB needed, {free / 1e9:.3g} free", "" if status == "ok" else remedy
    )


def data(suite: Suite) -> Iterator[Check]:
    """Loading verifies number and checksum, and raises DataError."""
    counts = {benchmark.name: len(benchmark.problems()[: suite.evaluation.limit]) for benchmark in evaluated(suite)}
    train = len(training_problems(suite.train))
    each = ", ".join(f"{name} {count}" for name, count in counts.items())
    yield Check("data", "ok", f"{suite.train.benchmark} {train} to train on; {each} to score")


MATH_CASES: tuple[tuple[str, str, Verdict], ...] = (
    (r"\frac{1}{2}", r"Half of it, so the answer is \boxed{\frac{1}{2}}.", "correct"),
    (r"\frac{1}{2}", r"That makes \boxed{0.5}.", "correct"),
    ("18", r"She makes \boxed{17}.", "wrong"),
    (r"(-\infty, 3]", r"Hence \boxed{(-\infty, 3]}.", "correct"),
    ("42", "I do not know.", "no_answer"),
)


def self_test(suite: Suite) -> Iterator[Check]:
    """Known verdicts, from the graders that the suite will use, in its way of calling them."""
    benchmarks = {b.name: b for b in [load_benchmark(suite.train.benchmark), *evaluated(suite)]}
    with judge_for(list(benchmarks.values())) as judges:
        wrong, graded = [], 0
        for kind in (True, False):
            named = next((b for b in benchmarks.values() if isinstance(b, Arithmetic) == kind), None)
            if named is None:
                continue
            cases = arithmetic_cases(named.problems()[0]) if kind else MATH_CASES
            problems = [Problem(id=f"doctor/{i}", prompt="", answer=gold) for i, (gold, _, _) in enumerate(cases)]
            verdicts = judges[named.name](problems, [response for _, response, _ in cases], [False] * len(cases))
            graded += len(cases)
            for (gold, response, expected), verdict in zip(cases, verdicts, strict=True):
                if verdict != expected:
                    wrong.append(f"{response!r} for {gold!r}: {verdict}, expected {expected}")
    if wrong:
        yield Check("grader", "fail", "; ".join(wrong), "check the versions of math-verify and antlr4")
    else:
        yield Check("grader", "ok", f"{graded} known verdicts")


def arithmetic_cases(problem: Problem) -> tuple[tuple[str, str, Verdict], ...]:
    """Gold answer, response and the verdict that the grader must give."""
    gold = problem.answer
    return ((gold, f"={gold}", "correct"), (gold, f"={(int(gold) + 1) % 10}", "wrong"), (gold, gold, "no_answer"))


def unused_keys(suite: Suite) -> Iterator[Check]:
    """What the suite sets, or leaves open, without the effect that a reader would expect."""
    found = sorted({finding for point in suites_of(suite) for finding in _unused_keys(point)})
    if not found:
        yield Check("keys", "ok", "every key that is set has an effect")
    for key, why in found:
        yield Check("keys", "warn", f"{key} {why}", "take it out of the suite, or change what it depends on")


def _unused_keys(suite: Suite) -> Iterator[tuple[str, str]]:
    train = suite.train
    if suite.model.revision is not None and (suite.model.path == "embedded" or Path(suite.model.path).exists()):
        yield "model.revision", "says nothing of a folder"
    if train.steps <= (every := suite.resources.checkpoint_every):
        yield "resources.checkpoint_every", f"= {every} comes after the last of {train.steps} steps"
    if train.steps <= train.refresh_every > 1:
        yield "train.refresh_every", f"= {train.refresh_every}: in {train.steps} steps only the base samples"
    problems = len(load_benchmark(train.benchmark).problems())
    if train.limit is not None and train.limit >= problems:
        yield "train.limit", f"= {train.limit} leaves out none of the {problems} problems"
    if suite.evaluation.limit is not None and all(
        suite.evaluation.limit >= len(benchmark.problems()) for benchmark in evaluated(suite)
    ):
        yield "evaluation.limit", f"= {suite.evaluation.limit} leaves out no problem"
    for label, entry in suite.algorithms.items():
        key = f"algorithms.{label}"
        needs = build_algorithm(entry.algorithm or label, entry.parameters, where=key).needs
        for name in ("critic_lr", "critic_max_norm"):
            if not needs.critic and name in entry.optimizer.model_fields_set:
                yield f"{key}.optimizer.{name}", "has no effect: the algorithm has no critic"
        if needs.critic and entry.optimizer.critic_lr is None:
            yield f"{key}.optimizer.critic_lr", "is not set: the critic learns at the policy's rate"
        updates = train.mini_batches * train.epochs * train.refresh_every
        if needs.anchor in ("old", "behaviour") and updates == 1 and train.history_share == 0:
            yield f"{key}.parameters", "of the anchor have no effect but on the scale: with one update a batch, ℓ = 0"


def table_of(checks: Sequence[Check], title: str) -> Table:
    """The checks as a table for the terminal."""
    table = Table(title=title, box=rich.box.SIMPLE_HEAD)
    for name in ("check", "", "found", "what to do"):
        table.add_column(name)
    for check in checks:
        table.add_row(
            check.name, f"[{COLOURS[check.status]}]{check.status}[/]", _plain(check.found), _plain(check.remedy)
        )
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def require_health(checks: Sequence[Check], say: Callable[[str], None]) -> None:
    """What a sweep does with the findings: one line, each warning, and an end where one failed.

    Raises DoctorError.
    """
    counts = {status: sum(check.status == status for check in checks) for status in COLOURS}
    say(f"doctor: {counts['ok']} checks ok, {counts['warn']} warnings, {counts['fail']} failed")
    for check in checks:
        if check.status == "warn":
            say(f"  {check.name}: {check.found} ({check.remedy})")
    failed = [f"{check.name}: {check.found}. {check.remedy}" for check in checks if check.status == "fail"]
    if failed:
        raise DoctorError("the doctor found what would waste this sweep:\n  " + "\n  ".join(failed))
