"""The campaign's own judgement: a number that is silently different is found, and whatever else may not be."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any, ClassVar

import campaign
import commands
import damages
import kills
import pandas as pd
import pytest
from campaign import in_turn, parse, run_trials
from campaign_page import Ledger, Trial, page
from commands import Ended
from damages import WAYS, Damages
from full_disks import FullDisks
from hostile import HOSTILE
from hostile_sweeps import HostileSweeps, companies
from kills import MOMENTS, SIGNALS, TARGETS, Kills, kills_of
from parts import Part
from rank_kills import RankKills
from verdicts import FAULTS, MEANINGS, Outcome, differences, fault_of, judge, numbers_of

DONE = Ended(0, "report: small")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A cell, the comparison of coefficients, and a table."""
    cell, compared, report = (
        tmp_path / "out" / name for name in ("runs/small/gvpo-s0", "runs/small/coefficients", "small")
    )
    for folder in (cell / "checkpoint", compared, report):
        folder.mkdir(parents=True)
    about = {"status": "finished", "hash": "h", "evaluation_hash": "e", "tokens": {"generated": 12}, "seconds": {}}
    for folder in (cell, compared):
        (folder / "manifest.json").write_text(json.dumps({**about, "cell": folder.name}))
    (cell / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5, "seconds": 0.25}\n')
    pd.DataFrame({"problem_id": ["p", "p"], "score": [0.0, 1.0]}).to_parquet(cell / "samples.parquet")
    pd.DataFrame({"algorithm": ["gvpo", "mine"], "coefficient": [0.1, 0.2]}).to_parquet(
        compared / "coefficients.parquet"
    )
    (cell / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (report / "table.csv").write_text("algorithm,avg_at_k,seconds\ngvpo,0.5,12.5\n")
    return tmp_path / "out"


def change(out: Path, what: str) -> None:
    cell = out / "runs" / "small" / "gvpo-s0"
    if what == "samples":
        pd.DataFrame({"problem_id": ["p", "p"], "score": [0.0, 0.9999999999999999]}).to_parquet(
            cell / "samples.parquet"
        )
    elif what == "coefficients":
        frame = pd.DataFrame({"algorithm": ["gvpo", "mine"], "coefficient": [0.1, 0.25]})
        frame.to_parquet(cell.with_name("coefficients") / "coefficients.parquet")
    else:
        name, old, new = {
            "metrics": ("runs/small/gvpo-s0/metrics.jsonl", "0.5", "0.50000001"),
            "tokens": ("runs/small/gvpo-s0/manifest.json", "12", "13"),
            "weights": ("runs/small/gvpo-s0/checkpoint/model.safetensors", "weights", "weighty"),
            "table": ("small/table.csv", "0.5,", "0.6,"),
            "seconds": ("small/table.csv", "12.5", "13"),
            "seconds of a step": ("runs/small/gvpo-s0/metrics.jsonl", "0.25", "0.3"),
        }[what]
        text = (out / name).read_text()
        assert old in text
        (out / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("samples", "gvpo-s0: samples differs"),
        ("coefficients", "coefficients: coefficients differs"),
        ("metrics", "gvpo-s0: metrics differs"),
        ("tokens", "gvpo-s0: manifest differs"),
        ("weights", "gvpo-s0: weights differs"),
        ("table", "table.csv differs"),
    ],
)
def test_a_number_that_is_silently_different_is_found(out, what, said):
    before = numbers_of(out)
    assert judge(DONE, before, out) == Outcome("identical")
    change(out, what)
    assert judge(DONE, before, out) == Outcome("silently different", said)


def test_times_are_no_numbers(out):
    before = numbers_of(out)
    change(out, "seconds")
    change(out, "seconds of a step")
    assert judge(DONE, before, out) == Outcome("identical")


def test_a_cell_that_is_missing_or_added_is_found(out):
    before = numbers_of(out)
    cell = out / "runs" / "small" / "gvpo-s0"
    cell.rename(cell.with_name("ppo-s0"))
    assert judge(DONE, before, out).said == (
        "gvpo-s0: manifest is missing; gvpo-s0: samples is missing; gvpo-s0: metrics is missing; "
        "ppo-s0: manifest was added; ppo-s0: samples was added; ppo-s0: metrics was added; ppo-s0: weights was added"
    )


def test_honest_cells_are_compared_without_what_stands_beside_them(out):
    honest = numbers_of(out, cells=["gvpo-s0"])
    change(out, "coefficients")  # of mine
    change(out, "table")
    assert numbers_of(out, cells=["gvpo-s0"]) == honest
    assert sorted(honest) == [
        *("coefficients: coefficients", "gvpo-s0: manifest", "gvpo-s0: metrics", "gvpo-s0: samples", "gvpo-s0: weights")
    ]
    change(out, "metrics")
    assert differences(honest, numbers_of(out, cells=["gvpo-s0"])) == ["gvpo-s0: metrics differs"]


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (Ended(None, "finished base"), "hang"),
        (Ended(0, "done", left=["python -m harness.cli"]), "hang"),
        (Ended(0, "Traceback (most recent call last):\n  …"), "traceback"),
        (Ended(1, "failed gvpo-s0: traceback.txt"), "wrong end"),
        (Ended(-9, ""), "wrong end"),
    ],
)
def test_whatever_else_may_not_be_has_a_verdict_of_its_own(out, ended, verdict):
    assert judge(ended, numbers_of(out), out, may_refuse=True).verdict == verdict
    assert verdict in FAULTS


def test_a_refusal_is_one_only_with_a_message_and_where_it_may_be(out):
    refused = Ended(3, "1 of 2 cells\ngvpo-bench: gvpo-s0 is a link: remove it\n")
    assert judge(refused, numbers_of(out), out, may_refuse=True) == Outcome("refused", "gvpo-s0 is a link: remove it")
    assert judge(refused, numbers_of(out), out).verdict == "wrong end"
    assert fault_of(refused) is None


def test_a_command_that_hangs_is_killed_and_what_outlives_one_is_named(tmp_path):
    shell = ["sh", "-c", "sleep 60 & echo said; exit 3", "--"]
    ended = commands.start([], tmp_path, shown=tmp_path / "shown", program=shell).wait(others=0.1)
    assert (ended.code, ended.shown, ended.left) == (3, "said\n", ["sleep 60"])
    hangs = commands.start([], tmp_path, shown=tmp_path / "hangs", program=["sleep", "60"])
    assert hangs.wait(0.1).code is None
    assert commands.members(hangs.pid) == []


def test_63_trials_kill_with_every_signal_every_target_at_every_moment_and_the_same_seed_draws_the_same():
    first = [kills_of(number, random.Random(number)) for number in range(63)]
    assert first == [kills_of(number, random.Random(number)) for number in range(63)]
    assert len({(kill[0].moment, kill[0].target, kill[0].signal) for kill in first}) == 63
    assert len(MOMENTS) * len(TARGETS) * len(SIGNALS) == 63
    assert [len(kill) for kill in first[:6]] == [1, 1, 1, 1, 3, 1]


class Later:
    """A command that makes a file the first time that it is waited for, and is over the third time."""

    def __init__(self, path: Path) -> None:
        self.path, self.times, self.over = path, 0, self

    def wait(self, seconds: float) -> bool:
        self.times += 1
        self.path.mkdir(parents=True, exist_ok=True)
        return self.times > 2


def test_a_moment_begins_when_its_file_comes_and_never_where_the_command_is_over_before(tmp_path):
    there: Any = Later(tmp_path / "runs" / "small" / "gvpo-s0" / "resume")
    assert kills.wait_for_moment(there, "checkpoint", tmp_path, skipped=0)
    assert there.times == 1
    assert not kills.wait_for_moment(there, "checkpoint", tmp_path, skipped=0)  # the old one is no event


def test_every_place_is_damaged_in_every_way_that_it_can_be():
    every = damages.damages()
    assert len({(damage.place, damage.way) for damage in every}) == len(every) > 250
    assert {damage.way for damage in every} == {*WAYS, damages.SWAPPED, damages.LINKED}
    assert all(damage.cell != damage.other for damage in every)


@pytest.mark.parametrize("way", [*WAYS, damages.SWAPPED, damages.LINKED])
def test_every_way_changes_what_it_should_and_nothing_else(tmp_path, way):
    runs = tmp_path / "runs"
    folders = ("gvpo-s0/checkpoint", "mine-s0/checkpoint")
    for i, folder in enumerate(folders):
        (runs / folder).mkdir(parents=True)
        for name in ("metrics.jsonl", "samples.parquet"):
            (runs / folder).with_name(name).write_text(f'{{"step": {i}}}\n{{"step": 9}}\n')
    name = "checkpoint" if way == "replaced by a file" else "metrics.jsonl"
    place = damages.Place("undisturbed", f"{{cell}}/{name}")

    def seen() -> dict[str, Any]:
        found = {path: path for path in sorted(runs.rglob("*"))}
        about = {path: (path.lstat().st_mode, path.is_file() and path.read_bytes()) for path in found}
        return {str(path.relative_to(runs)): said for path, said in about.items()}

    before = seen()
    path = damages.Damage(place, way, "gvpo-s0", "mine-s0").do(runs, random.Random(0), tmp_path)
    after = seen()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert path == runs / "gvpo-s0" / name
    assert {name.split("/")[1] for name in changed} == {name}
    assert {name.split("/")[0] for name in changed} == (
        {"gvpo-s0", "mine-s0"} if way == damages.SWAPPED else {"gvpo-s0"}
    )


class Planted(Part):
    """Trials whose verdicts are known."""

    name: ClassVar[str] = "planted"
    about: ClassVar[str] = "Trials with known ends."
    whole = 4
    verdicts: ClassVar[list[Any]] = ["identical", "silently different", "refused", "not run"]

    def describe(self, number):
        return f"the {number}th"

    def run(self, number, folder):
        (folder / "left").write_text("something")
        return Outcome(self.verdicts[number], f"in {folder}")


def planted(seed: int = 0) -> Part:
    stage: Any = None
    return Planted(stage, seed)


def test_a_trial_that_ends_as_none_may_keeps_its_folder_and_says_how_it_is_run_again(tmp_path, capsys):
    part = planted()
    trials = list(run_trials([(part, number) for number in range(4)], tmp_path, None))
    assert sorted((trial.number, trial.verdict) for trial in trials) == list(enumerate(Planted.verdicts))
    assert [path.name for path in tmp_path.iterdir()] == ["planted-1"]
    assert (tmp_path / "planted-1" / "left").is_file()
    shown = capsys.readouterr().out
    assert "planted 0: the 0th: identical" in shown
    assert (
        f"kept in {tmp_path}/planted-1; again by: python chaos/campaign.py --seed 0 --part 'planted' --trial 1" in shown
    )
    assert {trial.said for trial in trials} == {"in …"}  # no folder of this machine
    assert list(run_trials([(part, 0)], tmp_path, deadline=0.0)) == []


def test_a_campaign_with_a_fault_ends_with_1_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "PARTS", (Planted,))
    monkeypatch.setattr(campaign, "Zygote", contextlib.nullcontext)
    ran: list[int] = []
    run = Planted.run

    def counted(self, number, folder):
        ran.append(number)
        return run(self, number, folder)

    monkeypatch.setattr(Planted, "run", counted)

    def code(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["campaign.py", "--out", str(tmp_path), *words])
        with pytest.raises(SystemExit) as done:
            campaign.main()
        return int(done.value.code or 0)

    assert code() == 1
    assert sorted(ran) == [0, 1, 2, 3]
    ran.clear()
    assert code() == 1
    assert sorted(ran) == [1, 3]  # what was not run, or ended as none may
    monkeypatch.setattr(Planted, "verdicts", ["identical"] * 4)
    ran.clear()
    assert code("--part", "planted", "--trial", "2") == 0
    assert code() == 0
    assert sorted(ran) == [1, 2, 3]
    text = (tmp_path / "README.md").read_text()
    assert "4 trials, of which 0 ended as none may" in text
    assert "| planted | 4 of 4 | 3 | 1 |" in text


def test_a_campaign_that_is_stopped_early_has_tried_the_same_share_of_each_part(tmp_path):
    stage: Any = None
    ledger = Ledger(tmp_path / "trials.csv", 0, "code")
    order = in_turn([Kills(stage, 0), planted()], 1.0, ledger)
    assert sorted(number for part, number in order if part.name == "planted") == [0, 1, 2, 3]
    for share in (0.25, 0.5, 1.0):
        assert sum(part.name == "planted" for part, _ in order[: int(104 * share)]) == int(4 * share)
    ledger.add(trial(order[0][1]))
    assert len(in_turn([Kills(stage, 0), planted()], 1.0, ledger)) == 103  # what has been tried is not again


def trial(number: int, verdict: Any = "identical", **changes: Any) -> Trial:
    return dataclasses.replace(Trial("kills", number, "SIGKILL", verdict, "", 1.5, 0, "code"), **changes)


def test_ledger_keeps_trials_of_the_same_seed_and_counts_on_those_of_the_same_code(tmp_path):
    path = tmp_path / "trials.csv"
    ledger = Ledger(path, 0, "code")
    ledger.add(trial(1))
    ledger.add(trial(2, "hang", said="=1+1\nand, a line"))
    assert path.read_text().splitlines() == [
        "part,number,about,verdict,said,seconds,seed,code",
        "kills,1,SIGKILL,identical,,1.5,0,code",
        'kills,2,SIGKILL,hang,"\'=1+1 and, a line",1.5,0,code',
    ]
    again = Ledger(path, 0, "code")
    assert [again.has("kills", number) for number in (1, 2, 3)] == [True, False, False]
    assert [found.number for found in again.faults(["kills"])] == [2]
    again.add(trial(2))
    assert [line.split(",")[3] for line in path.read_text().splitlines()[1:]] == ["identical", "identical"]
    later = Ledger(path, 0, "later")
    assert [found.number for found in later.trials] == [1, 2]
    assert not later.has("kills", 1)
    later.add(trial(1, code="later"))
    assert [line.rpartition(",")[2] for line in path.read_text().splitlines()] == ["code", "code", "later"]
    other = Ledger(path, 1, "code")
    assert other.trials == []
    other.add(trial(7, seed=1))
    assert [line.split(",")[1] for line in path.read_text().splitlines()[1:]] == ["7"]


def test_page_counts_each_part_and_says_what_was_not_run(tmp_path):
    ledger = Ledger(tmp_path / "trials.csv", 0, "code")
    for found in (
        trial(1),
        trial(2, "hang"),
        trial(0, part="ranks"),
        trial(1, "not run", part="ranks", said="no | ranks"),
    ):
        ledger.add(found)
    stage: Any = None
    text = page(ledger, [Kills(stage, 0), RankKills(stage, 0), planted()], "make chaos")
    assert "3 trials, of which 1 ended as none may" in text
    assert "| kills | 2 of 100 | 1 | 0 | 0 | 0 | 0 | 1 | 0 |" in text
    assert "- kills 2, SIGKILL: hang (code code): " in text
    assert "| ranks | 1 of 10 | 1 | 0 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "- ranks: 9 of 10: no \\| ranks." in text
    assert "- planted: 4 of 4: not run yet: the same command goes on with them." in text
    assert all(f"**{verdict}**" in text for verdict in MEANINGS)


@pytest.mark.parametrize("part", [Kills, Damages, RankKills])
def test_a_share_is_drawn_by_the_seed_and_lies_within_a_larger_one(part):
    stage: Any = None
    tenth, whole = (part(stage, 0).chosen(share) for share in (0.1, 1.0))
    assert len(tenth) == max(1, round(part(stage, 0).whole / 10))
    assert whole[: len(tenth)] == tenth
    assert sorted(whole) == list(range(part(stage, 0).whole))
    assert part(stage, 1).chosen(1.0) != whole


def test_hostile_algorithms_that_are_refused_have_a_sweep_each_and_the_others_share_theirs():
    every = companies()
    assert sorted(itertools.chain.from_iterable(every)) == list(range(len(HOSTILE)))
    assert {len(company) for company in every if HOSTILE[company[0]].ends == "refused"} == {1}
    assert (
        len({HOSTILE[i].ends for i in next(company for company in every if HOSTILE[company[0]].ends == "stalls")}) == 1
    )
    stage: Any = None
    tenth = HostileSweeps(stage, 0).chosen(0.1)
    assert 6 <= len(tenth) <= 15
    assert all(set(company) <= set(tenth) or not set(company) & set(tenth) for company in every)


def test_full_disks_are_for_root_alone(monkeypatch):
    stage: Any = None
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in (FullDisks(stage, 0).lacks() or "")


@pytest.mark.parametrize("words", [["--share", "0"], ["--share", "1.1"], ["--trial", "1"], ["--part", "nothing"]])
def test_wrong_options_are_refused(words, capsys):
    with pytest.raises(SystemExit) as done:
        parse(words)
    assert done.value.code == 2
