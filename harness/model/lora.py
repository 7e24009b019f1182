"""LoRA through peft: an adapter is trained, and the weights below it are frozen.

An adapted model is the very PreTrainedModel, with peft's layers in the place of linear ones. What stands beside it
(reference, stale sampling policy, critic) is a `companion`: a copy of the modules over the same frozen weights. None of
these functions but `adapt` does anything of its own to a model without an adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.model.ranks import whole
from harness.suite.config import ConfigError
from harness.suite.lora_settings import ALL_LINEAR, LoRA

M = TypeVar("M", bound=nn.Module)


def adapt(model: PreTrainedModel, settings: LoRA | None, seed: int) -> None:
    """Gives the model an adapter that changes nothing yet, in float32 also over bfloat16 weights, and freezes all else;
    nothing without settings.

    Raises ConfigError where peft is not installed, or as `targets` does.
    """
    if settings is None:
        return
    names = targets(model, settings)
    from peft import LoraConfig

    about = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=names,
        fan_in_fan_out=isinstance(model.get_submodule(names[0]), Conv1D),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, whatever the device
        torch.manual_seed(seed)
        model.add_adapter(about)
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype == torch.bfloat16:  # peft makes it of the dtype below it
            weight.data = weight.data.float()
    if (folder := Path(model.name_or_path)).is_dir():  # of the base, where an adapter kept alone looks for it
        about.base_model_name_or_path = str(folder.resolve())
    model.eval()


def targets(model: PreTrainedModel, settings: LoRA) -> list[str]:
    """The linear layers that get an adapter, by their full names.

    Raises ConfigError where peft is not installed, a name is of no linear layer, or one's weights are the input
    embedding's too.
    """
    if find_spec("peft") is None:
        raise ConfigError("[model.lora] needs peft, which is not installed: pip install 'gvpo-bench[lora]'")
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if isinstance(settings.target_modules, str):
        assert settings.target_modules == ALL_LINEAR
        head = model.get_output_embeddings()
        return [name for name, module in linear.items() if module is not head]
    found: dict[str, None] = {}
    for wanted in settings.target_modules:
        matches = [name for name in linear if f".{name}".endswith(f".{wanted}")]
        if not matches:
            known = dict.fromkeys(name.rpartition(".")[2] for name in linear)
            raise ConfigError(
                f"model.lora.target_modules: {type(model).__name__} has no linear layer called {wanted!r}; it has "
                f"{', '.join(known)}"
            )
        for name in matches:
            if linear[name].weight is model.get_input_embeddings().weight:
                raise ConfigError(
                    f"model.lora.target_modules: {name} of {type(model).__name__} has the weights of its input "
                    "embedding, which an adapter would part: leave it out"
                )
        found |= dict.fromkeys(matches)
    return list(found)


def adapter_size(model: PreTrainedModel, settings: LoRA) -> int:
    """Numbers of the adapter that the model, or one of the same names, would get: rank × (inputs + outputs) a layer."""
    weights = [model.get_submodule(name).get_parameter("weight") for name in targets(model, settings)]
    return settings.rank * sum(sum(weight.shape) for weight in weights)


def frozen_weights(module: nn.Module) -> set[str]:
    """The names of what is never trained: all weights of an adapted model, or one within the module, but the adapter's.

    Whether they take a gradient says less: nothing of a reference or a stale sampling policy does.
    """
    models = (name for name, part in module.named_modules() if isinstance(part, PreTrainedModel) and _adapted(part))
    within = tuple(f"{name}." if name else "" for name in models)
    return {name for name, _ in module.named_parameters() if name.startswith(within) and not _is_adapters(name)}


def companion(module: M) -> M:
    """A copy of what is trained, over the very same frozen weights; of a model without an adapter a plain copy."""
    frozen = frozen_weights(module)
    return copy.deepcopy(module, {id(weight): weight for name, weight in module.named_parameters() if name in frozen})


def trainable(module: M) -> M:
    """The module itself, in which all but frozen weights take a gradient."""
    frozen = frozen_weights(module)
    for name, weight in module.named_parameters():
        weight.requires_grad_(name not in frozen)
    return module


def without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The model's companion as it was before it was adapted."""
    plain = companion(model)
    for name, layer in _adapted(plain).items():
        plain.set_submodule(name, layer.base_layer)
    if getattr(plain, "peft_config", None):
        del plain.peft_config
        plain._hf_peft_config_loaded = False
    return plain


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a plain checkpoint, whole, by name: W + α/r·BA in the dtype of W where there is an adapter. Every
    rank must ask for them all."""
    adapted = _adapted(model)
    for name, x in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        layer, base, own = owner.partition(".base_layer")
        if base and not own and layer in adapted:
            delta = whole(adapted[layer].get_delta_weight("default")) if leaf == "weight" else 0.0
            yield f"{layer}.{leaf}", (whole(x) + delta).to(x.dtype)
        elif not _is_adapters(name):
            yield name, whole(x)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain model with the adapter merged into weights of its own; what is not adapted it shares. A model without an
    adapter is its own."""
    if not _adapted(model):
        return model
    plain = without_adapter(model)
    plain.load_state_dict(dict(merged_weights(model)), assign=True)
    plain.tie_weights()
    return plain.requires_grad_(True)


def _is_adapters(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _adapted(model: nn.Module) -> dict[str, Any]:
    """peft's layers, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
