"""Training runs of a few steps on the tiny model, with all that came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tiny import tiny_lm

from algorithms import Algorithm, Batch, LossOutput
from benchmarks.arithmetic import Arithmetic
from harness.model.language import frozen_base
from harness.model.lora import adapt
from harness.record.cell_folder import CellFolder
from harness.record.ledger import Spent
from harness.sampling.engine import ENGINES
from harness.suite.cell_config import CellConfig
from harness.suite.config import Evaluation, Model, Optimizer, Resources, Train
from harness.suite.rollout_settings import Rollout
from harness.training.train import train

TIMES = ("seconds",)
PROBLEMS = Arithmetic("few", "train", hard=False, count=6).problems()


def is_correct(response: str) -> bool:
    return sum(map(ord, response)) % 2 == 0


@dataclass
class Judge:
    """About half of all responses are correct. Keeps what it was shown, call by call."""

    shown: list[list[tuple[str, str]]] = field(default_factory=list)

    def __call__(self, problems, responses, truncated):
        self.shown.append([(p.id, r) for p, r in zip(problems, responses, strict=True)])
        return ["correct" if is_correct(response) else "wrong" for response in responses]


@dataclass(frozen=True)
class Spy(Algorithm):
    """Another algorithm, with every batch that it prepared and every mini-batch that it had a loss of."""

    inner: Algorithm
    prepared: list[Any] = field(default_factory=list)
    updates: list[tuple[torch.Tensor, Batch]] = field(default_factory=list)

    @property
    def needs(self):
        return self.inner.needs

    def prepare(self, batch):
        self.prepared.append(batch)
        return self.inner.prepare(batch)

    def loss(self, policy, batch) -> LossOutput:
        self.updates.append((policy.logp_GKT.detach().clone(), batch))
        return self.inner.loss(policy, batch)


class Interrupted(Exception):
    pass


@dataclass
class Run:
    """A training run of a few steps on the tiny model, with all that came of it."""

    rows: list[dict[str, float]]
    weights: dict[str, torch.Tensor]
    spent: Spent
    judge: Judge


def config_of(*, seed=0, engine="cached", lr=3e-3, replays=None, **settings) -> CellConfig:
    resources = {name: settings.pop(name) for name in [*settings] if name in Resources.model_fields}
    model = {name: settings.pop(name) for name in [*settings] if name in Model.model_fields}
    defaults: dict[str, Any] = {"benchmark": "few", "steps": 4, "prompts": 2, "samples": 4, "max_new_tokens": 6}
    return CellConfig(
        suite="test",
        label="x",
        seed=seed,
        algorithm="x",
        source_sha256=None,
        parameters={},
        optimizer=Optimizer(lr=lr, max_norm=1.0, critic_lr=1e-2),
        model=Model(**({"device": "cpu"} | model)),
        train=Train(**(defaults | settings)),
        rollout=Rollout(engine=engine),
        evaluation=Evaluation(benchmarks=["few"]),
        resources=Resources(**resources),
        replays=replays,
    )


def engine_of(config, lm):
    return ENGINES[config.rollout.engine](lm.model, eos_ids=lm.eos_ids, batch=config.resources.rollout_batch)


def run(
    path, algorithm, *, problems=PROBLEMS, interrupt_at=None, watch=None, eos_ids=(1,), recording=None, **settings
) -> Run:
    path.mkdir(exist_ok=True)
    lm, judge, folder = tiny_lm(eos_ids), Judge(), CellFolder(path)

    def on_step(step, row):
        if watch is not None:
            watch(step)
        if step == interrupt_at:
            raise Interrupted

    config = config_of(**settings)
    adapt(lm.model, config.model.lora, config.seed)
    base = frozen_base(lm, config.resources)
    engine = engine_of(config, lm)
    spent = train(config, algorithm, lm, base, engine, problems, judge, folder, on_step, recording=recording)
    weights = {name: x.clone() for name, x in lm.model.state_dict().items()}
    return Run(folder.metrics(), weights, spent, judge)


def without_times(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_same_run(a: Run, b: Run) -> None:
    assert without_times(a.rows) == without_times(b.rows)
    for name, weight in a.weights.items():
        assert torch.equal(weight, b.weights[name]), name
