"""The grader's processes: unharmed by hostile responses, and gone when their parent is; and `gvpo-bench grade`."""

import csv
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small import needs_data

import benchmarks.grader
from benchmarks.answers import MAX_CHARACTERS
from benchmarks.grader import WALL_FACTOR, Grader, GraderError
from benchmarks.sandbox import offered
from harness.evaluation.grade import grade_file, render, run_grading
from harness.record.files import RecordError
from harness.suite.config import ConfigError


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, seconds=SECONDS) as grader:
        yield grader


SECONDS = 1.5
POWER_TOWER = r"\boxed{9^{9^{9^{9}}}}"


def test_a_hanging_case_is_a_timeout_and_costs_no_other(grader: Grader) -> None:
    grader.grade([("1", "#### 1")] * 2)  # the processes have started
    start = time.monotonic()
    cases = [("1", "#### 1"), ("5", POWER_TOWER), ("1", "#### 2"), ("3", ""), ("1/2", r"\boxed{\frac{1}{2}}")]
    assert grader.grade(cases) == ["correct", "timeout", "wrong", "no_answer", "correct"]
    assert time.monotonic() - start < WALL_FACTOR * SECONDS + 10  # and one process that starts again


@pytest.mark.parametrize(
    "response",
    [
        "{" * 10_000 + "}" * 10_000,
        r"\boxed{" * 10_000 + "}" * 10_000,
        r"\boxed{" + "(" * 9_000 + ")" * 9_000 + "}",
        r"\boxed{" + r"\frac{1}{" * 1_500 + "1" + "}" * 1_500 + "}",
        "a" * 2_000_000,
        "9" * 1_000_000,
        "$" * 20_000,
        "#### " * 4_000,
        "answer is " * 2_000,
        "\n" * 20_000,
        r"\boxed{5" + " " * 19_000 + "!}",
        r"\boxed{1e" + "0" * 19_000 + "x}",
        r"\boxed{" + "√(" * 5_000 + "}",
        r"\boxed{" + r"\text{and}" * 1_500 + "}",
        r"\boxed{5 " + "ab " * 60 + "!}",
        r"\boxed{" + "a" * 5_000 + "!}",
        r"\boxed{100000000!}",
        r"\boxed{\sum_{k=1}^{10^{10}} k^{-2}}",
        "\ud800\x00\u2028",
    ],
)
def test_no_response_is_correct_by_being_hostile_or_exceeds_the_limit(grader: Grader, response: str) -> None:
    grader.grade([("1", "#### 1")] * 2)
    start = time.monotonic()
    (verdict,) = grader.grade([("7", response)])
    assert verdict != "correct"
    assert time.monotonic() - start < WALL_FACTOR * SECONDS + 1
    assert grader.grade([("7", r"\boxed{7}")]) == ["correct"]


def test_code_in_a_response_is_not_executed(grader: Grader, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    code = f"__import__('os').system('touch {witness}')"
    wrappers = ["{}", r"\boxed{{{}}}", "The answer is {}", "${}$", r"\boxed{{\operatorname{{{}}}}}", "1+{}", "np.{}"]
    verdicts = grader.grade([("7", wrapper.format(code)) for wrapper in wrappers])
    assert "correct" not in verdicts
    assert not witness.exists()


def test_memory_is_limited(grader: Grader) -> None:
    # 10^(10^10) has 4 GB, twice the limit; whether memory or time ends first, the case ends and the next one is graded.
    first, second = grader.grade([("7", r"\boxed{10^{10^{10}}+1}"), ("7", "#### 7")])
    assert first in ("timeout", "error", "wrong")
    assert second == "correct"


def test_the_end_of_a_very_long_response_is_graded(grader: Grader) -> None:
    assert grader.grade([("5", "x" * 2_000_000 + "\n#### 5")]) == ["correct"]
    assert grader.grade([("5", r"\boxed{5}" + " x" * MAX_CHARACTERS)]) != ["correct"]


def test_verdicts_keep_the_order_and_progress_counts_up(grader: Grader) -> None:
    counted: list[int] = []
    golds = [str(n % 3) for n in range(100)]
    assert grader.grade([(gold, "#### 1") for gold in golds], counted.append) == [
        "correct" if gold == "1" else "wrong" for gold in golds
    ]
    assert counted == list(range(1, 101))
    assert grader.grade([]) == []


def test_it_works_outside_the_main_thread(grader: Grader) -> None:
    verdicts: list[object] = []
    thread = threading.Thread(target=lambda: verdicts.extend(grader.grade([("1/2", r"\boxed{0.5}"), ("1", "#### 2")])))
    thread.start()
    thread.join()
    assert verdicts == ["correct", "wrong"]


def grade_in_child(results: "multiprocessing.Queue[list[str]]") -> None:
    with Grader() as grader:
        results.put(list(grader.grade([("1/2", r"\boxed{0.5}")])))


def test_it_works_inside_a_spawned_process() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=grade_in_child, args=(results,))
    child.start()
    assert results.get(timeout=300) == ["correct"]
    child.join()


@pytest.mark.parametrize("response", ["#### 1", POWER_TOWER])
def test_the_processes_end_when_their_parent_is_killed(response: str) -> None:
    # Idle, they see the end of their input; in the middle of a case, the kernel ends them with their parent.
    code = (
        "import sys, threading, time; from benchmarks.grader import Grader; grader = Grader(seconds=60.0);"
        "grader.grade([('1', '#### 1')]); worker = grader._workers.get(); grader._workers.put(worker);"
        "print(worker._process.pid, flush=True);"
        f"threading.Thread(target=grader.grade, args=([('7', {response!r})],), daemon=True).start(); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(worker)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_closed_grader_grades_no_more() -> None:
    grader = Grader()
    grader.close()
    with pytest.raises(RuntimeError):
        grader.grade([("1", "1")])


def test_a_process_that_does_not_start_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latex2sympy2_extended.py").write_text("raise ImportError('broken installation')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Grader() as grader, pytest.raises(GraderError, match="ImportError: broken installation"):
        grader.grade([("1/2", r"\boxed{0.5}")])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        Grader(workers=0)
    with pytest.raises(ValueError, match="seconds must be positive"):
        Grader(seconds=0)


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_graded_and_its_agreement_reported(tmp_path: Path) -> None:
    file = write_rows(
        tmp_path / "rows.jsonl",
        {"id": "a", "gold": "1", "response": "#### 1", "expected": True, "label_kind": "human"},
        {"id": "b", "gold": "1", "response": "#### 1", "expected": False, "label_kind": "human", "flag": "doubtful"},
        {"id": "c", "gold": "1", "response": "", "expected": False, "label_kind": "rule", "source": "ignored"},
        {"gold": "1", "response": "#### 2"},
    )
    out = tmp_path / "verdicts.jsonl"
    report = grade_file(file, workers=1, seconds=5.0, out=out)
    assert report.counts == {"correct": 2, "wrong": 1, "no_answer": 1, "timeout": 0, "error": 0}
    assert report.agreement is not None
    assert (report.agreement.agreeing, report.agreement.total) == (2, 3)
    assert report.unflagged is not None
    assert report.unflagged.share == 1.0
    assert {kind: agreement.share for kind, agreement in report.by_label_kind.items()} == {"human": 0.5, "rule": 1.0}
    assert [disagreement.id for disagreement in report.disagreements] == ["b"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"id": "a", "verdict": "correct"},
        {"id": "b", "verdict": "correct"},
        {"id": "c", "verdict": "no_answer"},
        {"id": 4, "verdict": "wrong"},
    ]
    console = Console(record=True, width=150, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(report))
    assert "66.67%" in console.export_text()
    with pytest.raises(RecordError, match=r"verdicts\.jsonl exists already"):
        grade_file(file, out=out)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"gold": "1"}, r"rows\.jsonl:2: response: Field required"),
        ({"gold": 1, "response": "1"}, r"rows\.jsonl:2: gold: Input should be a valid string"),
        (
            {"gold": "1", "response": "1", "expected": "yes"},
            r"rows\.jsonl:2: expected: Input should be a valid boolean",
        ),
        ([], r"rows\.jsonl:2: Input should be an object"),
    ],
)
def test_an_invalid_row_is_named_before_any_grading(
    row: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grader, "grade", lambda *_: pytest.fail("graded"))
    file = write_rows(tmp_path / "rows.jsonl", {"gold": "1", "response": "1"}, row)
    with pytest.raises(ConfigError, match=message):
        grade_file(file)


def test_grading_shows_how_far_it_is(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *[{"gold": "1", "response": "#### 1"}] * 3)
    seen: list[tuple[int, int]] = []
    grade_file(file, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    console = Console(file=(output := io.StringIO()), force_terminal=True, width=100)
    run_grading(file, workers=1, seconds=5.0, out=None, console=console)
    shown = output.getvalue()
    assert "grading" in shown
    assert "100%" in shown
    assert "3 responses" in shown


RESIDUALS = Path(__file__).parent.parent / "results" / "grader" / "residuals.csv"
"""Every case on which the grader and the recorded verdict differ, and why."""


@needs_data
def test_it_agrees_with_recorded_verdicts_except_where_explained() -> None:
    report = grade_file(Path(os.environ["GVPO_BENCH_DATA"]) / "graders" / "cases.jsonl", workers=2)
    assert report.agreement is not None
    assert report.unflagged is not None
    assert report.agreement.total == 614
    assert report.agreement.share >= 0.98
    assert report.unflagged.share >= 0.99
    with RESIDUALS.open(encoding="utf-8", newline="") as file:
        explained = {row["id"] for row in csv.DictReader(file) if row["why"]}
    assert {disagreement.id for disagreement in report.disagreements} <= explained


def test_after_a_timeout_what_differs_by_numbers_alone_is_given_up_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    begin = benchmarks.grader._Worker.__init__

    def counted(worker: Any, seconds: float) -> None:
        started.append(seconds)
        begin(worker, seconds)

    monkeypatch.setattr(benchmarks.grader._Worker, "__init__", counted)
    towers = [("7", rf"\boxed{{{n}^{{9^{{9^{{9}}}}}}}}") for n in range(2, 22)]
    with Grader(seconds=0.5, give_up=True) as grader:
        assert grader.grade([*towers, ("7", "#### 7")]) == ["timeout"] * 20 + ["correct"]
    assert len(started) == 2  # one limit and one start more, not twenty


def test_a_process_that_hangs_at_its_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    begin = benchmarks.grader._Worker.__init__

    def slow_at_first(worker: Any, seconds: float) -> None:
        started.append(seconds)
        monkeypatch.setattr(benchmarks.grader, "START_SECONDS", 0.001 if len(started) == 1 else 60.0)
        begin(worker, seconds)

    monkeypatch.setattr(benchmarks.grader._Worker, "__init__", slow_at_first)
    with Grader() as grader:
        assert grader.grade([("5", "#### 5")]) == ["correct"]
    assert len(started) == 2


@pytest.mark.skipif("seccomp" not in offered(), reason="needs a Linux with libseccomp")
def test_a_grading_process_is_confined_before_its_first_case(grader: Grader) -> None:
    grader.grade([("1", "#### 1")])
    worker = grader._workers.get()
    grader._workers.put(worker)
    assert worker is not None
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    assert "NoNewPrivs:\t1\nSeccomp:\t2\n" in status  # 2: by a filter; tests/test_sandbox.py says what that forbids


def test_halves_of_surrogate_pairs_and_escape_codes_in_a_file_harm_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        r'{"id": "\u001b[31mred", "gold": "5", "response": "\ud83d #### 5", "expected": false, '
        r'"label_kind": "\u001b[2Jkind", "flag": "\u0007bell"}'
        "\n"
        r'{"gold": "5", "response": "\ud83d\ude00 \\ud83d #### 5"}'
        "\n"
    )
    report = grade_file(file)
    assert report.counts["correct"] == 2
    console = Console(file=(output := io.StringIO()), width=200)
    console.print(render(report))
    assert "\x1b" not in output.getvalue()
    assert "\x07" not in output.getvalue()
    assert "\\u001b" in output.getvalue()
