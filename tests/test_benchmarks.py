"""The problems: loaded from the right bytes or not at all, from a folder or the hub alike."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from small import needs_data

from benchmarks import BENCHMARKS, DataError, Problem, load_benchmark
from benchmarks.answers import boxed_expressions
from benchmarks.math_problems import MATH_BENCHMARKS, HubSource, MathBenchmark
from benchmarks.templates import TEMPLATES, load_template


def small_benchmark(folder: Path, rows: list[dict[str, str]]) -> MathBenchmark:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "small.jsonl").write_bytes(content)
    return MathBenchmark(
        name="small",
        file="small.jsonl",
        rows=len(rows),
        sha256=hashlib.sha256(content).hexdigest(),
        hub=HubSource(path="nobody/small", revision="0" * 40, split="test", rows=len(rows)),
    )


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "first_answer"),
    [
        ("gsm8k", 1319, "18"),
        ("math500", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("aime24", 30, "204"),
        ("aime25", 30, "70"),
        ("amc23", 40, "27"),
        ("amc83", 83, "142"),
        ("minerva", 272, "1.6"),
        ("olympiadbench", 675, "2"),
        ("svamp", 1000, "51"),
        ("mawps-train", 1921, "504"),
        ("asdiv-a-train", 1217, "9"),  # 7 red apples and 2 green apples
        ("mawps-asdiv-a-train", 3138, "504"),
        ("gsm8k-train", 7473, "72"),
        ("math-train", 7498, "0"),  # 7,500 rows, two of which have an empty gold answer
    ],
)
def test_the_real_problems_load_complete_with_unique_ids(name: str, count: int, first_answer: str) -> None:
    problems = load_benchmark(name).problems()
    assert len(problems) == count
    assert len({problem.id for problem in problems}) == count
    assert problems[0].answer == first_answer
    assert all(problem.prompt.strip() and problem.answer.strip() for problem in problems)


@needs_data
def test_no_training_problem_is_an_evaluation_problem() -> None:
    names = ("gsm8k-train", "math-train", "mawps-train", "asdiv-a-train")
    training = {problem.prompt for name in names for problem in load_benchmark(name).problems()}
    for name in ("gsm8k", "math500", "aime24", "aime25", "amc23", "amc83", "minerva", "olympiadbench", "svamp"):
        assert training.isdisjoint(problem.prompt for problem in load_benchmark(name).problems())


@needs_data
def test_mawps_and_asdiv_a_are_the_two_parts_of_one_file():
    mawps, asdiv = (load_benchmark(name).problems() for name in ("mawps-train", "asdiv-a-train"))
    assert [problem.id for problem in (*mawps, *asdiv)] == [f"mawps-asdiv-a/{row}" for row in range(3138)]


@needs_data
def test_the_answer_in_the_last_box_of_each_math_solution_is_its_gold_answer() -> None:
    # The hub's copy of MATH has no field for the answer: this is how its answers are found.
    import gzip

    with gzip.open(Path(os.environ["GVPO_BENCH_DATA"]) / "train/math_train_7500.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert [boxed_expressions(row["solution"])[-1].content for row in rows] == [row["answer"] for row in rows]


def test_a_changed_file_is_refused_with_both_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GVPO_BENCH_DATA", str(tmp_path))
    benchmark = small_benchmark(tmp_path, [{"problem": "1+1?", "answer": "2"}])
    assert benchmark.problems() == [Problem(id="small/0", prompt="1+1?", answer="2")]
    (tmp_path / "small.jsonl").write_text('{"problem": "1+1?", "answer": "3"}\n')
    found = hashlib.sha256((tmp_path / "small.jsonl").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"small\.jsonl.*expected {benchmark.sha256}.*found {found}"):
        benchmark.problems()


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GVPO_BENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot read .*math500\.jsonl.*unset it to load HuggingFaceH4/MATH-500"):
        load_benchmark("math500").problems()


def test_an_unexpected_number_of_empty_golds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GVPO_BENCH_DATA", str(tmp_path))
    benchmark = small_benchmark(tmp_path, [{"problem": "a", "answer": " "}, {"problem": "b", "answer": "2"}])
    with pytest.raises(DataError, match="1 rows with an empty gold answer, expected 0"):
        benchmark.problems()
    # The id stays the row's index, whatever is left out before it.
    assert [problem.id for problem in replace(benchmark, empty_golds=1).problems()] == ["small/1"]


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "gsm8k",
            {"question": "q", "answer": "1,000 more\n#### 1,234"},
            Problem(id="gsm8k/0", prompt="q", answer="1234"),
        ),
        (
            "math500",
            {"problem": "q", "answer": "7", "unique_id": "test/algebra/1.json"},
            Problem(id="test/algebra/1.json", prompt="q", answer="7"),
        ),
        ("aime24", {"problem": "q", "answer": "025", "id": 60}, Problem(id="aime24/0", prompt="q", answer="25")),
        ("amc83", {"problem": "q", "answer": 27.0, "id": 0}, Problem(id="amc83/0", prompt="q", answer="27")),
        (
            "olympiadbench",
            {"question": "q", "final_answer": ["$2$"]},
            Problem(id="olympiadbench/0", prompt="q", answer="$2$"),
        ),
        (
            "math-train",
            {"problem": "q", "solution": r"\boxed{1} so \boxed{\frac{1}{2}}."},
            Problem(
                id="math-train/0", prompt="q", answer=r"\frac{1}{2}", solution=r"\boxed{1} so \boxed{\frac{1}{2}}."
            ),
        ),
        (
            "svamp",
            {"ID": "chal-1", "Body": "Each pack costs 76 dollars. ", "Question": "How much?", "Answer": "51.0"},
            Problem(id="chal-1", prompt="Each pack costs 76 dollars. How much?", answer="51"),
        ),
        (
            "gsm8k-train",
            {"question": "q", "answer": "2 more\n#### 3"},
            Problem(id="gsm8k-train/0", prompt="q", answer="3", solution="2 more\n#### 3"),
        ),
    ],
)
def test_rows_of_the_hub_become_problems(
    name: str, row: dict[str, object], expected: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GVPO_BENCH_DATA", raising=False)
    asked = []
    benchmark = next(benchmark for benchmark in MATH_BENCHMARKS if benchmark.name == name)
    hub = benchmark.hub
    assert hub is not None

    def load_dataset(path: str, configuration: str | None, *, split: str, revision: str) -> list[dict[str, object]]:
        asked.append((path, configuration, split, revision))
        return [row] * (hub.rows // len(hub.configurations) + 1)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=rf"rows, expected {hub.rows}$"):  # one too many per configuration
        benchmark.problems()
    rows = (hub.rows // len(hub.configurations) + 1) * len(hub.configurations)
    loaded = replace(benchmark, empty_golds=0, hub=replace(hub, rows=rows)).problems()
    assert len(loaded) == rows
    assert loaded[0] == expected
    assert {revision for *_, revision in asked} == {hub.revision}


def test_without_folder_and_hub_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GVPO_BENCH_DATA", raising=False)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"GVPO_BENCH_DATA is not set.*HuggingFaceH4/MATH-500.*ConnectionError: no route"
    ):
        load_benchmark("math500").problems()


def test_every_hub_revision_is_a_full_commit() -> None:
    for hub in (benchmark.hub for benchmark in MATH_BENCHMARKS if benchmark.hub is not None):
        assert len(hub.revision) == 40
        assert int(hub.revision, 16)


def test_what_is_on_no_hub_asks_for_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GVPO_BENCH_DATA", raising=False)
    with pytest.raises(
        DataError,
        match=r"^mawps-train: its problems are on no hub: set GVPO_BENCH_DATA to .*mawps_asdiv_a_3138\.jsonl$",
    ):
        load_benchmark("mawps-train").problems()
    monkeypatch.setenv("GVPO_BENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"must be a folder that holds train/mawps_asdiv_a_3138\.jsonl$"):
        load_benchmark("mawps-train").problems()


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"no benchmark is called 'math50'.*math500"):
        load_benchmark("math50")
    assert all(benchmark.name == name for name, benchmark in BENCHMARKS.items())
    with pytest.raises(ValueError, match=r"no template is called 'qwen'.*qwen-math"):
        load_template("qwen")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_puts_any_question_in_unchanged(name: str) -> None:
    question = r"What is {problem} in \{1, {2}\}? %s {0}"
    prompt = TEMPLATES[name].render(Problem(id="0", prompt=question, answer="1"))
    assert prompt.count(question) == 1
    assert len(prompt) == len(TEMPLATES[name].text) - len("{problem}") + len(question)


def test_templates_read_as_published() -> None:
    problem = Problem(id="0", prompt="What is 1+1?", answer="2")
    assert TEMPLATES["none"].render(problem) == "What is 1+1?"
    assert TEMPLATES["plain"].render(problem) == "Question: What is 1+1?\nAnswer:"
    assert TEMPLATES["qwen-math"].render(problem) == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert TEMPLATES["r1"].render(problem).endswith("User: What is 1+1?. Assistant:")
    assert TEMPLATES["r1"].label == "r1-v1"
    assert TEMPLATES["qa-3shot"].label == "qa-3shot-v1"


def test_importing_benchmarks_loads_no_heavy_library() -> None:
    code = "import sys, benchmarks, benchmarks.grader, benchmarks.templates; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "sympy", "math_verify", "datasets", "transformers"} & set(modules)
