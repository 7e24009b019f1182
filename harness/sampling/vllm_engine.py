"""vLLM as a sampling engine: in this process, or as servers on other GPUs. Each rank of a cell has its own.

An engine starts from the model's configuration alone and gets every weight from the trainer. After each hand-over a
probe is scored by both sides: one of vLLM's own reload calls returns without having done anything, and a sampler that
is a step behind ruins a run without a word.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from harness.model.lora import merged_weights
from harness.model.policy import PolicyModel
from harness.model.ranks import Ranks, visible_gpus
from harness.model.rows import Response, Rows
from harness.model.scorer import Scorer, score
from harness.record.seeding import seed_of
from harness.sampling.padded_heads import needs_padding, padded_config, padded_weights
from harness.sampling.vllm_process import VLLM
from harness.sampling.vllm_server import Servers, VLLMError
from harness.suite.config import ConfigError, Resources, Rollout, VLLMSettings

PROBE_PROMPT, PROBE_RESPONSE = 8, 24
"""Tokens of the probe."""

LOWEST_TEMPERATURE = 0.01
"""vLLM raises temperatures below this one, but for 0, without asking."""

NO_CHANGE = 1e-6
"""Nats that the trainer's log-probs of the probe may move without the engine's having to."""


def check_vllm(settings: Rollout, device: torch.device) -> None:
    """Refuses what cannot work on this machine. `device` is the trainer's.

    Raises ConfigError where vLLM isn't installed, a setting is for GPUs that are not there, or for one rank alone.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine = 'vllm': vLLM is not installed. pip install 'gvpo-bench[vllm]' (CUDA); on a CPU see "
            "requirements-vllm.txt, or use rollout.engine = 'cached'"
        )
    vllm, ranks = settings.vllm_or_default, Ranks.of_group()
    if vllm.mode == "colocated" and vllm.tensor_parallel_size > 1 and not ranks.alone:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel_size = {vllm.tensor_parallel_size} on {ranks.size} ranks: colocated, each "
            "rank samples other prompts on its own GPU; leave it at 1, or set mode = 'server'"
        )
    for key in ("sleep", "gpu_memory_fraction"):
        if device.type != "cuda" and getattr(vllm, key):
            raise ConfigError(
                f"rollout.vllm.{key} = {getattr(vllm, key)} is for GPUs, and the trainer is on the {device.type}: "
                "leave it out"
            )


@contextlib.contextmanager
def open_vllm(
    settings: Rollout, resources: Resources, model: PreTrainedModel, *, eos_ids: Sequence[int], precision: str
) -> Iterator[VLLMEngine]:
    """An engine with the model's weights, which ends with the block. With several ranks all must open theirs.

    Raises ConfigError where servers have no GPUs left, VLLMError where the engine's log-probs are not the trainer's.
    """
    vllm, ranks = settings.vllm_or_default, Ranks.of_group()
    on_cuda = next(model.parameters()).device.type == "cuda"
    colocated = vllm.mode == "colocated"
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    options: dict[str, Any] = {
        "dtype": precision,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "max_num_seqs": resources.rollout_batch,
        "max_model_len": vllm.max_model_len or positions,
    }
    if on_cuda:
        options["gpu_memory_utilization"] = vllm.memory_fraction
        options["enable_sleep_mode"] = colocated and vllm.sleep is not False
    else:
        options["enforce_eager"] = True  # compiling takes longer than it saves
    if colocated and not ranks.alone:
        # vLLM then works within the process group that is there, in which each rank is an engine of its own.
        options["distributed_executor_backend"] = "external_launcher"
    bytes_of_weights = sum(x.numel() for x in model.parameters()) * (2 if precision == "bfloat16" else 4)
    bytes_of_weights *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each rank writes its own file
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_shared_folder(bytes_of_weights)))
        config_for_vllm(model).save_pretrained(folder)
        sampler: VLLM | Servers
        if colocated:
            sampler = stack.enter_context(contextlib.closing(VLLM(folder, options)))
        else:
            devices = server_devices(on_cuda, vllm.tensor_parallel_size)
            sampler = stack.enter_context(
                contextlib.closing(Servers(folder, options, resources.server_timeout, devices))
            )
        engine = VLLMEngine(sampler, vllm, folder, eos_ids=eos_ids, precision=precision, ranks=ranks)
        engine.sync(PolicyModel(model))
        yield engine


def server_devices(on_cuda: bool, parallel: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each server of this rank: the GPUs that no rank trains on, shared out among the ranks.
    On the CPU one server, and nothing to set.

    Raises ConfigError where that leaves a rank without.
    """
    if not on_cuda:
        return [None]
    rank, ranks = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    found = visible_gpus()
    each = (len(found) - ranks) // ranks
    if each < parallel:
        raise ConfigError(
            f"rollout.vllm.mode = 'server': of {len(found)} GPUs here {ranks} train, and each of their servers needs "
            f"tensor_parallel_size = {parallel} of the others; give the cell {ranks * (1 + parallel)} GPUs "
            "(resources.gpus), or use mode = 'colocated'"
        )
    mine = found[ranks + rank * each :][:each]
    return [",".join(mine[first : first + parallel]) for first in range(0, each - parallel + 1, parallel)]


def _shared_folder(size: int) -> tempfile.TemporaryDirectory[str]:
    """A folder of this user's alone with room for so many bytes: in shared memory where there is some."""
    shared = Path("/dev/shm")
    in_memory = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1.1 * size
    return tempfile.TemporaryDirectory(prefix="gvpo-bench-vllm-", dir=shared if in_memory else None)


class VLLMEngine:
    """An `Engine` over vLLM.

    A sample's random numbers depend on its prompt's seed and its place in the group alone. The log-probs are those that
    the tokens were drawn with.
    """

    def __init__(
        self,
        sampler: VLLM | Servers,
        settings: VLLMSettings,
        folder: Path,
        *,
        eos_ids: Sequence[int],
        precision: str,
        ranks: Ranks,
    ) -> None:
        self.sampler, self.settings, self.folder = sampler, settings, folder
        self.eos_ids, self.precision, self.ranks = list(eos_ids), precision, ranks
        self.tolerance = settings.tolerance or (0.25 if precision == "bfloat16" else 1e-3)
        self.probe: tuple[list[int], list[int]] | None = None
        self.last: tuple[Tensor, Tensor] | None = None
        self.asleep = False

    def sync(self, policy: PolicyModel) -> None:
        """Hands over all weights, one at a time where they are sharded, and checks that they have arrived.

        Raises VLLMError where the log-probs of the probe differ by more than the tolerance, or those of the engine
        stand still while the trainer's move.
        """
        self._wake()
        if isinstance(self.sampler, VLLM) and self.settings.tensor_parallel_size == 1:
            self.sampler.load(checkpoint_weights(policy.model))
        else:
            dtype = getattr(torch, self.precision)
            file = self.folder / "weights.safetensors"
            weights = {
                name: torch.empty_like(x, device="cpu", dtype=dtype, memory_format=torch.contiguous_format).copy_(x)
                for name, x in checkpoint_weights(policy.model)
            }
            try:
                save_file(weights, file)
                self.sampler.load_file(str(file))
            finally:
                file.unlink(missing_ok=True)
        self._check(policy)

    def _check(self, policy: PolicyModel) -> None:
        if self.probe is None:  # the same one for all, since they score it together
            self.probe = self.ranks.first(lambda: self._new_probe(policy.model))
        prompt, response = self.probe
        rows = Rows.of([prompt], [response], next(policy.parameters()).device)
        scorer = Scorer(policy, None, 1.0, self.precision, self.ranks)
        scored = score(scorer, rows, response_length=len(response), token_budget=len(prompt) + len(response))
        trainer = scored.logp_NT[0].double().cpu()
        # A row for each of vLLM's copies of the weights, [S, T].
        found = [logp[len(prompt) :] for logp in self.sampler.score([*prompt, *response])]
        engine_ST = torch.tensor(found, dtype=torch.float64)
        difference_ST = (trainer - engine_ST).abs().nan_to_num(nan=torch.inf)

        def numbers(server: int, t: int) -> str:
            where = "vLLM" if len(found) == 1 else f"server {server} of {len(found)} of vLLM"
            vllm, ours = float(engine_ST[server, t]), float(trainer[t])
            return f"token {t} of the probe has {vllm:.6f} nats in {where} and {ours:.6f} in the trainer"

        server, t = divmod(int(difference_ST.argmax()), len(response))
        largest = float(difference_ST[server, t])
        if not largest <= self.tolerance:
            raise VLLMError(
                f"after a weight sync vLLM's log-probs are not the trainer's: {numbers(server, t)}, the largest "
                f"difference of {len(response)} is {largest:.2g} and rollout.vllm.tolerance is {self.tolerance:g}. "
                "Samples would come from another policy than the one trained. Where the numbers are far apart the "
                "weights did not arrive: check the versions (vllm 0.32.0, transformers <5.20) and that vLLM knows this "
                "architecture. Where they are close, the two compute with different precision: raise the tolerance, "
                "and consider train.sampler_ratio_cap"
            )
        if self.last is not None:
            moved = float((trainer - self.last[0]).abs().max())
            followed_S = (engine_ST - self.last[1]).abs().amax(-1)
            stuck = int(followed_S.argmin())
            if moved > NO_CHANGE and float(followed_S[stuck]) == 0:
                t = int(difference_ST[stuck].argmax())
                raise VLLMError(
                    f"a weight sync changed nothing in vLLM: the trainer's log-probs of the probe moved by up to "
                    f"{moved:.2g} nats since the last one and vLLM's by exactly 0 ({numbers(stuck, t)}). vLLM still "
                    "has the weights of the last sync: check the versions (vllm 0.32.0), and do not go on with this run"
                )
        self.last = trainer, engine_ST

    def _new_probe(self, model: PreTrainedModel) -> tuple[list[int], list[int]]:
        """A prompt of fixed tokens, and a response that the engine draws: log-probs as they occur."""
        vocabulary = model.config.get_text_config().vocab_size
        prompt = [seed_of("probe", i) % vocabulary for i in range(PROBE_PROMPT)]
        length = min(PROBE_RESPONSE, (self.settings.max_model_len or 10**9) - PROBE_PROMPT - 1)
        request = _request(prompt, 1, 1.0, length, seed_of("probe"), [])
        return prompt, self.sampler.sample([request])[0][0][0]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> list[list[Response]]:
        """See `Engine`. The log-probs of greedy responses are those of temperature 1.

        Raises ConfigError for a temperature that vLLM would change, or a response that it would cut short.
        """
        if 0 < temperature < LOWEST_TEMPERATURE:
            raise ConfigError(
                f"temperature {temperature}: vLLM samples at {LOWEST_TEMPERATURE} or above, or greedily at 0"
            )
        longest = max(map(len, prompts), default=0)
        limit = self.settings.max_model_len
        if limit is not None and longest + max_new_tokens > limit:
            raise ConfigError(
                f"rollout.vllm.max_model_len = {limit}: the longest prompt has {longest} tokens and its response up to "
                f"{max_new_tokens}; raise it to {longest + max_new_tokens} or leave it out"
            )
        self._wake()
        # Greedy responses to a prompt are all the same, and vLLM refuses to draw several.
        asked = [i for i, count in enumerate(counts) if count]
        drawn = self.sampler.sample(
            [
                _request(
                    prompts[i], counts[i] if temperature else 1, temperature, max_new_tokens, seeds[i], self.eos_ids
                )
                for i in asked
            ]
        )
        groups: list[list[Response]] = [[] for _ in prompts]
        for i, group in zip(asked, drawn, strict=True):
            responses = [Response(tokens, logp, truncated=tokens[-1] not in self.eos_ids) for tokens, logp in group]
            groups[i] = responses if temperature else responses * counts[i]
        return groups

    def release_memory(self) -> None:
        """See `Engine`."""
        if not self.asleep and isinstance(self.sampler, VLLM) and self.sampler.can_sleep:
            self.sampler.sleep()
            self.asleep = True

    def _wake(self) -> None:
        if self.asleep:
            assert isinstance(self.sampler, VLLM)
            self.sampler.wake()
            self.asleep = False


def _request(
    prompt: Sequence[int], count: int, temperature: float, max_tokens: int, seed: int, stop: Sequence[int]
) -> dict[str, Any]:
    # vLLM adds a sample's place in its group to the seed: seeds far apart, with room up to an int64.
    return {
        "prompt": list(prompt),
        "n": count,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "seed": seed_of("vllm", seed) >> 8,
        "stop_token_ids": list(stop),
    }


def _pads(model: PreTrainedModel) -> bool:
    return next(model.parameters()).device.type == "cpu" and needs_padding(model.config)


def config_for_vllm(model: PreTrainedModel) -> PreTrainedConfig:
    """The model's own, but for what vLLM cannot do on the CPU."""
    config = padded_config(model.config) if _pads(model) else copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # which a model that was never saved does not have there
    if next(model.parameters()).device.type == "cpu":
        # There the output layer keeps a packed copy of its weights, and a reload of tied embeddings passes it by.
        config.tie_word_embeddings = False
    return config


def checkpoint_weights(model: PreTrainedModel) -> Iterable[tuple[str, Tensor]]:
    """Every tensor of a checkpoint, whole, by name, an adapter merged; the output layer too where it is tied to the
    embeddings."""
    weights = merged_weights(model)
    return padded_weights(weights, model.config.head_dim) if _pads(model) else weights
