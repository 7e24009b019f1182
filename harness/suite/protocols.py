"""The two protocols that a suite can run its algorithms under, as in AlgoPerf (Dahl et al. 2023, arXiv 2306.07179), to
which tuning is a part of the algorithm.

    tuned     the settings of the suite's entries: where it has [tuning], the best of as many trials for each algorithm
    default   what users take: the hyper-parameters of the algorithm's class (`hyperparameter(default, …)` in
              algorithms/), and OPTIMIZERS, the one place that declares a learning rate and a clipping norm that nobody
              has tuned. They are the same for every algorithm, as where a script changes its loss and keeps the rest.

A suite names its protocols (`protocols`). Does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection

from harness.suite.config import Model, Optimizer, Protocol

OPTIMIZERS = {
    "embedded": Optimizer(lr=1.7e-4, max_norm=1.0, critic_lr=5.5e-4),
    "smollm2": Optimizer(lr=1e-5, max_norm=1.0, critic_lr=1e-5),
}
"""By `model.path`. Of the embedded default, of 96,640 parameters: the middle of the ranges that its suites search, to
two digits. Of SmolLM2-135M: that of its suites on GPUs, in which nothing is tuned."""

ELSEWHERE = Optimizer(lr=1e-6, max_norm=1.0, critic_lr=1e-5)
"""Of every other model: the defaults of verl's trainer for actor, gradient clip and critic; TRL's GRPOConfig has the
same first two. They are meant for models of billions of parameters."""


def default_optimizer(model: Model, *, critic: bool) -> Optimizer:
    """The optimiser of the default protocol; the critic's learning rate is only there where there is a critic."""
    found = OPTIMIZERS.get(model.path, ELSEWHERE)
    return found if critic else found.model_copy(update={"critic_lr": None})


def run_label(label: str, protocol: str) -> str:
    """What the runs of an algorithm are called: the label, with the protocol where that is not the suite's own
    settings. No label has an @."""
    return label if protocol == "tuned" else f"{label}@{protocol}"


def protocol_of(run: str) -> Protocol:
    """Under which protocol the runs are that `run_label` calls so."""
    return "default" if run.endswith("@default") else "tuned"


def label_beside(run: str, first: Protocol) -> str:
    """What a report whose first tables are of this protocol calls the runs that `run_label` calls so: those of that
    protocol have the label alone."""
    label, protocol = run.partition("@")[0], protocol_of(run)
    return label if protocol == first else f"{label}@{protocol}"


def first_protocol(found: Collection[str]) -> Protocol:
    """Of those that were run, the one whose scores a table gives first: tuned where it is among them."""
    return "tuned" if "tuned" in found else "default"
