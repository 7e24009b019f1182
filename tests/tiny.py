"""Models small enough for tests, with fresh weights, and independent computations to compare the harness with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.templates import load_template
from harness.model.embedded import EOS, Recipe, new_model, tokenizer
from harness.model.language import LanguageModel
from harness.model.policy import Critic

RECIPE = Recipe(hidden=16, layers=2, heads=2, ff=24)

PROMPTS = [[5, 9, 14], [7, 7, 20, 3, 11, 6, 2], [4], [13, 2, 8, 19, 30]]
"""Token ids of different lengths."""


def tiny_model(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The embedded architecture, narrower. Its distributions are peaked enough that a mistake shows.

    transformers' RMSNorm goes through float32 whatever the model's dtype; float64 gets torch's own, which does not.
    """
    model = new_model(RECIPE)
    model.get_input_embeddings().weight.data *= 4
    model = model.to(dtype).eval()
    if dtype == torch.float64:
        for name, module in list(model.named_modules()):
            if "RMSNorm" in type(module).__name__:
                norm = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon, dtype=dtype)
                norm.load_state_dict(module.state_dict())
                model.set_submodule(name, norm)
    return model


def tiny_gpt2(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Another architecture: learned absolute positions and LayerNorm, so a wrong position id shows at once."""
    config = GPT2Config(
        vocab_size=32, n_positions=64, n_embd=16, n_layer=2, n_head=2, eos_token_id=EOS, initializer_range=0.5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).to(dtype).eval()


def random_critic(model: PreTrainedModel) -> Critic:
    """A critic whose values are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        critic = Critic(type(model.base_model)(model.config), model.config.hidden_size)
        critic.body.load_state_dict(model.base_model.state_dict(), strict=False)
        nn.init.normal_(critic.head.weight)
        nn.init.normal_(critic.head.bias)
    return critic.to(next(model.parameters()).dtype).eval()


def tiny_lm(eos_ids: Sequence[int] = (EOS,)) -> LanguageModel:
    """A fresh policy in float32 with the embedded tokenizer; the same weights at every call."""
    return LanguageModel(tiny_model(), tokenizer(), load_template("none"), tuple(eos_ids), "tiny")


def bos_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A token a character, and a BOS before every text that is tokenised with special tokens."""
    special = ["<pad>", "<bos>", "<eos>", "<end>", "<user>", "<assistant>"]
    names = [*special, *map(chr, range(32, 127)), "\n", "?unknown?"]
    tok = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?unknown?"))
    tok.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tok.decoder = decoders.Fuse()
    tok.add_special_tokens(special)
    tok.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=chat_template
    )


def full_logits(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """What transformers alone says: the logits that predict each response token, a row on its own, [T, V]."""
    logits_LV = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    return logits_LV[len(prompt) - 1 : -1]


def token_logp(
    model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """log π of each response token by a log-softmax over all logits, [T]."""
    logp_TV = (full_logits(model, prompt, response) / temperature).log_softmax(-1)
    return logp_TV[torch.arange(len(response)), torch.tensor(response)]


def gradients(*modules: nn.Module | None) -> dict[str, Tensor]:
    """The gradients that lie in the parameters, by name; they are taken away."""
    found = {}
    for i, module in enumerate(modules):
        for name, parameter in module.named_parameters() if module is not None else ():
            if parameter.grad is not None:
                found[f"{i}.{name}"], parameter.grad = parameter.grad, None
    return found
