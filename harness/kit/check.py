"""`gvpo-bench check`: every property of an algorithm, and the smallest batch that contradicts one."""

from __future__ import annotations

import dataclasses
import io
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from algorithms import Algorithm
from benchmarks.errors import BenchError
from harness.kit import (
    batch_properties,
    coupling_properties,
    hyperparameter_properties,
    needs_properties,
    output_properties,
    purity_properties,
)
from harness.kit.calls import CallError, undisturbed
from harness.kit.facts import facts_of
from harness.kit.properties import PROPERTIES, Fault, Property, Subject
from harness.kit.random_batches import Case
from harness.kit.shrinking import shrunk
from harness.record.text import say, terminal
from harness.suite.config import ConfigError
from harness.suite.user_code import load_class, needs_of, parameters_of
from harness.suite.user_errors import reported

MODULES = [
    module.__name__
    for module in (
        output_properties,
        batch_properties,
        coupling_properties,
        purity_properties,
        needs_properties,
        hyperparameter_properties,
    )
]
ORDERED = sorted(PROPERTIES, key=lambda found: MODULES.index(found.check.__module__))
"""All properties in the order of a report. Without the first, few others can be told."""


class CheckError(BenchError):
    """There is no algorithm to be checked."""


@dataclass(frozen=True)
class Finding:
    """What became of one property."""

    property: Property
    fault: Fault | None
    told: bool = True
    """False where the loss fails on ordinary batches, so that nothing could be told."""


@dataclass(frozen=True)
class Examination:
    """What became of all of them."""

    findings: list[Finding]
    facts: list[str]
    seconds: float

    @property
    def faults(self) -> dict[str, str]:
        """What is wrong, by the name of the property."""
        return {f.property.name: f.fault.text for f in self.findings if f.fault and not f.property.advice}

    @property
    def advice(self) -> dict[str, str]:
        """What might be better and is no fault, by the name of the property."""
        return {f.property.name: f.fault.text for f in self.findings if f.fault and f.property.advice}


def examine(algorithm: Algorithm, fresh: Callable[[], Algorithm] | None = None) -> Examination:
    """Holds an algorithm against every property.

    `fresh` makes another instance of the same settings, from a module that has run nothing yet where there is one.
    """
    begun = time.monotonic()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        findings, facts = _examined(algorithm, fresh)
    return Examination(findings, facts, time.monotonic() - begun)


def _examined(algorithm: Algorithm, fresh: Callable[[], Algorithm] | None) -> tuple[list[Finding], list[str]]:
    findings: list[Finding] = []
    fault: str | None = None
    facts: list[str] = []
    subject = Subject(algorithm, fresh or (lambda: dataclasses.replace(algorithm)))  # type: ignore[type-var]
    try:
        with undisturbed():
            subject = dataclasses.replace(subject, needs=needs_of(algorithm))
    except ConfigError as error:
        fault = str(error)
    sound = fault is None
    for number, found in enumerate(ORDERED):
        if fault is not None and number == 0:
            findings.append(Finding(found, Fault(fault)))
        elif not sound and not found.always:
            findings.append(Finding(found, None, told=False))
        else:
            contradiction = contradiction_of(found, subject)
            findings.append(Finding(found, contradiction))
            sound = sound and not (number == 0 and contradiction)
    if sound:
        try:
            facts = facts_of(subject)
        except CallError as error:
            facts = [f"No facts could be found: {error}."]
    return findings, facts


def contradiction_of(found: Property, subject: Subject) -> Fault | None:
    """The fault that a property finds, with the smallest batch that shows it."""
    if found.cases is None:
        return _told(lambda: found.check(subject))  # type: ignore[call-arg]
    for case in found.cases(subject.needs):

        def text_of(x: Case) -> Fault | None:
            return _told(lambda: found.check(subject, x))  # type: ignore[call-arg]

        if text_of(case) is not None:
            small = shrunk(case, lambda x: text_of(x) is not None)
            fault = text_of(small) or text_of(case)
            return None if fault is None else Fault(fault.text, small)
    return None


def _told(check: Callable[[], str | None]) -> Fault | None:
    try:
        text = check()
    except CallError as error:
        text = str(error)
    return None if text is None else Fault(text)


def load_to_check(spec: str) -> tuple[Algorithm, Callable[[], Algorithm]]:
    """An algorithm at its defaults, and what makes another one from a module of its own.

    Raises ConfigError where the file cannot be run or has no such class, CheckError where that cannot be made without
    arguments, or a sweep would refuse its hyper-parameters.
    """

    def make() -> Algorithm:
        with undisturbed():
            cls = load_class(spec)
        with reported(
            lambda text: CheckError(f"{spec}: {cls.__name__}() raises {text}; every hyper-parameter needs a default")
        ):
            algorithm = cls()
        try:
            parameters_of(algorithm)
        except ConfigError as error:
            raise CheckError(f"{spec}: {error}") from None
        return algorithm

    return make(), make


def show(examination: Examination, title: str, console: Console) -> None:
    """The report: a line a property, what contradicts it below, and the facts."""
    told = [finding for finding in examination.findings if finding.told]
    say(console, (title, "bold"), f": {len(told)} properties in {examination.seconds:.1f} s")
    console.print()
    for finding in examination.findings:
        _show_finding(finding, console)
    if examination.facts:
        console.print("\n[bold]Facts[/], none of which is a fault")
        for fact in examination.facts:
            _line("·", fact, console)
    faults = len(examination.faults)
    untold = len(examination.findings) - len(told)
    console.print(
        f"\n[bold red]{faults} {'property does' if faults == 1 else 'properties do'} not hold[/]"
        + (f"; {untold} cannot be told before the loss works on ordinary batches" if untold else "")
        if faults
        else "\n[bold green]Sound[/]: every property holds"
    )


def _show_finding(finding: Finding, console: Console) -> None:
    mark = "[green]✓[/]" if finding.told else "·"
    if finding.fault is not None:
        mark = "[yellow]![/]" if finding.property.advice else "[red]✗[/]"
    _line(mark, finding.property.sentence, console)
    if finding.fault is not None:
        _line("", finding.fault.text[:1].upper() + finding.fault.text[1:] + ".", console, indent=2)
        for text in [] if finding.fault.case is None else describe(finding.fault.case):
            _line("", text, console, indent=4)


def _line(mark: str, text: str, console: Console, indent: int = 0) -> None:
    """The text beside its mark, with its further lines below its first."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column()
    grid.add_row(mark, Padding(terminal(text, lines=True), (0, 0, 0, indent)))
    console.print(grid, highlight=False)


def describe(case: Case) -> list[str]:
    """The batch in a few lines, which must suffice to make it again."""
    batch = case.batch
    G, K, T = batch.mask_GKT.shape
    dtype = str(case.dtype).removeprefix("torch.")
    lines = [f"The smallest such batch has {G} × {K} × {T} prompts, samples and tokens ({case.label}, {dtype}):"]
    for g, k in torch.ones_like(batch.valid_GK).nonzero().tolist():
        at = batch.mask_GKT[g, k]
        if not batch.valid_GK[g, k]:
            lines.append(f"prompt {g}, sample {k}: not valid")
            continue
        shown = {"π_θ": case.policy.logp_GKT, "old": batch.old_logp_GKT, "behaviour": batch.behaviour_logp_GKT}
        values = ", ".join(f"{name} {' '.join(f'{x:.3g}' for x in y[g, k][at].tolist())}" for name, y in shown.items())
        lines.append(
            f"prompt {g}, sample {k}: reward {batch.rewards_GK[g, k].item():.4g}; "
            + (f"log-probs: {values}" if at.any() else "no token")
        )
    return lines if len(lines) <= 9 else [*lines[:8], f"and {len(lines) - 8} samples more"]
