"""Wider heads, the same function: transformers' own forward pass is the judge."""

import copy

import pytest
import torch
from tiny import tiny_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from harness.sampling.padded_heads import needs_padding, padded_config, padded_weights


@pytest.mark.parametrize(("head_dim", "heads", "kv_heads", "bias"), [(16, 4, 4, False), (8, 4, 2, True)])
def test_padded_model_has_the_same_logits(head_dim, heads, kv_heads, bias):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=16,
        attention_bias=bias,
        initializer_range=0.4,
    )
    model = Qwen3ForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms of one and biases of zero would hide a mistake
            parameter.data += 0.3 * torch.randn_like(parameter)
    assert needs_padding(config)
    wide = Qwen3ForCausalLM(padded_config(config)).eval()
    assert wide.config.head_dim == 32
    wide.load_state_dict(dict(padded_weights(model.state_dict().items(), head_dim)))
    ids = torch.randint(0, 32, (3, 40))
    expected = model(input_ids=ids).logits
    assert float(expected.std()) > 0.5
    torch.testing.assert_close(wide(input_ids=ids).logits, expected, atol=2e-5, rtol=0)


def test_only_narrow_heads_of_the_known_kind_are_padded():
    narrow = tiny_model().config
    assert needs_padding(narrow)
    assert not needs_padding(padded_config(narrow))
    scaled = copy.deepcopy(narrow)
    scaled.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    assert not needs_padding(scaled)
    assert narrow.head_dim == 8  # the original is left alone
