"""`gvpo-bench plan`: counted by hand, and held against what a run really spent."""

import dataclasses

import pytest
import torch
from small import command, manifest, needs_data, write_suite
from transformers import Qwen2Config

from algorithms import ALGORITHMS
from benchmarks import load_benchmark
from harness.preflight.costs import Assumptions, count_tokens, engines, generation_rate, needs_of, suite_cost
from harness.preflight.gpus import GPUS, known_gpu
from harness.preflight.memory import disk, memory_of
from harness.preflight.model_size import ModelSize, model_size
from harness.suite.config import ConfigError, Model, Resources
from harness.suite.load import load_suite
from harness.suite.plan import plan

pytest_plugins = ["small_fixtures"]

WHOLE = """
from dataclasses import dataclass
from typing import ClassVar

from algorithms import Algorithm, LossOutput


@dataclass(frozen=True, kw_only=True)
class Whole(Algorithm):
    name: ClassVar[str] = "Whole"

    def loss(self, policy, batch):
        return LossOutput(loss=policy.logp_GKT.sum() ** 2)
"""
"""An algorithm that says nothing of what it couples: all of the mini-batch."""

SEVEN_B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture(scope="module")
def seven_b(tmp_path_factory):
    """The config of Qwen2.5-Math-7B, and nothing else."""
    folder = tmp_path_factory.mktemp("seven-b")
    Qwen2Config(**SEVEN_B).save_pretrained(folder)
    return folder


def test_parameters_and_arithmetic_of_qwen_2_5_7b(seven_b):
    size = model_size(Model(path=str(seven_b)))
    # Embedding 152064·3584; a layer: q 3584² + 3584, k and v 2·(3584·512 + 512), o 3584², three of 3584·18944 and two
    # norms; a last norm; an output layer like the embedding.
    layer = 3584**2 + 3584 + 2 * (3584 * 512 + 512) + 3584**2 + 3 * 3584 * 18944 + 2 * 3584
    body = 152064 * 3584 + 28 * layer + 3584
    assert size.body == body == 7_070_619_136
    assert size.parameters == 7_615_616_512  # the model card says 7.61 B
    # Two of the layers, and room for most of a third; the last norm is shared out among all.
    two = size.parameters - 26 * layer
    asked = (2, two + 3584, two + layer - 3584, size.parameters, 1e12)
    assert [size.layers_within(n) for n in asked] == [1, 2, 2, 28, 28]
    # 2 FLOP a parameter but the embedding, and 2·28·3584 for each token of the sequence's length
    assert size.flops(2048) == 2 * (7_615_616_512 - 152064 * 3584) + 2 * 28 * 3584 * 2048
    assert size.kv_bytes(2) == 57_344  # keys and values, 28 layers, 4 heads of 128, 2 bytes


def test_memory_of_a_7b_cell_counted_by_hand(seven_b, suite_file):
    settings = [
        f"model.path={seven_b}", "model.precision=bfloat16", "train.max_new_tokens=1024", "resources.token_budget=4096",
        "train.prompts=1024", "train.samples=4", "train.mini_batches=4", "resources.rollout_batch=256",
    ]  # fmt: skip
    base, gvpo, ppo = plan(load_suite(str(suite_file), settings))[:3]
    size = model_size(base.config.model)
    memory = memory_of(gvpo.config, size, ALGORITHMS["gvpo"]().needs, longest=2048, whole=80e9)
    N = 7_615_616_512
    assert memory.resident == {"policy": 4 * N, "Adam": 8 * N, "base, for the KL": 4 * N}
    # a token keeps, a layer: 2 norms × (4 + 4 + 2)·3584, attention 2·(3·3584 + 3·512), feed-forward 8·18944 bytes
    token = 28 * (20 * 3584 + 2 * (3 * 3584 + 3 * 512) + 8 * 18944)
    assert memory.training == {
        "gradients": 4 * N,
        "bfloat16 copies": 2 * N,
        "activations": 4096 * token,
        "logits": 4 * 4 * (2**26 // 152064) * 152064,  # of the 441 tokens that make 2^26 logits
    }
    assert memory.rollout["KV cache"] == 256 * 2048 * 57_344  # 30 GB
    assert memory.peak == sum(memory.resident.values()) + sum(memory.training.values())
    # the base that the evaluation's KL is from is the reference too
    assert memory_of(gvpo.config, size, ALGORITHMS["dpo"]().needs, longest=2048, whole=80e9) == memory
    # a critic is a second model without output layer but for one value: weights, moments, gradients
    more = memory_of(ppo.config, size, ALGORITHMS["ppo"]().needs, longest=2048, whole=80e9)
    critic = 4 * (size.body + 3584 + 1)
    assert more.resident["critic and its Adam"] == 3 * critic
    assert more.training["gradients"] == 4 * N + critic


def test_bfloat16_weights_take_two_bytes_and_their_masters_four_more_where_they_are_trained(seven_b, suite_file):
    settings = [f"model.path={seven_b}", "model.precision=bfloat16", "model.weights=bfloat16"]
    base, gvpo, ppo = plan(load_suite(str(suite_file), settings))[:3]
    size, needs, N = model_size(base.config.model), ALGORITHMS["gvpo"]().needs, 7_615_616_512
    memory = memory_of(gvpo.config, size, needs, longest=2048, whole=80e9)
    assert memory.resident == {"policy": 2 * N, "masters": 4 * N, "Adam": 8 * N, "base, for the KL": 2 * N}
    assert memory.training["gradients"] == 4 * N
    assert "bfloat16 copies" not in {**memory.training, **memory.rollout}
    assert memory_of(base.config, size, needs, longest=2048, whole=80e9).resident == {
        "policy": 2 * N, "base, for the KL": 2 * N,
    }  # fmt: skip
    critic = size.body + 3584 + 1
    more = memory_of(ppo.config, size, ALGORITHMS["ppo"]().needs, longest=2048, whole=80e9)
    assert more.resident["critic and its Adam"] == (2 + 4 + 8) * critic
    # What stays is the policy; the resumable state is masters and moments, twice while it is written anew.
    config = gvpo.config.model_copy(update={"resources": Resources(checkpoint_every=1)})
    assert disk(config, size, needs) == (2 * N, 2 * 3 * 4 * N)


def test_lora_trains_little_and_has_the_frozen_weights_once(seven_b, suite_file):
    def found(label, *more, ranks=1):
        settings = [f"model.path={seven_b}", "train.max_new_tokens=1024", "model.lora.rank=16", *more]
        cell = next(cell for cell in plan(load_suite(str(suite_file), settings)) if cell.config.label == label)
        size, needs = model_size(cell.config.model), ALGORITHMS[label]().needs
        return memory_of(cell.config, size, needs, 2048, 80e9, ranks), disk(cell.config, size, needs), size.adapter

    N = 7_615_616_512
    memory, kept, A = found("gvpo", "resources.checkpoint_every=1")
    # 28 layers × 16 · (q and o: 2 · 2·3584, k and v: 2 · (3584 + 512), gate, up and down: 3 · (3584 + 18944))
    assert A == 28 * 16 * (2 * 2 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18944)) == 40_370_176
    assert memory.resident == {"policy": 4 * (N + A), "Adam": 8 * A}
    assert memory.training["gradients"] == 4 * A
    assert memory.between["in the evaluation"]["policy"] == 4 * N  # merged, beside the base
    assert memory.between["in the evaluation"]["base, for the KL"] == 4 * N
    assert kept == (4 * N, 2 * 3 * 4 * A)
    assert found("gvpo", "resources.merge_adapter=false")[1][0] == 4 * A
    # a critic is an adapter and a head; a stale sampling policy on the same rank an adapter
    memory, *_ = found("ppo", "train.refresh_every=2")
    critic = 4 * (A + 3584 + 1)
    assert memory.resident == {
        "policy": 4 * (N + A), "Adam": 8 * A, "sampling policy": 4 * A, "critic and its Adam": 3 * critic,
    }  # fmt: skip
    # On several ranks one set of shards, and what samples is whole on each, but for vLLM.
    memory, *_ = found("gvpo", ranks=8)
    assert memory.resident == {"policy": 4 * (N + A) / 8, "Adam": 8 * A / 8, "sampling policy": 4 * N}
    memory, *_ = found("gvpo", "rollout.engine=vllm", "train.refresh_every=2", ranks=8)
    assert memory.resident == {"policy": 4 * (N + A) / 8, "Adam": 8 * A / 8, "sampling policy": 4 * A / 8}
    assert memory.between["while it loads"] == {"base, for the KL": 4 * N / 8}
    assert memory.between["in the evaluation"]["policy"] == 4 * N / 8
    # Over bfloat16 weights the adapters are float32, and need no masters.
    memory, *_ = found("ppo", "train.refresh_every=2", "model.weights=bfloat16", "model.precision=bfloat16")
    assert memory.resident == {
        "policy": 2 * N + 4 * A, "Adam": 8 * A, "sampling policy": 4 * A, "critic and its Adam": 3 * critic,
    }  # fmt: skip


def test_ranks_share_what_is_trained_and_each_samples_alone(seven_b, suite_file):
    settings = [
        f"model.path={seven_b}", "model.precision=bfloat16", "train.max_new_tokens=1024", "resources.token_budget=4096",
        "train.prompts=1024", "train.samples=4", "resources.rollout_batch=256",
        "resources.activation_checkpointing=true",
    ]  # fmt: skip
    _, gvpo, *_ = plan(load_suite(str(suite_file), settings))
    size = model_size(gvpo.config.model)
    memory = memory_of(gvpo.config, size, ALGORITHMS["gvpo"]().needs, longest=2048, whole=80e9, ranks=8)
    N = 7_615_616_512
    assert memory.resident == {
        "policy": 4 * N / 8, "Adam": 8 * N / 8, "base, for the KL": 4 * N / 8, "sampling policy": 4 * N,
    }  # fmt: skip
    assert memory.training["gradients"] == 4 * N / 8
    layer = 20 * 3584 + 2 * (3 * 3584 + 3 * 512) + 8 * 18944
    assert memory.training["activations"] == 4096 * (4 * 3584 * 28 + layer)  # every layer's input, and one layer
    # Each model is sharded before the next one is copied from the whole one.
    assert memory.between["while it loads"] == {"policy and a copy": 8 * N, "base, for the KL": 4 * N / 8}

    # vLLM takes its weights from the shards: no GPU ever has the whole policy.
    _, gvpo, *_ = plan(load_suite(str(suite_file), [*settings, "rollout.engine=vllm"]))
    memory = memory_of(gvpo.config, size, ALGORITHMS["gvpo"]().needs, longest=2048, whole=80e9, ranks=8)
    assert memory.resident == {"policy": 4 * N / 8, "Adam": 8 * N / 8, "base, for the KL": 4 * N / 8}
    assert memory.between["while it loads"] == {"base, for the KL": 4 * N / 8}
    assert memory.between["in the evaluation"] == {"policy": 4 * N / 8, "base, for the KL": 4 * N / 8, "vLLM": 32e9}
    assert memory.peak == 2 * N + 32e9  # 47.2 GB, in a rollout
    # Where that policy is stale it is a further set of shards.
    _, gvpo, *_ = plan(load_suite(str(suite_file), [*settings, "rollout.engine=vllm", "train.refresh_every=2"]))
    stale = memory_of(gvpo.config, size, ALGORITHMS["gvpo"]().needs, longest=2048, whole=80e9, ranks=8)
    assert stale.resident == {**memory.resident, "sampling policy": 4 * N / 8}
    assert stale.between == memory.between


def test_vllm_takes_its_fraction_of_the_gpu_while_it_samples(seven_b, suite_file):
    def memory(*more):
        settings = [f"model.path={seven_b}", "train.max_new_tokens=1024", "rollout.engine=vllm", *more]
        cell = plan(load_suite(str(suite_file), settings))[1]
        needs = ALGORITHMS["gvpo"]().needs
        return memory_of(cell.config, model_size(cell.config.model), needs, longest=2048, whole=80e9)

    assert memory().rollout == {"vLLM": 0.4 * 80e9}
    assert memory("rollout.vllm.gpu_memory_fraction=0.25").rollout == {"vLLM": 20e9}
    awake = memory("rollout.vllm.sleep=false")
    assert (awake.rollout, awake.resident["vLLM"]) == ({}, 0.4 * 80e9)
    assert memory("rollout.vllm.mode=server").rollout == {}


def test_activations_are_what_autograd_keeps(model32):
    config = model32.config
    size = size_of(model32)
    kept = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = 4 * 32
    ids = torch.randint(config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model32.model(input_ids=ids, use_cache=False)
    assert size.activation_bytes(4) == pytest.approx(sum(kept.values()) / tokens, rel=0.3)


def size_of(model):
    config = model.config
    return ModelSize(
        parameters=0, body=0, adapter=0, embedding=0, layers=config.num_hidden_layers, hidden=config.hidden_size,
        attention=config.num_attention_heads * config.head_dim, kv=config.num_key_value_heads * config.head_dim,
        feed_forward=config.intermediate_size, vocabulary=config.vocab_size,
    )  # fmt: skip


RUNS = {
    "on-policy": [],
    "stale, two epochs, history": [
        "train.refresh_every=2", "train.epochs=2", "train.steps=5", "train.limit=20", "train.history_share=0.25",
    ],
}  # fmt: skip


@pytest.mark.parametrize("settings", RUNS.values(), ids=list(RUNS))
def test_tokens_are_those_that_a_run_spent(suite_file, tmp_path, no_figures, settings):
    options = [part for setting in settings for part in ("--set", setting)]
    assert command("sweep", suite_file, *options, "--seeds", 1, "--workers", 1, "--out", tmp_path / "out") == 0
    _, *cells = plan(load_suite(str(suite_file), [*settings, "seeds=1"]))
    for cell in cells:
        spent = manifest(tmp_path / "out" / "runs" / "small" / cell.name)["tokens"]
        train = cell.config.train
        needs = ALGORITHMS[cell.config.label]().needs
        lengths = [13] * (train.limit or 4096)  # every prompt has 13 tokens
        counted = count_tokens(cell.config, needs, lengths, 1.0, spent["evaluation"])
        mean = spent["generated"] / counted.generated
        found = count_tokens(cell.config, needs, lengths, mean, spent["evaluation"])
        rows = train.steps * train.prompts * train.samples
        if not train.history_share:
            # 6 steps of 64 responses, all trained on once: prompts and responses
            assert spent["trained"] == rows * 13 + spent["generated"]
            assert vars(found) == pytest.approx(spent)
        else:
            # Earlier samples count as trained and not as generated: of 8, 2 from the second visit of a problem on.
            # 5 × 8 prompts from 20 problems: each visited twice, so 20 visits draw 8 and 20 draw 6.
            assert counted.generated == 20 * 8 + 20 * 6
            # their lengths are others than the mean's
            assert vars(found) == pytest.approx(spent, rel=0.02)


def test_pass_rates_are_in_every_ledger_and_in_no_hours(suite_file, capsys):
    def cost(*settings):
        suite = load_suite(str(suite_file), settings)
        return suite_cost(plan(suite), Assumptions(gpu="cpu", mean_response=2.0))

    without, measured = cost(), cost("train.pass_rate=[0.1, 0.9]", "train.pass_rate_samples=4")
    # 4096 problems, 4 responses of 2 tokens to each
    assert measured["gvpo-s0"].tokens.generated == without["gvpo-s0"].tokens.generated + 4096 * 4 * 2
    assert measured["gvpo-s0"].hours == pytest.approx(without["gvpo-s0"].hours)
    assert measured["base"].tokens == without["base"].tokens
    assert command("plan", suite_file, "--set", "train.pass_rate=[0.1, 0.9]", "--mean-response", 2) == 0
    assert "pass rates are measured once for all cells: 65.5 k tokens" in capsys.readouterr().out  # 4096·8·2


def test_second_pass_is_counted_where_a_group_exceeds_the_budget(suite_file, tmp_path, no_figures):
    settings = ["resources.token_budget=64", "seeds=1"]  # a group is 8 × 15 tokens
    options = ["--set", settings[0], "--seeds", 1, "--algorithm", "gvpo", "--workers", 1, "--out", tmp_path / "out"]
    assert command("sweep", suite_file, *options) == 0
    cell = plan(load_suite(str(suite_file), settings, ["gvpo"]))[1]
    spent = manifest(tmp_path / "out" / "runs" / "small" / cell.name)["tokens"]
    mean = spent["generated"] / (6 * 64)
    found = count_tokens(cell.config, ALGORITHMS["gvpo"]().needs, [13] * 4096, mean, 0)
    # scored once for the old log-probs, once more for the second of the two updates of a step
    assert found.scored == pytest.approx(1.5 * found.trained)
    assert found.scored == pytest.approx(spent["scored"], rel=0.02)


@needs_data
def test_second_pass_is_counted_update_by_update(reader, tmp_path, no_figures):
    # A random model hardly ever ends by itself: all responses have about 8 tokens, and prompts are as they are.
    settings = [
        f"model.path={reader}", "train.benchmark=gsm8k-train", "train.max_new_tokens=8", "resources.token_budget=2200",
        "train.epochs=2", "train.steps=3", 'evaluation.benchmarks=["gsm8k"]', "evaluation.hard_benchmarks=[]",
        "evaluation.limit=1", "seeds=1",
    ]  # fmt: skip
    suite = write_suite(tmp_path, reader)
    options = [part for setting in settings for part in ("--set", setting)]
    assert command("sweep", suite, *options, "--algorithm", "gvpo", "--workers", 1, "--out", tmp_path / "out") == 0
    (cell,) = (cell for cell in plan(load_suite(str(suite), settings, ["gvpo"])) if cell.is_trained)
    spent = manifest(tmp_path / "out" / "runs" / "small" / cell.name)["tokens"]
    lengths = [len(problem.prompt) for problem in load_benchmark("gsm8k-train").problems()]  # a token a character
    mean = spent["generated"] / (3 * 64)
    found = count_tokens(cell.config, ALGORITHMS["gvpo"]().needs, lengths, mean, spent["evaluation"])
    # Of 9 updates that know nothing yet, some have a group whose longest sample, eight times, is beyond the budget.
    assert spent["trained"] / 2 < spent["scored"] < spent["trained"] / 2 + 0.75 * spent["trained"]
    assert vars(found) == pytest.approx(spent, rel=0.01)  # one update more or less is 7% of what is scored


@pytest.mark.parametrize(
    ("algorithm", "ranks", "extra"),
    [
        # A group is 8 samples of 13 + 2 tokens. On one rank, 120 tokens; on two, 4 samples each, 60; on three, 3.
        ("gvpo", 1, True),
        ("gvpo", 2, False),
        ("gvpo", 3, False),
        # What is independent from sample to sample takes one pass always, a mini-batch of 4 groups on 8 ranks 4 × 15.
        ("grpo", 1, False),
        ("whole.py:Whole", 7, True),
        ("whole.py:Whole", 8, False),
    ],
)
def test_ranks_share_what_is_coupled_and_save_the_second_pass(
    suite_file, tmp_path, monkeypatch, algorithm, ranks, extra
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole.py").write_text(WHOLE, encoding="utf-8")
    settings = ["resources.token_budget=64", f"resources.ranks={ranks}", f"resources.cpus={ranks}", "seeds=1"]
    cell = plan(load_suite(str(suite_file), settings, [algorithm]))[-1]
    found = count_tokens(cell.config, needs_of(cell), [13] * 4096, 2, 0)
    rows = 6 * 8 * 8 * 15
    assert found.trained == rows
    assert found.scored == rows + (rows / 2 if extra else 0)  # the second of two updates a step


def test_each_rank_draws_its_share_of_the_prompts(suite_file):
    def rate(*settings):
        cell = plan(load_suite(str(suite_file), ["train.prompts=100", "train.samples=4", *settings]))[1]
        return generation_rate(cell.config, size, GPUS["H100"], 20), cell.config.resources

    def expected(sequences):
        # Of reading 4 bytes a parameter, and half of each sequence's 20 tokens of keys and values, 3.35 TB/s reach 15%.
        return 0.15 * sequences / ((4 * size.parameters + sequences * 10 * size.kv_bytes(4)) / 3.35e12)

    size = model_size(plan(load_suite(str(suite_file)))[0].config.model)
    assert rate()[0] == pytest.approx(expected(400))
    # 100 prompts over 8 ranks: the first has 13, and 4 samples of each.
    eight = ("resources.ranks=8", "resources.cpus=8")
    assert rate(*eight)[0] == pytest.approx(expected(52))
    assert rate(*eight, "resources.rollout_batch=32")[0] == pytest.approx(expected(32))
    assert rate("resources.rollout_batch=32")[0] == pytest.approx(expected(32))


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ([], 1),
        (["resources.ranks=4", "resources.cpus=4", "resources.gpus=4"], 4),
        # Five GPUs: one trains, the others are two servers of two each.
        (["resources.gpus=5", "rollout.vllm={mode='server', tensor_parallel_size=2}"], 2),
        (["resources.ranks=2", "resources.cpus=2", "resources.gpus=4", "rollout.vllm={mode='server'}"], 2),
        (["rollout.vllm={mode='server'}"], 1),  # on the CPU
    ],
)
def test_engines_of_a_cell(suite_file, settings, count):
    cell = plan(load_suite(str(suite_file), ["rollout.engine=vllm", *settings]))[0]
    assert engines(cell.config) == count


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),  # neither of the two
        ("NVIDIA GeForce RTX 3090", None),
        ("CPU", None),
    ],
)
def test_gpu_is_known_by_the_words_of_its_name(device, name):
    assert known_gpu(device) == name


def test_hours_follow_from_tokens_and_stated_rates(suite_file):
    cells = plan(load_suite(str(suite_file), ["seeds=2"]))
    assumptions = Assumptions(gpu="H100", mean_response=2, mfu=0.5, generation_rate=100)
    costs = suite_cost(cells, assumptions)
    cost = costs["gvpo-s0"]
    # 6 steps × 64 responses of 2 tokens, prompts of 13; 12 + 12 evaluated problems × 2 samples of 2 tokens
    assert cost.tokens.generated == 6 * 64 * 2
    assert cost.tokens.trained == 6 * 64 * 15
    assert cost.tokens.evaluation == 24 * 2 * 2
    assert cost.most.generated == 6 * 64 * 4
    size = model_size(cells[0].config.model)
    assert cost.hours["rollouts"] == pytest.approx(6 * 64 * 2 / 100 / 3600)
    assert cost.hours["training"] == pytest.approx(3 * 6 * 64 * 15 * size.flops(15) / (0.5 * 67e12) / 3600)
    assert costs["gvpo-s1"] == cost
    assert costs["base"].tokens.trained == 0
    assert costs["base"].checkpoint == 0
    assert cost.checkpoint == 4 * size.parameters
    # policy and two moments, old state and new: checkpoint_every is 2
    assert cost.resume == 2 * 12 * size.parameters


def test_cell_that_shares_a_gpu_has_its_share_for_as_long_as_its_kernels_take_to_call(suite_file, capsys):
    def cost(*settings):
        return suite_cost(plan(load_suite(str(suite_file), ["seeds=1", *settings])), assumptions)["gvpo-s0"]

    assumptions = Assumptions(gpu="H100", mean_response=2)
    whole, shared = cost("resources.gpus=1"), cost("resources.gpus=0.125")
    assert shared.hours == whole.hours
    # 6 steps that draw 64 responses side by side, 4 tokens each at most; 2 updates a step, whose backward pass counts
    # as two; the old log-probs of each step. In the evaluation, 4 tokens of 48 responses, then policy and base score
    # the prompts, of 13 tokens, and the responses in passes of 16,384 tokens. One layer of 0.8 ms.
    calls = 6 * 4 + 6 * 2 * 3 + 6 + 4 + 2 * 48 * (13 + 2) / 16384
    assert shared.alone == pytest.approx(calls * 0.8e-3 / 3600)
    # A model so small computes next to nothing: all of that time it has an eighth of the GPU.
    assert shared.gpu_hours == pytest.approx(shared.alone / 8)
    # Of a GPU to itself, only what it computes is counted; and so is it where computing it takes more.
    assert whole.gpu_hours == sum(whole.hours.values()) < shared.gpu_hours
    slow = dataclasses.replace(shared, hours={"training": 1.0})
    assert slow.gpu_hours == 1.0

    assert command("plan", suite_file, "--gpu", "H100", "--set", "resources.gpus=0.125") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "memory of each of 8 cells on a GPU" in shown
    assert "8 cells side by side, all over in about" in shown
    assert "each may fill 9 GB of 80" in shown
    assert "does not fit" not in shown
    # 80/80 − 1 GB is nothing
    assert command("plan", suite_file, "--gpu", "H100", "--set", "resources.gpus=0.0125") == 0
    assert "give each a larger share (resources.gpus)" in " ".join(capsys.readouterr().out.split())


def test_checkpoints_that_are_not_kept_take_no_room_for_long(suite_file):
    suite = load_suite(str(suite_file), ["resources.keep_checkpoints=false", "resources.checkpoint_every=0"])
    cell = plan(suite)[1]
    size = model_size(suite.model)
    assert disk(cell.config, size, needs_of(cell)) == (0, 4 * size.parameters)


def test_plan_shows_tokens_memory_disk_and_what_it_assumed(suite_file, capsys):
    assert command("plan", suite_file, "--gpu", "A100", "--mean-response", 3) == 0
    shown = capsys.readouterr().out
    for part in ("5 cells on A100", "at most", "critic and its Adam", "peak", "disk: ", "3 of at most 4 tokens"):
        assert part in shown
    assert "does not fit" not in shown


def test_plan_says_what_does_not_fit(seven_b, suite_file, capsys):
    options = ["--set", f"model.path={seven_b}", "--set", "train.max_new_tokens=1024", "--gpu", "H100"]
    assert command("plan", suite_file, *options) == 0
    shown = capsys.readouterr().out
    assert "does not fit" in shown
    assert "three characters of a prompt are a token" in shown  # the folder has no tokenizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "Voodoo"], "--gpu 'Voodoo': choose from A100"),
        (["--set", "train.max_new_tokens=64"], "64 does not fit"),
        (["--set", "train.stepz=1"], "unknown key"),
    ],
)
def test_plan_refuses_what_a_sweep_would(suite_file, capsys, options, message):
    assert command("plan", suite_file, *options) == 2
    assert message in capsys.readouterr().err


def test_model_that_is_not_to_be_had_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.path"):
        model_size(Model(path=str(tmp_path)))
