"""vLLM itself, in this process or in the child that a server starts: it is imported here and nowhere else."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from harness.model.ranks import free_memory

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in the process that opens it
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or all workers of a sweep would be bound to the same core
    "TOKENIZERS_PARALLELISM": "false",
}
"""Read when vLLM is imported; what the user has set is left alone."""


def _global_generator_untouched() -> contextlib.AbstractContextManager[None]:
    """vLLM seeds torch's own generator and draws from it."""
    return torch.random.fork_rng(devices=[])


class VLLM:
    """vLLM in this process, and with tensor parallelism in workers that it starts."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from vllm import LLM

        self.can_sleep = bool(options.get("enable_sleep_mode"))
        self.among_ranks = options.get("distributed_executor_backend") == "external_launcher"
        with _global_generator_untouched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.llm = LLM(
                model=str(folder),
                load_format="dummy",
                skip_tokenizer_init=True,
                trust_remote_code=False,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                worker_extension_cls="harness.sampling.vllm_process.WorkerExtension",
                seed=0,
                **options,
            )

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces the weights by those of a checkpoint, by name."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_prefix_cache()

    def load_file(self, file: str) -> None:
        """Replaces the weights by those of a safetensors file."""
        self.llm.collective_rpc("load_safetensors", args=(file,))
        self.llm.reset_prefix_cache()

    def sample(self, requests: Sequence[Mapping[str, Any]]) -> list[list[tuple[list[int], list[float]]]]:
        """Tokens and their log-probs of each request's samples."""
        from vllm import SamplingParams

        # What an earlier call left in the cache would change the rounding.
        self.llm.reset_prefix_cache()
        # Our EOS are stops like others: which they are is not left to the model's own files.
        fixed = {"top_p": 1.0, "top_k": 0, "ignore_eos": True, "logprobs": 0, "detokenize": False}
        params = [SamplingParams(**{k: v for k, v in r.items() if k != "prompt"}, **fixed) for r in requests]
        prompts = [{"prompt_token_ids": list(r["prompt"])} for r in requests]
        with _global_generator_untouched():
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            [
                (tokens := list(o.token_ids), [at[token].logprob for token, at in zip(tokens, o.logprobs, strict=True)])
                for o in output.outputs
            ]
            for output in outputs
        ]

    def score(self, tokens: Sequence[int]) -> list[list[float]]:
        """log π of each token given those before it, at temperature 1, NaN for the first. The one list in the list is
        that of the one copy of the weights.

        The temperature below is that of the one token that vLLM insists on drawing.
        """
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        with _global_generator_untouched():
            (output,) = self.llm.generate([{"prompt_token_ids": list(tokens)}], params, use_tqdm=False)
        found = zip(tokens, output.prompt_logprobs, strict=True)
        return [[float("nan") if at is None else at[token].logprob for token, at in found]]

    def sleep(self) -> None:
        """Gives the GPU memory of weights and KV cache back."""
        self.llm.sleep(level=1)

    def wake(self) -> None:
        """Takes that memory again."""
        torch.cuda.empty_cache()
        self.llm.wake_up()

    def close(self) -> None:
        """Ends vLLM and gives its memory back."""
        core = self.llm.llm_engine.engine_core
        if self.among_ranks:  # the whole farewell would end the ranks' process group too
            core._finalizer.detach()
            core.engine_core.model_executor.shutdown()
        else:
            core.shutdown()
        del self.llm, core
        free_memory()


class WorkerExtension:
    """Mixed into vLLM's worker class."""

    def load_safetensors(self, file: str) -> None:
        """Takes over every weight of a file, one tensor at a time."""

        def weights() -> Iterator[tuple[str, Tensor]]:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    yield name, tensors.get_tensor(name)

        self.reload_weights(weights_iterator=weights())  # type: ignore[attr-defined]
