"""Mutated suites and command lines: each must be planned, or refused with a message, and none may end in a traceback.

    python chaos/configurations.py --count 5000 --seed 0

`mutations` makes them from the text of a suite that is valid; `judged` plans one in this process, and says how that
ended. What is accepted is held against what a sweep relies on (`fault_of_cells`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, get_args

from benchmarks.errors import BenchError
from harness.record.disk_errors import refusal, require_writable
from harness.suite.load import load_suite, suite_files
from harness.suite.plan import Cell, plan

Ending = Literal["planned", "refused", "traceback", "hangs", "wrongly planned"]
"""The last three are faults."""

SECONDS = 30
"""After which a configuration hangs."""


@dataclass(frozen=True)
class Mutation:
    """A suite's text, with what stands beside its path on a command line."""

    kind: str
    text: str
    overrides: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    source: str | None = None
    """In place of the path of a file with the text."""
    out: str = "results"


@dataclass(frozen=True)
class Judgement:
    """How a mutation ended, and what was said."""

    mutation: Mutation
    ending: Ending
    said: str


LONG = "n" * 300
VALUES = (
    *("0", "-1", "1", "2", "3.5", "-0.0", "1e-320", "1e308", "inf", "-inf", "nan", "true", "false", "0x7f", "1_000"),
    *(
        str(2**31),
        str(2**53 + 1),
        str(2**63 - 1),
        str(2**63),
        str(-(2**63) - 1),
        "9" * 400,
        "9" * 5000,
        "0x" + "f" * 5000,
    ),
    *(
        '""',
        '"x"',
        '" "',
        '"."',
        '".."',
        '"-"',
        '"/"',
        '"a/b"',
        '".hidden"',
        '"\\u0000"',
        '"\\u202e"',
        '"\\n"',
        '"é😀"',
    ),
    *(
        f'"{LONG}"',
        '"' + "ü" * 120 + '"',
        '"~nosuchuser"',
        '"~nosuchuser/mine.py:Mine"',
        '"/proc/1/mem"',
        '"/dev/zero"',
    ),
    *("[]", "[[]]", "{}", "{ x = 1 }", "[0, 0]", "[1, 2, 3]", "[0.9, 1.0]", "[-0.1, 0.5]", "[0.5, inf]", '["a", "a"]'),
    *('["arithmetic", "arithmetic"]', '["arithmetic-hard"]', '["nowhere"]', '"arithmetic"', '"gsm8k"', '"gvpo"'),
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "'''\nx\n'''", "[" * 60 + "]" * 60, "[" * 3000 + "]" * 3000),
    *("{ lr = 1e-3, max_norm = 1.0, betas = [0.9, 1.0] }", "{ arithmetic = 4 }", "nonsense", "", "1 2", "#", "=", '"'),
)
"""Right in some places, wrong in most."""

KEYS = (
    *("name", "seeds", "model.path", "model.revision", "model.template", "model.teacher", "model.device", "model.lora"),
    *("model.lora.rank", "model.lora.alpha", "model.lora.target_modules", "model.precision", "model.weights"),
    *("train.benchmark", "train.limit", "train.pass_rate", "train.pass_rate_samples", "train.steps", "train.prompts"),
    *("train.samples", "train.mini_batches", "train.epochs", "train.refresh_every", "train.history_share"),
    *("train.temperature", "train.max_new_tokens", "train.reward", "train.refill_rounds", "train.sampler_ratio_cap"),
    *("rollout.engine", "rollout.vllm", "rollout.vllm.mode", "rollout.vllm.tensor_parallel_size", "evaluation.limit"),
    *("evaluation.benchmarks", "evaluation.hard_benchmarks", "evaluation.samples", "evaluation.temperature"),
    *("evaluation.max_new_tokens", "report.baseline", "report.published", "resources.ranks", "resources.gpus"),
    *("resources.cpus", "resources.token_budget", "resources.checkpoint_every", "resources.server_timeout"),
    *("tuning.trials", "tuning.benchmark", "tuning.seeds", "tuning.lr", "tuning.max_norm", "tuning.critic_lr"),
    *("algorithms", "algorithms.gvpo", "algorithms.gvpo.optimizer", "algorithms.gvpo.optimizer.lr"),
    *("algorithms.gvpo.optimizer.betas", "algorithms.gvpo.optimizer.max_norm", "algorithms.gvpo.parameters"),
    *("algorithms.gvpo.parameters.beta", "algorithms.gvpo.parameters.anchor", "algorithms.gvpo.algorithm"),
    *("algorithms.gvpo.tuned", "algorithms..hidden", "algorithms.new", f"algorithms.{LONG}.optimizer.lr", "ablation"),
    *("ablation.points", "ablation.quantity", "ablation.axis", "ablation.reference", "model", "train", "evaluation"),
    *("report", "resources", "rollout", "tuning", "", ".", "a.b.c", "name.x", "seeds.x.y", "é.x", ".".join("a" * 4000)),
)
"""Of every section, and some of none."""

ALGORITHMS = (
    *(
        "gvpo",
        "grpo",
        "ppo",
        "sft",
        "gvpd",
        "remax",
        "offline_dpo",
        "GVPO",
        "",
        ":",
        "::",
        "x:",
        ":x",
        "nowhere.py:Mine",
    ),
    *("~nosuchuser/mine.py:Mine", f"{LONG}.py:Mine", f"mine.py:{LONG}", "/:Mine", "/dev/null:Mine", ".:Mine", LONG),
    *("{folder}/mine.py:Mine", "{folder}/mine.py:.hidden", "{folder}/suite.toml:Mine", "{folder}/locked.py:Mine"),
    *("{folder}/broken.py:Mine", "{folder}/exits.py:Mine", "\udcff.py:Mine", "mine.py:Mine\n", "base", "coefficients"),
)
"""For --algorithm; {folder} is where the suite lies."""

SOURCES = (
    LONG,
    f"{LONG}.toml",
    "~nosuchuser/suite.toml",
    "",
    ".",
    "/",
    "/dev/null",
    "{folder}",
    "{folder}/locked.toml",
)
OUTS = ("{folder}/suite.toml", "{folder}/suite.toml/below", f"{{folder}}/{LONG}", "/proc/out", "/dev/null", "~", "")

FILES = {
    "mine.py": """
from dataclasses import dataclass
from typing import ClassVar
from algorithms import Algorithm, LossOutput
from algorithms.base import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Mine(Algorithm):
    name: ClassVar[str] = "Mine"
    beta: float = hyperparameter(0.1, "unused")

    def loss(self, policy, batch):
        return LossOutput(loss=policy.logp_GKT.sum())
""",
    "broken.py": "class Mine(:\n",
    "exits.py": "import sys\nsys.exit(0)\n",
}
"""That lie beside the suite."""

ODD = (0, 9, 10, 13, 34, 39, 92, 127, 160, 0x202E, 0xFEFF, 0x1F600)
"""Characters that files have by accident, by number."""

_KEY = re.compile(r"^(\s*[\w.\"-]+\s*=\s*)(.*)$")
_WORD = re.compile(r"(?<==\s)[\w.+-]+(?=[\s,}])")


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _value(text: str, rng: random.Random) -> str:
    """Another value at one key."""
    lines = _lines(text)
    places = [i for i, line in enumerate(lines) if _KEY.match(line)]
    i = rng.choice(places)
    lines[i] = _KEY.sub(lambda found: found[1] + rng.choice(VALUES), lines[i].rstrip("\n")) + "\n"
    return "".join(lines)


def _number(text: str, rng: random.Random) -> str:
    """Another number in the place of one: this is what a user gets wrong, and most of it is right."""
    place = rng.choice(list(re.finditer(r"(?<=[\s\[])\d[\d.e-]*(?=[\s,}\]])", text)))
    whole = place[0].isdigit()
    value = (int if whole else float)(place[0])
    others = (value + 1, value - 1, value * 2, value * 7, value * 10**6, -value, 0, 1, value / 2, float(value), 10**18)
    return text[: place.start()] + str(rng.choice(others)) + text[place.end() :]


def _inner_value(text: str, rng: random.Random) -> str:
    """Another value somewhere inside of an inline table."""
    found = list(_WORD.finditer(text))
    place = rng.choice(found)
    return text[: place.start()] + rng.choice(VALUES) + text[place.end() :]


def _key(text: str, rng: random.Random) -> str:
    """A key, or a table's name, with a letter less, more, or another."""
    lines = _lines(text)
    i = rng.choice([i for i, line in enumerate(lines) if line.strip()])
    at = rng.randrange(max(1, len(lines[i].partition("=")[0].rstrip())))
    letter = rng.choice(("", "x", ".", "-", " ", '"', "é", "[", "]", "\x00", "\u202e"))
    lines[i] = lines[i][:at] + letter + lines[i][at + rng.randrange(2) :]
    return "".join(lines)


def _section(text: str, rng: random.Random) -> str:
    """A table less, twice, as a list of tables, or with another's name."""
    parts = re.split(r"(?m)^(?=\[)", text)
    i = rng.randrange(len(parts))
    what = rng.randrange(4)
    if what == 0:
        parts[i] = ""
    elif what == 1:
        parts.insert(i, parts[i])
    elif what == 2:
        parts[i] = re.sub(r"^\[(.*?)\]", r"[[\1]]", parts[i])
    else:
        names = [part.partition("\n")[0] for part in parts]
        parts[i] = rng.choice(names) + "\n" + parts[i].partition("\n")[2]
    return "".join(parts)


def _line(text: str, rng: random.Random) -> str:
    """A line less, twice, or at another place."""
    lines = _lines(text)
    line = lines[rng.randrange(len(lines))]
    what = rng.randrange(3)
    if what != 1:
        lines.remove(line)
    if what != 0:
        lines.insert(rng.randrange(len(lines) + 1), line)
    return "".join(lines)


def _cut(text: str, rng: random.Random) -> str:
    """The text up to somewhere, or without a stretch of it."""
    start = rng.randrange(len(text))
    return text[:start] + (text[start + rng.randrange(40) :] if rng.random() < 0.5 else "")


def _characters(text: str, rng: random.Random) -> str:
    """Some characters that are others."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        text = text[:at] + chr(rng.choice(ODD)) + text[at + 1 :]
    return text


def _table_that_is_none(text: str, rng: random.Random) -> str:
    """A whole table that is a value."""
    parts = re.split(r"(?m)^(?=\[)", text)
    i = rng.randrange(1, len(parts))
    name = parts[i][1:].partition("]")[0].strip("[")
    del parts[i]
    return f"{name} = {rng.choice(VALUES)}\n" + "".join(parts)


IN_TEXT: tuple[Callable[[str, random.Random], str], ...] = (
    *(_number,) * 8,
    *(_value, _inner_value, _line) * 2,
    *(_section, _table_that_is_none, _key, _cut, _characters),
)


def mutations(text: str, seed: int) -> Iterator[Mutation]:
    """Without end, and the same for each seed: one to three changes of the text, or of its command line, or both."""
    rng = random.Random(seed)
    while True:
        kinds, changed = [], text
        for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
            change = rng.choice(IN_TEXT)
            with contextlib.suppress(IndexError, ValueError):  # nothing is left that it could change
                changed = change(changed, rng)
                kinds.append(change.__name__.strip("_"))
        overrides: tuple[str, ...] = ()
        algorithms: tuple[str, ...] = ()
        source, out = None, "results"
        if not kinds or rng.random() < 0.15:
            overrides = tuple(f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 2))))
            kinds.append("--set")
        if rng.random() < 0.2:
            algorithms = tuple(rng.choice(ALGORITHMS) for _ in range(rng.choice((1, 1, 2))))
            kinds.append("--algorithm")
        if rng.random() < 0.03:
            source = rng.choice(SOURCES)
            kinds.append("source")
        if rng.random() < 0.05:
            out = rng.choice(OUTS)
            kinds.append("--out")
        yield Mutation(" ".join(kinds), changed, overrides, algorithms, source, out)


def prepare_folder(folder: Path) -> None:
    """What mutations refer to by {folder}."""
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    for name in ("locked.py", "locked.toml"):
        (folder / name).write_text("x = 1\n", encoding="utf-8")
        (folder / name).chmod(0)


def judged(mutation: Mutation, folder: Path) -> Judgement:
    """Plans it, within a folder that `prepare_folder` has prepared, as `gvpo-bench sweep` does before any work."""
    path = folder / "suite.toml"
    path.write_text(mutation.text, encoding="utf-8", errors="surrogatepass")
    at = str(folder)
    source = str(path) if mutation.source is None else mutation.source.replace("{folder}", at)
    algorithms = [name.replace("{folder}", at) for name in mutation.algorithms]
    try:
        with _time_limit(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            suite = load_suite(source, mutation.overrides, algorithms)
            require_writable(folder / mutation.out.replace("{folder}", at))
            cells = plan(suite)
    except BenchError as error:
        return Judgement(mutation, "refused", str(error))
    except _Hangs:
        return Judgement(mutation, "hangs", f"no end after {SECONDS} s")
    except BaseException as error:
        if isinstance(error, Exception) and (told := refusal(error)) is not None:
            return Judgement(mutation, "refused", told)
        return Judgement(mutation, "traceback", traceback.format_exc())
    fault = fault_of_cells(cells)
    return Judgement(mutation, "planned", "") if fault is None else Judgement(mutation, "wrongly planned", fault)


def fault_of_cells(cells: Sequence[Cell]) -> str | None:
    """What a sweep relies on and these cells break: folders of their own that a file system takes and a report finds,
    settings that a manifest can hold, each problem scored once, and an optimiser that AdamW takes."""
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        return "two cells have one folder"
    for cell in cells:
        for part in cell.name.split("/"):
            if part.startswith(".") or len(part.encode()) > 240:
                return f"the folder {part!r}"
        config = cell.config
        try:
            json.dumps(config.stated(), allow_nan=False)
        except ValueError as error:
            return f"{cell.name}: {error}"
        scored = [*config.evaluation.benchmarks, *config.evaluation.hard_benchmarks]
        if len(set(scored)) < len(scored):
            return f"scored twice: {scored}"
        if config.optimizer is not None and not all(0 <= beta < 1 for beta in config.optimizer.betas):
            return f"betas = {config.optimizer.betas}"
    return None


class _Hangs(BaseException):
    pass


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Tally:
    """What became of many."""

    endings: Counter[Ending] = field(default_factory=Counter)
    faults: list[Judgement] = field(default_factory=list)

    def add(self, judgement: Judgement) -> None:
        """Counts one, and keeps it where it is a fault."""
        self.endings[judgement.ending] += 1
        if judgement.ending not in ("planned", "refused"):
            self.faults.append(judgement)


def campaign(texts: Sequence[str], count: int, seed: int) -> Tally:
    """So many mutations of the texts, in turn."""
    tally = Tally()
    sources = [mutations(text, seed * 1000 + i) for i, text in enumerate(texts)]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        prepare_folder(Path(scratch))
        os.chdir(scratch)
        try:
            for i in range(count):
                tally.add(judged(next(sources[i % len(sources)]), Path(scratch)))
        finally:
            os.chdir(before)
    return tally


SMALL = """
name = "small"
seeds = 2

[model]
path = "embedded"

[train]
benchmark = "arithmetic-train"
steps = 6
prompts = 8
samples = 8
mini_batches = 2
max_new_tokens = 4

[resources]
checkpoint_every = 2

[evaluation]
benchmarks = ["arithmetic"]
hard_benchmarks = ["arithmetic-hard"]
samples = 2
limit = 12

[report]
baseline = "gvpo"

[tuning]
trials = 2
benchmark = "arithmetic-tune"
seeds = [1000]
lr = [1e-4, 1e-2]
max_norm = [0.1, 10.0]
critic_lr = [1e-4, 1e-2]

[algorithms.gvpo]
optimizer = { lr = 3e-3, max_norm = 1.0 }

[algorithms.ppo]
optimizer = { lr = 3e-3, max_norm = 1.0, critic_lr = 1e-2 }
parameters = { beta = 0.1 }
"""
"""A suite that takes milliseconds to plan."""

ABLATION = (
    SMALL[: SMALL.index("[tuning]")]
    + """
[ablation]
quantity = "k"
axis = "log"
reference = "4"

[[ablation.points]]
label = "2"
set = ["train.samples=2"]

[[ablation.points]]
label = "4"
set = ["train.samples=4", "algorithms.gvpo.parameters.beta=0.2"]

[algorithms.gvpo]
optimizer = { lr = 3e-3, max_norm = 1.0, betas = [0.9, 0.99] }
parameters = { beta = 0.1, anchor = "old" }
"""
)


def main() -> None:
    """Prints the counts, and each fault in full; exit code 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally = campaign(
        [SMALL, ABLATION, SMALL, suite_files()["embedded-k"].read_text("utf-8")], options.count, options.seed
    )
    for fault in tally.faults:
        mutation = fault.mutation
        print(f"--- {fault.ending}: {mutation.kind} {mutation.overrides} {mutation.algorithms} {mutation.source}")
        print(fault.said[-3000:])
    print({ending: tally.endings[ending] for ending in get_args(Ending)})
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
