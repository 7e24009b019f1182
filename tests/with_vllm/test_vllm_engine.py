"""vLLM's log-probs are the trainer's, its draws follow them, and a weight sync that does not arrive stops the run."""

import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_here import on_ranks
from scipy.stats import chisquare
from small import ended
from tiny import PROMPTS, full_logits, token_logp
from transformers import Qwen2Config, Qwen2ForCausalLM

import harness.sampling.vllm_engine
from harness.model.policy import PolicyModel, shard
from harness.sampling.engine import open_engine
from harness.sampling.local import CachedEngine
from harness.sampling.vllm_process import VLLM
from harness.sampling.vllm_server import Server, VLLMError
from harness.suite.config import ConfigError, Resources
from harness.suite.rollout_settings import Rollout, VLLMSettings

EOS_IDS = (1, 3, 9, 12, 19, 23, 28)
"""Seven of 32 tokens end a response, so lengths differ widely."""

COUNTS = (3, 5, 2, 4)


def opened(model, *, eos_ids=EOS_IDS, precision="float32", batch=64, server_timeout=1800.0, **settings):
    rollout = Rollout(engine="vllm", vllm=VLLMSettings(**settings))
    return open_engine(
        rollout,
        Resources(rollout_batch=batch, server_timeout=server_timeout),
        model,
        eos_ids=eos_ids,
        precision=precision,
    )


@pytest.fixture(scope="module")
def engine(model32):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with opened(model32) as engine:
        assert torch.equal(torch.rand(1), expected)  # vLLM seeds the global generator; it is put back
        yield engine


@pytest.fixture(scope="module")
def servers(model32):
    """An engine of two servers."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.sampling.vllm_engine, "server_devices", lambda *_: [None, None])
            servers = stack.enter_context(opened(model32, mode="server"))
        yield servers


@pytest.fixture
def synced(engine, model32):
    """The engine, which has its first weights again after the test."""
    yield engine
    engine.sync(PolicyModel(model32))


def drawn(engine, prompts=PROMPTS, counts=COUNTS, *, temperature=1.0, max_new_tokens=12, seed=0):
    seeds = [seed + i for i in range(len(prompts))]
    return engine.generate(prompts, list(counts), temperature=temperature, max_new_tokens=max_new_tokens, seeds=seeds)


def flat(groups):
    return [response for group in groups for response in group]


def moved(model, by=0.3):
    other = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in other.parameters():
            parameter.data += by * parameter.std() * torch.randn_like(parameter)
    return other


def assert_parity(groups, model, temperature=1.0, atol=1e-5):
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for response in group:
            expected = token_logp(model, prompt, response.tokens, temperature)
            assert response.logp == pytest.approx(expected.tolist(), abs=atol)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.8])
def test_the_samplers_log_probs_are_the_trainers(engine, model32, temperature):
    groups = drawn(engine, temperature=temperature)
    assert [len(group) for group in groups] == list(COUNTS)
    assert len({len(response.tokens) for response in flat(groups)}) > 2
    assert_parity(groups, model32, temperature)


def test_the_same_call_gives_the_same_responses_and_another_seed_does_not(engine):
    first = drawn(engine, seed=7)
    drawn(engine, seed=3)
    assert drawn(engine, seed=7) == first
    assert drawn(engine, seed=8) != first


def test_servers_give_the_responses_of_an_engine_in_this_process(engine, servers):
    assert len(servers.sampler.servers) == 2
    assert tokens_of(drawn(servers)) == tokens_of(drawn(engine))


def tokens_of(groups):
    """Without the log-probs, whose rounding depends on what else is drawn at the same time."""
    return [[response.tokens for response in group] for group in groups]


def test_responses_depend_on_their_prompts_seed_and_not_on_the_others(engine):
    expected = drawn(engine)
    settings = {"temperature": 1.0, "max_new_tokens": 12}
    turned = engine.generate(PROMPTS[::-1], list(COUNTS[::-1]), seeds=[3, 2, 1, 0], **settings)
    assert tokens_of(turned[::-1]) == tokens_of(expected)


def test_samples_of_a_prompt_differ_and_none_are_drawn_where_none_are_asked_for(engine):
    groups = drawn(engine, counts=(8, 0, 8, 0))
    assert [len(group) for group in groups] == [8, 0, 8, 0]
    assert len({tuple(r.tokens) for r in flat(groups)}) > 8


def test_seeds_of_63_bits_are_taken(engine):
    top = 2**63 - 1
    first = engine.generate(PROMPTS[:1], [4], temperature=1.0, max_new_tokens=12, seeds=[top])
    assert first != engine.generate(PROMPTS[:1], [4], temperature=1.0, max_new_tokens=12, seeds=[top - 2**20])


def test_a_response_ends_with_its_first_eos_or_is_truncated_at_the_limit(engine):
    responses = flat(drawn(engine, counts=(50, 50, 50, 50), max_new_tokens=4))
    assert {r.truncated for r in responses} == {True, False}
    assert len({r.tokens[-1] for r in responses if not r.truncated}) > 3
    for response in responses:
        assert len(response.logp) == len(response.tokens)
        assert not set(response.tokens[:-1]) & set(EOS_IDS)
        assert response.truncated == (response.tokens[-1] not in EOS_IDS)
        assert len(response.tokens) == 4 or not response.truncated
    # An EOS on the very last place is an end and no truncation.
    assert any(len(r.tokens) == 4 and not r.truncated for r in responses)


def test_greedy_responses_are_the_cached_engines_with_log_probs_of_temperature_one(engine, model32):
    groups = drawn(engine, temperature=0.0)
    expected = drawn(CachedEngine(model32, eos_ids=EOS_IDS, batch=64), temperature=0.0)
    assert tokens_of(groups) == tokens_of(expected)
    assert_parity(groups, model32)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_are_drawn_as_often_as_the_model_says(engine, model32, temperature):
    n = 3000
    groups = drawn(engine, PROMPTS[:1], (n,), temperature=temperature, max_new_tokens=1, seed=3)
    p_V = (full_logits(model32, PROMPTS[0], [0])[0].double() / temperature).softmax(-1).detach()
    counts_V = torch.bincount(torch.tensor([r.tokens[0] for r in groups[0]]), minlength=32)
    rare_V = p_V * n < 5  # as one class
    observed = [*counts_V[~rare_V].tolist(), int(counts_V[rare_V].sum())]
    expected = [*(p_V[~rare_V] * n).tolist(), float(p_V[rare_V].sum()) * n]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_temperatures_that_vllm_would_raise_are_refused(engine):
    with pytest.raises(ConfigError, match=r"temperature 0\.001: vLLM samples at 0\.01 or above"):
        drawn(engine, temperature=0.001)


@pytest.mark.parametrize("which", ["engine", "servers"])
def test_samples_come_from_the_weights_of_the_last_sync(which, model32, request):
    engine = request.getfixturevalue(which)
    before, other = drawn(engine), moved(model32)
    engine.sync(PolicyModel(other))
    after = drawn(engine)
    assert after != before
    assert_parity(after, other)
    engine.sync(PolicyModel(model32))
    assert drawn(engine) == before


def test_a_sync_that_does_nothing_is_an_error_with_both_numbers(synced, model32, monkeypatch):
    synced.sync(PolicyModel(model32))
    monkeypatch.setattr(VLLM, "load", lambda self, weights: None)
    synced.sync(PolicyModel(model32))  # nothing to hand over, nothing to find
    other = moved(model32)
    with pytest.raises(VLLMError, match=r"vLLM's log-probs are not the trainer's.*weights did not arrive") as failed:
        synced.sync(PolicyModel(other))
    monkeypatch.undo()
    prompt, response = synced.probe
    trainer = token_logp(other, prompt, response).tolist()
    vllm = token_logp(model32, prompt, response).tolist()
    t = max(range(len(response)), key=lambda i: abs(trainer[i] - vllm[i]))
    assert f"token {t} of the probe" in str(failed.value)
    shown = re.search(r"has (\S+) nats in vLLM and (\S+) in the trainer", str(failed.value))
    assert shown
    assert [float(number) for number in shown.groups()] == pytest.approx([vllm[t], trainer[t]], abs=1e-5)


def test_a_sync_that_does_nothing_is_noticed_below_the_tolerance_too(synced, model32, monkeypatch):
    synced.sync(PolicyModel(model32))
    monkeypatch.setattr(VLLM, "load", lambda self, weights: None)
    with pytest.raises(VLLMError, match=r"a weight sync changed nothing in vLLM.*moved by up to .* by exactly 0"):
        synced.sync(PolicyModel(moved(model32, by=1e-4)))  # log-probs move by less than 1e-3 nats


def test_one_of_two_servers_that_keeps_its_weights_is_named(servers, model32, monkeypatch):
    servers.sync(PolicyModel(model32))
    second, ask = servers.sampler.servers[1], Server.ask

    def forgetful(self, name, argument):
        if name == "load_file" and self is second:
            name, argument = "score", [1, 2, 3]
        ask(self, name, argument)

    monkeypatch.setattr(Server, "ask", forgetful)
    with pytest.raises(VLLMError, match=r"log-probs are not the trainer's: .* nats in server 1 of 2 of vLLM and"):
        servers.sync(PolicyModel(moved(model32)))
    monkeypatch.undo()
    servers.sync(PolicyModel(model32))
    monkeypatch.setattr(Server, "ask", forgetful)
    with pytest.raises(VLLMError, match=r"changed nothing in vLLM: .* nats in server 1 of 2 of vLLM and"):
        servers.sync(PolicyModel(moved(model32, by=1e-4)))
    monkeypatch.undo()
    servers.sync(PolicyModel(model32))


def drawn_on_rank(ranks, model, mode):
    """The samples of one engine after another, each after a hand-over from a sharded policy."""
    rank, size = str(ranks.rank), str(ranks.size)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, TORCHELASTIC_USE_AGENT_STORE="True")
    places = range(len(PROMPTS))[ranks.rank :]  # another number of prompts on each
    drawn_of = []
    for weights in (model, moved(model)) if mode == "colocated" else (moved(model),):
        policy = PolicyModel(copy.deepcopy(weights))
        shard(policy, ranks)
        with opened(model, mode=mode) as engine:
            engine.sync(policy)
            settings = {"temperature": 1.0, "max_new_tokens": 12, "seeds": list(places)}
            drawn_of.append(engine.generate([PROMPTS[i] for i in places], [COUNTS[i] for i in places], **settings))
    return drawn_of


@pytest.mark.parametrize("mode", ["colocated", "server"])
def test_each_of_two_ranks_has_an_engine_that_takes_the_weights_of_a_sharded_policy(synced, model32, mode, tmp_path):
    first, second = on_ranks(2, tmp_path / "meeting", drawn_on_rank, model32, mode)
    expected = [drawn(synced)] if mode == "colocated" else []
    synced.sync(PolicyModel(moved(model32)))
    expected.append(drawn(synced))
    assert [tokens_of(groups) for groups in first] == [tokens_of(groups) for groups in expected]
    assert [tokens_of(groups) for groups in second] == [tokens_of(groups[1:]) for groups in expected]
    assert_parity(first[-1], moved(model32))


def test_a_weight_that_is_left_out_is_noticed(synced, model32, monkeypatch):
    load = VLLM.load
    monkeypatch.setattr(
        VLLM, "load", lambda self, weights: load(self, [w for w in weights if "layers.1.mlp.down" not in w[0]])
    )
    with pytest.raises(VLLMError, match="not the trainer's"):
        synced.sync(PolicyModel(moved(model32)))


def test_releasing_memory_changes_nothing_on_the_cpu(engine):
    before = drawn(engine)
    engine.release_memory()
    assert drawn(engine) == before


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_untied_model_with_biases_and_wide_heads(precision):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.15,
    )
    model = Qwen2ForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    with opened(model, precision=precision, max_model_len=40) as engine:
        assert_parity(drawn(engine), model, atol=1e-5 if precision == "float32" else 0.3)
        other = moved(model)
        engine.sync(PolicyModel(other))
        assert_parity(drawn(engine), other, atol=1e-5 if precision == "float32" else 0.3)
        with pytest.raises(ConfigError, match=r"max_model_len = 40: the longest prompt has 7 tokens.*raise it to 47"):
            drawn(engine, max_new_tokens=40)


def test_two_tensor_parallel_processes_take_new_weights(model32):
    with opened(model32, tensor_parallel_size=2) as engine:
        assert_parity(drawn(engine), model32)
        other = moved(model32)
        engine.sync(PolicyModel(other))
        assert_parity(drawn(engine), other)


def test_server_that_is_silent_or_killed_is_named_and_leaves_nothing_behind(model32):
    with opened(model32, mode="server", server_timeout=120.0) as engine:
        (server,), folder = engine.sampler.servers, engine.folder
        server.socket.settimeout(1.0)
        os.killpg(server.process.pid, signal.SIGSTOP)
        with pytest.raises(VLLMError, match=r"has not answered 'sample' within resources\.server_timeout"):
            drawn(engine)
        os.killpg(server.process.pid, signal.SIGKILL)
        with pytest.raises(VLLMError, match=r"the vLLM server died in 'load_file' \(killed by SIGKILL"):
            engine.sync(PolicyModel(model32))
    assert ended(server.process.pid)
    assert not folder.exists()


def test_server_that_fails_to_start_shows_why(model32):
    model = copy.deepcopy(model32)
    model.config.max_position_embeddings = 0
    with (
        pytest.raises(VLLMError, match=r"(?s)the vLLM server failed in 'start':.*Traceback"),
        opened(model, mode="server"),
    ):
        pass


ORPHAN = """
import os, signal
from tiny import tiny_model
from harness.suite.config import Resources
from harness.suite.rollout_settings import Rollout, VLLMSettings
from harness.sampling.engine import open_engine

with open_engine(Rollout(engine="vllm", vllm=VLLMSettings(mode="server")), Resources(), tiny_model(), eos_ids=[1],
                 precision="float32") as engine:
    print(engine.sampler.servers[0].process.pid, engine.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_server_ends_with_a_trainer_that_is_killed():
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", ORPHAN], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    pid, folder = found.stdout.split()
    assert ended(int(pid))
    assert not Path(folder).exists()
