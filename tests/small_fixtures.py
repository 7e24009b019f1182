"""Fixtures: checkpoints for tests that run whole sweeps. A plugin, since few modules need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import write_suite
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import harness.report.figures
from harness.model.embedded import Phase, Recipe, embedded_base
from harness.record.files import new_folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 5,000 parameters that answers in the right form and guesses: one response in ten is correct."""
    recipe = Recipe(
        hidden=16,
        layers=1,
        heads=2,
        ff=32,
        warmup=10,
        phases=(Phase(steps=120, lr=1e-2, direct=1, skip=0, full=0, slip=0),),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GVPO_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return embedded_base(recipe)


@pytest.fixture
def suite_file(base: Path, tmp_path: Path) -> Path:
    return write_suite(tmp_path, base)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a token for each printable character: it can be asked anything, and answers nonsense."""
    characters = ["\n", *map(chr, range(32, 127))]
    names = ["<pad>", "<eos>", "<unk>", *characters]
    tok = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tok.decoder = decoders.Fuse()
    config = Qwen3Config(
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    target = tmp_path_factory.mktemp("models") / "reader"
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    return target


@pytest.fixture
def one_thread() -> Any:
    """As in the workers of a sweep, so that their numbers can be compared bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports leave out the figures, which take seconds."""
    monkeypatch.setattr(harness.report.figures, "draw", lambda **_: [])
