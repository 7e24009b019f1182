"""The grader against recorded verdicts and against plain math-verify, and how long ordinary responses take.

    python perf/grader.py CASES.jsonl            # the file of `gvpo-bench grade`, with `label_kind`

Writes results/grader/README.md. Why the grader differs from a recorded verdict is written by hand, in residuals.csv
beside it; a disagreement that is not explained there is an error.

The ordinary responses are the file's rows that models wrote (every label_kind but `test-assertion`), repeated up to
10,000, each with a number of its own in front so that none equals another. Light wrapping is what a careful user of
math-verify does: what has neither $ nor \\boxed is put into $…$.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import resource
import time
from pathlib import Path

from benchmarks.grader import Grader
from harness.evaluation.grade import GradeReport, RecordedResponse, grade_file, read_responses
from harness.record.environment import environment
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown

OUT = Path(__file__).resolve().parent.parent / "results" / "grader"


def main() -> None:
    """Grades the recorded cases and writes results/grader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--responses", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    with (OUT / "residuals.csv").open(encoding="utf-8", newline="") as file:
        why = {row["id"]: row["why"] for row in csv.DictReader(file)}
    rows = read_responses(arguments.cases)
    report = grade_file(arguments.cases, workers=arguments.workers)
    unexplained = [str(row.id) for row in report.disagreements if str(row.id) not in why]
    if unexplained:
        raise SystemExit(f"not explained in {OUT / 'residuals.csv'}: {', '.join(unexplained)}")
    speed = measure_speed(rows, arguments.responses, arguments.workers)
    write(OUT / "README.md", page(report, rows, speed, why))
    print((OUT / "README.md").read_text(encoding="utf-8"))


def measure_speed(rows: list[RecordedResponse], responses: int, workers: int) -> str:
    """A sentence on the time that so many ordinary responses take."""
    written = [row for row in rows if row.label_kind != "test-assertion"]
    cases = [
        (row.gold, f"Attempt {i}.\n{row.response}")
        for i, row in zip(range(responses), itertools.cycle(written), strict=False)
    ]
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    with Grader(workers=workers) as grader:
        grader.grade([("1", "1")] * workers)  # the processes have started
        start = time.monotonic()
        grader.grade(cases)
        seconds = time.monotonic() - start
    cpu = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    return (
        f"{len(cases):,} ordinary responses took {seconds:.0f} s with {workers} worker processes, which used "
        f"{cpu:.0f} s of CPU time ({1000 * cpu / len(cases):.1f} ms a response) on {environment()['hardware']['cpu']} "
        f"with {os.cpu_count()} cores, at a load average of {os.getloadavg()[0]:.1f}."
    )


def page(report: GradeReport, rows: list[RecordedResponse], speed: str, why: dict[str, str]) -> str:
    """results/grader/README.md."""
    assert report.agreement is not None
    assert report.unflagged is not None
    plain = [plain_math_verify(row) == row.expected for row in rows]
    unflagged = [agrees for agrees, row in zip(plain, rows, strict=True) if row.flag is None]
    agreements, alone = [report.agreement, report.unflagged], [plain, unflagged]
    rows_of_residuals = [
        [
            str(row.id),
            escape_markdown(("correct" if row.expected else "wrong") + (f" ({row.flag})" if row.flag else "")),
            row.verdict,
            escape_markdown(why[str(row.id)]),
        ]
        for row in report.disagreements
    ]
    lines = [
        "# The grader",
        "",
        markdown_table(
            ["agrees with the recorded verdicts on", "all rows", "unflagged rows"],
            [
                ["the grader", *(f"{a.agreeing} of {a.total} ({a.share:.2%})" for a in agreements)],
                [
                    "math-verify alone, lightly wrapped",
                    *(f"{sum(x)} of {len(x)} ({sum(x) / len(x):.2%})" for x in alone),
                ],
            ],
        ),
        "",
        speed,
        "",
        "Every row on which the grader and the recorded verdict differ:",
        "",
        markdown_table(["id", "recorded", "grader", "why"], rows_of_residuals, left=4),
    ]
    return "\n".join([*lines, "", "Made by `python perf/grader.py graders/cases.jsonl`."]) + "\n"


def plain_math_verify(row: RecordedResponse) -> bool:
    """The verdict of math-verify alone."""
    from math_verify import parse, verify

    gold, response = (text if "$" in text or "\\boxed" in text else f"${text}$" for text in (row.gold, row.response))
    return bool(verify(parse(gold), parse(response)))


if __name__ == "__main__":
    main()
