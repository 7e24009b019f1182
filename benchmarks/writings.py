r"""Twenty ways to write a right answer, for the share of gold answers that the grader accepts for themselves.

A gold answer's own dollars and boxes are taken off first, and put on again by the writing.
"""

from __future__ import annotations

from benchmarks.notation import strip_delimiters

WRITINGS: dict[str, str] = {
    "bare": "@",
    "box": r"\boxed{@}",
    "box in a display": "Hence\n\\[\n\\boxed{@}\n\\]",
    "box in a sentence": r"Therefore, the value is $\boxed{@}$.",
    "stop inside the box": r"So we get \boxed{@.}",
    "sentence": "The answer is $@$.",
    "stop inside the formula": "The answer is $@.$",
    "exclamation": "The answer is $@$!",
    "four hashes": "Step 3.\n#### @",
    "bold": "**Answer:** $@$",
    "final answer": "Final Answer: The final answer is $@$. I hope it is correct.",
    "inline": r"Putting all together, we get \(@\).",
    "display": "Thus we obtain\n$$@.$$",
    "tags": "<think>Is it 1? No.</think><answer> $@$ </answer>",
    "chat markup": "<|im_start|>assistant\nIt is \\boxed{@}<|im_end|>",
    "empty box before": r"We put the answer in \boxed{}: \boxed{@}",
    "twice": r"\boxed{@}, that is \boxed{@}",
    "spaces": r"\boxed{\, @ \;}",
    "display style": r"\boxed{\displaystyle @}",
    "framed": r"So \fbox{$@$} is what was asked for.",
}
"""By name; @ stands for the answer."""


def write_answer(gold: str, writing: str) -> str:
    """The gold answer in one of WRITINGS."""
    plain = strip_delimiters(gold)
    text = WRITINGS[writing]
    if "$" in plain.replace("\\$", ""):  # several formulas have dollars of their own
        text = text.replace("$$@.$$", "@.").replace("$@.$", "@.").replace("$@$", "@").replace(r"\(@\)", "@")
    return text.replace("@", plain)
