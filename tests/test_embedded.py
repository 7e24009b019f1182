"""The embedded base: its tokenizer, what it is trained on, and its cache. No test trains the real one."""

import json
import random
from dataclasses import replace

import pytest
import torch

import harness.model.embedded as embedded
from benchmarks import load_benchmark
from benchmarks.arithmetic import PROMPT_WIDTH, SYMBOLS, split_of
from harness.model.embedded import (
    EMBEDDED,
    EOS,
    PAD,
    VOCABULARY,
    Phase,
    Recipe,
    embedded_base,
    new_model,
    tokenizer,
    warm_up,
)
from harness.model.language import load_model
from harness.suite.config import ConfigError, Model

TINY = Recipe(
    batch=8,
    warmup=3,
    hidden=16,
    heads=2,
    ff=24,
    phases=(
        Phase(steps=12, lr=4e-3, direct=0.0, skip=0.3, full=0.7, slip=0.0),
        Phase(steps=8, lr=1e-3, direct=0.6, skip=0.25, full=0.15, slip=0.03),
    ),
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GVPO_BENCH_CACHE", str(tmp_path))
    return tmp_path


def test_every_symbol_is_one_token_and_comes_back():
    tok = tokenizer()
    ids = tok(SYMBOLS)["input_ids"]
    assert ids == list(range(2, 2 + len(SYMBOLS)))
    assert tok.decode(ids) == SYMBOLS
    assert len(tok) == VOCABULARY
    assert (tok.pad_token_id, tok.eos_token_id) == (PAD, EOS)


@pytest.mark.parametrize("text", ["7+3*5-8      ", ":0,0=2", ";0=2", "=2", "  "])
def test_text_survives_the_round_trip_with_its_spaces(text):
    tok = tokenizer()
    assert len(tok(text)["input_ids"]) == len(text)
    assert tok.decode(tok(text)["input_ids"]) == text
    assert tok.decode([*tok(text)["input_ids"], EOS], skip_special_tokens=True) == text


def test_a_saved_tokenizer_is_the_same(tmp_path):
    from transformers import AutoTokenizer

    tokenizer().save_pretrained(tmp_path)
    text = "7+3*5-8      :0,0=2"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer()(text)["input_ids"]


def test_the_model_is_the_recipes():
    model = new_model(Recipe())
    # Embedding 32·64, tied. A layer: q, k, v, o 4·64·64, MLP 3·64·160, norms 2·64 + 2·16 = 47,264. Last norm 64.
    assert sum(p.numel() for p in model.parameters()) == 32 * 64 + 2 * 47_264 + 64 == 96_640
    # 0.02·√(512/64) = 0.0566
    assert float(model.model.layers[0].mlp.up_proj.weight.std()) == pytest.approx(0.0566, rel=0.05)


def test_fresh_weights_depend_on_the_recipes_seed_alone():
    torch.manual_seed(1)
    first = new_model(TINY).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # the global generator is as it was
    torch.manual_seed(2)
    again, other = new_model(TINY).state_dict(), new_model(replace(TINY, seed=1)).state_dict()
    assert all(torch.equal(x, again[name]) for name, x in first.items())
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_warm_up_data_are_training_problems_with_targets_on_the_response_and_its_eos_alone():
    tok, rng = tokenizer(), random.Random(0)
    seen = set()
    for _ in range(60):
        ids_BL, target_BL = embedded._batch(TINY, TINY.phases[0], rng)
        assert ids_BL.shape[0] == TINY.batch
        for ids, target in zip(ids_BL.tolist(), target_BL.tolist(), strict=True):
            end = ids.index(EOS)
            assert all(i == PAD for i in ids[end + 1 :])
            assert target == [-100] * PROMPT_WIDTH + ids[PROMPT_WIDTH : end + 1] + [-100] * (len(ids) - end - 1)
            prompt, response = tok.decode(ids[:PROMPT_WIDTH]), tok.decode(ids[PROMPT_WIDTH:end])
            assert split_of(prompt.rstrip()) == "train"
            assert response[0] in ":;"  # this phase writes no direct answers
            seen.add(prompt)
    # 15% of hard length; 480 draws, so .15 ± 4·.016
    hard = sum(len(prompt.rstrip()) > 9 for prompt in seen) / len(seen)
    assert 0.08 < hard < 0.22
    held_out = {p.prompt for name in ("arithmetic", "arithmetic-hard") for p in load_benchmark(name).problems()}
    assert not seen & held_out


def test_the_learning_rate_rises_and_falls_to_a_tenth():
    # Four steps of warm-up: 1/4, 2/4, 3/4, 1; then a cosine of 6 steps: at half of it .1 + .45·(1 + 0) = .55.
    rates = [embedded._schedule(step, 4, 10) for step in range(11)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.55)
    assert rates[10] == pytest.approx(0.1)


def test_warm_up_runs_on_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    threads = [3]
    monkeypatch.setattr("torch.get_num_threads", lambda: threads[-1])
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr(embedded, "_warm_up", lambda *_: threads.append("trained"))
    warm_up(TINY)
    assert threads == [3, 1, "trained", 3]


def test_warm_up_lowers_the_loss_and_reports_it():
    seen = []
    model = warm_up(TINY, progress=lambda done, total, loss: seen.append((done, total, loss)))
    assert [(done, total) for done, total, _ in seen] == [(10, 20), (20, 20)]
    assert seen[-1][2] < 3.4  # ln 32 = 3.47 is the loss of knowing nothing
    assert not model.training


@pytest.mark.parametrize("name", EMBEDDED)
def test_what_has_a_name_ships_with_the_project_and_is_not_trained_here(name, cache, monkeypatch):
    monkeypatch.setattr(embedded, "warm_up", lambda *args, **kwargs: pytest.fail("trained here"))
    lm = load_model(Model(path=name, device="cpu"))
    assert sum(parameter.numel() for parameter in lm.model.parameters()) == 96_640
    assert list(cache.iterdir()) == []


def test_the_base_is_trained_once_and_then_found_by_its_recipe(cache, monkeypatch):
    folder = embedded_base(TINY)
    assert folder.parent == cache
    weights = (folder / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "warm_up", lambda *args, **kwargs: pytest.fail("trained again"))
        assert embedded_base(TINY) == folder
    # Another recipe, be it in the last digit of a phase, has another place.
    other = replace(TINY, phases=(TINY.phases[0], replace(TINY.phases[1], slip=0.031)))
    assert embedded_base(other) != folder
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("damage", ["flipped", "cut", "added", "unsummed"])
def test_a_cached_base_that_is_damaged_is_trained_anew_with_a_word(damage, cache, capsys):
    folder = embedded_base(TINY)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    if damage in ("flipped", "cut"):
        path.write_bytes(whole[:-1] + (bytes([whole[-1] ^ 1]) if damage == "flipped" else b""))
    elif damage == "added":
        (folder / "adapter_config.json").write_text("{}")
    else:
        (folder / "sums.json").unlink()
    assert embedded_base(TINY) == folder
    assert path.read_bytes() == whole
    assert not (folder / "adapter_config.json").exists()
    said = capsys.readouterr().err
    assert f"{folder} is made anew: " in said
    embedded_base(TINY)
    assert capsys.readouterr().err == ""


def test_a_shipped_base_that_is_damaged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "SHIPPED", tmp_path)
    folder = embedded.base_folder(TINY, tmp_path)
    embedded.train_base(TINY, folder)
    assert embedded_base(TINY) == folder
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:999] + bytes([whole[999] ^ 4]) + whole[1000:])
    with pytest.raises(ConfigError, match=r"is damaged \(model\.safetensors is not .*\): install gvpo-bench anew"):
        embedded_base(TINY)


def test_the_same_recipe_gives_the_same_weights_bit_for_bit(cache, monkeypatch):
    first = (embedded_base(TINY) / "model.safetensors").read_bytes()
    monkeypatch.setenv("GVPO_BENCH_CACHE", str(cache / "elsewhere"))
    torch.manual_seed(99)
    random.seed(99)
    assert (embedded_base(TINY) / "model.safetensors").read_bytes() == first


def test_training_that_is_interrupted_leaves_nothing_that_counts_as_the_base(cache, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Qwen3ForCausalLM.save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embedded_base(TINY)
    assert list(cache.iterdir()) == []
    assert json.loads((embedded_base(TINY) / "config.json").read_text())["model_type"] == "qwen3"


def test_the_saved_base_loads_as_the_policy_that_was_trained(cache):
    lm = load_model(Model(path=str(embedded_base(TINY)), device="cpu"))
    trained = warm_up(TINY).state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in lm.model.state_dict().items())
    assert lm.eos_ids == (EOS,)
    problem = load_benchmark("arithmetic").problems()[0]
    assert len(lm.prompt_ids([problem])[0]) == PROMPT_WIDTH
    assert lm.text([*lm.tokenizer(":0,0=2")["input_ids"], EOS]) == ":0,0=2"


def test_two_loads_of_the_base_start_from_identical_weights(cache):
    folder = embedded_base(TINY)
    a, b = (load_model(Model(path=str(folder), device="cpu")).model.state_dict() for _ in range(2))
    assert all(torch.equal(x, b[name]) for name, x in a.items())
