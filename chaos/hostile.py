"""Hostile algorithms: users' files that break what they can, and what is to become of a sweep that has one.

Whatever happens to its own cell, the other cells of the sweep have the numbers that they have without it, the command
ends by itself, with a table, and prints no traceback of its own. `Hostile.ends` says what becomes of its own cell.

What deletes files does so in the working directory alone, and only where a file `chaos-scratch` lies in it.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.record.cell_folder import CellFolder

Ends = Literal["refused", "fails", "stalls", "finishes", "either"]
"""What becomes of it:
    refused   the command ends with exit code 2 and a message before any work, and nothing is written
    fails     its cell fails; the command goes on, and ends with exit code 1
    stalls    its cell fails once `resources.stall_seconds` are over; without them it runs until Ctrl-C, which ends it
    finishes  its cell finishes, with whatever numbers
    either    its cell finishes or fails: it harms itself in ways that no version of a library need share
"""

SCRATCH = "chaos-scratch"
"""The file without which no working directory is touched."""

_SOURCE = """{first}
import atexit, builtins, ctypes, gc, json, os, pathlib, random, resource, signal, sys, threading, time, warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy
import torch

from algorithms import Algorithm, LossOutput, Needs
from algorithms.base import centred, hyperparameter, sequence_sum

CALLS, KEPT = [], []
{module}


@dataclass(frozen=True, kw_only=True)
class {name}(Algorithm):
    name: ClassVar[str] = "{name}"
{body}

    def loss(self, policy, batch):
        CALLS.append(1)
        logp_GK = sequence_sum(policy.logp_GKT, batch.mask_GKT)
        good = -(centred(batch.rewards_GK, batch.valid_GK) * logp_GK).mean()
        metrics = {{}}
{loss}
        return LossOutput(loss=good, metrics=metrics)
"""


@dataclass(frozen=True)
class Hostile:
    """One of them: REINFORCE against the group's mean, with something else in its loss, its class or its module."""

    name: str
    """Of the class; its label in a suite is the same in small letters."""
    ends: Ends
    says: str = ""
    """What the message of a refusal, or the traceback of the cell that fails, must match."""
    loss: str = ""
    """Statements within the loss, after it is known as `good`."""
    body: str = ""
    """Statements within the class."""
    module: str = ""
    """Statements before the class."""
    first: str = ""
    """Statements before anything else."""

    @property
    def label(self) -> str:
        """In a suite that it joins by --algorithm."""
        return self.name.lower()

    @property
    def source(self) -> str:
        """Of its file."""
        parts = {"loss": textwrap.indent(self.loss, " " * 8), "body": textwrap.indent(self.body, " " * 4)}
        return _SOURCE.format(name=self.name, module=self.module, first=self.first, **parts)

    def write(self, folder: Path) -> str:
        """Writes its file; returns what --algorithm takes."""
        path = folder / f"{self.label}.py"
        path.write_text(self.source, encoding="utf-8")
        return f"{path}:{self.name}"

    def unlike_expected(self, runs: Path, exit_code: int, shown: str, seed: int = 0) -> str | None:
        """What is other than `ends` and `says` after a sweep that it took part in; None where nothing is.

        `shown` is what the command printed; `runs` is the folder of the suite's cells.
        """
        if "Traceback (most recent call last)" in shown:
            return "the command printed a traceback"
        if self.ends == "refused":
            if exit_code != 2 or runs.exists():
                return f"not refused: exit code {exit_code}, {'something' if runs.exists() else 'nothing'} written"
            return None if re.search(self.says, shown) else f"the refusal does not say {self.says!r}: {shown[-500:]}"
        folder = CellFolder(runs / f"{self.label}-s{seed}")
        manifest = folder.manifest()
        status = "no manifest" if manifest is None else manifest["status"]
        wanted = {"finishes": ["finished"], "either": ["finished", "failed"]}.get(self.ends, ["failed"])
        if status not in wanted:
            return f"its cell: {status}, expected {' or '.join(wanted)}"
        if exit_code != (status == "failed"):
            return f"exit code {exit_code} where its cell is {status}"
        if status == "failed" and self.says:
            text = folder.traceback_path.read_text(encoding="utf-8", errors="replace")
            if not re.search(self.says, text):
                return f"its traceback does not say {self.says!r}: {text[-500:]}"
        return None


def _refused(name: str, says: str, **parts: str) -> Hostile:
    return Hostile(name, "refused", says, **parts)


def _fails(name: str, says: str, loss: str, **parts: str) -> Hostile:
    return Hostile(name, "fails", says, loss=loss, **parts)


def _stalls(name: str, loss: str) -> Hostile:
    return Hostile(name, "stalls", loss=loss)


def _finishes(name: str, loss: str = "", **parts: str) -> Hostile:
    return Hostile(name, "finishes", loss=loss, **parts)


def _either(name: str, loss: str = "", **parts: str) -> Hostile:
    return Hostile(name, "either", loss=loss, **parts)


ODD = "class Odd(BaseException):\n    pass"
BUSY = "def busy():\n    while True:\n        pass"

RETURNS = (
    _fails("ReturnsNone", r"loss\(\) returned None; return LossOutput", "return None"),
    _fails("ReturnsAFloat", r"loss\(\) returned a float", "return good.item()"),
    _fails("ReturnsATensor", r"loss\(\) returned a Tensor", "return good"),
    _fails("FloatInside", r"LossOutput\.loss is a float", "good = good.item()"),
    _fails("VectorOfOne", r"the loss has shape \(1,\)", "good = good[None]"),
    _fails("Integer", r"the loss holds torch\.int64", "good = good.long()"),
    _fails("Double", r"the loss holds torch\.float64", "good = good.double()"),
    _fails("Constant", r"does not depend on the log-probs", "good = good.new_zeros(())"),
    _fails("Detached", r"does not depend on the log-probs", "good = good.detach()"),
    _fails("OwnParameter", r"does not depend on the log-probs", "good = good.new_ones(()).requires_grad_() * 2"),
    _fails("NaNAtThird", r"the loss is nan", "good = good * float('nan') if len(CALLS) >= 3 else good"),
    _fails("InfiniteGradient", r"∂loss/∂logp_GKT is (inf|nan)", "good = good + (policy.logp_GKT * 0).sqrt().sum()"),
    _fails("PreparesNone", r"prepare\(\) returned NoneType", "", body="def prepare(self, batch):\n    return None"),
    _fails("MetricOfTheHarness", r"metric 'reward' has the name", "metrics['reward'] = good"),
    _fails("MetricText", r"metric 'a' is a str", "metrics['a'] = 'text'"),
    _fails("MetricVector", r"metric 'a' has shape", "metrics['a'] = logp_GK"),
    _fails("MetricNaN", r"metric 'a' is nan", "metrics['a'] = good * float('nan')"),
    _fails("MetricNumbered", r"a metric is named 7", "metrics[7] = 1.0"),
    _fails("MetricList", r"LossOutput\.metrics is a list", "metrics = [1.0]"),
)
"""What is no loss."""

RAISES = (
    _fails("Exits", r"loss\(\) raises SystemExit: 0", "sys.exit(0)"),
    _fails("Interrupts", r"KeyboardInterrupt", "raise KeyboardInterrupt"),
    _fails("BaseOfAll", r"loss\(\) raises Odd: x", "raise Odd('x')", module=ODD),
    _fails(
        "NoText",
        r"str\(\) failed",
        "raise Odd",
        module="class Odd(Exception):\n    def __str__(self):\n        raise ValueError",
    ),
    _fails("HalfACharacter", r"ValueError", "raise ValueError('\\udc80')"),
    _fails("EscapeCodes", r"ValueError", "raise ValueError('\\x1b[2J\\x1b]0;x\\x07\\u202e[/x]$$')"),
    _fails("LongText", r"ValueError", "raise ValueError('x' * 20_000_000)"),
    _fails("Recursion", r"RecursionError", "def f():\n    f()\nf()"),
    _fails("NoMemory", r"MemoryError", "raise MemoryError"),
    _fails("FreesItsGraph", r"cannot be differentiated", "good = good.square()\ngood.backward(retain_graph=False)"),
    _fails("InPlace", r"in-place operation", "policy.logp_GKT.mul_(2)"),
)
"""What raises."""

DIES = (
    _fails("LeavesWithZero", r"exit code 0", "os._exit(0)"),
    _fails("LeavesWithThree", r"exit code 3", "os._exit(3)"),
    _fails("KillsItself", r"SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)"),
    _fails("Segfault", r"SIGSEGV", "ctypes.string_at(0)"),
    _fails("Aborts", r"SIGABRT", "os.abort()"),
    _stalls("ForEver", "while True:\n    pass"),
    _stalls("Deaf", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    time.sleep(1)"),
    _stalls("BlocksAll", "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True:\n    pass"),
)
"""What ends its process, or never ends."""

GLOBALS = (
    _either("DefaultDtype", "torch.set_default_dtype(torch.float64)"),
    _either("DefaultDevice", "torch.set_default_device('meta')"),
    _finishes("Threads", "torch.set_num_threads(2)"),
    _finishes("NoGradient", "torch.set_grad_enabled(False)"),
    _either("Inference", "KEPT.append(torch.inference_mode()); KEPT[-1].__enter__()"),
    _finishes("Deterministic", "torch.use_deterministic_algorithms(True, warn_only=True)"),
    _finishes("Anomalies", "torch.autograd.set_detect_anomaly(True)"),
    _finishes("Denormals", "torch.set_flush_denormal(True)"),
    _finishes("SeedsAll", "torch.manual_seed(7); random.seed(7); numpy.random.seed(7)"),
    _either("PatchedTensor", "torch.Tensor.exp = lambda x: x * 0 + 1"),
    _either("PatchedSoftmax", "torch.log_softmax = torch.nn.functional.log_softmax = lambda x, *a, **k: x * 0"),
    _finishes("OptimizerHook", "torch.optim.Optimizer.zero_grad = lambda self, set_to_none=True: None"),
    _finishes(
        "ModuleHook",
        "if len(CALLS) == 1:\n    torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: None)",
    ),
    _either("PatchedJson", "json.dumps = lambda *a, **k: '{}'"),
    _either("PatchedPath", "pathlib.Path.write_bytes = lambda self, data: len(data)"),
    _either("PatchedPrint", "builtins.print = builtins.len = None"),
    _finishes(
        "PatchedHarness", "import harness.training.learner as it\nit.clip_grads_with_norm_ = lambda *a, **k: None"
    ),
    _either("NoJson", "sys.modules['json'] = None"),
    _finishes("Environment", "os.environ.update(GVPO_BENCH_CACHE='/nowhere', OMP_NUM_THREADS='2', HOME='/nowhere')"),
    _finishes("ElsewhereFromNow", "os.chdir('/')"),
    _finishes("NoPath", "sys.path.clear(); sys.argv.clear()"),
    _either("WarningsAreErrors", "warnings.simplefilter('error')"),
    _finishes("NoGarbage", "gc.disable(); gc.freeze()"),
    _either("LittleRecursion", "sys.setrecursionlimit(len(__import__('inspect').stack()) + 60)"),
    _either("FewFiles", "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))"),
    _either("Mask", "os.umask(0o777)"),
    _finishes(
        "IgnoresSignals", "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)"
    ),
    _finishes("OwnSession", "len(CALLS) > 1 or os.getsid(0) == os.getpid() or os.setsid()"),
)
"""What changes the process."""

RESOURCES = (
    _finishes("Memory", "KEPT[:] = [torch.ones(2**25)]  # 128 MiB"),
    _finishes("KeepsAllGraphs", "KEPT.append(good)"),
    _finishes("SumsAllGraphs", "KEPT.append(good.square())\ngood = sum(KEPT)"),
    _either("ChangesItsBatch", "batch.rewards_GK.zero_(); batch.mask_GKT.fill_(False)"),
    _finishes("NoOutput", "os.close(1); sys.stdout.close(); os.open('/dev/null', os.O_WRONLY)"),
    _either("NoFiles", "os.closerange(3, 256)"),
    _finishes("EscapesPrinted", "print('\\x1b[2J\\x1b[1000A\\x1b]0;title\\x07\\u202e', flush=True)"),
    _finishes("PrintsMuch", "sys.stdout.write('x' * 10_000_000); sys.stderr.write('y' * 10_000_000)"),
    _finishes(
        "DeletesFiles",
        f"if os.path.exists({SCRATCH!r}):\n"
        f"    [p.unlink() for p in pathlib.Path('.').iterdir() if p.is_file() and p.name != {SCRATCH!r}]",
    ),
    _finishes("ThreadLeft", "threading.Thread(target=time.sleep, args=(600,)).start() if len(CALLS) == 1 else None"),
    _finishes("BusyThread", "len(CALLS) > 1 or threading.Thread(target=busy).start()", module=BUSY),
    _finishes("SleepsAtExit", "len(CALLS) > 1 or atexit.register(time.sleep, 600)"),
    _finishes("RaisesAtExit", "len(CALLS) > 1 or atexit.register(lambda: 1 / 0)"),
    _finishes("LeavesAChild", "len(CALLS) > 1 or os.fork() or (time.sleep(30), os._exit(0))"),
)
"""What takes or leaves behind what others need."""

MODULES = (
    _refused("ImportExits", r"SystemExit: 0 \(importexits\.py, line 1\)", first="import sys; sys.exit(0)"),
    _refused("ImportLeaves", r"ended before it could say", first="import os; os._exit(0)"),
    _refused("ImportDies", r"ended before it could say", first="import os; os.kill(os.getpid(), 9)"),
    _refused(
        "ImportRaises", r"Odd: x \(importraises\.py", module="class Odd(BaseException):\n    pass\nraise Odd('x')"
    ),
    _refused("NoSuchModule", r"ModuleNotFoundError: .*nosuchmodule\.py, line 1", first="import no_such_module"),
    _refused("NoPython", r"SyntaxError: .*nopython\.py, line 1", first="class ("),
    _refused("NoSubclass", r"must be a subclass of algorithms\.Algorithm", module="Algorithm = object"),
    _refused("NumberedName", r"give the class `name: ClassVar", body="name = 7"),
    _refused("NoFamily", r"family is 'mine'; use one of", body="family = 'mine'"),
    _refused("NeedsATable", r"needs is a dict; it must be a property", body="needs = {'critic': True}"),
    _refused("NeedsRaise", r"needs raises ZeroDivisionError", body="@property\ndef needs(self):\n    return 1 / 0"),
    _refused("PrepareIsANumber", r"prepare is 3; it must be a method", body="prepare = 3"),
    _refused("DefaultIsAFunction", r"parameters\.beta = <.*a hyper-parameter is", body="beta: object = print"),
    _refused("DefaultIsInfinite", r"parameters\.beta = inf", body="beta: float = float('inf')"),
    _refused("MadeExits", r"cannot be made: SystemExit: 3", body="def __post_init__(self):\n    sys.exit(3)"),
    _either("DtypeOnImport", module="torch.set_default_dtype(torch.float64)"),
    _either("JsonOnImport", module="json.dumps = lambda *a, **k: '{}'"),
    _either("NumpyOnImport", module="numpy.mean = numpy.sqrt = numpy.sum = lambda *a, **k: 0.0"),
    _either("PathOnImport", module="pathlib.Path.write_bytes = pathlib.Path.write_text = lambda self, data, **k: 0"),
    _finishes("BadlyNamed", body="name: ClassVar[str] = '$$ [/x] \\x1b[2J \\u202e =1+1 <b> |'"),
    _finishes("LongNamed", body="name: ClassVar[str] = 'n' * 10_000"),
    _finishes("ElsewhereOnImport", module="os.chdir('/')"),
    _finishes("NoOutputOnImport", module="os.close(1); os.open('/dev/null', os.O_WRONLY)"),
    _finishes("DeafOnImport", module="signal.signal(signal.SIGTERM, signal.SIG_IGN)"),
    _finishes("ThreadOnImport", module="threading.Thread(target=time.sleep, args=(600,)).start()"),
    _finishes("ChildOnImport", module="os.fork() or (time.sleep(30), os._exit(0))"),
)
"""What does its harm when it is imported, or made."""

HOSTILE = (*RETURNS, *RAISES, *DIES, *GLOBALS, *RESOURCES, *MODULES)
"""All of them, each with a name of its own."""
