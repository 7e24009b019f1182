"""LoRA: an adapter is trained over frozen weights that all models of a cell share, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_here import on_ranks
from safetensors import safe_open
from safetensors.torch import load_file
from small import manifest
from test_gradient import SETTINGS, TEMPERATURE, example
from test_ranks import float32_example
from tiny import gradients, random_critic, tiny_gpt2, tiny_lm, tiny_model
from torch import Tensor, nn
from training_runs import Interrupted, assert_same_run, config_of, run
from transformers import AutoModelForCausalLM, PreTrainedModel

from algorithms.dpo import DPO
from algorithms.gvpo import GVPO
from algorithms.ppo import PPO
from harness.model.language import check_adapter, frozen_base, frozen_copy, load_model, new_critic
from harness.model.lora import adapt, merged, merged_weights, targets
from harness.model.policy import PolicyModel, logprob_chunk, recompute_activations
from harness.model.ranks import ALONE, Ranks, whole
from harness.model.scorer import Scorer, score
from harness.record.cell_folder import CellFolder
from harness.sampling.vllm_engine import VLLMEngine, config_for_vllm
from harness.sampling.vllm_server import VLLMError
from harness.suite.config import ConfigError, Model
from harness.suite.load import load_suite
from harness.suite.lora_settings import LoRA
from harness.suite.plan import plan
from harness.suite.rollout_settings import VLLMSettings
from harness.sweep.cell import run_cell
from harness.training.gradient import accumulate_gradient
from harness.training.learner import Learner

LORA = LoRA(rank=2, alpha=6.0)
IDS = torch.tensor([[5, 9, 14, 3, 7, 2]])

pytest_plugins = ["small_fixtures"]

each_model = pytest.mark.parametrize("new_model", [tiny_model, tiny_gpt2])  # nn.Linear, and Conv1D with tied embeddings


def adapted(model: PreTrainedModel, settings: LoRA = LORA) -> PreTrainedModel:
    """With an adapter that does something."""
    adapt(model, settings, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for weight in trained(model):
            nn.init.normal_(weight, std=0.3)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def memory(*models: nn.Module) -> int:
    """Numbers in all of them, those in the same memory once."""
    found = {weight.untyped_storage().data_ptr(): weight.numel() for model in models for weight in model.parameters()}
    return sum(found.values())


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@each_model
def test_a_new_adapter_changes_nothing_to_the_last_digit_and_is_the_same_at_the_same_seed(new_model):
    model, again, other = new_model(), new_model(), new_model()
    before = logits(model)
    for made, seed in ((model, 3), (again, 3), (other, 4)):
        adapt(made, LORA, seed)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(a, b) for a, b in zip(trained(model), trained(again), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(trained(model), trained(other), strict=True))
    assert isinstance(model, PreTrainedModel)


def test_without_settings_nothing_is_adapted():
    model = tiny_model()
    adapt(model, None, 0)
    assert merged(model) is model
    assert len(trained(model)) == len(list(model.parameters()))


def test_size_of_the_adapter_worked_example():
    # 16 wide, 2 heads of 8 (keys and values too), 24 wide between: of each layer q, k, v, o have 16 + 16 inputs and
    # outputs, gate, up and down 16 + 24. At rank 2: 2 layers × 2 · (4 · 32 + 3 · 40) = 992.
    model = tiny_model()
    adapt(model, LORA, 0)
    assert sum(weight.numel() for weight in trained(model)) == 992


@each_model
def test_reference_is_the_base_without_adapter_over_the_very_same_weights(new_model):
    before, model = logits(new_model()), adapted(new_model())
    reference = frozen_copy(model)
    assert float((logits(model) - before).abs().max()) > 0.01
    assert torch.equal(logits(reference), before)
    assert not trained(reference)
    assert memory(model, reference) == memory(model)


def test_all_models_of_a_cell_are_one_base_and_an_adapter_each():
    lm = tiny_lm()
    base_size = memory(lm.model)
    config = config_of(refresh_every=2, lora=LORA)
    adapt(lm.model, LORA, 0)
    base = frozen_base(lm, config.resources)
    learner = Learner(lm, base, PPO(), config)
    critic = learner.critic
    assert critic is not None
    assert learner.critic_optimizer is not None
    assert learner.sampler.model is not learner.policy
    head = 16 + 1
    # the policy's adapter, the stale sampling policy's, and the critic's, which has one on each layer of its body too
    assert memory(base, learner.policy, learner.sampler, critic) == base_size + 3 * 992 + head
    assert [len(group["params"]) for group in learner.optimizer.param_groups] == [2 * 2 * 7]
    assert sum(x.numel() for x in learner.optimizer.param_groups[0]["params"]) == 992
    assert sum(x.numel() for x in learner.critic_optimizer.param_groups[0]["params"]) == 992 + head


def critic_of(model: PreTrainedModel, plain: PreTrainedModel) -> Any:
    """A critic with values, and an adapter of its own that the policy's stands in for."""
    critic, random = new_critic(model), random_critic(plain)
    critic.head.load_state_dict(random.head.state_dict())
    return critic.to(next(model.parameters()).dtype)


def gradient_of(name: str, dtype: torch.dtype, budget: int, chunk: int | None, recompute: bool) -> dict[str, Tensor]:
    batch, rows = example((4, 2, 1, 4)) if dtype == torch.float64 else float32_example()
    model = adapted(tiny_model(dtype))
    algorithm = SETTINGS[name]
    policy = PolicyModel(model, chunk)
    critic = critic_of(model, tiny_model(dtype)) if algorithm.needs.critic else None
    for module in filter(None, (policy, critic)):
        if recompute:
            recompute_activations(module)
    accumulate_gradient(
        Scorer(policy, critic, TEMPERATURE), algorithm, algorithm.prepare(batch), rows, token_budget=budget
    )
    return gradients(policy, critic)


@pytest.mark.parametrize("name", ["gvpo", "ppo-everything"])
@pytest.mark.parametrize(
    ("budget", "chunk", "recompute"), [(1, None, False), (45, None, False), (45, 3, True), (10**6, 1, False)]
)
def test_gradient_of_the_adapter_is_the_same_for_every_split_in_chunks_and_recomputed(name, budget, chunk, recompute):
    expected = gradient_of(name, torch.float64, 10**6, None, False)
    found = gradient_of(name, torch.float64, budget, chunk, recompute)
    assert found.keys() == expected.keys()
    assert all("lora_" in at or ".head." in at for at in expected)
    assert len([at for at in expected if at.startswith("0.")]) == 2 * 2 * 7  # two of each linear layer
    assert max(float(x.abs().max()) for x in expected.values()) > 1e-3
    for at, gradient in expected.items():
        torch.testing.assert_close(found[at], gradient, atol=1e-10, rtol=0, msg=f"{at} {{}}".format)


def test_gradient_of_the_adapter_is_the_chain_rule_on_that_of_the_weights():
    # W' = W + 3·BA, so ∂L/∂B = 3 ∂L/∂W' Aᵀ and ∂L/∂A = 3 Bᵀ ∂L/∂W', with ∂L/∂W' from the merged model.
    model = adapted(tiny_model(torch.float64))
    plain = merged(model)
    for each in (model, plain):
        each(input_ids=IDS, use_cache=False).logits.square().sum().backward()
    layer: Any = model.get_submodule("model.layers.1.mlp.up_proj")
    (A, B), of_weight = (part["default"].weight for part in (layer.lora_A, layer.lora_B)), plain.get_parameter(
        "model.layers.1.mlp.up_proj.weight"
    ).grad  # fmt: skip
    torch.testing.assert_close(B.grad, 3 * of_weight @ A.T, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(A.grad, 3 * B.T @ of_weight, atol=1e-9, rtol=1e-9)


def test_a_model_in_chunks_is_recognised_under_an_adapter():
    assert logprob_chunk(adapted(tiny_model()), 5, token_budget=100) == 5


def test_training_moves_the_adapter_alone_and_all_engines_follow_it(tmp_path):
    found = run(tmp_path / "a", GVPO(), lora=LORA, lr=3e-2)
    start = tiny_model().state_dict()
    for name, weight in found.weights.items():
        if ".lora_" not in name:
            assert torch.equal(weight, start[name.replace(".base_layer", "")]), name
    assert max(float(weight.abs().max()) for name, weight in found.weights.items() if ".lora_B." in name) > 0.01
    # On-policy, the engines draw with the adapter: their log-probs are the trainer's.
    other = run(tmp_path / "b", GVPO(), lora=LORA, lr=3e-2, engine="transformers")
    for rows in (found.rows, other.rows):
        assert max(row["sampler_mismatch_max"] for row in rows) < 1e-4
    assert [row["reward"] for row in found.rows] == [row["reward"] for row in other.rows]


RUNS: dict[str, Any] = {
    "gvpo": (GVPO(), {}),
    "ppo with a critic and a stale sampling policy": (PPO(), {"refresh_every": 3, "steps": 5}),
    "dpo with a reference": (DPO(), {"mini_batches": 2}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_same_numbers_from_a_checkpoint_of_adapters_alone(name, tmp_path):
    algorithm, settings = RUNS[name]
    settings = {"lora": LORA, "checkpoint_every": 2, "lr": 3e-2, **settings}
    undisturbed = run(tmp_path / "undisturbed", algorithm, **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", algorithm, interrupt_at=3, **settings)
    names: dict[str, Any] = {}
    for file in (tmp_path / "killed" / "resume").glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names |= {at: tensors.get_slice(at).get_shape() for at in tensors.keys()}  # noqa: SIM118
    weights = {at for at in names if not at.startswith(("optimizer.", "kept."))}
    assert all(".lora_" in at or at.startswith("critic.head.") for at in weights)
    parts = {at.partition(".")[0] for at in weights}
    assert parts == ({"policy", "sampler", "critic"} if "critic" in name else {"policy"})
    assert sum(torch.Size(names[at]).numel() for at in weights if at.startswith("policy.")) == 992
    assert_same_run(run(tmp_path / "killed", algorithm, **settings), undisturbed)


@each_model
def test_merged_model_is_plain_scores_the_same_and_leaves_the_base_alone(new_model, tmp_path):
    before, model = logits(new_model()), adapted(new_model())
    plain = merged(model)
    plain.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = logits(model).log_softmax(-1)
    for found in (plain, opened):
        torch.testing.assert_close(logits(found).log_softmax(-1), expected, atol=1e-5, rtol=0)
        assert found.state_dict().keys() == new_model().state_dict().keys()
    assert torch.equal(logits(opened), logits(plain))
    assert torch.equal(logits(frozen_copy(model)), before)


def lora_cell(suite_file: Path, *settings: str) -> Any:
    lora = ["model.lora.rank=2", "algorithms.gvpo.optimizer.lr=0.01", "train.steps=2", "evaluation.limit=8"]
    return plan(load_suite(str(suite_file), [*lora, *settings]))[1]


@pytest.fixture
def two_cells(suite_file, tmp_path, one_thread) -> list[tuple[Any, Path]]:
    """The same cell with either checkpoint, each in runs of its own."""
    found = []
    for merge in ("true", "false"):
        cell, runs = lora_cell(suite_file, f"resources.merge_adapter={merge}"), tmp_path / merge
        assert run_cell(cell, runs, [], lambda *_: None) == "finished", CellFolder(runs / cell.name).error()
        found.append((cell, runs))
    return found


def test_a_cell_keeps_a_plain_model_or_its_adapter_and_has_the_same_numbers(two_cells, base):
    (cell, plain_runs), (other, adapter_runs) = two_cells
    assert cell.config.hashes() == other.config.hashes()
    plain, adapter = plain_runs / cell.name, adapter_runs / cell.name
    kept = {path.name for path in (adapter / "checkpoint").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= kept
    assert "model.safetensors" not in kept
    assert all(".lora_" in at for at in load_file(adapter / "checkpoint" / "adapter_model.safetensors"))
    assert manifest(plain)["hash"] == manifest(adapter)["hash"]
    assert (plain / "samples.parquet").read_bytes() == (adapter / "samples.parquet").read_bytes()
    models = [load_model(Model(path=str(folder / "checkpoint"), device="cpu")).model for folder in (plain, adapter)]
    assert torch.equal(logits(models[0]), logits(models[1]))
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert float((logits(models[0]) - logits(start)).abs().max()) > 1e-3
    for folder in (plain, adapter):
        opened = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32)
        torch.testing.assert_close(logits(opened), logits(models[0]), atol=1e-5, rtol=0)


def test_either_checkpoint_is_evaluated_again_to_the_same_samples(two_cells):
    for cell, runs in two_cells:
        folder = runs / cell.name
        before = (folder / "samples.parquet").read_bytes()
        for name in ("manifest.json", "samples.parquet"):
            (folder / name).unlink()
        assert CellFolder(folder).state(cell.config.hashes()) == "trained"
        assert run_cell(cell, runs, [], lambda *_: None) == "finished", CellFolder(folder).error()
        assert (folder / "samples.parquet").read_bytes() == before


def test_only_lora_itself_is_in_the_hash(suite_file):
    def hashes(*settings):
        return plan(load_suite(str(suite_file), settings))[1].config.hashes()

    off = plan(load_suite(str(suite_file)))[1].config
    assert "lora" not in off.stated()["model"]
    assert hashes("model.lora.rank=4") != off.hashes()
    assert hashes("model.lora.rank=4") != hashes("model.lora.rank=8")
    assert hashes("model.lora.rank=4") == hashes("model.lora.rank=4", "model.lora.target_modules='all-linear'")
    assert hashes("resources.merge_adapter=false") == off.hashes()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rank=0", "model.lora.rank = 0"),
        ("alpha=0.0", "model.lora.alpha = 0.0"),
        ("dropout=0.1", "model.lora.dropout: unknown key; known here: rank, alpha, target_modules"),
        ("target_modules='linear'", "target_modules = 'linear': give 'all-linear', or a list of names"),
        ("target_modules=[]", "target_modules = []: give 'all-linear', or a list of names"),
    ],
)
def test_wrong_settings_are_refused_with_their_key(setting, message, suite_file):
    with pytest.raises(ConfigError) as raised:
        load_suite(str(suite_file), [f"model.lora.{setting}"])
    assert message in str(raised.value)


def test_an_adapter_alone_over_a_pinned_revision_is_refused(suite_file):
    settings = ["model.revision=abc", "model.lora.rank=4", "resources.merge_adapter=false"]
    with pytest.raises(ConfigError, match="an adapter names no revision; merge it"):
        load_suite(str(suite_file), settings)


def test_a_module_that_is_not_there_is_named_with_those_that_are(base):
    settings = Model(path=str(base), device="cpu", lora=LoRA(target_modules=["q_proj", "w_q"]))
    with pytest.raises(
        ConfigError, match=r"no linear layer called 'w_q'; it has q_proj, k_proj, v_proj, o_proj, gate_"
    ):
        check_adapter(settings)


def test_the_output_layer_is_refused_where_its_weights_are_the_embedding(tmp_path):
    with pytest.raises(ConfigError, match="lm_head of GPT2LMHeadModel has the weights of its input embedding"):
        targets(tiny_gpt2(), LoRA(target_modules=["lm_head"]))


def test_named_modules_alone_have_an_adapter():
    found = targets(tiny_model(), LoRA(target_modules=["q_proj", "0.mlp.up_proj"]))
    assert found == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
    ]


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("harness.model.lora.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'gvpo-bench\[lora\]'"):
        targets(tiny_model(), LORA)


class Receiver:
    """Stands in vLLM's place: a plain model that takes a file of weights and scores."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.model: Any = AutoModelForCausalLM.from_config(config_for_vllm(tiny_model())).eval()
        self.deaf = deaf

    def load_file(self, path: str) -> None:
        if not self.deaf:
            self.model.load_state_dict(load_file(path))

    def sample(self, requests):
        return [[([3, 1, 4, 1, 5], [0.0] * 5)] for _ in requests]

    def score(self, tokens):
        ids = torch.tensor([tokens])
        with torch.no_grad():
            logp = self.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return [[0.0, *logp.gather(-1, ids[0, 1:, None])[:, 0].tolist()]]


def engine_over(receiver: Any, folder: Path) -> VLLMEngine:
    return VLLMEngine(receiver, VLLMSettings(), folder, eos_ids=[1], precision="float32", ranks=ALONE)


def test_vllm_gets_merged_weights_and_its_probe_agrees(tmp_path):
    receiver, model = Receiver(), adapted(tiny_model())
    engine = engine_over(receiver, tmp_path)
    engine.tolerance = 1e-5
    engine.sync(PolicyModel(frozen_copy(model)))  # which moves the log-probs when the adapter comes
    engine.sync(PolicyModel(model))
    torch.testing.assert_close(logits(receiver.model), logits(model), atol=1e-4, rtol=0)


def test_vllm_that_did_not_get_the_adapter_is_found_out(tmp_path):
    with pytest.raises(VLLMError, match="after a weight sync vLLM's log-probs are not the trainer's"):
        engine_over(Receiver(deaf=True), tmp_path).sync(PolicyModel(adapted(tiny_model())))


def on_two(ranks: Ranks) -> dict[str, Any]:
    """Gradients of sharded models over one frozen base, what of it they share, and the weights that vLLM would get. The
    sampling policy may be stale."""
    from torch.distributed.tensor import DTensor

    batch, rows = float32_example()
    lm = tiny_lm()
    config = config_of(lora=LORA, engine="vllm", refresh_every=2)
    adapted(lm.model)
    base = frozen_base(lm, config.resources, ranks)
    learner = Learner(lm, base, PPO(), config, ranks)
    critic = learner.critic
    assert critic is not None
    with torch.no_grad():
        critic.head.weight.fill_(0.5)
    found: dict[str, Any] = {"reference": score(Scorer(base, ranks=ranks), rows, response_length=6, token_budget=45)}
    for name in ("gvpo", "ppo-everything"):
        algorithm = SETTINGS[name]
        scorer = Scorer(learner.scorer.model, critic if algorithm.needs.critic else None, TEMPERATURE, ranks=ranks)
        for budget in (1, 45, 10**6):
            accumulate_gradient(scorer, algorithm, algorithm.prepare(batch), rows, token_budget=budget)
            found[f"{name}, {budget}"] = {at: whole(x) for at, x in gradients(scorer.model, scorer.critic).items()}
    frozen: dict[str, list[int]] = {"policy": [], "critic": [], "sampler": []}
    of_base = dict(base.model.named_parameters())
    models = (("policy", learner.policy, ""), ("critic", critic.body, "model."), ("sampler", learner.sampler.model, ""))
    for name, model, prefix in models:
        for at, x in model.named_parameters():
            if ".lora_" not in at:
                own, other = x, of_base[prefix + at.replace(".base_layer", "")]
                if isinstance(own, DTensor):
                    own, other = own.to_local(), other.to_local()
                frozen[name].append(own.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())
    found["shared"] = {name: (all(same), len(same)) for name, same in frozen.items()}
    found["merged"] = {at: x.clone() for at, x in merged_weights(learner.policy)}
    return found


def test_on_two_ranks_gradients_are_those_of_one_and_the_frozen_shards_are_there_once(tmp_path):
    (expected,) = on_ranks(1, tmp_path / "one", on_two)
    plain = merged(adapted(tiny_model())).state_dict()
    for found in on_ranks(2, tmp_path / "two", on_two):
        torch.testing.assert_close(found["reference"].logp_NT, expected["reference"].logp_NT, atol=1e-5, rtol=0)
        for case in (case for case in expected if "," in case):
            assert found[case].keys() == expected[case].keys()
            largest = max(float(gradient.abs().max()) for gradient in expected[case].values())
            assert largest > 1e-3
            for at, gradient in expected[case].items():
                torch.testing.assert_close(
                    found[case][at], gradient, atol=1e-5 * max(1.0, largest), rtol=0, msg=f"{case} {at} {{}}".format
                )
        assert found["shared"] == {"policy": (True, 24), "critic": (True, 24), "sampler": (True, 24)}
        assert found["merged"].keys() == plain.keys()
        for at, weight in plain.items():
            torch.testing.assert_close(found["merged"][at], weight, atol=1e-6, rtol=0)
