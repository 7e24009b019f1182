"""Models and tokenizers: loading, tokenising prompts, and where responses end."""

from __future__ import annotations

import copy
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
from harness.config import ConfigError, Model
from harness.embedded import embedded_base
from harness.policy import Critic


@dataclass(frozen=True)
class LanguageModel:
    """A policy with all that turns problems into prompts and tokens into text."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    eos_ids: tuple[int, ...]
    """A response ends with one of these: the model's EOS, and the template's stops where they are single tokens."""
    source: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def prompt_ids(self, problems: Sequence[Problem]) -> list[list[int]]:
        """The rendered prompts, tokenised once."""
        return tokenise(problems, self.tokenizer, self.template)

    def text(self, tokens: Sequence[int]) -> str:
        """A response as text, cut at the first of the template's stops."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        ends = [at for stop in self.template.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def check_length(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Raises ConfigError where prompt and response may exceed the model's positions."""
        check_length(prompts, max_new_tokens, self.model.config, self.source)


def tokenise(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, template: Template) -> list[list[int]]:
    """The rendered prompts as token ids; a template that spells out its BOS does not get a second one.

    Raises ConfigError where a prompt has no tokens.
    """
    ids: list[list[int]] = tokenizer([template.render(p) for p in problems], add_special_tokens=True)["input_ids"]
    bos = tokenizer.bos_token_id
    ids = [prompt[1:] if bos is not None and prompt[:2] == [bos, bos] else prompt for prompt in ids]
    for problem, prompt in zip(problems, ids, strict=True):
        if not prompt:
            raise ConfigError(f"problem {problem.id!r} renders to no tokens under the template {template.name!r}")
    return ids


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
    """The folder or hub id to load; trains the embedded base where it isn't cached."""
    return str(embedded_base()) if settings.path == "embedded" else settings.path


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
    tokenizer = _from_pretrained(AutoTokenizer, settings)
    config = _from_pretrained(AutoConfig, settings)
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


def _from_pretrained(kind: Any, settings: Model, **options: Any) -> Any:
    """Part of a checkpoint. Raises ConfigError where it is not to be had."""
    path = resolve_path(settings)
    if settings.revision:
        options["revision"] = settings.revision
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        what = "folder" if Path(path).exists() else "hub id (or a folder that does not exist)"
        raise ConfigError(f"model.path = {path!r}: cannot load this {what}: {error}") from error


def load_model(settings: Model) -> LanguageModel:
    """Policy and tokenizer in float32, dropout off. Remote code is never run; weights are safetensors only.

    Raises ConfigError where the checkpoint is not to be had or has no EOS.
    """
    transformers_logging.disable_progress_bar()
    path = resolve_path(settings)
    tokenizer = _from_pretrained(AutoTokenizer, settings)
    model = _from_pretrained(AutoModelForCausalLM, settings, dtype=torch.float32, use_safetensors=True)
    model = model.to(device_of(settings)).eval()
    template = load_template(settings.template)
    eos = {tokenizer.eos_token_id}
    for named in (model.generation_config.eos_token_id, model.config.eos_token_id):
        eos.update(named if isinstance(named, list) else [named])
    for stop in template.stop:
        ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            eos.add(ids[0])
    eos.discard(None)
    if not eos:
        raise ConfigError(f"model.path = {path!r}: neither its tokenizer nor its config names an EOS token")
    return LanguageModel(model, tokenizer, template, tuple(sorted(eos)), path)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that takes no gradient: the reference, or a stale sampling policy."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def new_critic(model: PreTrainedModel) -> Critic:
    """A critic whose body starts from the policy's present weights."""
    critic = Critic(copy.deepcopy(model.base_model), model.config.get_text_config().hidden_size)
    return critic.to(next(model.parameters()).device).eval()
