"""What the policy grader-v2 takes for right and for wrong, class by class: the worked examples of docs/grading.md."""

import doctest
import json
import os
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest
from grading_cases import CORRECT, WRONG
from hypothesis import given
from hypothesis import strategies as st
from small import needs_data

from benchmarks import answers, golds, load_benchmark, notation, quantities, shapes
from benchmarks.attacks import EXPLAINED, STRATEGIES, attacks
from benchmarks.golds import unreadable
from benchmarks.grader import Grader
from benchmarks.judge import judge
from benchmarks.notation import RULES, Rule, convert_notation, without_layout
from benchmarks.quantities import canonical_unit, read_clock, read_compound, read_quantity
from benchmarks.shapes import read_shape
from benchmarks.writings import WRITINGS, write_answer


@pytest.mark.parametrize(("gold", "response"), CORRECT)
def test_right_answers_are_correct(gold: str, response: str) -> None:
    assert judge(gold, response) == "correct"


@pytest.mark.parametrize(("gold", "response"), WRONG)
def test_wrong_answers_earn_nothing(gold: str, response: str) -> None:
    assert judge(gold, response) in ("wrong", "no_answer")


def test_a_long_list_is_not_graded_by_its_last_number() -> None:
    assert judge("99", rf"\boxed{{{', '.join(map(str, range(100)))}}}") == "wrong"


@pytest.mark.parametrize("response", ["", "   \n", r"so \boxed{}", "I do not know how to go on with this"])
def test_a_response_without_answer_is_its_own_verdict(response: str) -> None:
    assert judge("5", response) == "no_answer"


@pytest.mark.parametrize("module", [answers, golds, notation, quantities, shapes])
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted > 0
    assert tried.failed == 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_of_notation_does_what_its_example_says_and_the_others_leave_that_alone(rule: Rule) -> None:
    before, after = rule.example
    assert rule.pattern.sub(rule.replacement, before) == after
    assert without_layout(convert_notation(before)) == without_layout(convert_notation(after))


@given(st.text(alphabet="0123456789.,-+=/()[]{}\\\\ $%^_xyabc!", max_size=30))
def test_notation_converts_once_and_for_all(text: str) -> None:
    once = convert_notation(text)
    assert len(once) < 40 * (len(text) + 1)
    read_shape(once)  # whatever it is, it has a structure


def test_quantities_are_exact() -> None:
    for text, value in {
        "0.1": "1/10",
        r"-1\frac{1}{2}": "-3/2",
        r"1.\overline{6}": "5/3",
        r"3 \times 10^{-2}": "3/100",
    }.items():
        quantity = read_quantity(text)
        assert quantity is not None
        assert str(quantity.value) == value
    assert read_quantity("1 2") is None
    assert [str(part.value) for part in read_compound("2 h 30 min") or ()] == ["2", "30"]
    assert read_clock("4:30 p.m.") == read_clock("16:30") != read_clock("4:30 a.m.")
    assert canonical_unit("square centimetres") == canonical_unit("cm^2") == "cm^2"


@pytest.mark.parametrize(
    "gold",
    ["$f(x)=a x+b$, where $b$ is an arbitrary integer", "t(0,4]", r"\frac{1}{2", "the sum of $a$ and $b$"],
)
def test_a_gold_answer_that_is_prose_or_no_formula_is_equal_to_itself_alone(gold: str) -> None:
    assert unreadable(gold)
    assert judge(gold, "0") != "correct"
    assert judge(gold, "1") != "correct"


@pytest.mark.parametrize(
    "gold", ["$69$,$84$", "864 square inches", r"(-\infty, 0] \cup \{1\}", "3, 5, and 7", r"\text{not even}"]
)
def test_lists_units_intervals_and_words_can_be_read(gold: str) -> None:
    assert not unreadable(gold)


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_integers_are_equal_only_to_themselves(gold: int, other: int) -> None:
    assert judge(str(gold), f"Thus \\boxed{{{gold:,}}}.") == "correct"
    assert judge(str(gold), f"#### {other}") == ("correct" if gold == other else "wrong")


@given(st.decimals("0.1", "9.9", places=3), st.integers(-30, 30))
def test_all_notations_of_a_number_are_equal(mantissa: Decimal, exponent: int) -> None:
    notations = [
        f"{mantissa}e{exponent}",
        f"{mantissa} \\times 10^{{{exponent}}}",
        f"{Decimal(f'{mantissa}e{exponent}'):f}",
    ]
    for gold in notations:
        for answer in notations:
            assert judge(gold, f"\\boxed{{{answer}}}") == "correct"
        assert judge(gold, f"\\boxed{{{mantissa}1e{exponent - 1}}}") == "wrong"


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.randoms())
def test_a_list_is_right_in_every_order_and_wrong_without_an_item(items: list[int], rng: object) -> None:
    gold = ", ".join(map(str, items))
    turned = ", ".join(map(str, reversed(items)))
    assert judge(gold, rf"\boxed{{{turned}}}") == "correct"
    assert judge(gold, rf"\boxed{{{', '.join(map(str, items[1:]))}}}") == "wrong"
    assert judge(gold, rf"\boxed{{{turned}, 51}}") == "wrong"


@needs_data
def test_no_strategy_wins_a_gold_answer_without_knowing_it() -> None:
    assert len(STRATEGIES) >= 40
    problems = [
        problem
        for name in ("math500", "olympiadbench", "minerva", "aime25")
        for problem in load_benchmark(name).problems()[7::90]
    ]
    tried = [(p.answer, name, response) for p in problems for name, response in attacks(p.answer, p.prompt)]
    with Grader(workers=2, seconds=1.0) as grader:
        verdicts = grader.grade([(gold, response) for gold, _, response in tried])
    won = {name for (_, name, _), verdict in zip(tried, verdicts, strict=True) if verdict == "correct"}
    assert won <= set(EXPLAINED)


@needs_data
@pytest.mark.parametrize("name", ["math500", "gsm8k", "minerva"])
def test_gold_answers_in_twenty_ways_of_writing_are_right(name: str) -> None:
    golds = {problem.answer for problem in load_benchmark(name).problems()[::3]}
    verdicts = [judge(gold, write_answer(gold, writing)) for gold in sorted(golds) for writing in WRITINGS]
    assert len(WRITINGS) == 20
    assert verdicts.count("correct") >= 0.995 * len(verdicts)


@needs_data
def test_benchmarks_mark_the_gold_answers_that_are_graded_as_text() -> None:
    marked = {problem.answer for problem in load_benchmark("olympiadbench").problems() if problem.gold_as_text}
    assert any("arbitrary integer" in answer for answer in marked)
    assert len(marked) < 10
    assert not any(problem.gold_as_text for problem in load_benchmark("gsm8k").problems())


@needs_data
@pytest.mark.parametrize(
    ("file", "count"), [("math500.jsonl", 500), ("minerva_math.jsonl", 272), ("gsm8k_test.jsonl", 1319)]
)
def test_the_reference_solutions_are_correct(file: str, count: int) -> None:
    lines = (Path(os.environ["GVPO_BENCH_DATA"]) / "benchmarks" / file).read_text().rstrip("\n").split("\n")
    verdicts = [judge(row["answer"], row["solution"]) for row in map(json.loads, lines)]
    assert verdicts == ["correct"] * count
