"""The random batches that this library and its peers are fed, and what each makes of them.

Needs torch and `algorithms` alone: it runs in the peers' environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from algorithms import ALGORITHMS, Batch, PolicyOutput

Kind = Literal["on-policy", "off-policy", "far", "partial", "lone", "verdicts", "pairs", "dialect"]
KINDS: dict[Kind, str] = {
    "on-policy": "4 prompts of 4 samples of 1 to 6 tokens; the sampling policy is the one trained",
    "off-policy": "the same, log-ratios of a token spread by 0.3 nats, so that every clip is at work",
    "far": "the same, spread by 2 nats: ratios above 3 and below 1/3",
    "partial": "off-policy, groups of 4, 2, 3 and 4 samples",
    "lone": "off-policy, groups of 4, 1, 3 and 4 samples",
    "verdicts": "on-policy, all rewards 0 or 1",
    "pairs": "off-policy, 4 prompts of a better and a worse response",
    "dialect": "what the table of dialects is drawn on: off-policy, 2 prompts of 4 samples of 1 to 4 tokens",
}
"""In every kind but pairs and dialect group 1 is tied (all its rewards are equal), groups 0 and 2 have rewards of 0 and
1, and group 3 has others."""
GROUPS: tuple[Kind, ...] = ("on-policy", "off-policy")
SEEDS = range(5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fed:
    """One batch, as rows of responses (B valid ones, T tokens, zero where padded) the way peers take it.

    `logp_BT` and `value_BT` require a gradient.
    """

    batch: Batch
    policy: PolicyOutput
    limit: int
    """M, the most tokens of a response."""

    def rows(self, x: Tensor) -> Tensor:
        """The valid samples of [G, K, …], prompt by prompt."""
        return x[self.batch.valid_GK]

    @cached_property
    def logp_BT(self) -> Tensor:
        """log π_θ."""
        return self.rows(self.policy.logp_GKT).detach().requires_grad_()

    @cached_property
    def value_BT(self) -> Tensor:
        """The critic's values now."""
        assert self.policy.value_GKT is not None
        return self.rows(self.policy.value_GKT).detach().requires_grad_()

    @cached_property
    def old_BT(self) -> Tensor:
        """log π of the policy that sampled, which is also the one at the start of the iteration."""
        return self.rows(self.batch.behaviour_logp_GKT)

    @cached_property
    def ref_BT(self) -> Tensor:
        """log π_ref."""
        assert self.batch.ref_logp_GKT is not None
        return self.rows(self.batch.ref_logp_GKT)

    @cached_property
    def mask_BT(self) -> Tensor:
        """1 on response tokens, in the log-probs' dtype."""
        return self.bool_BT.to(self.old_BT.dtype)

    @cached_property
    def bool_BT(self) -> Tensor:
        """True on response tokens."""
        return self.rows(self.batch.mask_GKT)

    @cached_property
    def rewards_B(self) -> Tensor:
        """The reward of each response."""
        return self.rows(self.batch.rewards_GK)

    @cached_property
    def rewards_BT(self) -> Tensor:
        """The same at the response's last token, zero elsewhere."""
        last_BT = self.bool_BT & (torch.arange(self.bool_BT.shape[1]) == self.bool_BT.sum(-1, keepdim=True) - 1)
        return last_BT * self.rewards_B[:, None]

    @cached_property
    def group_B(self) -> Tensor:
        """The number of each response's prompt."""
        G, K = self.batch.valid_GK.shape
        return self.rows(torch.arange(G)[:, None].expand(G, K))

    @property
    def group_size(self) -> int:
        """K of full groups: what a peer that only knows groups of one size is told."""
        return self.batch.valid_GK.shape[1]

    def broadcast(self, x_B: Tensor) -> Tensor:
        """What is known of a response, at each of its tokens."""
        return x_B[:, None] * self.mask_BT


def fed(kind: Kind, seed: int) -> Fed:
    """The batch of that kind and seed, in float64."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    G, K, T = {"pairs": (4, 2, 6), "dialect": (2, 4, 4)}.get(kind, (4, 4, 6))
    spread = {"on-policy": 0.0, "verdicts": 0.0, "far": 2.0}.get(kind, 0.3)
    sizes = {"partial": [4, 2, 3, 4], "lone": [4, 1, 3, 4]}.get(kind, [K] * G)
    valid_GK = torch.arange(K) < torch.tensor(sizes)[:, None]
    length_GK = torch.randint(1, T + 1, (G, K), generator=random)
    length_GK[0, 0] = T
    mask_GKT = (torch.arange(T) < length_GK[..., None]) & valid_GK[..., None]

    rewards_GK = torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 4, dtype=torch.float64)
    if kind == "pairs":
        rewards_GK = torch.tensor([[1.0, 0.0]] * G, dtype=torch.float64)
    elif kind == "dialect":
        rewards_GK = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    else:
        rewards_GK[1] = 1.0
        rewards_GK[2] = torch.tensor([0.0, 1.0, 1.0, 0.0])
        rewards_GK[3] = torch.tensor([0.0, 0.0, 0.0, 1.0]) if kind == "verdicts" else normal(K)
    logp_GKT = -0.1 - normal(G, K, T).abs()
    behaviour_GKT = (logp_GKT - spread * normal(G, K, T)).clamp(max=-1e-3)
    ref_GKT = (logp_GKT + 0.3 * normal(G, K, T)).clamp(max=-1e-3)
    value_GKT = normal(G, K, T)
    extras = {
        "greedy_reward_G": torch.randint(0, 2, (G,), generator=random).double(),
        "length_limit_G": torch.full((G,), float(T), dtype=torch.float64),
        "reference_reward_GN": torch.randint(0, 2, (G, 8), generator=random).double(),
        "teacher_logp_GK": -normal(G, K).abs() * 3,
    }

    def filled(x: Tensor) -> Tensor:
        return torch.where(mask_GKT, x, 0.0)

    batch = Batch(
        mask_GKT=mask_GKT,
        valid_GK=valid_GK,
        rewards_GK=rewards_GK,
        old_logp_GKT=behaviour_GKT,
        behaviour_logp_GKT=behaviour_GKT,
        sampler_logp_GKT=behaviour_GKT,
        ref_logp_GKT=ref_GKT,
        old_value_GKT=value_GKT + 0.5 * normal(G, K, T),
        final_value_GK=normal(G, K),
        truncated_GK=torch.zeros(G, K, dtype=torch.bool),
        extras=extras,
    )
    policy = PolicyOutput(logp_GKT=filled(logp_GKT), entropy_GKT=filled(-logp_GKT), value_GKT=filled(value_GKT))
    return Fed(batch=batch, policy=policy, limit=T)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: a loss of ours with its settings against functions of a peer with theirs."""

    algorithm: str
    """Its registered name."""
    function: str
    """The peer's functions that ran, by their dotted names."""
    theirs: Callable[[Fed], Tensor]
    """The peer's scalar loss, differentiable in `logp_BT` (and `value_BT`)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of ours, beside its defaults."""
    peer_settings: str = "its defaults"
    kinds: tuple[Kind, ...] = (*GROUPS, "partial")
    differs: str = ""
    """Which convention differs, with both formulas; empty where the two agree to TOLERANCE."""
    restated: Callable[[Fed], Tensor] | None = None
    """Our loss with that convention alone changed to theirs: it must agree."""
    factor: float = 1.0
    """Their loss over ours: a constant that no optimiser with a free learning rate sees."""
    constant: bool = False
    """The losses differ by what does not depend on θ, so that the coefficients alone are compared."""
    dialect: str = ""
    """The name under which the peer's default stands in the table of dialects."""
    note: str = ""


def coefficients(loss: Tensor, *leaves: Tensor) -> Tensor:
    """−∂L/∂x for every x of the leaves, flat; zero where the loss does not read it."""
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return torch.cat([-(torch.zeros_like(x) if g is None else g).flatten() for x, g in zip(leaves, grads, strict=True)])


def policy_of(case: Fed) -> PolicyOutput:
    """The policy, differentiable in the rows' log-probs and values."""
    padding_GKT = torch.zeros(case.batch.mask_GKT.shape, dtype=torch.float64)
    at_GK = case.batch.valid_GK.nonzero(as_tuple=True)
    return PolicyOutput(
        logp_GKT=padding_GKT.index_put(at_GK, case.logp_BT),
        value_GKT=padding_GKT.index_put(at_GK, case.value_BT),
        entropy_GKT=case.policy.entropy_GKT,
    )


def our_loss(algorithm: str, settings: Mapping[str, Any], case: Fed) -> Tensor:
    """Our loss, differentiable in the rows' log-probs and values as a peer's is."""
    built = ALGORITHMS[algorithm](**settings)
    return built.loss(policy_of(case), built.prepare(case.batch)).loss


def difference(case: Fed, ours: Tensor, theirs: Tensor, factor: float = 1.0) -> tuple[float, float]:
    """The relative differences of the two losses, and of their coefficients.

    Each relative to the largest coefficient of theirs; the loss to its own size where that is larger.
    """
    our_C, their_C = (coefficients(loss, case.logp_BT, case.value_BT) for loss in (ours, theirs))
    largest = float(their_C.abs().max())
    if largest == 0 or not math.isfinite(largest):
        raise ValueError(f"the peer's largest coefficient is {largest}")
    off_loss = float((factor * ours - theirs).detach().abs()) / max(largest, float(theirs.detach().abs()))
    return off_loss, float((factor * our_C - their_C).abs().max()) / largest


def measure(row: Row) -> dict[str, float | None]:
    """The largest differences of a row over its batches. `explained`: those of its restatement, where it has one."""
    off, explained = [], []
    for kind in row.kinds:
        for seed in SEEDS:
            case = fed(kind, seed)
            theirs = row.theirs(case)
            off.append(difference(case, our_loss(row.algorithm, row.settings, case), theirs, row.factor))
            if row.restated is not None:
                theirs = row.theirs(case)
                loss, C = difference(case, row.restated(case), theirs)
                explained.append(C if row.constant else max(loss, C))
    loss, C = (max(values) for values in zip(*off, strict=True))
    return {
        "loss": None if row.constant else loss,
        "coefficients": C,
        "explained": max(explained) if explained else None,
    }
