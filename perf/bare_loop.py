"""What a plain loop over transformers needs for the same passes: the yardstick of `parts_child.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from harness.model.policy import autocast
from harness.model.rows import Rows, micro_batches


@torch.no_grad()
def generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int, max_new_tokens: int, precision: str
) -> None:
    """Prefills each prompt once and draws `max_new_tokens` tokens of each sample; none ends before."""
    longest = max(map(len, prompts))
    ids_GL = torch.tensor([[*[0] * (longest - len(p)), *p] for p in prompts])
    mask_NL = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    cache = DynamicCache(config=model.config)
    with autocast(model.device, precision):
        output = model(input_ids=ids_GL, attention_mask=mask_NL, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(samples)
        logits_NV, mask_NL = (x.repeat_interleave(samples, 0) for x in (output.logits[:, -1], mask_NL))
        for _ in range(max_new_tokens - 1):
            token_N1 = logits_NV.softmax(-1).multinomial(1)
            mask_NL = torch.cat([mask_NL, torch.ones_like(token_N1)], 1)
            logits_NV = model(input_ids=token_N1, attention_mask=mask_NL, past_key_values=cache).logits[:, -1]
        logits_NV.softmax(-1).multinomial(1)


def train(model: PreTrainedModel, rows: Rows, token_budget: int, precision: str) -> None:
    """Forward and backward of transformers' own loss on the responses, in our micro-batches."""
    for part in micro_batches(rows.length_N, token_budget):
        picked = rows.pick(part)
        with autocast(model.device, precision):
            loss: Tensor = model(input_ids=picked.input_ids_NL, labels=_labels(picked), use_cache=False).loss
        loss.backward()


def _labels(rows: Rows) -> Tensor:
    at_L = torch.arange(rows.input_ids_NL.shape[1])
    response_NL = (at_L >= rows.prompt_length_N[:, None]) & (at_L < rows.length_N[:, None])
    return torch.where(response_NL, rows.input_ids_NL, -100)
