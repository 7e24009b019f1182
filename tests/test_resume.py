"""A checkpoint gives back every weight and all that an optimiser keeps, whatever optimiser it is."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_here import on_ranks
from tiny import tiny_model
from torch import Tensor, nn

from harness.model.policy import PolicyModel, shard
from harness.model.ranks import ALONE, Ranks, whole
from harness.training.resume import load, save

OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "AMSGrad": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, amsgrad=True),  # a third moment
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=1e-2),  # a product over steps
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),  # no steps
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),  # nothing at all
}


def updated(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, *, skip: int = 0) -> None:
    """One update with gradients that the seed alone decides; none for the first `skip` parameters."""
    random = torch.Generator().manual_seed(seed)
    for i, parameter in enumerate(model.parameters()):
        gradient = torch.randn(parameter.shape, generator=random)
        if i >= skip:
            parameter.grad = torch.zeros_like(parameter) + place(gradient, parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def place(x: Tensor, like: Tensor) -> Tensor:
    """x, sharded as `like` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x


def two_updates(ranks: Ranks, folder: Path, name: str, *, broken_off: bool) -> dict[str, Tensor]:
    """Weights after an update, and one more by what was loaded if it is broken off between them."""
    for attempt in range(2 if broken_off else 1):
        model = PolicyModel(tiny_model())
        shard(model, ranks)
        optimizer = OPTIMIZERS[name](model.parameters())
        parts = {"policy": (model.model, optimizer)}
        if attempt:
            loaded = load(folder / name, parts, ranks)
            assert loaded is not None
            assert loaded[0]["step"] == 1
            assert loaded[1]["numbers"].tolist() == [3, 1, 4]
        else:
            updated(model, optimizer, 1)
            if broken_off:
                optimizer.param_groups[0]["lr"] = 3e-2  # as a schedule would
                save(folder / name, parts, {"step": 1}, {"numbers": torch.tensor([3, 1, 4])}, ranks)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] if broken_off else 3e-2
    updated(model, optimizer, 2)
    return {at: whole(x.detach()).clone() for at, x in model.named_parameters()}


def every_optimizer(ranks: Ranks, folder: Path, broken_off: bool) -> dict[str, dict[str, Tensor]]:
    return {name: two_updates(ranks, folder, name, broken_off=broken_off) for name in OPTIMIZERS}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_to_the_last_digit_with_any_optimiser(name, tmp_path):
    undisturbed = two_updates(ALONE, tmp_path, name, broken_off=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a process alone is nothing to warn of
        found = two_updates(ALONE, tmp_path, name, broken_off=True)
    for at, x in undisturbed.items():
        assert torch.equal(found[at], x), at


def test_a_run_on_two_ranks_goes_on_to_the_last_digit_with_any_optimiser(tmp_path):
    undisturbed, found = (
        on_ranks(2, tmp_path / f"meeting {broken_off}", every_optimizer, tmp_path, broken_off)[0]
        for broken_off in (False, True)
    )
    for name in OPTIMIZERS:
        for at, x in undisturbed[name].items():
            assert torch.equal(found[name][at], x), (name, at)


def test_a_weight_that_had_no_gradient_yet_has_no_state_afterwards_either(tmp_path):
    def run(broken_off: bool) -> dict[str, Tensor]:
        model = tiny_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        updated(model, optimizer, 1, skip=2)
        if broken_off:
            save(tmp_path / "resume", {"policy": (model, optimizer)}, {}, {}, ALONE)
            model = tiny_model()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            load(tmp_path / "resume", {"policy": (model, optimizer)}, ALONE)
        assert len(optimizer.state) == len(list(model.parameters())) - 2
        updated(model, optimizer, 2)
        return model.state_dict()

    undisturbed, found = run(False), run(True)
    assert all(torch.equal(found[at], x) for at, x in undisturbed.items())


def test_a_buffer_that_a_model_keeps_comes_back(tmp_path):
    class Counting(nn.Linear):
        count: torch.Tensor

        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("count", torch.tensor(0))

    model = Counting()
    model.count += 5
    save(tmp_path / "resume", {"policy": (model, None)}, {}, {}, ALONE)
    fresh = Counting()
    load(tmp_path / "resume", {"policy": (fresh, None)}, ALONE)
    assert fresh.count.item() == 5


class Remembering(torch.optim.SGD):
    """Keeps something of each parameter that `remembered` decides."""

    remembered: object = None

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["remembered"] = copy.copy(self.remembered)
        return super().step(closure)


@pytest.mark.parametrize("value", [7, 0.1, None, True])
def test_scalars_of_an_optimiser_come_back(value, tmp_path):
    found = []
    for attempt in (0, 1):
        model = nn.Linear(2, 2)
        optimizer = Remembering(model.parameters(), lr=1e-2, momentum=0.9)
        optimizer.remembered = None if attempt else value
        if attempt:
            load(tmp_path / "resume", {"policy": (model, optimizer)}, ALONE)
        else:
            updated(model, optimizer, 1)
            save(tmp_path / "resume", {"policy": (model, optimizer)}, {}, {}, ALONE)
        found.append([entries["remembered"] for entries in optimizer.state.values()])
    assert found[0] == found[1] == [value, value]


@pytest.mark.parametrize(("value", "kind"), [({1, 2}, "set"), ("warm", "str")])
def test_what_is_neither_tensor_nor_scalar_is_refused_and_not_dropped(value, kind, tmp_path):
    model = nn.Linear(2, 2)
    optimizer = Remembering(model.parameters(), lr=1e-2)
    optimizer.remembered = value
    updated(model, optimizer, 1)
    with pytest.raises(ValueError, match=f"Remembering keeps 'remembered', a {kind}: only tensors and scalars"):
        save(tmp_path / "resume", {"policy": (model, optimizer)}, {}, {}, ALONE)
    assert not (tmp_path / "resume").exists()


@pytest.mark.parametrize("other", ["optimiser", "model", "part"])
def test_the_checkpoint_of_another_state_is_refused(other, tmp_path):
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    updated(model, optimizer, 1)
    save(tmp_path / "resume", {"policy": (model, optimizer)}, {}, {}, ALONE)
    parts: dict[str, Any]
    if other == "optimiser":
        parts = {"policy": (model, torch.optim.AdamW(model.parameters(), lr=1e-2, amsgrad=True))}
    elif other == "model":
        parts = {"policy": (nn.Sequential(model), torch.optim.AdamW(model.parameters(), lr=1e-2))}
    else:
        parts = {"policy": (model, optimizer), "critic": (nn.Linear(2, 2), None)}
    with pytest.raises(ValueError, match=r"resume holds another state.*remove that folder to start the cell anew"):
        load(tmp_path / "resume", parts, ALONE)


def test_what_the_disk_refuses_is_the_error_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    save(tmp_path / "resume", {"policy": (model, None)}, {"step": 1}, {}, ALONE)
    monkeypatch.setattr("safetensors.torch.save", lambda *_, **__: Path("/dev/full").write_bytes(b"x"))
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path / "resume", {"policy": (model, None)}, {"step": 2}, {}, ALONE)
    loaded = load(tmp_path / "resume", {"policy": (model, None)}, ALONE)
    assert loaded is not None
    assert loaded[0]["step"] == 1
