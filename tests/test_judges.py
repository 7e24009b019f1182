"""Who grades is decided by `Benchmark.grading` alone, and each way of grading has verdicts that it is known to give."""

from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks import BENCHMARKS, Problem
from benchmarks.judges import GRADINGS, judge_for


@dataclass
class Mine:
    """A benchmark of no class of ours."""

    name: str
    grading: str


def test_every_benchmark_is_graded_in_a_known_way_and_every_way_is_used():
    assert {benchmark.grading for benchmark in BENCHMARKS.values()} == set(GRADINGS)


@pytest.mark.parametrize("grading", GRADINGS)
def test_known_verdicts_of_each_way_of_grading(grading):
    cases = GRADINGS[grading].cases
    assert {expected for *_, expected in cases} == {"correct", "wrong", "no_answer"}
    problems = [Problem(id=gold, prompt="", answer=gold) for gold, *_ in cases]
    asked: list[Any] = [Mine("mine", grading)]
    with judge_for(asked) as judges:
        verdicts = judges["mine"](problems, [response for _, response, _ in cases], [False] * len(cases))
    assert verdicts == [expected for *_, expected in cases]


def test_a_truncated_response_is_wrong_in_exact_grading_and_graded_as_it_stands_in_mathematics():
    problem = Problem(id="p", prompt="", answer="3")
    asked: list[Any] = [Mine("a", "exact"), Mine("b", "math"), Mine("c", "exact")]
    with judge_for(asked) as judges:
        assert list(judges) == ["a", "b", "c"]
        assert judges["a"] is judges["c"]
        assert judges["a"]([problem], ["=3"], [True]) == ["wrong"]
        assert judges["b"]([problem], [r"\boxed{3}"], [True]) == ["correct"]
