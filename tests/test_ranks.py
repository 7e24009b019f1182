"""One cell on several ranks: the gradient, the weights and the checkpoints of one process."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_here import on_ranks
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from small import assert_close_cell
from test_gradient import SETTINGS, example
from test_supply import KINDS
from tiny import random_critic, tiny_lm, tiny_model
from torch import Tensor
from training_runs import Interrupted, Judge, config_of, engine_of, without_times

import harness.sampling.vllm_engine
import harness.sweep.cell
import harness.sweep.cells
from algorithms import ALGORITHMS, Algorithm, Batch
from algorithms.dpo import DPO
from algorithms.gvpo import GVPO
from algorithms.kimi import Kimi
from algorithms.ppo import PPO
from benchmarks.arithmetic import Arithmetic
from harness.model.language import LanguageModel, frozen_base, load_model, new_critic
from harness.model.lora import adapt, merged, merged_weights
from harness.model.policy import PolicyModel, recompute_activations, shard
from harness.model.ranks import ALONE, Ranks, copy_weights, join_ranks, whole
from harness.model.rows import Rows
from harness.model.scorer import Scorer
from harness.record.cell_folder import CellFolder
from harness.sampling.local import CachedEngine, LocalEngine
from harness.sampling.vllm_engine import VLLMEngine
from harness.suite.config import Model, Resources
from harness.suite.load import load_suite
from harness.suite.lora_settings import LoRA
from harness.suite.plan import plan
from harness.suite.rollout_settings import Rollout, VLLMSettings
from harness.sweep.cell import run_cell
from harness.sweep.cells import run_cells_on_ranks
from harness.training.gradient import accumulate_gradient
from harness.training.train import train

SIZES = (4, 2, 1, 4)
"""Samples of each group: 11 rows, so that one of two ranks has 6 and the other 5, and every group lies on both."""
BUDGETS = {"a row at a time": 1, "several rounds": 45, "all at once": 10**6}
VARIANTS = {
    "as it is": (None, False, "float32", 1e-5),
    "chunks and recomputed activations": (3, True, "float32", 1e-5),
    "chunks and recomputed activations in bfloat16": (3, True, "bfloat16", 0.05),
}
"""Tokens of a chunk, whether activations are recomputed, the precision, and the tolerance."""
NAMES = {
    "as it is": ["gvpo", "grpo-k3", "ppo-everything", "whitened", *sorted(ALGORITHMS.keys() - {"gvpo", "grpo", "ppo"})],
    "chunks and recomputed activations": ["gvpo", "ppo-everything", "whitened"],
    "chunks and recomputed activations in bfloat16": ["ppo-everything"],
}
CASES = [(name, budget, variant) for variant, names in NAMES.items() for name in names for budget in BUDGETS]


def test_every_algorithm_is_among_the_settings():
    assert set(ALGORITHMS.values()) <= {type(SETTINGS[name]) for name in NAMES["as it is"]}


def float32_example() -> tuple[Batch, Rows]:
    batch, rows = example(SIZES)
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    single: dict[str, Any] = {
        name: x.float() for name, x in values.items() if isinstance(x, Tensor) and x.dtype == torch.float64
    }
    return replace(batch, **single, extras={name: x.float() for name, x in batch.extras.items()}), rows


def all_gradients(ranks: Ranks) -> dict[tuple[str, str, str], tuple[float, dict[str, Tensor]]]:
    """Loss and gradient of every algorithm, at every budget, with and without what saves memory."""
    batch, rows = float32_example()
    found = {}
    for variant, (chunk, recompute, precision, _) in VARIANTS.items():
        model = tiny_model()
        critic = random_critic(model)
        policy = PolicyModel(model, chunk)
        for module in (policy, critic):
            if recompute:
                recompute_activations(module)
            shard(module, ranks)
        for name in NAMES[variant]:
            algorithm = SETTINGS[name]
            scorer = Scorer(policy, critic if algorithm.needs.critic else None, 0.8, precision, ranks)
            for budget, tokens in BUDGETS.items():
                coefficients = accumulate_gradient(
                    scorer, algorithm, algorithm.prepare(batch), rows, token_budget=tokens
                )
                gradient = {}
                for i, part in enumerate((policy, critic)):
                    for at, parameter in part.named_parameters():
                        if parameter.grad is not None:
                            gradient[f"{i}.{at}"], parameter.grad = whole(parameter.grad), None
                found[name, budget, variant] = (coefficients.loss, gradient)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Any:
    """One rank, in the same kind of process: the number of threads decides the rounding too."""
    return on_ranks(1, tmp_path_factory.mktemp("rank") / "meeting", all_gradients)[0]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list[Any]:
    """By rank."""
    return on_ranks(2, tmp_path_factory.mktemp("ranks") / "meeting", all_gradients)


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_the_gradient_on_two_ranks_is_that_on_one(case, alone, together):
    (loss, expected), (*_, tolerance) = alone[case], VARIANTS[case[-1]]
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3
    for found_loss, found in (answers[case] for answers in together):
        # importance weights of some e² multiply the rounding of log-probs, and the loss is a difference of them
        assert found_loss == pytest.approx(loss, abs=10 * tolerance, rel=10 * tolerance)
        assert found.keys() == expected.keys()
        for at, gradient in expected.items():
            assert found[at].dtype == torch.float32
            torch.testing.assert_close(
                found[at], gradient, atol=tolerance * max(1.0, largest), rtol=0, msg=f"{at} {{}}".format
            )


def primitives(ranks: Ranks) -> dict[str, Any]:
    done: list[int] = []

    def square(share):
        done.extend(share)
        return [x * x for x in share]

    table = {}
    for rows in (1, 2, 5):
        mine, counts = ranks.deal(torch.arange(rows) + 10)
        table[rows] = (mine.tolist(), counts, ranks.collect(mine[:, None] * 1.0, rows).tolist())
    return {
        "spread": ranks.spread(square, [1, 2, 3, 4, 5]),
        "done": done,
        "too few": ranks.spread(square, [7]),
        "first": ranks.first(lambda: f"by {ranks.rank}"),
        "table": table,
    }


def test_work_is_shared_out_and_every_rank_gets_all_of_it(tmp_path):
    zero, one = on_ranks(2, tmp_path / "meeting", primitives)
    for found in (zero, one):
        assert found["spread"] == [1, 4, 9, 16, 25]
        assert found["too few"] == [49]
        assert found["first"] == "by 0"
        assert [found["table"][rows][2] for rows in (1, 2, 5)] == [
            [[float(10 + i)] for i in range(rows)] for rows in (1, 2, 5)
        ]
    assert (zero["done"], one["done"]) == ([1, 3, 5, 7], [2, 4])
    # Of five rows rank 0 has the first, third and fifth. Of a single one both have it, and it counts on rank 0 alone.
    assert [zero["table"][rows][:2] for rows in (1, 2, 5)] == [([10], True), ([10], True), ([10, 12, 14], True)]
    assert [one["table"][rows][:2] for rows in (1, 2, 5)] == [([10], False), ([11], True), ([11, 13], True)]


def test_a_process_alone_does_it_all():
    found = primitives(ALONE)
    assert found["spread"] == [1, 4, 9, 16, 25]
    assert found["done"] == [1, 2, 3, 4, 5, 7]
    assert found["table"][5] == ([10, 11, 12, 13, 14], True, [[10.0], [11.0], [12.0], [13.0], [14.0]])


pytest_plugins = ["small_fixtures"]

LORA = LoRA(rank=2, alpha=4.0)
RUNS: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "gvpo": (GVPO(), {"mini_batches": 2, "steps": 4}),
    "ppo-with-critic-and-stale-sampler": (PPO(entropy_coefficient=0.01), {"refresh_every": 3, "steps": 6}),
    "dpo-with-reference-and-history": (DPO(), {"history_share": 0.25, "prompts": 3, "steps": 4}),
    "kimi-at-a-budget": (Kimi(), {"token_budget": 40, "epochs": 2, "steps": 4}),
    "ppo-with-an-engine-that-keeps-weights": (PPO(), {"mini_batches": 2, "steps": 4}),
    "ppo-with-an-engine-that-keeps-weights-and-rank-0-alone-has-them": (PPO(), {"mini_batches": 2, "steps": 4}),
    "gvpo-with-an-engine-that-keeps-weights-and-stale": (GVPO(), {"refresh_every": 3, "steps": 4}),
    "samples-of-the-base": (KINDS["base"], {"refresh_every": 3, "steps": 4}),
    "samples-of-the-base-by-an-engine-that-keeps-weights": (KINDS["base"], {"steps": 3}),
    "extras": (KINDS["extras"], {"steps": 4}),
    "refill": (KINDS["refill"], {"steps": 4, "samples": 2}),
    "lora-ppo-with-critic-and-stale-sampler": (PPO(), {"lora": LORA, "refresh_every": 3, "steps": 4, "lr": 3e-2}),
    "lora-dpo-with-an-engine-that-keeps-weights": (DPO(), {"lora": LORA, "mini_batches": 2, "steps": 4, "lr": 3e-2}),
    "lora-ppo-with-an-engine-that-keeps-weights-and-stale-and-rank-0-alone-has-them": (
        PPO(),
        {"lora": LORA, "refresh_every": 3, "steps": 4, "lr": 3e-2},
    ),
}
PROBLEMS = Arithmetic("few", "train", hard=False, count=6).problems()


class KeepsWeights:
    """An engine over weights of its own, as vLLM is."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.own = merged(copy.deepcopy(engine.model))

    def sync(self, policy: PolicyModel) -> None:
        self.own.load_state_dict(dict(merged_weights(policy.model)))
        self.engine.sync(PolicyModel(self.own))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def trained(ranks: Ranks, path: Path, name: str, interrupt_at: int | None = None) -> dict[str, Any]:
    """A run of the tiny model, as far as it came; checkpoints every second step."""
    path.mkdir(exist_ok=True)
    algorithm, settings = RUNS[name]
    lm, judge, folder = tiny_lm(), Judge(), CellFolder(path)

    held = []

    def on_step(step, row):
        held.append(sum(x.numel() for x in lm.model.parameters()))
        if step == interrupt_at:
            raise Interrupted

    config = config_of(checkpoint_every=2, **settings)
    adapt(lm.model, config.model.lora, config.seed)
    engine: Any = engine_of(config, lm)
    if "keeps-weights" in name:
        engine, config = KeepsWeights(engine), config.model_copy(update={"rollout": Rollout(engine="vllm")})
    if "rank-0-alone" in name and not ranks.alone:
        kept = tiny_model().to("meta" if ranks.rank else "cpu")
        kept.tie_weights()  # which a move to meta unties
        adapt(kept, config.model.lora, config.seed)
        lm = replace(lm, model=kept, computes_on=torch.device("cpu"))
    steps: list[int] = []
    try:
        train(
            config,
            algorithm,
            lm,
            frozen_base(lm, config.resources, ranks),
            engine,
            PROBLEMS,
            judge,
            folder,
            on_step,
            ranks,
        )
    except Interrupted:
        steps = [-1]
    return {
        "rows": without_times(folder.metrics()),
        "weights": {at: x.clone() for at, x in merged(lm.model).state_dict().items() if not x.is_meta},
        "drawn": sum(map(len, judge.shown)),
        "calls": len(judge.shown),
        "interrupted": bool(steps),
        "held": set(held),
    }


def on_two(ranks: Ranks, path: Path) -> dict[str, Any]:
    """Every run undisturbed, and one broken off after step 5, whose last checkpoint is that of step 4."""
    found = {name: trained(ranks, path / name, name) for name in RUNS}
    found["broken off"] = trained(ranks, path / "broken off", "ppo-with-critic-and-stale-sampler", interrupt_at=5)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("two")
    return path, on_ranks(2, path / "meeting", on_two, path)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_two_ranks_ends_with_the_weights_of_one(name, two, tmp_path):
    expected = trained(ALONE, tmp_path, name)
    start = tiny_model().state_dict()
    assert any(float((x - start[at]).abs().max()) > 1e-3 for at, x in expected["weights"].items())
    runs = [run[name] for run in two[1]]
    assert runs[0]["drawn"] + runs[1]["drawn"] == expected["drawn"]  # each rank drew and graded its share
    assert min(run["drawn"] for run in runs) > 0
    assert runs[0]["weights"].keys() == expected["weights"].keys()
    for run in runs:
        for at, x in expected["weights"].items():
            if "rank-0-alone" in name and run is runs[1]:
                assert at not in run["weights"]
                continue
            torch.testing.assert_close(run["weights"][at], x, atol=1e-5, rtol=0)
    for found, row in zip(runs[0]["rows"], expected["rows"], strict=True):
        assert found.keys() == row.keys()
        for column, value in row.items():
            if column != "padding":
                assert found[column] == pytest.approx(value, abs=1e-4, rel=1e-4), column


def test_no_rank_holds_a_whole_policy_where_the_engine_takes_weights_from_a_sharded_one(two):
    whole_one = sum(x.numel() for x in tiny_model().parameters())
    held = {name: run["held"] for name, run in two[1][0].items()}
    assert {name: numbers for name, numbers in held.items() if "keeps-weights" in name and numbers != {0}} == {}
    assert held["gvpo"] == {whole_one}  # the engine samples from these very weights


def loaded(ranks: Ranks, settings: Model) -> dict[str, Any]:
    """A model of which rank 0 has the weights, and what a copy has that is sharded, with its critic."""
    lm = load_model(settings, ranks)
    base = frozen_base(lm, Resources(), ranks)
    critic = new_critic(lm.model)
    shard(critic, ranks)
    tied = base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    rows = Rows.of([[5, 9, 14]], [[7, 3]], lm.device)
    return {
        "on meta": {x.is_meta for x in lm.model.parameters()},
        "here": sum(x.to_local().numel() for x in base.parameters()),  # type: ignore[attr-defined]
        "weights": {at: whole(x) for at, x in base.model.state_dict().items()},
        "critic": {at: whole(x) for at, x in critic.state_dict().items()},
        "tied": tied,
        "eos": lm.eos_ids,
        "logp": Scorer(base, ranks=ranks)(rows, response_length=2).logp_NT,
        "frozen": not any(x.requires_grad for x in base.parameters()),
    }


def test_only_rank_0_loads_the_weights_and_no_rank_has_all_of_them_to_compute_with(tmp_path):
    lm = tiny_lm()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    zero, one = on_ranks(2, tmp_path / "meeting", loaded, Model(path=str(tmp_path / "model")))
    assert (zero["on meta"], one["on meta"]) == ({False}, {True})
    number = sum(x.numel() for x in lm.model.parameters())
    assert zero["here"] + one["here"] == number
    assert 0.4 < zero["here"] / number < 0.6
    rows = Rows.of([[5, 9, 14]], [[7, 3]], "cpu")
    expected = Scorer(PolicyModel(lm.model))(rows, response_length=2).logp_NT
    body = lm.model.base_model.state_dict()
    for found in (zero, one):
        assert (found["tied"], found["frozen"], found["eos"]) == (True, True, lm.eos_ids)
        for at, x in lm.model.state_dict().items():
            assert torch.equal(found["weights"][at], x), at
        assert found["critic"].keys() == {f"body.{at}" for at in body} | {"head.weight", "head.bias"}
        assert all(torch.equal(found["critic"][f"body.{at}"], x) for at, x in body.items())
        assert not found["critic"]["head.weight"].any()
        # Buffers that no checkpoint holds, those of the rotary embedding, decide these too.
        torch.testing.assert_close(found["logp"], expected)


def cell_of_vllm(ranks: Ranks, suite_file: Path, runs: Path) -> list[set[str]]:
    """Runs a cell whose engine has weights of its own; where each model lies that it loads."""
    found: list[set[str]] = []

    def load(settings: Model, holders: Ranks = ALONE) -> LanguageModel:
        lm = load_model(settings, holders)
        found.append({x.device.type for x in lm.model.parameters()})
        return lm

    @contextlib.contextmanager
    def keeps_weights(*_: Any, eos_ids: Any, **__: Any) -> Iterator[KeepsWeights]:
        yield KeepsWeights(CachedEngine(load_model(cell.config.model).model, eos_ids=eos_ids, batch=64))

    settings = ["rollout.engine=vllm", "model.lora.rank=2", "train.steps=3", "train.refresh_every=2", "seeds=1"]
    small = ["train.prompts=2", "train.samples=4", "evaluation.limit=4", "algorithms.gvpo.optimizer.lr=0.01"]
    cell = plan(load_suite(str(suite_file), [*settings, *small]))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.sweep.cell, "load_model", load)
        patch.setattr(harness.sweep.cell, "open_engine", keeps_weights)
        assert run_cell(cell, runs, [], lambda *_: None) == "finished", CellFolder(runs / cell.name).error()
        if ranks.rank == 0:
            (runs / cell.name / "manifest.json").unlink()
        ranks.barrier()
        assert run_cell(cell, runs, [], lambda *_: None) == "finished"  # from its checkpoint, which is evaluated again
    return found


def test_a_cell_with_an_adapter_and_a_stale_sampler_of_vllm_loads_on_rank_0_and_ends_as_one_process(
    suite_file, tmp_path, one_thread
):
    assert cell_of_vllm(ALONE, suite_file, tmp_path / "one") == [{"cpu"}] * 3
    found = on_ranks(2, tmp_path / "meeting", cell_of_vllm, suite_file, tmp_path / "two")
    assert found == [[{"cpu"}] * 3, [{"meta"}] * 3]
    assert_close_cell(tmp_path / "two" / "gvpo-s0", tmp_path / "one" / "gvpo-s0")


class Reads:
    """A sampler that takes weights from a file, as servers of vLLM do, and remembers what it was given."""

    def __init__(self, read: list[tuple[str, list[str]]]) -> None:
        self.read, self.model = read, tiny_model()

    def load_file(self, file: str) -> None:
        folder = Path(file).parent.parent
        self.read.append((file, [str(path) for path in folder.rglob("*.safetensors")]))
        self.model.load_state_dict(load_file(file))

    def sample(self, requests: Any) -> list[list[tuple[list[int], list[float]]]]:
        return [[([7, 3], [0.0, 0.0])]]

    def score(self, tokens: list[int]) -> list[list[float]]:
        logp_NT = Scorer(PolicyModel(self.model))(
            Rows.of([tokens[:-2]], [tokens[-2:]], "cpu"), response_length=2
        ).logp_NT
        return [[0.0] * (len(tokens) - 2) + logp_NT[0].tolist()]


def handed_over(ranks: Ranks, path: Path) -> list[tuple[str, list[str]]]:
    """What each rank's servers read, and which files there were then, on a node of both."""
    os.environ["LOCAL_RANK"] = str(ranks.rank)
    harness.sampling.vllm_engine.needs_padding = lambda config: False  # which vLLM asks for on the CPU
    folder = path / f"of rank {ranks.rank}"
    folder.mkdir()
    policy = PolicyModel(tiny_model())
    policy.model.get_submodule("model.norm").weight.data *= 2
    shard(policy, ranks)
    read: list[tuple[str, list[str]]] = []
    sampler: Any = Reads(read)
    VLLMEngine(sampler, VLLMSettings(mode="server"), folder, eos_ids=[1], precision="float32", ranks=ranks).sync(policy)
    assert list(path.rglob("*.safetensors")) == []
    return read


def test_ranks_of_a_node_have_their_servers_read_one_file(tmp_path):
    path = tmp_path / "folders"
    path.mkdir()
    file = str(path / "of rank 0" / "weights.safetensors")
    assert on_ranks(2, tmp_path / "meeting", handed_over, path) == [[(file, [file])], [(file, [file])]]


def resumed(ranks: Ranks, path: Path) -> dict[str, Any]:
    return trained(ranks, path, "ppo-with-critic-and-stale-sampler")


@pytest.mark.parametrize("size", [2, 3, 1])
def test_a_broken_off_run_goes_on_from_its_shards_on_any_number_of_ranks(size, two, tmp_path):
    path, runs = two
    undisturbed = runs[0]["ppo-with-critic-and-stale-sampler"]
    assert runs[0]["broken off"]["interrupted"]
    folder = tmp_path / "cell"
    shutil.copytree(path / "broken off", folder)
    found = resumed(ALONE, folder) if size == 1 else on_ranks(size, tmp_path / "meeting", resumed, folder)[0]
    assert found["calls"] == 2  # steps 5 and 6
    for at, x in undisturbed["weights"].items():
        if size == 2:
            assert torch.equal(found["weights"][at], x), at
        else:
            torch.testing.assert_close(found["weights"][at], x, atol=1e-5, rtol=0)
    if size == 2:
        assert found["rows"] == undisturbed["rows"]


def test_each_rank_writes_its_own_shards_and_nothing_is_pickled(two):
    folder = two[0] / "broken off" / "resume"
    files = sorted(path.name for path in folder.iterdir())
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) == 2
    assert set(files) == {*shards, "progress.json", "sums.json"}
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["step"] == 4
    assert progress["optimizers"].keys() == {"policy", "critic"}
    rows, steps = [], []
    for name in shards:
        with safe_open(folder / name, framework="pt") as file:
            rows.append(file.get_slice("policy.model.embed_tokens.weight").get_shape()[0])
            steps += [file.get_tensor(at).item() for at in file.keys() if at.endswith(".step")]  # noqa: SIM118
    assert rows == [16, 16]  # of 32 words
    assert set(steps) == {4.0}
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads((folder / shards[0]).read_bytes())  # noqa: S301


def test_a_checkpoint_of_one_process_is_continued_by_two(tmp_path):
    name = "ppo-with-critic-and-stale-sampler"
    undisturbed = trained(ALONE, tmp_path / "undisturbed", name)
    folder = tmp_path / "cell"
    trained(ALONE, folder, name, interrupt_at=5)
    found = on_ranks(2, tmp_path / "meeting", trained, folder, name)[0]
    assert found["calls"] == 2  # steps 5 and 6
    for at, x in undisturbed["weights"].items():
        torch.testing.assert_close(found["weights"][at], x, atol=1e-5, rtol=0)


def refreshed(ranks: Ranks) -> dict[str, Tensor]:
    model = tiny_model()
    sampler = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data *= 1.5
    shard(PolicyModel(model), ranks)
    copy_weights(model, sampler)
    return dict(sampler.state_dict())


def test_the_sampler_gets_the_whole_weights_of_the_sharded_policy(tmp_path):
    expected = tiny_model().state_dict()
    for found in on_ranks(2, tmp_path / "meeting", refreshed):
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert torch.equal(found[name], 1.5 * weight)


def kl_of_all(ranks: Ranks) -> Tensor:
    _, rows = float32_example()
    policy, base = tiny_model(), tiny_model()
    for weight in base.parameters():
        weight.data *= 0.9
    scorers = [Scorer(PolicyModel(model, 3), ranks=ranks) for model in (policy, base)]
    shard(scorers[1].model, ranks)
    return torch.stack(scorers[0].kl_from(scorers[1], rows, token_budget=45))


def test_kl_from_a_sharded_base_in_chunks_is_that_of_one_process(tmp_path):
    expected = kl_of_all(ALONE)
    assert float(expected[0].min()) > 0
    for found in on_ranks(2, tmp_path / "meeting", kl_of_all):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def failing(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise ArithmeticError("the moon is in the wrong house")
    ranks.spread(list, [1, 2])


def test_a_rank_whose_peer_died_gives_up(tmp_path):
    with pytest.raises(AssertionError, match=r"(?s)rank 0:.*(Connection|closed|reset)"):
        on_ranks(2, tmp_path / "meeting", failing)


def test_without_a_process_group_a_process_is_alone():
    assert Ranks.of_group() is ALONE
    with join_ranks() as ranks:
        assert ranks is ALONE


def cells_that_run(ranks, suite_file, runs):
    """What each rank runs, where the others see a disk on which nothing is finished."""
    ran: list[str] = []

    def run(cell, *_):
        ran.append(cell.name)
        return "finished"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.sweep.cells, "run_cell", run)
        if ranks.rank > 0:
            patch.setattr(CellFolder, "state", lambda self, hashes: "new")
        cells = plan(load_suite(str(suite_file)))
        outcome = run_cells_on_ranks(cells, runs, ranks=ranks, command=[], console=Console(quiet=True))
    return ran, outcome.reused


def test_rank_0_decides_which_cells_run_whatever_the_disk_of_another_shows(suite_file, tmp_path):
    runs = tmp_path / "runs"
    for cell in plan(load_suite(str(suite_file)))[:2]:
        hashes = cell.config.hashes()
        with CellFolder(runs / cell.name).claim(hashes):
            ended = {"status": "finished", "hash": hashes.training, "evaluation_hash": hashes.evaluation}
            CellFolder(runs / cell.name).finish(ended)
    expected = (["ppo-s0", "gvpo-s1", "ppo-s1"], ["base", "gvpo-s0"])
    assert on_ranks(2, tmp_path / "meeting", cells_that_run, suite_file, runs) == [expected, expected]
