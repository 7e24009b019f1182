"""What draws the samples: the section [rollout] of a suite. Does not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.suite.points import Section


class VLLMSettings(Section):
    """[rollout.vllm]: where vLLM runs, and on how much memory."""

    mode: Literal["colocated", "server"] = "colocated"
    """"colocated" shares the trainer's process and GPU; "server" is a child process on GPUs that no rank of the cell
    trains on, or several where they allow it."""
    tensor_parallel_size: int = Field(1, ge=1)
    """Processes that share each layer."""
    gpu_memory_fraction: float | None = Field(None, gt=0.0, le=1.0)
    """Of each GPU's memory, for weights and KV cache; by default 0.4 colocated and 0.9 for a server."""
    sleep: bool | None = None
    """Give that memory back to the trainer between rollouts; by default where they share a GPU."""
    max_model_len: int | None = Field(None, ge=32)
    """Tokens of the longest prompt with its response, for which the KV cache must have room; by default the model's
    positions."""
    tolerance: float | None = Field(None, gt=0.0)
    """Nats by which the log-probs of a probe may differ between engine and trainer after a weight sync; by default
    0.001 in float32 and 0.25 in bfloat16."""

    @property
    def memory_fraction(self) -> float:
        """`gpu_memory_fraction`, or its default."""
        return self.gpu_memory_fraction or (0.4 if self.mode == "colocated" else 0.9)

    @model_validator(mode="after")
    def _fits(self) -> VLLMSettings:
        if self.mode == "server" and self.sleep:
            raise ValueError("sleep = true: a server has its GPUs to itself, and nobody to give their memory to")
        return self


class Rollout(Section):
    """[rollout]: what draws the samples of training and evaluation."""

    engine: Literal["cached", "transformers", "vllm"] = "cached"
    """"cached" prefills each prompt once a group and keeps its own KV cache; "transformers" is `generate`; "vllm" is
    vLLM, which gets the weights after every update."""
    vllm: VLLMSettings | None = None
    """With engine = "vllm"; by default, its defaults."""

    @model_validator(mode="after")
    def _fits(self) -> Rollout:
        if self.vllm is not None and self.engine != "vllm":
            raise ValueError(f"[rollout.vllm] is for engine = 'vllm', and engine is {self.engine!r}")
        return self

    @property
    def shares_weights(self) -> bool:
        """Whether the engine samples from the very weights of a model of the trainer's, which is then whole on each
        rank, and not from its own, which it takes from shards."""
        return self.engine != "vllm"

    @property
    def share_of_gpu(self) -> float:
        """Of the trainer's GPU, what the engine takes for itself where it does not share the weights."""
        vllm = self.vllm_or_default
        return 0.0 if self.shares_weights or vllm.mode == "server" else vllm.memory_fraction

    @property
    def vllm_or_default(self) -> VLLMSettings:
        """The settings of vLLM, given or not."""
        return self.vllm or VLLMSettings()
