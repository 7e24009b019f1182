"""The campaign against silent errors: kills, damages, hostile algorithms, mutated configurations, full disks.

    python chaos/campaign.py                                  # all of it, into results/chaos/: hours
    python chaos/campaign.py --share 0.1 --out /tmp/chaos     # a tenth
    python chaos/campaign.py --part kills --trial 17          # one trial, whose folder is kept

`make chaos`. Trials that are in OUT/trials.csv already, from the same seed and the same code, are not run again. Exit
code 1 where a trial ends as none may; its folder is kept, and the command is printed that runs it again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from campaign_page import DIGITS, Ledger, Trial, write_page
from commands import ROOT, Zygote
from configuration_trials import ConfigurationTrials
from damages import Damages
from full_disks import FullDisks
from hostile_sweeps import HostileSweeps
from kills import Kills
from parts import Part
from rank_kills import RankKills, RayKills, VLLMKills
from stage import Stage
from verdicts import FAULTS

from harness.record.environment import CODE_SHA256
from harness.record.text import visible

PARTS: tuple[type[Part], ...] = (
    *(ConfigurationTrials, Kills, Damages, HostileSweeps),
    *(FullDisks, RankKills, RayKills, VLLMKills),
)
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    share: float
    seed: int
    minutes: float | None
    out: Path
    parts: Sequence[str]
    trials: Sequence[int]


def parse(words: Sequence[str] | None = None) -> Options:
    """The options; ends the program, as argparse does, where they are none."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of each part's trials, drawn by the seed (1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.add_argument("--minutes", type=float, help="start no trial after so many; the same command goes on")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "chaos", help="results/chaos")
    parser.add_argument("--part", action="append", choices=names, help="this part alone; repeatable")
    parser.add_argument("--trial", type=int, action="append", help="of the one --part, this trial; repeatable")
    found = parser.parse_args(words)
    if not 0 < found.share <= 1:
        parser.error("--share is more than 0, and 1 at most")
    if found.trial and len(found.part or ()) != 1:
        parser.error("--trial wants one --part")
    return Options(found.share, found.seed, found.minutes, found.out.absolute(), found.part or names, found.trial or [])


def main() -> None:
    """Runs what is asked for, and writes the results after each part."""
    options = parse()
    work = options.out / "work"
    ledger = Ledger(options.out / "trials.csv", options.seed, CODE_SHA256)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    with Zygote() as zygote:
        stage = Stage(work / f"stage-{CODE_SHA256[:8]}", zygote)
        parts = [part(stage, options.seed) for part in PARTS if part.name in options.parts]
        if options.trials:
            parts[0].prepare()
            trials = [one_trial(parts[0], number, work) for number in options.trials]
            sys.exit(any(trial.verdict in FAULTS for trial in trials))
        for part in parts:
            if (lacking := part.lacks()) is not None:
                print(f"{part.name}: not run: it {lacking}", flush=True)
                continue
            wanted = [number for number in part.chosen(options.share) if not ledger.has(part.name, number)]
            for trial in run_part(part, wanted, work, deadline):
                ledger.add(trial)
            write_page(options.out, ledger, [kind(stage, options.seed) for kind in PARTS], command_of(options))
    sys.exit(bool(ledger.faults(options.parts)))


def command_of(options: Options) -> str:
    """For the page, without folders of this machine."""
    words = ["python chaos/campaign.py", f"--share {options.share:g}", f"--seed {options.seed}"]
    return " ".join(words)


def run_part(part: Part, numbers: Sequence[int], work: Path, deadline: float | None) -> Iterator[Trial]:
    """Each trial as it ends, two of them side by side where the part allows; none is started after the deadline."""
    if not numbers or (deadline is not None and time.monotonic() > deadline):
        return
    part.prepare()
    waiting = list(numbers)
    if part.in_main_thread:
        while waiting and (deadline is None or time.monotonic() < deadline):
            yield one_trial(part, waiting.pop(0), work, quiet=True)
        return
    width = SIDE_BY_SIDE if part.side_by_side else 1
    with ThreadPoolExecutor(width) as pool:
        running = set()
        while True:
            while waiting and len(running) < width and (deadline is None or time.monotonic() < deadline):
                running.add(pool.submit(one_trial, part, waiting.pop(0), work))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def one_trial(part: Part, number: int, work: Path, *, quiet: bool = False) -> Trial:
    """Runs a trial in a folder of its own, which stays where it ends as none may, and says how it ended; where `quiet`,
    only if as none may."""
    folder = work / f"{part.name.replace(' ', '-')}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    outcome = part.run(number, folder)
    seconds = time.monotonic() - started
    said = visible(outcome.said.replace(str(folder), "…").replace(str(work), "…"), lines=True)
    trial = Trial(
        part.name, number, part.describe(number), outcome.verdict, said, seconds, part.seed, CODE_SHA256[:DIGITS]
    )
    line = f"{part.name} {number}: {trial.about}: {trial.verdict} ({trial.seconds:.0f} s)"
    if trial.verdict in FAULTS:
        again = f"python chaos/campaign.py --seed {part.seed} --part '{part.name}' --trial {number}"
        line += f"\n{said}\nkept in {folder}; again by: {again}"
    else:
        shutil.rmtree(folder)
    if not quiet or trial.verdict in FAULTS:
        print(line, flush=True)
    return trial


if __name__ == "__main__":
    main()
