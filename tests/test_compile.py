"""Compiled decoder layers change no number, and sampling does not wait for a compiler."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from test_packing import ROWS, close, everything
from tiny import PROMPTS, random_critic, tiny_model
from training_runs import run

import harness.model.policy
from algorithms.gvpo import GVPO
from harness.model.policy import PolicyModel, compile_layers, recompute_activations
from harness.model.rows import Rows
from harness.model.scorer import Scorer


@pytest.fixture
def graphs(monkeypatch) -> Any:
    """Those that were captured. They run as they are, without a compiler, whose kernels are torch's concern."""
    found: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    harness.model.policy._compiled_forward.cache_clear()
    yield found
    harness.model.policy._compiled_forward.cache_clear()
    torch.compiler.reset()


@pytest.mark.parametrize(("recompute", "packing"), [(False, None), (True, "sdpa")])
def test_compiled_layers_give_the_same_outputs_and_gradients(recompute, packing, graphs):
    model = tiny_model(torch.float64)
    critic = random_critic(model)
    shapes = [ROWS, ROWS.pick(torch.tensor([0, 1])), Rows.of(PROMPTS[:1], [[3, 4, 1]], "cpu")]
    expected = [everything(Scorer(PolicyModel(model, 3), critic, 0.7), rows) for rows in shapes]
    for module in (model, critic):
        compile_layers(module)
        if recompute:
            recompute_activations(module, compiled=True)
    for rows, outputs in zip(shapes, expected, strict=True):
        found = everything(Scorer(PolicyModel(model, 3, packing), critic, 0.7), rows)
        for a, b in zip(found, outputs, strict=True):
            close(a, b)
    assert graphs


def test_a_pass_with_a_cache_is_not_compiled(graphs, model32):
    ids = torch.tensor([PROMPTS[0]])
    expected = model32.generate(ids, max_new_tokens=6, do_sample=False)
    model = tiny_model()
    compile_layers(model)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), expected)
    assert not graphs


def test_a_compiled_run_ends_with_the_weights_of_a_plain_one(graphs, tmp_path):
    a, b = (run(tmp_path / str(on), GVPO(), steps=2, compile=on) for on in (False, True))
    assert a.judge.shown == b.judge.shown
    for name, weight in a.weights.items():
        close(weight, b.weights[name], atol=1e-4)
    assert graphs
