"""The folder of YAML files in which lm-eval finds our benchmarks. Does not import torch or lm-eval."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lm_eval_tasks import task_files
from harness.record.files import cache_folder, hash_of, new_folder
from harness.suite.config import ConfigError


def own_tasks(*, samples: int = 1, temperature: float = 0.0, max_new_tokens: int = 1024) -> Path:
    """A folder in the cache with our tasks at these settings, written where it isn't there.

    Raises ConfigError where greedy decoding is to give several samples.
    """
    if temperature == 0 and samples > 1:
        raise ConfigError(f"--samples {samples} at --temperature 0: greedy decoding gives the same response each time")
    files = task_files(samples=samples, temperature=temperature, max_new_tokens=max_new_tokens)
    target = cache_folder() / f"lm-eval-tasks-{hash_of(files)}"
    if not target.is_dir():
        with new_folder(target) as folder:
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")
    return target
