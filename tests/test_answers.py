"""Where the answer stands in a response."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.answers import boxed_expressions, explicit_answer, find_answer
from benchmarks.judge import convert_notation, normal_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"So \boxed{1}. Wait, no, it is \boxed{\frac{1}{2}} m.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2}", ("1", "2")),
        (r"It is \boxed 2.", "2"),
        ("8 - 3 = 5\n#### 5", "5"),
        ("Step 6: #### 5\nStep 7: The answer is: 5 apples.", "5 apples"),
        (r"Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.", r"$\frac{1}{2}$"),
        (r"**Answer:** 42", "42"),
        ("The answer is\n\\[\n x^2 \n\\]\nas shown.", "\\[\n x^2 \n\\]"),
        (r"It is \boxed{44}. We check our answer: 17 is prime, so our answer is correct.", "44"),
        ("The answer to this question is 5.", "5"),
        ("<think>The answer is 3.</think> The answer is 4.", "4"),
        ("<think>3?</think><answer>\\boxed{4}</answer>", "4"),
        (r"We put the answer in \boxed{}: \boxed{5}", "5"),
        (r"\boxed{5}. I put it in \boxed{}.", "5"),
        (r"\boxed{\text{Final answer}}: \boxed{5}", "5"),
        (r"\boxed{5}, that is \boxed{x = 5}", "x = 5"),
        (r"\boxed{5}\boxed{\text{ apples}}", "5"),
        (r"\boxed{}", ()),
        ("The answer is that she has 18 dollars.", "18 dollars"),
        ("<|im_start|>assistant\nThe answer is 5<|im_end|>", "5"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n#### 5<|eot_id|>", "5"),
        ("#### 5<|im_end|>\n<|im_start|>user\nThe answer is 6", "5"),
    ],
)
def test_the_answer_is_the_last_one_stated(response: str, answer: str | tuple[str, ...]) -> None:
    assert find_answer(response)[:2] == (answer if isinstance(answer, tuple) else (answer,), True)


def test_no_statement_is_no_explicit_answer() -> None:
    assert explicit_answer("The answer is the sum of both of the numbers that we found above.") is None
    assert find_answer("x = 5") == (("x = 5",), False, True)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("So she has 18 apples.", "18 apples"),
        ("so $5x=30$ and $x=6$.", "$5x=30$, $x=6$"),
        ("The roots are $1$ and $2$.", "$1$, $2$"),
        ("The solutions are 1, 3 and 5.", "1, 3 and 5"),
        ("So it is 2**(1/4).", "2**(1/4)"),
        (r"We get $$\frac{1}{2}.$$ That leaves 3 of them.", "3"),
        ("It is at least 5.", None),
        ("It is not 5.", None),
        ("What is $2 + 3$?", None),
        ("Evaluate $2 + 3$.", None),
        ("I do not know.", None),
    ],
)
def test_without_a_statement_the_last_formula_or_number_is_the_answer(response: str, answer: str | None) -> None:
    assert find_answer(response)[:2] == (() if answer is None else (answer,), False)


@given(st.text(alphabet="{}\\bx ", max_size=60))
def test_a_box_is_found_exactly_if_its_braces_close(text: str) -> None:
    for box in boxed_expressions("\\boxed{" + text):
        inner = box.content.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert inner.count("{") == inner.count("}")
    assert boxed_expressions(r"\boxed{a{b}\}c}")[0].content == r"a{b}\}c"


HOSTILE = {
    "white space": ["\n", " ", "\t \n"],
    "statements": ["answer is ", "answer ", "answer'", "#### ", "A:\n", "final ", "**", "Answer: x\n"],
    "boxes": [r"\boxed{", r"\boxed{1},", r"\boxed{1} and ", r"\boxed ", "{", "}", r"\{"],
    "tags": ["<answer>", "</think>", "<|im_end|>", "<answer>a</answer>"],
    "numbers": ["9", "1.", "1e5", "1,000", "0,", "-", "1/", "100%"],
    "LaTeX": [r"\\frac", r"\mathrm{ ", r"\text{and}", r"\quad ", r"\!", r"\$", r"\frac{1}{", "$", "$$", r"\[", r"\("],
    "text": ["a", "ab ", "√", "√(", "√ ", "x=", "("],
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(("before", "after"), [("", ""), (r"\boxed{5", "x}!")])
def test_a_long_response_of_anything_is_read_in_linear_time(kind: str, before: str, after: str) -> None:
    for piece in HOSTILE[kind]:
        text = before + piece * (100_000 // len(piece)) + after
        start = time.process_time()
        find_answer(text)
        convert_notation(text)
        normal_answer(text)
        assert time.process_time() - start < 5, piece  # quadratic time would be minutes
