"""The share of gold answers that each strategy of `benchmarks.attacks` wins, and of right answers that are refused.

    python perf/grader_attacks.py [--workers N]

`make grader`: all gold answers of the eight benchmarks, each once. Writes results/grader/attacks.md; a win that is not
explained is an error.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from benchmarks import Problem, load_benchmark
from benchmarks.attacks import EXPLAINED, STRATEGIES, attacks
from benchmarks.grader import Grader
from benchmarks.grading_policy import POLICY
from benchmarks.writings import WRITINGS, write_answer
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown

BENCHMARKS = ("math500", "gsm8k", "aime24", "aime25", "amc23", "amc83", "minerva", "olympiadbench")
ANSWER_THEMSELVES = ("math500", "gsm8k", "minerva")
OUT = Path(__file__).resolve().parent.parent / "results" / "grader" / "attacks.md"


def main() -> None:
    """Tries every strategy on every gold answer, and every way of writing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    with Grader(workers=parser.parse_args().workers, seconds=2.0, give_up=True) as grader:
        table, unexplained = attacked(grader)
        written = answered(grader)
    page = ["# Attacks on the grader", "", f"Policy {POLICY}. Each gold answer of {', '.join(BENCHMARKS)}, once.", ""]
    page += [
        table,
        "",
        "Gold answers against themselves, in twenty ways of writing:",
        "",
        written,
        "",
        "Made by `make grader`.",
    ]
    write(OUT, "\n".join(page) + "\n")
    print(OUT.read_text(encoding="utf-8"))
    if unexplained:
        raise SystemExit(
            f"strategies that win and are not explained in benchmarks/attacks.py: {', '.join(unexplained)}"
        )


def attacked(grader: Grader) -> tuple[str, list[str]]:
    """A table of the strategies, and the names of those that win without an explanation."""
    problems: dict[str, Problem] = {}
    for name in BENCHMARKS:
        for problem in load_benchmark(name).problems():
            problems.setdefault(problem.answer, problem)
    tried = [(gold, name, response) for gold, p in problems.items() for name, response in attacks(gold, p.prompt)]
    verdicts = grader.grade([(gold, response) for gold, _, response in tried])
    won: dict[str, list[str]] = defaultdict(list)
    count: dict[str, int] = defaultdict(int)
    for (gold, name, _), verdict in zip(tried, verdicts, strict=True):
        count[name] += 1
        if verdict == "correct":
            won[name].append(gold)
    rows = [
        [
            name,
            str(count[name]),
            str(len(won[name])),
            f"{len(won[name]) / max(1, count[name]):.2%}",
            explanation(name, won[name]),
        ]
        for name in STRATEGIES
    ]
    unexplained = [name for name, golds in won.items() if golds and name not in EXPLAINED]
    return markdown_table(["strategy", "gold answers", "won", "share", "why"], rows, left=1), unexplained


def explanation(name: str, won: list[str]) -> str:
    """Why a strategy wins what it wins."""
    if not won:
        return ""
    examples = ", ".join(gold[:40] for gold in won[:3])
    return escape_markdown(f"{EXPLAINED.get(name, 'not explained')}: {examples}")


def answered(grader: Grader) -> str:
    """A table of the benchmarks whose gold answers are written in every way."""
    rows = []
    for name in ANSWER_THEMSELVES:
        golds = [problem.answer for problem in load_benchmark(name).problems()]
        cases = [(gold, write_answer(gold, writing)) for gold in golds for writing in WRITINGS]
        accepted = grader.grade(cases).count("correct")
        rows.append([name, str(len(cases)), str(accepted), f"{accepted / len(cases):.2%}"])
    return markdown_table(["benchmark", "written", "accepted", "share"], rows, left=1)


if __name__ == "__main__":
    main()
