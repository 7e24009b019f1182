"""bfloat16 weights with float32 masters: nothing that an update adds is lost, in a run, on ranks, or over a kill."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_runs
from ranks_here import on_ranks
from safetensors import safe_open
from test_gradient import SETTINGS
from test_ranks import float32_example
from tiny import PROMPTS, gradients, random_critic, tiny_lm, tiny_model
from torch import Tensor, nn
from training_runs import Interrupted, assert_same_run, config_of, run

from algorithms.ppo import PPO
from harness.model.language import LanguageModel, load_model, new_critic
from harness.model.lora import adapt, merged
from harness.model.policy import PolicyModel, shard
from harness.model.ranks import ALONE, Ranks, whole
from harness.model.rows import Rows
from harness.model.scorer import Scorer
from harness.suite.config import ConfigError, Model, Optimizer
from harness.suite.load import load_suite
from harness.suite.lora_settings import LoRA
from harness.training.gradient import accumulate_gradient
from harness.training.learner import adamw
from harness.training.masters import Masters, with_masters

pytest_plugins = ["small_fixtures"]

HALF: dict[str, Any] = {"weights": "bfloat16", "precision": "bfloat16"}
LORA = LoRA(rank=2, alpha=6.0)
SETTINGS_OF_ADAMW = Optimizer(lr=1e-2, max_norm=1.0)
RESPONSES = [[8, 3, 1], [22], [17, 17, 4, 9, 1], [6, 12]]


def half_model() -> Any:
    return tiny_model().bfloat16()


def backward(model: nn.Module, part: slice) -> None:
    rows = Rows.of(PROMPTS[part], RESPONSES[part], "cpu")
    Scorer(PolicyModel(model), precision="bfloat16")(rows, response_length=5).logp_NT.sum().backward()


def test_a_step_is_adamws_on_float32_weights_with_gradients_added_up_in_float32():
    model = half_model()
    parts = [slice(0, 1), slice(1, 2), slice(2, 4)]
    reference: dict[str, Any] = {name: nn.Parameter(x.detach().float()) for name, x in model.named_parameters()}
    for part in parts:
        alone = copy.deepcopy(model)
        backward(alone, part)
        for name, x in alone.named_parameters():
            assert x.grad.dtype == torch.bfloat16
            so_far = reference[name].grad
            reference[name].grad = x.grad.float() if so_far is None else so_far + x.grad.float()
    masters: Any = with_masters(model)
    optimizer = adamw(masters, 1e-2, SETTINGS_OF_ADAMW)
    for part in parts:
        backward(model, part)
    assert all(x.grad is None for x in model.parameters())
    expected = torch.optim.AdamW(reference.values(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    found: dict[str, Any] = {name.replace("/", "."): x for name, x in masters.named_parameters()}
    assert found.keys() == reference.keys()
    assert all(torch.equal(x.grad, reference[name].grad) for name, x in found.items())
    optimizer.step()
    expected.step()
    for name, weight in model.named_parameters():
        assert torch.equal(found[name], reference[name])
        assert torch.equal(weight, reference[name].bfloat16())


def test_updates_far_below_the_weights_resolution_are_not_lost():
    # Below 1 a bfloat16 has steps of 2⁻⁸ = 0.0039. With a constant gradient AdamW moves by its rate of 1e-5 at a time:
    # 300 of them make 0.997, which rounds to 1 − 2⁻⁸; each alone rounds back to 1.
    def trained(keep: bool) -> float:
        model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
        nn.init.ones_(model.weight)
        stepped = with_masters(model) if keep else model
        optimizer = adamw(stepped, 1e-5, SETTINGS_OF_ADAMW)
        for _ in range(300):
            model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        if keep:
            assert float(next(stepped.parameters()).detach()) == pytest.approx(0.997, abs=1e-5)
        return float(model.weight.detach())

    assert trained(keep=True) == 1 - 2**-8
    assert trained(keep=False) == 1


def test_float32_weights_have_no_masters_and_frozen_ones_need_none():
    model = tiny_model()
    assert with_masters(model) is model
    frozen = half_model().requires_grad_(False)
    embedding = frozen.get_input_embeddings()
    assert with_masters(frozen) is frozen
    embedding.weight.requires_grad_(True)
    assert len(list(with_masters(frozen).parameters())) == 1


def test_masters_that_are_gone_hold_no_gradient_back():
    model = half_model()
    with_masters(model)  # as a learner that scores and is dropped
    masters: Any = with_masters(model)
    backward(model, slice(0, 4))
    assert all(x.grad is not None for x in masters.parameters())


def test_a_broken_off_run_goes_on_to_the_last_digit_from_its_masters(tmp_path, monkeypatch):
    monkeypatch.setattr(training_runs, "tiny_lm", half_lm)
    settings: dict[str, Any] = {"refresh_every": 3, "checkpoint_every": 2, "lr": 1e-4, **HALF}
    undisturbed = run(tmp_path / "a", PPO(), **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", PPO(), interrupt_at=3, **settings)
    kept: dict[str, Tensor] = {}
    for path in sorted((tmp_path / "b" / "resume").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            kept |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    of_optimised = [x for name, x in kept.items() if name.partition(".")[0] in ("policy", "critic")]
    assert {x.dtype for x in of_optimised} == {torch.float32}
    assert any((x != x.bfloat16()).any() for x in of_optimised)
    assert_same_run(run(tmp_path / "b", PPO(), **settings), undisturbed)
    start = half_model().state_dict()
    assert {x.dtype for x in undisturbed.weights.values()} == {torch.bfloat16}
    assert any(not torch.equal(x, start[name]) for name, x in undisturbed.weights.items())


def master_gradients(ranks: Ranks) -> dict[str, Tensor]:
    batch, rows = float32_example()
    model = half_model()
    critic = random_critic(model)
    policy = PolicyModel(model, 3)
    for module in (policy, critic):
        shard(module, ranks)
    masters: list[Any] = [with_masters(part) for part in (model, critic)]
    algorithm = SETTINGS["ppo-everything"]
    scorer = Scorer(policy, critic, 0.8, "bfloat16", ranks)
    accumulate_gradient(scorer, algorithm, algorithm.prepare(batch), rows, token_budget=45)
    assert all(isinstance(part, Masters) for part in masters)
    assert all(x.grad is None for x in (*model.parameters(), *critic.parameters()))
    return {f"{i}.{at}": whole(x.grad) for i, part in enumerate(masters) for at, x in part.named_parameters()}


def test_a_checkpoint_is_loaded_and_kept_in_the_weights_own_width(reader: Path, tmp_path):
    lm = load_model(Model(path=str(reader), device="cpu", **HALF))
    assert {x.dtype for x in lm.model.parameters()} == {torch.bfloat16}
    lm.model.save_pretrained(tmp_path)
    assert load_model(Model(path=str(reader), device="cpu")).model.dtype == torch.float32
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_bfloat16_weights_are_in_the_hash_and_float32_ones_are_not():
    assert "weights" not in config_of().stated()["model"]
    assert config_of(**HALF).hashes() != config_of(precision="bfloat16").hashes()
    with pytest.raises(ValueError, match="set precision = 'bfloat16' too"):
        Model(weights="bfloat16")


def half_lm(eos: Any = (1,)) -> LanguageModel:
    return dataclasses.replace(tiny_lm(eos), model=half_model())


def adapted_half_model(new: Callable[[], Any] = half_model) -> Any:
    """Whose adapter does something."""
    model = new()
    adapt(model, LORA, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for weight in model.parameters():
            if weight.requires_grad:
                nn.init.normal_(weight, std=0.3)
    return model


def adapter_gradients(ranks: Ranks, new: Callable[[], Any] = half_model) -> dict[str, Tensor]:
    """Of an adapter and of a critic's, which has a head too."""
    batch, rows = float32_example()
    model = adapted_half_model(new)
    critic = new_critic(model)
    nn.init.ones_(critic.head.weight)
    policy = PolicyModel(model, 3)
    for module in (policy, critic):
        shard(module, ranks)
    assert with_masters(model) is model
    assert with_masters(critic) is critic
    algorithm = SETTINGS["ppo-everything"]
    scorer = Scorer(policy, critic, 0.8, "bfloat16", ranks)
    accumulate_gradient(scorer, algorithm, algorithm.prepare(batch), rows, token_budget=45)
    found = {at: whole(x) for at, x in gradients(policy, critic).items()}
    assert {x.dtype for x in found.values()} == {torch.float32}
    return found


def both_gradients(ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return master_gradients(ranks), adapter_gradients(ranks)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[Any]:
    """By rank: of masters, and of an adapter."""
    return on_ranks(2, tmp_path_factory.mktemp("ranks") / "meeting", both_gradients)


def test_the_masters_gradient_on_two_ranks_is_that_on_one(two_ranks):
    expected = master_gradients(ALONE)
    largest = max(float(x.abs().max()) for x in expected.values())
    for found in (of_masters for of_masters, _ in two_ranks):
        assert found.keys() == expected.keys()
        for at, x in expected.items():
            assert found[at].dtype == torch.float32
            torch.testing.assert_close(found[at], x, atol=0.05 * largest, rtol=0, msg=f"{at} {{}}".format)


def test_over_frozen_bfloat16_weights_the_adapters_gradient_is_that_over_the_same_in_float32_and_on_two_ranks(
    two_ranks,
):
    # In float32 the residual stream and the norms are wider; every matrix product has the same bfloat16 factors.
    over_float32 = adapter_gradients(ALONE, lambda: half_model().float())
    largest = max(float(x.abs().max()) for x in over_float32.values())
    assert largest > 1e-3
    for found in (adapter_gradients(ALONE), *(of_adapter for _, of_adapter in two_ranks)):
        assert found.keys() == over_float32.keys()
        assert all(".lora_" in at or ".head." in at for at in found)
        for at, x in over_float32.items():
            torch.testing.assert_close(found[at], x, atol=0.05 * largest, rtol=0, msg=f"{at} {{}}".format)


def test_an_adapter_over_bfloat16_weights_is_float32_and_all_that_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(training_runs, "tiny_lm", half_lm)
    settings: dict[str, Any] = {"refresh_every": 3, "checkpoint_every": 2, "lr": 3e-2, "lora": LORA, **HALF}
    undisturbed = run(tmp_path / "a", PPO(), **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", PPO(), interrupt_at=3, **settings)
    assert_same_run(run(tmp_path / "b", PPO(), **settings), undisturbed)
    start = half_model().state_dict()
    of_adapter = {name: x for name, x in undisturbed.weights.items() if ".lora_" in name}
    assert {x.dtype for x in of_adapter.values()} == {torch.float32}
    assert any((x != x.bfloat16()).any() for x in of_adapter.values())
    for name, x in undisturbed.weights.items():
        if name not in of_adapter:
            assert torch.equal(x, start[name.replace(".base_layer", "")]), name


def test_merged_weights_are_the_sum_in_float32_rounded_once():
    model = adapted_half_model()
    plain, wide = merged(model).state_dict(), merged(adapted_half_model(lambda: half_model().float())).state_dict()
    assert {x.dtype for x in plain.values()} == {torch.bfloat16}
    assert all(torch.equal(x, wide[name].bfloat16()) for name, x in plain.items())


def test_an_adapter_alone_which_transformers_would_round_is_refused_over_bfloat16_weights(suite_file):
    half = ["model.weights=bfloat16", "model.precision=bfloat16"]
    assert load_suite(str(suite_file), [*half, "model.lora.rank=2"]).model.lora is not None
    with pytest.raises(ConfigError, match=r"merge_adapter = false with model\.weights = 'bfloat16'.*merge it"):
        load_suite(str(suite_file), [*half, "model.lora.rank=2", "resources.merge_adapter=false"])
