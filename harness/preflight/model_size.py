"""The numbers of a decoder that costs are computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.model.language import from_pretrained
from harness.model.lora import adapter_size
from harness.suite.config import ConfigError, Model


@dataclass(frozen=True)
class ModelSize:
    """Numbers of a decoder, from its config."""

    parameters: int
    """Tied ones once."""
    body: int
    """Without the output layer: what a critic copies."""
    adapter: int
    """Of LoRA, on top of the parameters, which are then frozen; 0 without."""
    embedding: int
    """Of the input embedding, which takes no arithmetic."""
    layers: int
    hidden: int
    attention: int
    """Heads × their size."""
    kv: int
    """Key and value heads × their size, each."""
    feed_forward: int
    vocabulary: int

    @property
    def trained(self) -> int:
        """Numbers that training changes."""
        return self.adapter or self.parameters

    @property
    def trained_body(self) -> int:
        """Those of a critic's body."""
        return self.adapter or self.body

    @property
    def frozen(self) -> int:
        """Parameters that all models of a cell share."""
        return self.parameters if self.adapter else 0

    def layers_within(self, numbers: float) -> int:
        """How many of its layers a model of at most so many parameters has, all else being whole; at least one."""
        layer = (self.body - self.embedding) / self.layers
        others = self.parameters - self.layers * layer
        return max(1, min(self.layers, int((numbers - others) / layer + 1e-9)))

    def flops(self, length: float) -> float:
        """FLOP of a forward pass per token of sequences of `length`: two per parameter that is multiplied with, and
        4·width a layer for each token attended to, length/2 on average (Kaplan et al., arXiv 2001.08361, table 1)."""
        multiplied = self.body - self.embedding + self.vocabulary * self.hidden
        return 2 * multiplied + 2 * self.layers * self.attention * length

    def kv_bytes(self, width: int) -> int:
        """Bytes of a token's keys and values at `width` bytes a number."""
        return 2 * self.layers * self.kv * width

    def activation_bytes(self, width: int) -> int:
        """Bytes that autograd keeps for the backward pass per token, at `width` bytes a number in matrix products.

        Counted on a pre-norm decoder with a gated feed-forward part (Llama, Qwen): each of two norms keeps its float32
        input and its normalised float32 value, and its output goes into the matrix products; queries and keys are kept
        before and after the rotation, values and the attention's output once; of the feed-forward part the gate before
        and after its activation, the other half, and their product.
        """
        norms = 2 * (4 + 4 + width) * self.hidden
        attention = width * (2 * self.attention + 2 * self.kv + self.kv + self.attention)
        return self.layers * (norms + attention + 4 * width * self.feed_forward)


def model_size(settings: Model) -> ModelSize:
    """Raises ConfigError where the config is not to be had or is not of a decoder that the estimates know."""
    whole = from_pretrained(AutoConfig, settings)
    config = whole.get_text_config()
    try:
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        numbers = {
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "attention": heads * head,
            "kv": kv_heads * head,
            "feed_forward": config.intermediate_size,
            "vocabulary": config.vocab_size,
        }
    except AttributeError as error:
        raise ConfigError(f"model.path = {settings.path!r}: its config does not say how large it is: {error}") from None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(whole)
    return ModelSize(
        parameters=model.num_parameters(),
        body=sum(p.numel() for p in model.base_model.parameters()),
        adapter=adapter_size(model, settings.lora) if settings.lora else 0,
        embedding=model.get_input_embeddings().weight.numel(),
        **numbers,
    )
