"""Our benchmarks as tasks of lm-eval: `lm_eval --include_path "$(gvpo-bench lm-eval-tasks)" --tasks gvpo_gsm8k …`.

A task is a YAML file that `task_files` writes from the tables of benchmarks and templates. It names the two functions
that lm-eval calls: `load_docs`, which renders our prompts, and `process_results`, which asks our grader.
"""

from __future__ import annotations

import atexit
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import load_benchmark
from benchmarks.benchmark import GRADER_FAILURES
from benchmarks.grader import Grader
from benchmarks.math_problems import MATH_BENCHMARKS
from benchmarks.templates import TEMPLATES, load_template

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "gvpo_"


def task_name(benchmark: str, template: str) -> str:
    """`gvpo_gsm8k`; with another template than plain, `gvpo_gsm8k_qwen_math`."""
    return f"{PREFIX}{benchmark}" + ("" if template == "plain" else f"_{template.replace('-', '_')}")


def task_files(*, samples: int, temperature: float, max_new_tokens: int) -> dict[str, str]:
    """The files of all tasks by name: every evaluation benchmark under every template.

    A chat template is lm-eval's to apply: `--apply_chat_template` on the tasks of the template `none`.
    """
    files = {}
    for benchmark in MATH_BENCHMARKS:
        for template in TEMPLATES.values():
            if benchmark.name.endswith("-train") or template.chat:
                continue
            task = {
                "task": task_name(benchmark.name, template.name),
                "tag": "gvpo_bench",
                "dataset_kwargs": {"benchmark": benchmark.name, "template": template.name},
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": "prompt",
                "doc_to_target": "answer",
                "generation_kwargs": {
                    "until": list(template.stop),
                    "max_gen_toks": max_new_tokens,
                    "do_sample": temperature > 0,
                    "temperature": temperature,
                    # transformers takes these from the checkpoint's generation_config where they are not said.
                    "repetition_penalty": 1.0,
                    **({"top_p": 1.0, "top_k": 0} if temperature > 0 else {}),
                },
                "repeats": samples,
                "filter_list": [{"name": "none", "filter": [{"function": "take_first_k", "k": samples}]}],
                "metric_list": [
                    {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                    {"metric": "no_answer", "aggregation": "mean", "higher_is_better": False},
                    {"metric": "grader_failures", "aggregation": "mean", "higher_is_better": False},
                ],
                "metadata": {"version": template.version},
            }
            functions = {"custom_dataset": load_docs, "process_results": process_results}
            lines = [
                f"{key}: !function {function.__module__}.{function.__name__}" for key, function in functions.items()
            ]
            lines += [f"{key}: {json.dumps(value)}" for key, value in task.items()]  # JSON is YAML
            files[f"{task['task']}.yaml"] = "\n".join(lines) + "\n"
    return files


def load_docs(*, benchmark: str, template: str, **_: Any) -> dict[str, Dataset]:
    """The documents of a task: `id`, `prompt` as the model sees it, `answer`. lm-eval passes its own arguments too."""
    import datasets

    rendered = load_template(template)
    rows = [
        {"id": problem.id, "prompt": rendered.render(problem), "answer": problem.answer}
        for problem in load_benchmark(benchmark).problems()
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def process_results(doc: Mapping[str, str], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """The metrics of one document from its samples: `acc` is the share of correct ones, avg@k."""
    verdicts = _grader().grade([(doc["answer"], response) for response in results[0]])
    return {
        "acc": sum(verdict == "correct" for verdict in verdicts) / len(verdicts),
        "no_answer": sum(verdict == "no_answer" for verdict in verdicts) / len(verdicts),
        "grader_failures": sum(verdict in GRADER_FAILURES for verdict in verdicts) / len(verdicts),
    }


@functools.cache
def _grader() -> Grader:
    grader = Grader()
    atexit.register(grader.close)
    return grader
