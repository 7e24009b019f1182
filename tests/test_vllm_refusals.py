"""What is refused of vLLM before anything long begins; what it does is tested where it is installed, in with_vllm/."""

from importlib.util import find_spec

import pytest
import torch
from small import command
from tiny import tiny_model

from harness.model.ranks import Ranks
from harness.sampling.engine import check_engine, open_engine
from harness.sampling.vllm_engine import server_devices
from harness.suite.config import ConfigError, Resources
from harness.suite.rollout_settings import Rollout, VLLMSettings

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
        open_engine(Rollout(engine="vllm"), Resources(), tiny_model(), eos_ids=[1], precision="float32"),
    ):
        pass


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr("harness.sampling.vllm_engine.find_spec", lambda name: "here")


@pytest.mark.parametrize(
    ("device", "settings", "message"),
    [
        (CPU, {"sleep": True}, "rollout.vllm.sleep = True is for GPUs, and the trainer is on the cpu"),
        (CPU, {"gpu_memory_fraction": 0.5}, "rollout.vllm.gpu_memory_fraction = 0.5 is for GPUs"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(installed, device, settings, message):
    with pytest.raises(ConfigError, match=message):
        check_engine(Rollout(engine="vllm", vllm=VLLMSettings(**settings)), device)


def test_ranks_that_would_share_layers_and_not_prompts_are_refused(installed, monkeypatch):
    monkeypatch.setattr(Ranks, "of_group", lambda: Ranks(0, 2, CUDA))
    with pytest.raises(ConfigError, match=r"tensor_parallel_size = 2 on 2 ranks: colocated, each rank samples other"):
        check_engine(Rollout(engine="vllm", vllm=VLLMSettings(tensor_parallel_size=2)), CUDA)
    check_engine(Rollout(engine="vllm", vllm=VLLMSettings(tensor_parallel_size=2, mode="server")), CUDA)


@pytest.mark.parametrize(
    ("device", "settings"),
    [
        (CPU, {}),
        (CPU, {"mode": "server"}),
        (CUDA, {"sleep": True, "gpu_memory_fraction": 0.5, "tensor_parallel_size": 2}),
        (CUDA, {"mode": "server", "tensor_parallel_size": 2}),
    ],
)
def test_what_the_machine_can_do_is_not(installed, device, settings):
    check_engine(Rollout(engine="vllm", vllm=VLLMSettings(**settings)), device)


@pytest.mark.parametrize(
    ("gpus", "rank", "ranks", "parallel", "devices"),
    [
        (2, 0, 1, 1, ["1"]),
        (8, 0, 1, 2, ["1,2", "3,4", "5,6"]),  # GPU 7 is left over
        (8, 0, 2, 1, ["2", "3", "4"]),
        (8, 1, 2, 1, ["5", "6", "7"]),
        (8, 1, 2, 3, ["5,6,7"]),
    ],
)
def test_servers_of_a_rank_share_the_gpus_that_no_rank_trains_on(monkeypatch, gpus, rank, ranks, parallel, devices):
    monkeypatch.setattr("harness.sampling.vllm_engine.visible_gpus", lambda: [str(gpu) for gpu in range(gpus)])
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert server_devices(True, parallel) == devices


def test_server_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr("harness.sampling.vllm_engine.visible_gpus", lambda: ["0", "1", "2"])
    with pytest.raises(ConfigError, match=r"of 3 GPUs here 1 train, .* tensor_parallel_size = 3 .* give the cell 4"):
        server_devices(True, 3)


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
