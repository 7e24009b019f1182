"""`gvpo-bench doctor`, which every sweep starts with: what would waste its hours is found in seconds.

Nothing here changes a run; the policy that is perturbed is this process's own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import rich.box
import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from benchmarks import Problem, load_benchmark
from benchmarks.errors import BenchError
from benchmarks.judges import GRADINGS, judge_for
from benchmarks.templates import load_template
from harness.model.language import from_pretrained, tokenise
from harness.model.ranks import Ranks, environment_alone, visible_gpus
from harness.preflight.checks import COLOURS, Check, Say, Status, evaluated, quiet, suites_of
from harness.preflight.costs import needs_of
from harness.preflight.memory import disk, memory_of
from harness.preflight.model_checks import on_the_model
from harness.preflight.model_size import model_size
from harness.preflight.overlap import overlaps
from harness.record.environment import cores
from harness.record.rollouts_file import rollout_faults
from harness.record.text import terminal
from harness.suite.cell_config import CellConfig
from harness.suite.config import Resources, Suite
from harness.suite.plan import Cell, declared_algorithm, training_problems


class DoctorError(BenchError, RuntimeError):
    """A sweep that would waste its hours. The message lists the failed checks."""


def examine(suite: Suite, cells: Sequence[Cell], out: Path, *, workers: int, say: Say = quiet) -> list[Check]:
    """All checks of a suite, in the order in which they are shown; `say` hears which one is next."""
    checks: list[Check] = []
    for name, look in {
        "versions": versions,
        "device": lambda: hardware(suite, cells),
        "disk": lambda: [storage(cells, out, workers)],
        "data": lambda: data(suite),
        **({"recorded rollouts": lambda: recordings(cells)} if suite.train.replays_other_runs else {}),
        "overlap of training and test problems": lambda: overlaps(suite),
        "model": lambda: _model_checks(suite, say),
        "grader": lambda: self_test(suite),
        "keys": lambda: unused_keys(suite),
    }.items():
        say(name)
        checks += look()
    return checks


def _model_checks(suite: Suite, say: Say) -> list[Check]:
    if not on_gpu(suite):
        suite = suite.model_copy(update={"model": suite.model.model_copy(update={"device": "cpu"})})
    if on_gpu(suite) or not Ranks.of_group().alone:
        # In a process of its own, which is no rank, so that this one holds no memory of the GPU while the cells run.
        with ProcessPoolExecutor(1, get_context("spawn"), _become_one_rank, (suite.resources,)) as pool:
            return pool.submit(on_the_model, suite).result()
    return on_the_model(suite, say)


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
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus()[: resources.gpus_of_rank])


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
        remedy = ""
        if suite.resources.gpus > 0:
            remedy = "a cell asks for a GPU and this machine has none: these checks say little of where it will run"
        elif suite.model.precision == "bfloat16" and not _cpu_has_bfloat16():
            remedy = "bfloat16 is slow on this CPU: set resources.gpus, or model.precision = 'float32'"
        yield Check("device", "warn" if remedy else "ok", f"the CPU, {cores()} cores", remedy)
        return
    free, whole = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    yield Check("device", "ok", f"{torch.cuda.device_count()} × {name}, {free / 1e9:.0f} of {whole / 1e9:.0f} GB free")
    yield memory(suite, cells, free, whole)


def _cpu_has_bfloat16() -> bool:
    """Whether matrix products in bfloat16 have instructions of their own here, and are faster than in float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def memory(suite: Suite, cells: Sequence[Cell], free: float, whole: float) -> Check:
    """Whether the largest cell fits into a GPU that has `free` of its `whole` bytes, or into its share of it."""
    size = model_size(suite.model)
    # All prompts were tokenised when their lengths were checked; for an estimate the one of most characters will do.
    wordiest = max(training_problems(suite.train), key=lambda problem: len(problem.prompt))
    tokenizer, template = from_pretrained(AutoTokenizer, suite.model), load_template(suite.model.template)
    longest = len(tokenise([wordiest], tokenizer, template)[0]) + suite.train.max_new_tokens
    ranks = int(os.environ.get("WORLD_SIZE", suite.resources.ranks))  # torchrun's, if it is there
    of_cells = [memory_of(cell.config, size, needs_of(cell), longest, whole, ranks) for cell in cells]
    largest, least = (max(getattr(each, name) for each in of_cells) for name in ("peak", "least"))
    room, beside = suite.resources.room_on_gpu(free), suite.resources.cells_on_gpu
    share = f", {room / 1e9:.3g} for each of {beside} on a GPU" if beside > 1 else ""
    found = f"about {largest / 1e9:.3g} GB for the largest cell{share}"
    if least > (most := suite.resources.room_on_gpu(whole)):
        found += f", of which weights and optimiser alone take {least / 1e9:.3g} of {most / 1e9:.3g}"
        remedy = "raise resources.ranks, set model.weights = 'bfloat16', or train an adapter ([model.lora])"
        if ranks > 1 and suite.rollout.shares_weights:
            remedy = (
                f"rollout.engine = {suite.rollout.engine!r} samples from a whole policy on each rank: "
                "set it to 'vllm', which takes the weights from shards"
            )
        return Check("memory", "fail", found, remedy)
    remedy = "" if largest < room else "see gvpo-bench plan; lower resources.token_budget or rollout_batch"
    return Check("memory", "warn" if remedy else "ok", found, remedy)


def storage(cells: Sequence[Cell], out: Path, workers: int) -> Check:
    """Free space where the runs go, against the checkpoints that they will leave."""
    existing = out.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    size = model_size(cells[0].config.model)
    sizes = [disk(_as_kept(cell), size, needs_of(cell)) for cell in cells]
    needed = sum(kept for kept, _ in sizes) + workers * max(running for _, running in sizes)
    status: Status = "fail" if needed > free else "warn" if 2 * needed > free else "ok"
    remedy = f"free some, give another --out, or --seeds fewer than {len(cells)} cells need"
    return Check(
        "disk", status, f"{needed / 1e9:.3g} GB needed, {free / 1e9:.3g} free", "" if status == "ok" else remedy
    )


def _as_kept(cell: Cell) -> CellConfig:
    """The cell's settings, with what becomes of its checkpoint before the sweep is over."""
    resources = cell.config.resources.model_copy(update={"keep_checkpoints": cell.keeps_checkpoint})
    return cell.config.model_copy(update={"resources": resources})


def data(suite: Suite) -> Iterator[Check]:
    """Loading verifies number and checksum, and raises DataError."""
    scored = {benchmark.name: benchmark.problems()[: suite.evaluation.limit] for benchmark in evaluated(suite)}
    train = training_problems(suite.train)
    each = ", ".join(f"{name} {_counted(problems)}" for name, problems in scored.items())
    yield Check("data", "ok", f"{suite.train.benchmark} {_counted(train)} to train on; {each} to score")


def _counted(problems: Sequence[Problem]) -> str:
    """How many, and how many of them have a gold answer that is prose or no formula."""
    as_text = sum(problem.gold_as_text for problem in problems)
    return f"{len(problems)} ({as_text} gold answers can only be graded as text)" if as_text else str(len(problems))


def recordings(cells: Sequence[Cell]) -> Iterator[Check]:
    """Whether what other runs have recorded for these cells is what they recorded."""
    found = {cell.config.recording(Path()) for cell in cells if cell.config.train.replays_other_runs}
    folders = sorted(folder for folder in found if folder is not None)
    faults = [f"{folder.name}: {fault}" for folder in folders for fault in rollout_faults(folder)]
    if faults:
        remedy = f"run the sweep of {folders[0].parent} again, once the folders of these cells are removed"
        yield Check("recorded rollouts", "fail", "; ".join(faults), remedy)
    elif folders:
        yield Check("recorded rollouts", "ok", f"those of {len(folders)} cells in {folders[0].parent}")


def self_test(suite: Suite) -> Iterator[Check]:
    """Known verdicts, from the graders that the suite will use, in its way of calling them."""
    asked = {b.grading: b for b in [load_benchmark(suite.train.benchmark), *evaluated(suite)]}  # one of each grading
    wrong, graded = [], 0
    with judge_for(list(asked.values())) as judges:
        for grading, benchmark in asked.items():
            cases = GRADINGS[grading].cases
            problems = [Problem(id=f"doctor/{i}", prompt="", answer=gold) for i, (gold, _, _) in enumerate(cases)]
            verdicts = judges[benchmark.name](problems, [response for _, response, _ in cases], [False] * len(cases))
            graded += len(cases)
            for (gold, response, expected), verdict in zip(cases, verdicts, strict=True):
                if verdict != expected:
                    wrong.append(f"{response!r} for {gold!r}: {verdict}, expected {expected}")
    if wrong:
        yield Check("grader", "fail", "; ".join(wrong), "check the versions of math-verify and antlr4")
    else:
        yield Check("grader", "ok", f"{graded} known verdicts")


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
    if train.steps < (every := train.keep_samples_every):
        yield "train.keep_samples_every", f"= {every} comes after the last of {train.steps} steps"
    if train.steps <= train.refresh_every > 1:
        yield "train.refresh_every", f"= {train.refresh_every}: in {train.steps} steps only the base samples"
    problems = len(load_benchmark(train.benchmark).problems())
    if train.pass_rate is None and "pass_rate_samples" in train.model_fields_set:
        yield "train.pass_rate_samples", "has no effect: there is no train.pass_rate"
    if train.limit is not None and train.limit >= problems:
        yield "train.limit", f"= {train.limit} leaves out none of the {problems} problems"
    if suite.evaluation.limit is not None and all(
        suite.evaluation.limit >= len(benchmark.problems()) for benchmark in evaluated(suite)
    ):
        yield "evaluation.limit", f"= {suite.evaluation.limit} leaves out no problem"
    needs_of_label = {
        label: declared_algorithm(entry.algorithm or label, entry.parameters, where=f"algorithms.{label}").needs
        for label, entry in suite.algorithms.items()
    }
    taught = any("teacher_logp_GK" in needs.extras for needs in needs_of_label.values())
    for name in ("teacher", "teacher_template"):
        if getattr(suite.model, name) is not None and not taught:
            yield f"model.{name}", "has no effect: no algorithm learns from a teacher"
    if "refill_rounds" in train.model_fields_set and not any(needs.refill for needs in needs_of_label.values()):
        yield "train.refill_rounds", "has no effect: no algorithm refills its groups"
    for label, entry in suite.algorithms.items():
        key, needs = f"algorithms.{label}", needs_of_label[label]
        for name in ("critic_lr", "critic_max_norm"):
            if not needs.critic and name in entry.optimizer.model_fields_set:
                yield f"{key}.optimizer.{name}", "has no effect: the algorithm has no critic"
        if needs.critic and entry.optimizer.critic_lr is None:
            yield f"{key}.optimizer.critic_lr", "is not set: the critic learns at the policy's rate"
        updates = train.mini_batches * train.epochs * train.refresh_every
        own = needs.data != "base" or needs.anchor == "old"  # or the anchor is the base
        if needs.anchor in ("old", "behaviour") and own and updates == 1 and train.history_share == 0:
            yield f"{key}.parameters", "of the anchor have no effect but on the scale: with one update a batch, ℓ = 0"


def table_of(checks: Sequence[Check], title: str) -> Table:
    """The checks as a table for the terminal."""
    table = Table(title=terminal(title, "table.title"), box=rich.box.SIMPLE_HEAD)
    for name in ("check", "", "found", "what to do"):
        table.add_column(name)
    for check in checks:
        status = terminal(check.status, COLOURS[check.status])
        table.add_row(terminal(check.name), status, terminal(check.found), terminal(check.remedy))
    return table


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Say]:
    """A `Say` whose last word stands in the console, where that is a terminal, until the doctor is done."""
    with console.status("doctor") as status:
        yield lambda name: status.update(terminal(f"doctor: {name}"))


def require_health(checks: Sequence[Check], say: Say) -> None:
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
