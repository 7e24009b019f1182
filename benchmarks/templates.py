"""Prompt templates, named and versioned: the template alone can move a base model by more than an algorithm does.

Example: `TEMPLATES["plain"].render(problem)` is `"Question: What is 1+1?\\nAnswer:"`.

A template that changes gets a new version; results name the template with its version (`Template.label`).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.benchmark import Problem

_SLOT = "{problem}"


@dataclass(frozen=True, kw_only=True)
class Template:
    """A text with one slot for the question."""

    name: str
    version: int
    text: str
    """What the model sees, with `{problem}` where the question goes. It is the whole prompt, chat markup included,
    unless `chat`."""
    stop: tuple[str, ...] = ()
    """Texts that end a response besides the model's own end of sequence."""
    chat: bool = False
    """The tokenizer's own chat template is applied, with the rendered text as the user's turn."""

    @property
    def label(self) -> str:
        """Name and version, as manifests record them: `plain-v1`."""
        return f"{self.name}-v{self.version}"

    def render(self, problem: Problem) -> str:
        """The prompt for this problem. Braces in the question have no meaning."""
        before, after = self.text.split(_SLOT)
        return before + problem.prompt + after


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        # The bare question.
        Template(name="none", version=1, text=_SLOT),
        # For base models: a question, an answer, and nothing about reasoning or format.
        Template(name="plain", version=1, text=f"Question: {_SLOT}\nAnswer:", stop=("\nQuestion:",)),
        # For models that ramble when they are asked plainly: three worked examples, and an answer is one line.
        Template(
            name="qa-3shot",
            version=1,
            text="Q: What is 3 + 4?\nA: 3 + 4 = 7\n\nQ: What is the sum of 5 and 9?\nA: 5 + 9 = 14\n\n"
            "Q: Sam has 2 pens and gets 6 more. How many pens does Sam have now?\nA: 2 + 6 = 8\n\n"
            f"Q: {_SLOT}\nA:",
            stop=("\n",),
        ),
        # Qwen2.5-Math's own prompt for chain of thought (arXiv 2409.12122, in ChatML markup).
        Template(
            name="qwen-math",
            version=1,
            text="<|im_start|>system\n"
            "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
            f"<|im_start|>user\n{_SLOT}<|im_end|>\n<|im_start|>assistant\n",
            stop=("<|im_end|>",),
        ),
        # The template of DeepSeek-R1-Zero (arXiv 2501.12948, Table 1), word for word.
        Template(
            name="r1",
            version=1,
            text="A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
            "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
            "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
            "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
            f"User: {_SLOT}. Assistant:",
            stop=("</answer>",),
        ),
        # Whatever the checkpoint was trained to be asked in. No system prompt is added to the template's own.
        Template(name="chat", version=1, text=_SLOT, chat=True),
    )
}


def load_template(name: str) -> Template:
    """The template of that name. Raises ValueError that lists the names."""
    if name not in TEMPLATES:
        raise ValueError(f"no template is called {name!r}; choose from {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
