"""The embedded benchmark: worked examples of its values, styles and grading, and splits that share nothing."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.arithmetic import (
    ARITHMETIC,
    PROMPT_WIDTH,
    SYMBOLS,
    TERMS,
    Arithmetic,
    grade,
    partial_values,
    random_expression,
    split_of,
    write_response,
)

seeds = st.integers(0, 10**6)
terms = st.integers(2, 7)


def pythons_value(expression: str) -> int:
    """Python's own integers, in brackets from the left: ((7+3)*5)-8."""
    bracketed = expression[0]
    for i in range(1, len(expression), 2):
        bracketed = f"({bracketed}{expression[i : i + 2]})"
    return eval(bracketed, {"__builtins__": {}}) % 10


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("7+3*5-8", [0, 0, 2]),  # 10 → 0, 0·5 = 0, 0 − 8 = −8 → 2
        ("2-9", [3]),  # −7 → 3
        ("6*7+9*4", [2, 1, 4]),  # 42 → 2, 11 → 1, 4
        ("9*9*9*9*9*9*9", [1, 9, 1, 9, 1, 9]),
        ("2+3*4", [5, 0]),  # from left to right: 5·4 = 20 → 0, not 2 + 12
    ],
)
def test_expressions_are_evaluated_from_left_to_right_modulo_10(expression, values):
    assert partial_values(expression) == values


@given(seeds, terms)
def test_the_last_value_is_pythons(seed, terms):
    expression = random_expression(random.Random(seed), terms)
    assert len(expression) == 2 * terms - 1
    assert partial_values(expression)[-1] == pythons_value(expression)


@pytest.mark.parametrize(
    ("expression", "direct", "skip", "full"),
    [
        ("7+3*5-8", "=2", ";0=2", ":0,0=2"),
        ("6*7+9*4-5", "=9", ";1=9", ":2,1,4=9"),  # values 2, 1, 4, 9
        ("9*9*9*9*9*9*9", "=9", ";9,9=9", ":1,9,1,9,1=9"),  # every second: the second and the fourth
    ],
)
def test_the_three_styles_of_a_worked_example(expression, direct, skip, full):
    assert write_response(expression, "direct") == direct
    assert write_response(expression, "skip") == skip
    assert write_response(expression, "full") == full


@given(seeds, st.integers(4, 7), st.sampled_from(["direct", "skip", "full"]))
def test_a_response_without_slips_is_graded_correct_and_written_in_the_symbols(seed, terms, style):
    expression = random_expression(random.Random(seed), terms)
    response = write_response(expression, style)
    assert set(expression + response) <= set(SYMBOLS)
    assert grade(str(pythons_value(expression)), response, truncated=False) == "correct"


def test_a_slip_is_carried_into_what_follows():
    # Slips at every step: each value is random, and the answer is the last of them.
    rng = random.Random(0)
    answers = [write_response("7+3*5-8", "full", slip=1.0, rng=rng) for _ in range(400)]
    assert len(set(answers)) > 200
    # A slip in half of the steps: where the last step is right it follows from the value shown before it, minus 8.
    follows = 0
    for _ in range(400):
        response = write_response("7+3*5-8", "full", slip=0.5, rng=rng)
        follows += (int(response[3]) - 8) % 10 == int(response[-1])
    # The last step follows with probability .5 + .5/10 = .55; four standard deviations are .1.
    assert 0.45 < follows / 400 < 0.65


@pytest.mark.parametrize(
    ("response", "truncated", "verdict"),
    [
        ("=2", False, "correct"),
        (":0,0=2", False, "correct"),
        (";9=2", False, "correct"),  # the reasoning is not graded
        ("=3=2", False, "correct"),  # the last `=` counts
        ("=2=3", False, "wrong"),
        ("=2", True, "wrong"),  # it has to end by itself
        (":0,0=", False, "wrong"),
        ("=22", False, "wrong"),
        ("=2 ", False, "wrong"),
        ("= 2", False, "wrong"),
        ("=٢", False, "wrong"),  # the Arabic digit two
        ("2", False, "no_answer"),
        ("", False, "no_answer"),
        (":0,0", True, "no_answer"),
    ],
)
def test_grading_of_worked_examples(response, truncated, verdict):
    assert grade("2", response, truncated=truncated) == verdict


def test_no_problem_is_in_two_splits():
    problems = {benchmark.name: {p.id for p in benchmark.problems()} for benchmark in ARITHMETIC}
    names = list(problems)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not problems[a] & problems[b], (a, b)


@pytest.mark.parametrize("benchmark", ARITHMETIC, ids=lambda benchmark: benchmark.name)
def test_the_problems_of_a_benchmark_are_as_many_as_it_says_distinct_and_of_its_split(benchmark):
    problems = benchmark.problems()
    assert len(problems) == len({p.id for p in problems}) == benchmark.count
    for problem in problems:
        assert split_of(problem.id) == benchmark.split
        assert (len(problem.id) + 1) // 2 in TERMS[benchmark.hard]
        assert problem.prompt == problem.id + " " * (PROMPT_WIDTH - len(problem.id))
        assert problem.answer == str(pythons_value(problem.id))


def test_more_problems_begin_with_the_fewer():
    assert Arithmetic("a", "train", False, 50).problems()[:20] == Arithmetic("b", "train", False, 20).problems()


def test_a_twentieth_is_held_out_for_the_tables_and_another_for_tuning():
    rng = random.Random(0)
    splits = [split_of(random_expression(rng, 5)) for _ in range(8000)]
    # 400 of each are expected with a standard deviation of √(8000 · .05 · .95) = 19.5.
    assert 320 < splits.count("test") < 480
    assert 320 < splits.count("tune") < 480


def test_problems_are_the_same_in_another_process_with_another_hash_seed():
    code = "from benchmarks.arithmetic import ARITHMETIC; print([p.id for p in ARITHMETIC[1].problems()])"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345"},
        cwd=sys.path[0] or None,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == str([p.id for p in ARITHMETIC[1].problems()])
