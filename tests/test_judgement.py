"""What a loss may return: the same words at every step of a run and in `gvpo-bench check`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from batches import random_batch
from training_runs import run

from algorithms import ALGORITHMS, Algorithm, LossOutput
from algorithms.base import sequence_sum
from harness.kit.calls import CallError, evaluate
from harness.kit.extreme_cases import extreme_cases
from harness.kit.output_properties import something_is_trained
from harness.kit.properties import Subject
from harness.kit.random_batches import random_case
from harness.training.gradient import differentiate
from harness.training.judgement import HARNESS_METRICS, LossError, fault_of_metrics, prepared


@dataclass(frozen=True, kw_only=True)
class Returns(Algorithm):
    """Whatever `make` makes of Σ log π."""

    name: ClassVar[str] = "Returns"
    make: Any = field(default=None)

    def loss(self, policy, batch):
        return self.make(sequence_sum(policy.logp_GKT, batch.mask_GKT).sum())


def loss(x: Any) -> LossOutput:
    return LossOutput(loss=x)


def exits(x: Any) -> LossOutput:
    raise SystemExit(0)


FAULTS = {
    "None": (lambda x: None, "loss() returned None; return LossOutput(loss=...)"),
    "float": (lambda x: x.item(), "loss() returned a float; return LossOutput(loss=...)"),
    "tensor": (lambda x: x, "loss() returned a Tensor; return LossOutput(loss=...)"),
    "float inside": (lambda x: loss(x.item()), "LossOutput.loss is a float; it must be a tensor that autograd can"),
    "vector of one": (
        lambda x: loss(x[None]),
        "the loss has shape (1,); it must be a scalar: take the mean or the sum",
    ),
    "integer": (lambda x: loss(x.long()), "the loss holds torch.int64 for log-probs in torch.float64; keep the dtype"),
    "other precision": (lambda x: loss(x.float()), "the loss holds torch.float32 for log-probs in torch.float64"),
    "exit": (exits, "loss() raises SystemExit: 0 (test_judgement.py, line"),
    "twice": (
        lambda x: (y := x.square(), y.backward(), loss(y))[2],
        "the loss cannot be differentiated: Trying to backward through the graph a second time",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_loss_that_is_none_fails_its_step_in_the_words_of_the_check(name):
    make, said = FAULTS[name]
    policy, batch = random_batch(0)
    with pytest.raises(LossError, match="^Returns: " + re.escape(said)):
        differentiate(Returns(make=make), policy, batch)
    with pytest.raises(CallError, match="^" + re.escape(said)):
        evaluate(Returns(make=make), random_case(Returns().needs, 0))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: loss(x.detach()),
        lambda x: loss(x.new_zeros(())),
        lambda x: loss(x.new_ones(()).requires_grad_() * 2),  # a gradient, and not with respect to the log-probs
    ],
)
def test_a_loss_that_does_not_depend_on_the_log_probs_is_refused_by_both(make):
    policy, batch = random_batch(0)
    with pytest.raises(LossError, match="does not depend on the log-probs: nothing would be trained"):
        differentiate(Returns(make=make), policy, batch)
    found = something_is_trained(Subject(Returns(make=make), lambda: Returns(make=make)))
    assert found is not None
    assert found.startswith("the loss does not depend on the log-probs: nothing would be trained")


def test_a_loss_whose_gradient_is_zero_is_a_loss():
    policy, batch = random_batch(0)
    assert not differentiate(Returns(make=lambda x: loss(x * 0)), policy, batch).logp_GKT.any()


def test_what_the_message_proposes_for_a_batch_without_signal_is_a_loss():
    @dataclass(frozen=True, kw_only=True)
    class Zero(Algorithm):
        name: ClassVar[str] = "Zero"

        def loss(self, policy, batch):
            return LossOutput(loss=sequence_sum(policy.logp_GKT, batch.mask_GKT).sum() * 0)

    policy, batch = random_batch(0)
    padded = replace(policy, logp_GKT=policy.logp_GKT.masked_fill(~batch.mask_GKT, float("nan")))
    assert differentiate(Zero(), padded, batch).loss == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_shipped_loss_depends_on_the_log_probs_where_a_batch_has_no_signal(name):
    """One reward for all, groups of one or of none: the gradient may be zero, and the loss stays a function."""
    algorithm: Algorithm = ALGORITHMS[name]()
    extreme = extreme_cases(algorithm.needs)
    for case in (*extreme["groups"], *extreme["equal rewards"], *extreme["responses"]):
        assert evaluate(algorithm, case).depends, case.label


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            {"reward": 1.0},
            "metric 'reward' has the name of one that the harness records itself; call it something else",
        ),
        ({"grad_norm": 1.0}, "metric 'grad_norm' has the name"),
        ({"a": float("nan")}, "metric 'a' is nan; a metric must be finite: clamp what it divides by"),
        ({"a": torch.ones(2)}, "metric 'a' has shape (2,); a metric is a scalar: take its mean"),
        ({"a": 1j}, "metric 'a' holds torch.complex64; a metric is a real number"),
        ({7: 1.0}, "a metric is named 7; its name must be a string"),
    ],
)
def test_a_metric_that_cannot_be_recorded_fails_its_step_in_the_words_of_the_check(metrics, said):
    policy, batch = random_batch(0)
    algorithm = Returns(make=lambda x: LossOutput(loss=x, metrics=metrics))
    with pytest.raises(LossError, match="^Returns: " + re.escape(said)):
        differentiate(algorithm, policy, batch)
    found = fault_of_metrics(LossOutput(loss=torch.zeros(()), metrics=metrics))
    assert found is not None
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"a": "text"}, "metric 'a' is a str; a metric is a number or a tensor"),
        ({"a": None}, "metric 'a' is a NoneType; a metric is a number or a tensor"),
        ([1.0], "LossOutput.metrics is a list; give a dict of scalars by name"),
    ],
)
def test_a_metric_that_is_no_number_is_refused_where_it_is_given(metrics: Any, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        LossOutput(loss=torch.zeros(()), metrics=metrics)


def test_a_batch_that_prepare_does_not_return_is_missed_at_once():
    class Forgets(Algorithm):
        def prepare(self, batch) -> Any:
            batch.with_extras(length_limit_G=torch.ones(3))

    _, batch = random_batch(0)
    with pytest.raises(LossError, match=r"^Forgets: prepare\(\) returned NoneType; return the batch, with_extras"):
        prepared(Forgets(), batch)


def test_ctrl_c_within_a_loss_is_no_fault_of_it():
    def interrupt(x: Any) -> LossOutput:
        raise KeyboardInterrupt

    policy, batch = random_batch(0)
    with pytest.raises(KeyboardInterrupt):
        differentiate(Returns(make=interrupt), policy, batch)


def test_the_names_that_the_harness_records_are_those_of_its_rows(tmp_path):
    rows = run(tmp_path, ALGORITHMS["dapo"](), steps=1).rows  # which refills
    rows += run(tmp_path / "critic", ALGORITHMS["ppo"](), steps=1).rows
    found = {name for row in rows for name in row if not name.startswith("algorithm/")}
    assert found | {"replayed_tokens"} == HARNESS_METRICS  # of a run on recorded rollouts: test_replay.py
