"""The memory and the disk that a cell takes, estimated from the model's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from algorithms.base import Needs
from harness.model.policy import LOGITS_AT_ONCE
from harness.model.teacher import teacher_settings
from harness.preflight.model_size import ModelSize, model_size
from harness.suite.cell_config import CellConfig
from harness.suite.plan import BASE

LOADING = "while it loads"
"""One of the moments of `Memory.between`."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, at the moments when most is in use."""

    resident: dict[str, float]
    """Throughout."""
    training: dict[str, float]
    """More of it in an update."""
    rollout: dict[str, float]
    """More of it while responses are drawn."""
    between: dict[str, dict[str, float]]
    """All of it at other moments, where these may take more."""

    @property
    def least(self) -> float:
        """Bytes that no lower token_budget or rollout_batch saves: of weights and optimiser states, at their most."""
        loading = self.between.get(LOADING, {})
        return max(sum(self.resident.values()), sum(loading.values()))

    @property
    def peak(self) -> float:
        """The most bytes at any one time."""
        within = sum(self.resident.values()) + max(sum(self.training.values()), sum(self.rollout.values()))
        return max([within, *(sum(parts.values()) for parts in self.between.values())])


def disk(config: CellConfig, size: ModelSize, needs: Needs) -> tuple[float, float]:
    """Bytes that a cell leaves, and bytes more while it runs: its resumable state, of which the old one is there until
    the new one is whole."""
    if config.label == BASE:
        return 0.0, 0.0
    weights, trained = bytes_of_weight(config) * size.parameters, 4.0 * size.trained  # or its masters
    critic = 4.0 * (size.trained_body + size.hidden + 1) if needs.critic else 0.0
    sampler = bytes_of_trained(config) * size.trained if config.train.refresh_every > 1 else 0.0
    state = 3 * trained + 3 * critic + sampler  # weights and Adam's two moments
    resume = 2 * state if config.resources.checkpoint_every else 0.0
    kept = trained if size.frozen and not config.resources.merge_adapter else weights
    return (kept, resume) if config.resources.keep_checkpoints else (0.0, resume + kept)


def bytes_of_weight(config: CellConfig) -> float:
    """Of each of the models."""
    return 2.0 if config.model.weights == "bfloat16" else 4.0


def bytes_of_trained(config: CellConfig) -> float:
    """Of each weight that is trained; an adapter's are float32."""
    return bytes_of_weight(config) if config.model.lora is None else 4.0


def sequences_at_once(config: CellConfig, engines: int) -> int:
    """Sequences that each of a cell's engines generates side by side: of its share of the prompts (`Ranks.spread`)."""
    share = -(-config.train.prompts // engines)
    return min(config.resources.rollout_batch, share * config.train.samples)


def memory_of(
    config: CellConfig, size: ModelSize, needs: Needs, longest: float, whole: float, ranks: int = 1
) -> Memory:
    """Of each of `ranks` GPUs of `whole` bytes.

    Gradients and Adam's moments are float32, and so are the weights, or else their masters. Over float32 weights,
    bfloat16 is autocast's, whose copies of them live through a pass. What is trained or scored is sharded, and the base
    is the reference too. An engine that shares the trainer's weights samples from a whole policy on each rank, and from
    a whole base where that samples too; vLLM takes both from shards. A policy that samples is a copy where it is stale,
    or whole and the other sharded. vLLM takes its fraction of the GPU while it samples, or throughout where it does not
    sleep; a server's GPUs are others.

    What is frozen below an adapter is there once for all models, or once more where what samples has it whole. In the
    evaluation the adapter is merged into weights of the policy's own.
    """
    train = config.train
    width = 2 if config.model.precision == "bfloat16" else 4
    held, own = bytes_of_weight(config), bytes_of_trained(config)
    stepped = 8.0 if own == 4 else 12.0  # Adam's moments, and masters
    weights = held * size.parameters
    shard, trained, base = weights / ranks, size.trained / ranks, held * (size.parameters - size.frozen) / ranks
    critic = (size.trained_body + size.hidden + 1) / ranks if needs.critic else 0.0
    whole_on_each = ranks > 1 and config.rollout.shares_weights
    updated = train.prompts * train.samples / train.mini_batches / ranks * longest
    passes = min(max(config.resources.token_budget, longest), updated)  # tokens of a pass with gradient
    # Of the tokens whose logits exist at once: logits, log-probs and their gradients, in float32.
    chunk = config.resources.logprob_chunk or max(1, LOGITS_AT_ONCE // size.vocabulary)
    logits = 4 * 4.0 * min(passes * train.max_new_tokens / longest, chunk) * size.vocabulary
    sequences = sequences_at_once(config, ranks)
    kept = passes * size.activation_bytes(width)
    copied = size.parameters + bool(needs.critic) * (size.body + size.hidden + 1)
    copies = 2.0 * copied if width < held else 0.0
    if config.resources.activation_checkpointing:  # each layer's input, as wide as the weights, and all of one layer
        kept = passes * held * size.hidden * size.layers + kept / size.layers
        copies = copies / size.layers if ranks > 1 else copies
    teacher = model_size(teacher_settings(config.model)).parameters if "teacher_logp_GK" in needs.extras else 0
    draws_base = needs.data == "base" or needs.reference_samples > 0
    if config.label == BASE:
        resident = {"policy": weights if whole_on_each else shard, "base, for the KL": shard}
        training: dict[str, float] = {"logits": logits}
    else:
        resident = {
            "policy": shard + own * size.adapter / ranks,
            "masters": (stepped - 8.0) * trained,
            "Adam": 8.0 * trained,
            "base, for the KL": base,
            "sampling policy": weights if whole_on_each else own * trained if train.refresh_every > 1 else 0.0,
            "base, to sample from": weights if draws_base and whole_on_each else 0.0,
            "teacher": held * teacher / ranks,
            "critic and its Adam": (own + stepped) * critic,
        }
        training = {
            "gradients": 4.0 * (trained + critic),
            "bfloat16 copies": copies,
            "activations": kept * (2 if needs.critic else 1),
            "logits": logits,
        }
    rollout: dict[str, float] = {
        "bfloat16 copies": 2.0 * size.parameters if width < held else 0.0,
        "KV cache": sequences * longest * size.kv_bytes(width),
        "logits": 4 * 4.0 * sequences * size.vocabulary,
    }
    if config.rollout.engine == "vllm":
        share, awake = config.rollout.share_of_gpu * whole, config.rollout.vllm_or_default.sleep is False
        rollout = {"vLLM": 0.0 if awake else share}
        resident["vLLM"] = share if awake else 0.0
    between: dict[str, dict[str, float]] = {}
    asleep = {"vLLM": resident.get("vLLM", 0.0)}
    if config.label != BASE and ranks > 1:
        shards = {"base, for the KL": shard, "critic": own * critic}
        copies_of_policy = 2 * weights - held * size.frozen if whole_on_each else 0.0
        between[LOADING] = {"policy and a copy": copies_of_policy, **shards, **asleep}
    if config.label != BASE and (ranks > 1 or size.frozen):
        policy = weights if whole_on_each else shard
        between["in the evaluation"] = {"policy": policy, "base, for the KL": shard, **asleep, **rollout}
    resident, training, rollout = (_nonzero(part) for part in (resident, training, rollout))
    return Memory(resident, training, rollout, {moment: _nonzero(part) for moment, part in between.items()})


def _nonzero(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: size for name, size in parts.items() if size}
