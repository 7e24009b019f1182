"""What is refused of vLLM before anything long begins; what it does is tested where it is installed, in with_vllm/."""

from importlib.util import find_spec

import pytest
import torch
from small import command
from tiny import tiny_model

from harness.config import ConfigError, Rollout, VLLMSettings
from harness.rollout import check_engine, open_engine

pytest_plugins = ["small_fixtures"]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

without_vllm = pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")


@without_vllm
def test_sweep_without_vllm_says_how_to_get_it_and_starts_nothing(suite_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert command("sweep", suite_file, "--set", "rollout.engine=vllm", "--out", out) == 2
    message = capsys.readouterr().err
    assert "rollout.engine = 'vllm': vLLM is not installed. pip install 'gvpo-bench[vllm]'" in message
    assert not out.exists()


@without_vllm
def test_engine_without_vllm_says_so_too():
    with (
        pytest.raises(ConfigError, match="vLLM is not installed"),
        open_engine(Rollout(engine="vllm"), tiny_model(), eos_ids=[1], precision="float32"),
    ):
        pass


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr("harness.vllm_engine.find_spec", lambda name: "here")


@pytest.mark.parametrize(
    ("device", "settings", "message"),
    [
        (CPU, {"sleep": True}, "rollout.vllm.sleep = True is for GPUs, and the trainer is on the cpu"),
        (CPU, {"gpu_memory_fraction": 0.5}, "rollout.vllm.gpu_memory_fraction = 0.5 is for GPUs"),
        (CPU, {"mode": "server", "devices": [1]}, r"rollout.vllm.devices = \[1\] is for GPUs"),
        (CUDA, {"mode": "server"}, "rollout.vllm.mode = 'server' needs rollout.vllm.devices"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(installed, device, settings, message):
    with pytest.raises(ConfigError, match=message):
        check_engine(Rollout(engine="vllm", vllm=VLLMSettings(**settings)), device)


@pytest.mark.parametrize(
    ("device", "settings"),
    [
        (CPU, {}),
        (CPU, {"mode": "server"}),
        (CUDA, {"sleep": True, "gpu_memory_fraction": 0.5, "tensor_parallel_size": 2}),
        (CUDA, {"mode": "server", "devices": [4, 5], "tensor_parallel_size": 2}),
    ],
)
def test_what_the_machine_can_do_is_not(installed, device, settings):
    check_engine(Rollout(engine="vllm", vllm=VLLMSettings(**settings)), device)


def test_cache_that_is_too_short_for_the_longest_response_is_refused_before_any_cell(
    installed, suite_file, tmp_path, capsys
):
    # A prompt of the embedded task has 13 tokens, and a response up to 4 here, 30 in the evaluation.
    settings = ["rollout.engine=vllm", "rollout.vllm.max_model_len=32", "evaluation.max_new_tokens=30"]
    options = [part for setting in settings for part in ("--set", setting)]
    assert command("sweep", suite_file, *options, "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "evaluation on arithmetic: rollout.vllm.max_model_len = 32 does not fit" in message
    assert "the longest prompt has 13 tokens and its response up to 30; raise it to 43" in message
    assert not (tmp_path / "out").exists()
