"""`gvpo-bench new`: an algorithm that passes the check, to be edited, and its test."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError, ExitCode


class NewError(BenchError):
    """The name cannot be a class's."""


class ExistsError(BenchError):
    """A file of that name is there already."""

    exit_code = ExitCode.REFUSED


MODULE = '''"""@NAME@: say here which paper and equation the loss is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.base import (
    Algorithm,
    Batch,
    LogUniform,
    LossOutput,
    Needs,
    PolicyOutput,
    centred,
    group_size,
    hyperparameter,
    require,
    sequence_log_ratio,
)


@dataclass(frozen=True, kw_only=True)
class @NAME@(Algorithm):
    """REINFORCE with a quadratic pull towards the policy that the iteration began with:

        L = 1/|D| Σ_x 1/k(x) Σ_i [−(R_i − R̄) ℓ_i + β/2 ℓ_i²],   ℓ_i = Σ_t log π_θ(y_i)/π_old(y_i)

    where R̄ is the mean reward of the prompt's k(x) responses and |D| the number of prompts.
    """

    name: ClassVar[str] = "@NAME@"

    beta: float = hyperparameter(0.1, "β, the strength of the pull", search=LogUniform(0.03, 3.0))

    def __post_init__(self) -> None:
        require(self.beta > 0, f"@MODULE@: beta is {self.beta}; it must be positive")

    @property
    def needs(self) -> Needs:
        """π_old, and groups to take a mean of; one response's coefficients ignore the log-probs of the others."""
        return Needs(anchor="old", coupling="sequence", min_group_size=2)

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        """Scalar, from log-probs in nats [G, K, T]: prompts, samples of each, response tokens."""
        advantage_GK = centred(batch.rewards_GK, batch.valid_GK)
        log_ratio_GK = sequence_log_ratio(policy, batch, "old")
        loss_GK = -advantage_GK * log_ratio_GK + self.beta / 2 * log_ratio_GK.square()
        loss_G = (loss_GK / group_size(batch.valid_GK)).sum(-1)
        return LossOutput(loss=loss_G.mean(), metrics={"log_ratio": log_ratio_GK.abs().mean()})
'''

TEST = '''"""@NAME@: sound, and what it computes worked out by hand."""

from pathlib import Path

import pytest
import torch

from algorithms import Batch, PolicyOutput, load_algorithm
from harness.kit.check import examine

@NAME@ = load_algorithm(f"{Path(__file__).with_name('@MODULE@.py')}:@NAME@")


def test_it_keeps_the_contract():
    assert examine(@NAME@()).faults == {}


def test_loss_worked_by_hand():
    # One prompt, two responses of one token: R = (1, 0), so R − R̄ = (½, −½); ℓ = (.2, −.4).
    old_GKT = torch.tensor([[[-1.0], [-2.0]]], dtype=torch.float64)
    logp_GKT = torch.tensor([[[-0.8], [-2.4]]], dtype=torch.float64)
    batch = Batch(
        mask_GKT=torch.ones(1, 2, 1, dtype=torch.bool),
        valid_GK=torch.ones(1, 2, dtype=torch.bool),
        rewards_GK=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        old_logp_GKT=old_GKT,
        behaviour_logp_GKT=old_GKT,
        sampler_logp_GKT=old_GKT,
    )
    # [−½·.2 + β/2·.04 + ½·(−.4) + β/2·.16]/2 = −.15 + .05 β
    loss = @NAME@(beta=1.0).loss(PolicyOutput(logp_GKT=logp_GKT), batch).loss
    assert loss.item() == pytest.approx(-0.10)
'''


@dataclass(frozen=True)
class Written:
    """What `gvpo-bench new` has written."""

    name: str
    module: Path
    test: Path


def write_module(name: str, folder: Path) -> Written:
    """Writes the module of a class of this name and its test into a folder, which is made if there is none.

    Raises NewError for a name that no class can have, ExistsError where one of the files is there already.
    """
    if not name or not name.isascii() or not name.isidentifier() or keyword.iskeyword(name) or not name[0].isupper():
        raise NewError(f"{name!r} cannot name a class: take letters and digits with a capital first, such as MyLoss")
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    written = Written(name, folder / f"{stem}.py", folder / f"test_{stem}.py")
    for path in (written.module, written.test):
        if path.exists():
            raise ExistsError(
                f"{path} exists already; nothing was written. Take another name, or another folder (--out)"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in ((written.module, MODULE), (written.test, TEST)):
            with path.open("x", encoding="utf-8") as file:
                file.write(text.replace("@NAME@", name).replace("@MODULE@", stem))
    except OSError as error:
        raise NewError(f"{folder} cannot be written to: {error}") from None
    return written


def next_steps(written: Written) -> str:
    """What to do with it."""
    spec = f"{written.module}:{written.name}"
    return (
        f"wrote {written.module} and {written.test}; edit the loss, then\n\n"
        f"    gvpo-bench check {spec}\n"
        f"    pytest {written.test}\n"
        f"    gvpo-bench sweep embedded --algorithm {spec} --seeds 1"
    )
