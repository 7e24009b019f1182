"""Rows without padding: which attention keeps them apart, and whether a model can do without padding at all.

The rows of a micro-batch are one sequence, in which positions start anew at each row. From that transformers makes the
mask of documents: flash and flex attention skip what it hides, every other one computes it and throws it away.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available, is_torch_flex_attn_available

from harness.model.policy import PolicyModel, autocast
from harness.model.rows import Rows
from harness.suite.config import ConfigError

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}
"""Of the largest logit: what packed logits may differ from padded ones by."""

OF_DOCUMENTS = ("flash_attention_2", "flex_attention")
"""What skips all that lies outside of a row; nothing but packing takes it."""


@torch.no_grad()
def packed_attention(model: PreTrainedModel, precision: str = "float32", device: torch.device | None = None) -> str:
    """The attention under which the model's rows can be packed, by transformers' name, and which it then has.

    `device` is where it will compute, if it is not there yet; it is then probed under its own attention.

    On cuda flash attention, where it is installed and passes are in bfloat16, or else flex attention. Everywhere else
    the model's own: right, but with a mask as large as the square of a micro-batch's tokens.

    Raises ConfigError where packed rows get other logits than padded ones, and for layers where only long rows would.
    """
    on = device or model.device
    own, attention = model.config._attn_implementation, _best(model, precision, on)
    probed = attention if on.type == model.device.type else own
    refusal = f"resources.packing = true: {type(model).__name__} needs padding under {attention}"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"{refusal}, since it has layers of {', '.join(sorted(other))}; set packing = false")
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ConfigError(f"{refusal}, since it takes no positions; set packing = false")
    padded_MV = _probe(PolicyModel(model), precision)
    try:
        packed_MV = _probe(PolicyModel(model, packing=probed), precision)
        difference = float((packed_MV - padded_MV).abs().max() / padded_MV.abs().max())
        if not difference <= TOLERANCE[precision]:
            raise ValueError(f"without it, logits differ by up to {difference:.3g} of the largest")
    except Exception as error:  # whatever a model, or the compiler of its attention, says of such rows
        model.set_attn_implementation(own)
        raise ConfigError(f"{refusal}: {error}; set packing = false") from error
    if attention not in OF_DOCUMENTS and on.type == "cuda":
        message = f"{type(model).__name__} has neither flash nor flex attention: packed, it is slow under {attention}"
        warnings.warn(f"resources.packing = true: {message}", stacklevel=2)
    return attention


def _best(model: PreTrainedModel, precision: str, device: torch.device) -> str:
    if device.type == "cuda":
        if precision == "bfloat16" and model._supports_flash_attn and is_flash_attn_2_available():
            return "flash_attention_2"
        if model._supports_flex_attn and is_torch_flex_attn_available():
            return "flex_attention"
    own: str = model.config._attn_implementation
    return own


def _probe(policy: PolicyModel, precision: str) -> Tensor:
    """Logits of a few short rows, one of them with a single token of prompt and of response."""
    device, words = policy.model.device, policy.model.config.get_text_config().vocab_size
    prompts, responses = [[1, 2, 3], [4], [5, 6, 7, 8, 9]], [[10, 11, 12, 13], [14], [15, 16]]
    prompts, responses = ([[7 * token % words for token in row] for row in part] for part in (prompts, responses))
    with autocast(device, precision):
        logits_MV, _ = policy(Rows.of(prompts, responses, device), output="logits")
    return logits_MV


@contextlib.contextmanager
def sampling_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within it none of the attention that is only taken for packing: flex attention would compile a kernel for each of
    the many shapes that decoding has."""
    own = model.config._attn_implementation
    if own in OF_DOCUMENTS:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        if own in OF_DOCUMENTS:
            model.set_attn_implementation(own)
