"""Models and tokenizers: loading, tokenising prompts, and where responses end."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from benchmarks import Problem
from benchmarks.templates import Template, load_template
from harness.model.embedded import EMBEDDED, embedded_base
from harness.model.gguf_weights import converted, gguf_file, origin_of
from harness.model.lora import companion, merged, targets, without_adapter
from harness.model.packing import packed_attention
from harness.model.policy import Critic, PolicyModel, logprob_chunk, shard
from harness.model.ranks import ALONE, Ranks
from harness.model.rows import Response
from harness.record.files import hash_of
from harness.record.sums import sums_of
from harness.suite.config import ConfigError, Model, Resources

CHAT_DATE = "26 Jul 2024"
"""What chat templates that state the day are told, so that a prompt is the same every day. Llama 3.1's own default."""


@dataclass(frozen=True)
class LanguageModel:
    """A policy with all that turns problems into prompts and tokens into text."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    eos_ids: tuple[int, ...]
    """A response ends with one of these: the model's EOS, the chat template's end of turn, and the template's stops
    where they are single tokens."""
    source: str
    computes_on: torch.device | None = None
    """Where its sharded copies are to compute; None where `model` itself does."""

    @property
    def template_label(self) -> str:
        """Name and version of the prompt template, as manifests record them; of a chat template also its SHA-256."""
        if not self.template.chat:
            return self.template.label
        text = chat_template_of(self.tokenizer)
        return f"{self.template.label} (sha256 {hashlib.sha256(text.encode()).hexdigest()})"

    @property
    def about(self) -> dict[str, Any]:
        """What manifests record of it: the template's label, which weights it starts from (see `weights_of`), and what
        these were converted from, if they were (see `origin_of`)."""
        return {
            "template": self.template_label,
            "weights": weights_of(self.source, self.model.config),
            "converted_from": origin_of(self.source),
        }

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.computes_on or next(self.model.parameters()).device

    def prompt_ids(self, problems: Sequence[Problem]) -> list[list[int]]:
        """The rendered prompts, tokenised once."""
        return tokenise(problems, self.tokenizer, self.template)

    def text(self, tokens: Sequence[int]) -> str:
        """A response as text, cut at the first of the template's stops."""
        text = self._decode(tokens)
        ends = [at for stop in self.template.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """A text as a response that was never sampled, with the token that ends one where it `ended` by itself."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.end_id] if ended else ids

    @property
    def end_id(self) -> int:
        """Which of `eos_ids` ends a response that is written for the model: the chat template's end of turn, or the
        template's stop, or the tokenizer's EOS, where they are among them."""
        stops = (self.tokenizer(stop, add_special_tokens=False)["input_ids"] for stop in self.template.stop)
        turn = end_of_turn(self.tokenizer) if self.template.chat else []
        wanted = [*turn, *(ids[0] for ids in stops if len(ids) == 1), self.tokenizer.eos_token_id, *self.eos_ids]
        return next(token for token in wanted if token in self.eos_ids)

    def end_at_stop(self, response: Response) -> Response:
        """The response up to the token that completes the first of the template's stops.

        An engine ends a response at single tokens alone. Where a stop of several tokens came, the response had ended by
        itself, whatever the engine sampled after it.
        """

        def has_stop(length: int) -> bool:
            text = self._decode(response.tokens[:length])
            return any(stop in text for stop in self.template.stop)

        if not self.template.stop or not has_stop(len(response.tokens)):
            return response
        length = bisect_left(range(len(response.tokens)), True, key=has_stop)
        return Response(tokens=response.tokens[:length], logp=response.logp[:length], truncated=False)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def check_length(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Raises ConfigError where prompt and response may exceed the model's positions."""
        check_length(prompts, max_new_tokens, self.model.config, self.source)


def weights_of(source: str, config: PreTrainedConfig) -> str | None:
    """Which weights a checkpoint holds: a hash of its safetensors files, or the commit of the hub that they are from;
    None where neither is to be had."""
    names = sorted(path.name for path in Path(source).glob("*.safetensors"))
    if names:
        return f"sha256 {hash_of(sums_of(Path(source), names))}"
    commit = getattr(config, "_commit_hash", None)
    return f"hub commit {commit}" if commit else None


def tokenise(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, template: Template) -> list[list[int]]:
    """The rendered prompts as token ids.

    Raises ConfigError where a prompt has no tokens, or the tokenizer lacks the chat template that is asked for.
    """
    texts = [template.render(problem) for problem in problems]
    if template.chat:
        chat_template_of(tokenizer)
        ids: list[list[int]] = tokenizer.apply_chat_template(
            [[{"role": "user", "content": text}] for text in texts],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            date_string=CHAT_DATE,
        )["input_ids"]
    else:
        ids = tokenizer(texts, add_special_tokens=True)["input_ids"]
    ids = [without_second_bos(prompt, tokenizer) for prompt in ids]
    for problem, prompt in zip(problems, ids, strict=True):
        if not prompt:
            raise ConfigError(f"problem {problem.id!r} renders to no tokens under the template {template.name!r}")
    return ids


def without_second_bos(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A text that spells out its BOS does not get a second one from the tokenizer."""
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the tokenizer's chat template. Raises ConfigError where it has none."""
    try:
        text: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise ConfigError(
            f"template 'chat': the tokenizer of this checkpoint has no chat template of its own ({error}). Choose "
            f"another template, or a checkpoint that was trained on one"
        ) from None
    return text


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special token with which the chat template closes an answer; empty where it closes it with plain text."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "ANSWER"}]
    closing = tokenizer.apply_chat_template(turns, tokenize=False, date_string=CHAT_DATE).rpartition("ANSWER")[2]
    ids: list[int] = tokenizer(closing, add_special_tokens=False)["input_ids"][:1]
    return [token for token in ids if token in tokenizer.added_tokens_decoder]


def check_length(prompts: Sequence[Sequence[int]], max_new_tokens: int, config: PreTrainedConfig, source: str) -> None:
    """Raises ConfigError where prompt and response may exceed the positions of the model that `source` names."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0)
    if positions is not None and longest + max_new_tokens > positions:
        raise ConfigError(
            f"max_new_tokens = {max_new_tokens} does not fit: the longest prompt has {longest} tokens and "
            f"{source} has {positions} positions; at most {max(0, positions - longest)} are left for the response"
        )


def resolve_path(settings: Model) -> str:
    """The folder or hub id to load; trains what is embedded and converts a GGUF file where it isn't cached.

    Raises ConfigError where the path means a GGUF file that is not to be had.
    """
    if (recipe := EMBEDDED.get(settings.path)) is not None:
        return str(embedded_base(recipe))
    file = gguf_file(settings.path)
    return settings.path if file is None else str(converted(file))


def device_of(settings: Model) -> torch.device:
    """Raises ConfigError where cuda is asked for and there is none."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device = 'cuda': torch finds no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


def check_model(
    settings: Model, uses: Mapping[str, tuple[Sequence[Problem], int]], *, max_model_len: int | None = None
) -> None:
    """Refuses what would fail in every cell, from the tokenizer and the config alone: no weights are loaded.

    Args:
        uses: the problems and the response's limit in tokens, by what they are for, such as "train.benchmark".
        max_model_len: what a rollout engine's cache holds, where that is less than the model's positions.

    Raises ConfigError where the checkpoint or the device is not to be had, or prompt and response don't fit.
    """
    device_of(settings)
    template = load_template(settings.template)
    tokenizer = from_pretrained(AutoTokenizer, settings)
    config = from_pretrained(AutoConfig, settings)
    for use, (problems, max_new_tokens) in uses.items():
        prompts = tokenise(problems, tokenizer, template)
        try:
            check_length(prompts, max_new_tokens, config, f"model.path = {settings.path!r}")
        except ConfigError as error:
            raise ConfigError(f"{use}: {error}") from None
        longest = max(map(len, prompts), default=0)
        if max_model_len is not None and longest + max_new_tokens > max_model_len:
            raise ConfigError(
                f"{use}: rollout.vllm.max_model_len = {max_model_len} does not fit: the longest prompt has {longest} "
                f"tokens and its response up to {max_new_tokens}; raise it to {longest + max_new_tokens}"
            )


def check_adapter(settings: Model) -> None:
    """Raises ConfigError where [model.lora] does not fit the checkpoint; no weights are loaded."""
    if settings.lora is not None:
        with torch.device("meta"):
            targets(AutoModelForCausalLM.from_config(from_pretrained(AutoConfig, settings)), settings.lora)


def from_pretrained(kind: Any, settings: Model, **options: Any) -> Any:
    """Part of a checkpoint. Raises ConfigError where it is not to be had."""
    path = resolve_path(settings)
    if settings.revision:
        if Path(path).exists():
            raise ConfigError(f"model.revision = {settings.revision!r}: {path} is a folder, which has no revisions")
        options["revision"] = settings.revision
    if kind is AutoConfig and (adapter := Path(path) / "adapter_config.json").is_file():
        path = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        what = "folder" if Path(path).exists() else "hub id (or a folder that does not exist)"
        raise ConfigError(f"model.path = {path!r}: cannot load this {what}: {error}") from error


def load_model(settings: Model, ranks: Ranks = ALONE, layers: int | None = None) -> LanguageModel:
    """Policy and tokenizer, dropout off. Remote code is never run; weights are safetensors only. An adapter that the
    checkpoint holds is merged.

    Where `ranks` are given, the weights are in the memory of rank 0's host, and nowhere else: the model is not to
    compute, and its copies get them when they are sharded. With `layers`, for a process alone, the policy has only the
    first so many of the checkpoint's decoder layers.

    Raises ConfigError where the checkpoint is not to be had or has no EOS.
    """
    transformers_logging.disable_progress_bar()
    path = resolve_path(settings)
    tokenizer = from_pretrained(AutoTokenizer, settings)
    dtype = getattr(torch, settings.weights)
    if layers is not None:
        model = merged(first_layers(settings, layers, dtype=dtype, use_safetensors=True))
    elif ranks.rank == 0:
        model = merged(from_pretrained(AutoModelForCausalLM, settings, dtype=dtype, use_safetensors=True))
    else:
        config = from_pretrained(AutoConfig, settings)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = (model.to(device_of(settings)) if ranks.alone else model).eval()
    template = load_template(settings.template)
    eos = {tokenizer.eos_token_id}
    # A model without weights does not read its generation_config.
    ends = ranks.first(lambda: [model.generation_config.eos_token_id, model.config.eos_token_id])
    for named in ends:
        eos.update(named if isinstance(named, list) else [named])
    for stop in template.stop:
        ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            eos.add(ids[0])
    if template.chat:
        chat_template_of(tokenizer)
        eos.update(end_of_turn(tokenizer))
    eos.discard(None)
    if not eos:
        raise ConfigError(f"model.path = {path!r}: neither its tokenizer nor its config names an EOS token")
    return LanguageModel(model, tokenizer, template, tuple(sorted(eos)), path, ranks.device)


def first_layers(settings: Model, layers: int, **options: Any) -> PreTrainedModel:
    """A model of the first so many decoder layers of a checkpoint, between its embeddings and its head."""
    config = from_pretrained(AutoConfig, settings)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = text.layer_types[:layers]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it reports the weights that have no place in the model
    try:
        model: PreTrainedModel = from_pretrained(AutoModelForCausalLM, settings, config=config, **options)
    finally:
        transformers_logging.set_verbosity(verbosity)
    return model


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that takes no gradient; of an adapted model without its adapter, over the same weights."""
    return without_adapter(model).requires_grad_(False).eval()


def policy_of(
    model: PreTrainedModel, resources: Resources, precision: str = "float32", ranks: Ranks = ALONE
) -> PolicyModel:
    """A model with log-probs computed as the resources say.

    Raises ValueError where it cannot compute them in chunks, and ConfigError where it cannot do without padding.
    """

    def ways() -> tuple[int | None, str | None]:
        chunk = logprob_chunk(model, resources.logprob_chunk, resources.token_budget)
        return chunk, packed_attention(model, precision, ranks.device) if resources.packing else None

    return PolicyModel(model, *ranks.first(ways))


def frozen_base(
    lm: LanguageModel, resources: Resources, ranks: Ranks = ALONE, precision: str = "float32"
) -> PolicyModel:
    """The policy as it is before training, sharded over the ranks: the reference of an algorithm that needs one, and
    the base of the evaluation's KL."""
    base = policy_of(lm.model, resources, precision, ranks).of(frozen_copy(lm.model))
    shard(base, ranks)
    return base


def new_critic(model: PreTrainedModel) -> Critic:
    """A critic whose body starts from the policy's present weights; that of an adapted one has an adapter of its own
    over the same frozen weights."""
    critic = Critic(companion(model.base_model), model.config.get_text_config().hidden_size)
    return critic.to(next(model.parameters()).device).eval()
