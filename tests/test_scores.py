"""avg@k, pass@k and maj@k of recorded samples, worked out by hand."""

from itertools import combinations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import load_benchmark
from benchmarks.judge import normal_answer
from harness.statistics.scores import OUTCOMES, majority_score, pass_at_k, pass_ks, problem_scores


def test_pass_at_k_by_hand():
    # Of 4 samples 1 is correct; of the 6 pairs, 3 hold it: 1 − C(3, 2)/C(4, 2) = 1 − 3/6.
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 4) == 1.0
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 3, 2) == 1.0  # any two of them hold a correct one: C(1, 2) = 0


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_the_subsets_that_hold_a_correct_sample(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(combinations(correct, k))
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_more_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples a problem; there are 4"):
        pass_at_k(4, 1, 5)


def test_the_ks_are_powers_of_two_and_the_number_of_samples():
    assert [pass_ks(n) for n in (1, 2, 3, 8, 12)] == [[], [2], [2, 3], [2, 4, 8], [2, 4, 8, 12]]


@pytest.mark.parametrize(
    ("answers", "scores", "expected"),
    [
        (["7", "7", "8"], [1, 1, 0], 1.0),
        (["7", "8", "8"], [1, 0, 0], 0.0),
        (["7", "8"], [1, 0], 0.5),  # a tie of two: one is drawn
        (["7", "8", "9"], [1, 0, 0], 1 / 3),
        (["7", "", ""], [1, 0, 0], 1.0),  # no answer, no vote
        (["", ""], [0, 0], 0.0),
        (["7", "7", "8"], [1, 0, 0], 0.5),  # the grader failed on one of two equal answers
    ],
)
def test_majority_by_hand(answers, scores, expected):
    assert majority_score(answers, scores) == pytest.approx(expected)


def samples(*rows):
    names = ["problem_id", "answer", "verdict", "finish", "tokens"]
    table = pd.DataFrame(rows, columns=names).assign(benchmark="b")
    return table.assign(score=(table["verdict"] == "correct").astype(float))


def test_scores_and_outcomes_of_two_problems_by_hand():
    found = problem_scores(
        samples(
            ("p", "1", "correct", "eos", 4),
            ("p", "2", "wrong", "eos", 2),
            ("p", "1", "correct", "length", 8),
            ("p", "", "no_answer", "length", 8),
            ("q", "3", "wrong", "eos", 1),
            ("q", "3", "wrong", "stop", 1),
            ("q", "4", "timeout", "eos", 1),
            ("q", "5", "error", "eos", 1),
        )
    )
    p, q = found.xs(("b", "p")), found.xs(("b", "q"))
    assert (p["samples"], p["score"], p["tokens"]) == (4, 0.5, 5.5)
    assert p["pass_at_2"] == pytest.approx(1 - 1 / 6)  # of 6 pairs one holds neither correct sample
    assert p["pass_at_4"] == 1.0
    assert p["maj_at_k"] == 1.0  # "1" has two of three votes
    assert [p[name] for name in OUTCOMES] == [0.25, 0.25, 0.5, 0.0]
    assert [q[name] for name in OUTCOMES] == [0.5, 0.0, 0.0, 0.5]
    assert (q["score"], q["pass_at_2"], q["maj_at_k"]) == (0.0, 0.0, 0.0)


def test_one_sample_has_neither_pass_nor_majority():
    found = problem_scores(samples(("p", "1", "correct", "eos", 4)))
    assert not [name for name in found if str(name).startswith(("pass", "maj"))]


def test_cells_that_recorded_no_answers_have_no_majority():
    rows = [("p", "1", "correct", "eos", 4), ("p", "1", "wrong", "eos", 4)]
    assert problem_scores(samples(*rows).drop(columns="answer"))["maj_at_k"].isna().all()


@pytest.mark.parametrize(
    ("responses", "normal"),
    [
        (["#### 1,000", r"\boxed{1000}", r"The answer is $1000$.", r"\boxed{\$1000.00}", "1000 dollars"], "1000"),
        ([r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{1/2}", r"$x = \dfrac12$", r"\boxed{\frac{2}{4}}"], "1/2"),
        ([r"\boxed{-\frac{3}{4}}", "-0.75"], "-3/4"),
        ([r"\boxed{1.6 \times 10^{3}}", "1.6e3"], "1600"),
        ([r"\boxed{\text{Evelyn}}", "The answer is Evelyn."], "evelyn"),
        ([r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"\boxed{(3,\dfrac{\pi}{2})}"], r"(3,\frac{\pi}{2})"),
        ([r"\boxed{2\sqrt{2}}"], r"2\sqrt{2}"),
        (["", "   ", r"\boxed{}"], ""),
        (["So she has 3 left. " + "And so on we go. " * 20 + "That makes 1,234 in all."], "1234"),
        (["Let us think about it, again and again. " * 10], ""),
        ([r"\boxed{\frac{1}{0}}"], r"\frac{1}{0}"),
    ],
)
def test_equal_answers_have_one_normal_form(responses, normal):
    assert [normal_answer(response) for response in responses] == [normal] * len(responses)


def test_an_arithmetic_response_votes_for_what_stands_behind_its_last_equals_sign():
    benchmark = load_benchmark("arithmetic")
    assert [benchmark.answer_of(text) for text in ("=2", ":0,0=2", ";0=", ";0")] == ["2", "2", "", ""]
