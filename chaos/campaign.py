"""The campaign against silent errors: kills, damages, hostile algorithms, mutated configurations, full disks.

    python chaos/campaign.py                                  # all of it, into results/chaos/: hours
    python chaos/campaign.py --share 0.1 --out /tmp/chaos     # a tenth
    python chaos/campaign.py --part kills --trial 17          # one trial, whose folder is kept

`make chaos`. Trials that are in OUT/trials.csv already, from the same seed and the same code, are not run again. Exit
code 1 where a trial ends as none may; its folder is kept, and the command is printed that runs it again.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
    """Runs what is asked for, and writes the results."""
    options = parse()
    work = options.out / "work"
    ledger = Ledger(options.out / "trials.csv", options.seed, CODE_SHA256)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    with Zygote() as zygote:
        stage = Stage(work / f"stage-{CODE_SHA256[:8]}", zygote)
        parts = [part(stage, options.seed) for part in PARTS if part.name in options.parts]
        if options.trials:
            trials = [one_trial(parts[0], number, work) for number in options.trials]
            sys.exit(any(trial.verdict in FAULTS for trial in trials))
        try:
            for trial in run_trials(in_turn(parts, options.share, ledger), work, deadline):
                ledger.add(trial)
        finally:
            write_page(options.out, ledger, [part(stage, options.seed) for part in PARTS], command_of(options))
    sys.exit(bool(ledger.faults(options.parts)))


def in_turn(parts: Sequence[Part], share: float, ledger: Ledger) -> list[tuple[Part, int]]:
    """What is still to run of a share of each part that can run here, such that a campaign that is stopped early has
    tried as large a share of one part as of another."""
    found: list[tuple[float, Part, int]] = []
    for part in parts:
        if (lacking := part.lacks()) is not None:
            print(f"{part.name}: not run: it {lacking}", flush=True)
            continue
        for place, number in enumerate(part.chosen(share)):
            if not ledger.has(part.name, number):
                found.append((0.0 if part.in_main_thread else (place + 0.5) / part.whole, part, number))
    return [(part, number) for _, part, number in sorted(found, key=lambda each: each[0])]


def command_of(options: Options) -> str:
    """For the page, without folders of this machine."""
    words = ["python chaos/campaign.py", f"--share {options.share:g}", f"--seed {options.seed}"]
    words += [] if options.minutes is None else [f"--minutes {options.minutes:g}"]
    words += [] if len(options.parts) == len(PARTS) else [f"--part {shlex.quote(part)}" for part in options.parts]
    return " ".join(words)


def run_trials(waiting: Sequence[tuple[Part, int]], work: Path, deadline: float | None) -> Iterator[Trial]:
    """Each trial as it ends, two of them side by side; none is started after the deadline."""
    waiting = list(waiting)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        running: set[Future[Trial]] = set()
        while waiting or running:
            if deadline is not None and time.monotonic() > deadline:
                waiting.clear()
            elif waiting and waiting[0][0].in_main_thread:
                yield one_trial(*waiting.pop(0), work, quiet=True)
                continue
            while waiting and len(running) < SIDE_BY_SIDE:
                running.add(pool.submit(one_trial, *waiting.pop(0), work))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def one_trial(part: Part, number: int, work: Path, *, quiet: bool = False) -> Trial:
    """Runs a trial in a folder of its own, which stays where it ends as none may, and says how it ended; where `quiet`,
    only if as none may."""
    folder = work / f"{part.name.replace(' ', '-')}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with part.alone:
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
