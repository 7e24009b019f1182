"""What became of a trial: one of a closed set of words, by comparison with what an undisturbed sweep has left."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from commands import Ended

from harness.record.verify import verify_runs

Verdict = Literal["identical", "refused", "planned", "not run", "silently different", "traceback", "hang", "wrong end"]

FAULTS: tuple[Verdict, ...] = ("silently different", "traceback", "hang", "wrong end")
"""Of which there must be none."""

MEANINGS: Mapping[Verdict, str] = {
    "identical": "the sweep ended with exit code 0 and the numbers of an undisturbed one, to the last digit: tables, "
    "samples, metrics, gradient coefficients and weights",
    "refused": "the command said in a sentence what is wrong, and changed no number",
    "planned": "a mutated configuration that is valid: its cells have what a sweep relies on",
    "not run": "the machine lacks what the trial needs, which is named",
    "silently different": "the command ended as if all were well, with other numbers",
    "traceback": "a traceback was printed where a message should be",
    "hang": "the command, or a process that it had started, did not end by itself",
    "wrong end": "another exit code, or another end of a cell, than there should be",
}

TIMES = "seconds"
"""In the name of every column that two runs need not agree in."""


@dataclass(frozen=True)
class Outcome:
    """A verdict, with what was said: the message, what differs, or how it ended."""

    verdict: Verdict
    said: str = ""


def numbers_of(out: Path, suite: str = "small", *, cells: Sequence[str] | None = None) -> dict[str, str]:
    """A digest of everything in a folder of results that two runs must agree in, by what it is.

    With `cells`, of these alone, and of no table. A checkpoint that `gvpo-bench verify` names is left out: no number
    depends on it.
    """
    runs = out / "runs" / suite
    found: dict[str, str] = {}
    for path in sorted(runs.glob("*/manifest.json")):
        name = path.parent.name
        if cells is not None and name not in (*cells, "coefficients"):
            continue
        manifest = json.loads(path.read_bytes())
        kept = {key: manifest.get(key) for key in ("status", "hash", "evaluation_hash", "tokens", "pass_rate")}
        if name != "coefficients":
            found[f"{name}: manifest"] = _digest(json.dumps(kept, sort_keys=True))
    for path in sorted(runs.glob("*/*.parquet")):
        name, frame = path.parent.name, pd.read_parquet(path)
        if cells is not None and "algorithm" in frame:
            frame = frame[(frame["algorithm"] + "-s0").isin(cells)]
        elif cells is not None and name not in cells:
            continue
        found[f"{name}: {path.stem}"] = _digest(frame.to_csv(index=False))
    for path in sorted(runs.glob("*/metrics.jsonl")):
        if cells is None or path.parent.name in cells:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            untimed = [{key: x for key, x in row.items() if TIMES not in key} for row in rows]
            found[f"{path.parent.name}: metrics"] = _digest(json.dumps(untimed, sort_keys=True))
    damaged = [line.partition(":")[0] for line in verify_runs(runs)[0] if "checkpoint/" in line]
    for path in sorted(runs.glob("*/checkpoint/*.safetensors")):
        name = path.parent.parent.name
        if name not in damaged and (cells is None or name in cells):
            found[f"{name}: weights"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found | ({} if cells is not None else tables_of(out / suite))


def tables_of(folder: Path) -> dict[str, str]:
    """A digest of each table of a report, without its times and commands."""
    return {path.name: _digest(_numbers(path.read_bytes())) for path in sorted(folder.glob("*.csv"))}


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is missing, was added or differs, a phrase each. Weights that are missing are no difference: see
    `numbers_of`."""
    missing = [f"{name} is missing" for name in expected if name not in found and not name.endswith(": weights")]
    added = [f"{name} was added" for name in found if name not in expected]
    return [
        *missing,
        *added,
        *(f"{name} differs" for name in expected if found.get(name, "") not in ("", expected[name])),
    ]


def fault_of(ended: Ended) -> Outcome | None:
    """What no command may do, however it was killed."""
    if ended.code is None:
        return Outcome("hang", f"killed after its time: {ended.shown[-500:]}")
    if ended.left:
        return Outcome("hang", f"outlived by {'; '.join(ended.left)}")
    if "Traceback (most recent call last)" in ended.shown:
        return Outcome("traceback", ended.shown[-2000:])
    return None


def message_of(ended: Ended) -> str | None:
    """The message that a command ended with, instead of its work; None where it did not."""
    _, found, message = ended.shown.rpartition("gvpo-bench: ")
    return message.strip() if found and ended.code not in (0, None) else None


def judge(ended: Ended, expected: Mapping[str, str], out: Path, *, may_refuse: bool = False) -> Outcome:
    """The verdict on the last command of a trial, which should have left what an undisturbed one leaves."""
    if (fault := fault_of(ended)) is not None:
        return fault
    if ended.code != 0:
        if may_refuse and (message := message_of(ended)) is not None:
            return Outcome("refused", message)
        return Outcome("wrong end", f"exit code {ended.code}: {ended.shown[-1000:]}")
    differing = differences(expected, numbers_of(out))
    return Outcome("silently different", "; ".join(differing)) if differing else Outcome("identical")


def _numbers(content: bytes) -> str:
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    return table.drop(columns=[name for name in table.columns if TIMES in name or name == "command"]).to_csv(
        index=False
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
