"""What a reader needs to judge the numbers, from the manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from harness.record.ledger import EXTRA_PASSES
from harness.report.columns import SIGNIFICANT, TOO_FEW, k_text
from harness.report.comparison import Scores, trials_of
from harness.report.recorded_cells import RecordedCell, agreed
from harness.statistics.intervals import MIN_SEEDS_TO_TEST

PUBLISHED_NOTE = (
    "Published rows are others' numbers as their source prints them, in percent, under the protocol that stands with "
    "them: another one than ours, hence in a table of their own and in no difference or test."
)
STOPPED_NOTE = "The sweep was stopped before its end: only seeds that every algorithm has run stand here."
COST_NOTE = (
    "Seconds (rollouts, training, evaluation) and tokens are means a run. Generated: every response token sampled "
    "for training. Trained: tokens of prompts and responses that went forward and backward "
    f"through the policy. Extra: those of the further passes ({', '.join(EXTRA_PASSES)}). Evaluation is in the "
    "seconds, not in these tokens."
)


def score_notes(cells: Sequence[RecordedCell], scores: Scores) -> list[str]:
    """What the scores are, and their intervals."""
    evaluation = agreed(cells, "evaluation")
    k = k_text(evaluation)
    decoding = {key: value for key, value in evaluation.items() if not key.endswith("benchmarks") and key != "samples"}

    def listed(benchmarks: Sequence[str]) -> str:
        each_k = {name: f", k = {k_text(evaluation, name)}" if k == "k" else "" for name in benchmarks}
        return ", ".join(f"{name} ({scores.problems.get(name, 0)} problems{each_k[name]})" for name in benchmarks)

    notes = [
        f"avg@{k}: mean score over {k} samples a problem of the last checkpoint on {listed(scores.benchmarks)}"
        + (", the mean of the benchmarks' means" if len(scores.benchmarks) > 1 else "")
        + (f"; decoding: {settings_text(decoding)}." if decoding else ".")
    ]
    if scores.hard_benchmarks:
        notes.append(f"hard avg@{k}: the same on {listed(scores.hard_benchmarks)}.")
    if k != "1":
        notes.append(
            "pass@j: the chance that j samples of a problem hold a correct one, without bias from its k (Chen et al. "
            "2021, eq. 1). maj@k: whether the answer that most of the k samples give is correct, where equal means "
            "equal in normal form (numbers by value); no answer, no vote; of tied answers one is drawn."
        )
    notes.append(
        "wrong, no answer (nothing that could be graded) and grader failures are verdicts, as shares of the samples. "
        "truncated: ended by the length limit, whatever the verdict."
    )
    return [
        *notes,
        f"± is half of a 95% interval. Of avg@{k} and Δ: seeds and problems both taken as random and crossed (two-way "
        "random effects, Satterthwaite's t). Of KL, length and reward AUC: Student's t over seeds. The base is "
        "evaluated once: its interval is over problems only.",
    ]


def row_notes(cells: Sequence[RecordedCell], table: pd.DataFrame) -> list[str]:
    """What the other columns are, and which cells failed."""
    return [
        "KL: exact, from the base, nats per evaluated response. Length: tokens of an evaluated response.",
        "collapsed: seeds whose score is below the base's"
        + (" (not counted: there is no finished base). " if table["status"].iloc[0] != "finished" else ". ")
        + "They stay in every mean. failed: cells that ended in an error and have no score.",
        *(f"failed: {cell.name}: {cell.error()[:300]}" for cell in cells if not cell.finished),
    ]


def difference_note(tested: int, corrected: str) -> str:
    """How differences were tested, where any was; `corrected` says over what, and over how many tests."""
    p = f"p: two-sided sign-flip test {corrected}; bold where p is below {SIGNIFICANT}. " if tested else ""
    return f"{p}With fewer than {MIN_SEEDS_TO_TEST} matched seeds there is an interval and no test: {TOO_FEW}."


def evidence_notes(baseline: str, tested: int) -> list[str]:
    """What stands in the table of what could be told apart."""
    how = (
        f"the test at Holm's first step, .05/{tested}"
        if tested
        else "a 95% interval of the difference that leaves out zero"
    )
    return [
        f"detectable Δ: the smallest true difference to {baseline} that this design would have found with 80% "
        f"probability, by {how} (noncentral t, from the spread of these very seeds). P(better): the probability that "
        f"a run scores above one of {baseline}, ties half, with the bootstrap's 95% interval over runs (Agarwal et al. "
        "2021, §4.3). Variance removed by pairing: the share of the difference's variance over seeds that comparing "
        "the same seeds takes away, with a 95% interval (Pitman 1939, Morgan 1939); below zero where it adds.",
        "How well intervals, tests and detectable differences keep what they say is measured in results/calibration.",
    ]


def highlight_note(names: Iterable[str]) -> str:
    """Whose rows and lines stand out."""
    return f"Highlighted, by choice and not by result: {', '.join(names)}."


def unfinished_notes(unfinished: Sequence[str]) -> list[str]:
    """Which cells are not in the table because they had not ended; none where all had."""
    listed = ", ".join(unfinished)
    return [f"Not finished when this was written, hence not in the table: {listed}."] if unfinished else []


def tuning_note(cells: Sequence[RecordedCell], names: dict[str, str]) -> str:
    """How many settings were tried for each algorithm, and over which space."""
    trials = {label: trials_of([cell for cell in cells if cell.algorithm == label]) for label in names}
    texts = {label: " or ".join(str(n or "none") for n in found) for label, found in trials.items()}
    if set(texts.values()) <= {"none"}:
        return "Tuning: none recorded for this suite; the settings are as given in it."
    if len(set(texts.values())) == 1:
        text = f"{next(iter(texts.values()))} trials for each algorithm"
    else:
        text = "trials: " + ", ".join(f"{names[label]} {text}" for label, text in texts.items())
    if any(len(found) > 1 for found in trials.values()):
        text += ", as recorded by cells run at different times"
    spaces = [cell.config("tuning") for cell in cells if cell.config("tuning")]
    space = {key: value for key, value in spaces[0].items() if key != "trials"}
    shared = all({**other, "trials": None} == {**spaces[0], "trials": None} for other in spaces)
    return (
        f"Tuning: {text} ({settings_text(space)})." if shared else f"Tuning: {text}; its space differs between cells."
    )


def seed_notes(cells: Sequence[RecordedCell]) -> list[str]:
    """Which seeds there are, and what one is."""
    seeds = [cell.manifest["seed"] for cell in cells if cell.algorithm != "base"]
    if not seeds:
        return []
    text = f"Seeds {seeds_text(seeds)}: each is one RL run from the same base."
    train = next((cell.config("train") for cell in cells if cell.algorithm != "base" and cell.config("train")), None)
    return [text + (f" Budget of a run: {settings_text(train)}." if train else "")]


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as a range where they are one, and else one by one."""
    listed = sorted(set(seeds))
    if len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]} to {listed[-1]}"
    return ", ".join(map(str, listed))


def settings_text(values: dict[str, Any]) -> str:
    """Keys and values in one line; what is null or empty is left out."""
    texts = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items() if text not in (None, ""))
