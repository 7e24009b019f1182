"""Sums in plain English: worked examples of their wordings and verdicts, and splits that share no question."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import load_benchmark
from benchmarks.arithmetic import split_of
from benchmarks.word_arithmetic import LEVELS, SUMS, WORDINGS, grade, last_number, wrong_sum


def numbers_in(text):
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize("benchmark", SUMS, ids=lambda benchmark: benchmark.name)
def test_the_answer_is_the_sum_of_the_numbers_in_the_question(benchmark):
    problems, level = benchmark.problems(), LEVELS[benchmark.level]
    assert len(problems) == (2048 if benchmark.split == "train" else 192)
    assert len({problem.prompt for problem in problems}) == len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        numbers = numbers_in(problem.prompt)
        assert len(numbers) == level.terms
        assert all(level.least <= number <= level.most for number in numbers)
        assert problem.answer == str(sum(numbers))
        assert split_of(problem.prompt) == benchmark.split
        assert grade(problem.answer, problem.solution, truncated=False) == "correct"
        assert grade(problem.answer, problem.mistake, truncated=False) == "wrong"


def test_levels_have_the_numbers_and_the_stories_that_they_name():
    problems = {level: load_benchmark(f"sums-{level}").problems() for level in LEVELS}
    assert all(" gets " in problem.prompt for problem in problems[1])
    assert all(problem.prompt.endswith(" do they have together?") for problem in problems[2])
    assert max(int(problem.answer) for problem in (*problems[1], *problems[2])) == 18  # 9 + 9
    assert min(int(problem.answer) for problem in problems[3]) >= 20  # 10 + 10
    for level in (3, 4):
        plain = sum(problem.prompt.startswith("What is ") for problem in problems[level])
        assert 192 / 3 < plain < 192 * 2 / 3  # three of six wordings


@pytest.mark.parametrize(
    ("wording", "numbers", "expected"),
    [
        (0, [3, 4], "What is 3 + 4?"),
        (1, [3, 4, 5], "What is 3 plus 4 plus 5?"),
        (2, [3, 4], "What is the sum of 3 and 4?"),
        (3, [3, 4, 5], "How much is 3, 4 and 5 together?"),
    ],
)
def test_direct_questions_word_for_word(wording, numbers, expected):
    assert WORDINGS[wording](numbers, random.Random(0)) == expected


def test_stories_read_as_english():
    rng = random.Random(0)
    two, three = WORDINGS[4]([3, 4], rng), WORDINGS[4]([3, 4, 5], rng)
    assert re.fullmatch(r"(\w+) has 3 (\w+) and gets 4 more\. How many \2 does \1 have now\?", two)
    assert re.fullmatch(r"(\w+) has 3 (\w+) and gets 4 more and then 5 more\. How many \2 does \1 have now\?", three)
    together = WORDINGS[5]([3, 4, 5], rng)
    found = re.fullmatch(
        r"(\w+) has 3 (\w+), (\w+) has 4 \2 and (\w+) has 5 \2\. How many \2 do they have together\?", together
    )
    assert found is not None
    assert len({found[1], found[3], found[4]}) == 3  # three people


@pytest.mark.parametrize(
    ("response", "number"),
    [
        (" 7", "7"),
        (" 7.", "7"),
        ("7 apples", "7"),
        (" 3 + 4 = 7", "7"),
        ("5, no, 7", "7"),
        ("**7**", "7"),
        ("$1,234", "1234"),
        ("12-5", "5"),  # a minus between numbers is none of a number
        (" -5", "-5"),
        ("7.5", "7.5"),
        ("x7", ""),
        ("seven", ""),
        ("", ""),
    ],
)
def test_the_answer_is_the_last_number(response, number):
    assert last_number(response) == number


def test_verdicts_are_exact_and_a_truncated_response_is_wrong():
    assert grade("7", " 7", truncated=False) == "correct"
    assert grade("7", " 7", truncated=True) == "wrong"
    assert grade("7", " 7.0", truncated=False) == "wrong"
    assert grade("7", " 17", truncated=False) == "wrong"
    assert grade("7", " I do not know", truncated=False) == "no_answer"


@given(st.integers(0, 10**6), st.sampled_from(list(LEVELS)))
def test_a_mistake_is_near_and_never_right(seed, level):
    rng = random.Random(seed)
    text, numbers = LEVELS[level].draw(rng)
    assert 0 < abs(wrong_sum(numbers, rng) - sum(numbers)) <= 3
    assert numbers_in(text) == numbers


def test_no_question_is_in_two_splits():
    for level in LEVELS:
        splits = [
            {p.prompt for p in load_benchmark(f"sums-{level}{part}").problems()} for part in ("-train", "", "-tune")
        ]
        assert len(set.union(*splits)) == sum(map(len, splits))
