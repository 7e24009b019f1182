"""Random batches that hold everything an algorithm may ask for, and what may be done to one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from algorithms.base import EXTRAS, Batch, Needs, PolicyOutput


def random_batch(
    seed: int,
    *,
    groups: int = 3,
    samples: int = 4,
    tokens: int = 5,
    dtype: torch.dtype = torch.float64,
    off_policy: float = 0.3,
    padding: float = math.nan,
    ragged: bool = True,
    signal: bool = False,
    reference_samples: int = 8,
) -> tuple[PolicyOutput, Batch]:
    """Everything that an algorithm may declare, drawn at random. `off_policy` is the spread of each token's
    log-ratios in nats.

    If ragged, the first group is full, the last has one sample, and responses have from 1 to `tokens` tokens. Binary
    rewards in even groups (so with ties), normal ones in odd groups. With `signal` every group has at least two samples
    and no two equal rewards, none of which is a binary fraction. Padding holds `padding`.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random)

    G, K, T = groups, samples, tokens
    size_G, length_GK = torch.full((G,), K), torch.full((G, K), T)
    if ragged:
        size_G = integers(2, K, G) if K > 2 else size_G
        size_G[0], size_G[-1] = K, int(size_G[-1]) if signal else 1
        length_GK = integers(1, T, G, K)
    valid_GK = torch.arange(K) < size_G[:, None]
    mask_GKT = (torch.arange(T) < length_GK[..., None]) & valid_GK[..., None]

    binary_GK = integers(0, 1, G, K).double()
    rewards_GK = torch.where((torch.arange(G) % 2 == 0)[:, None], binary_GK, normal(G, K))
    logp_GKT = -0.1 - normal(G, K, T).abs()
    old_GKT = logp_GKT + off_policy * normal(G, K, T)
    behaviour_GKT = old_GKT + off_policy * normal(G, K, T)
    ref_GKT = logp_GKT + off_policy * normal(G, K, T)
    old_value_GKT = normal(G, K, T)
    value_GKT = old_value_GKT + 0.5 * normal(G, K, T)

    if signal:
        tenths_GK = torch.stack([torch.randperm(19, generator=random)[:K] - 9 for _ in range(G)])
        rewards_GK = tenths_GK.double() / 10 + 0.03  # −0.87, −0.77, … 0.93

    def filled(x: Tensor) -> Tensor:
        return torch.where(mask_GKT if x.dim() == 3 else valid_GK, x, padding).to(dtype)

    policy = PolicyOutput(
        logp_GKT=filled(logp_GKT), entropy_GKT=filled(normal(G, K, T).abs()), value_GKT=filled(value_GKT)
    )
    batch = Batch(
        mask_GKT=mask_GKT,
        valid_GK=valid_GK,
        rewards_GK=filled(rewards_GK),
        old_logp_GKT=filled(old_GKT),
        behaviour_logp_GKT=filled(behaviour_GKT),
        sampler_logp_GKT=filled(behaviour_GKT + 0.01 * normal(G, K, T)),
        ref_logp_GKT=filled(ref_GKT),
        old_value_GKT=filled(old_value_GKT),
        final_value_GK=filled(normal(G, K)),
        truncated_GK=integers(0, 1, G, K).bool(),
        extras={
            "greedy_reward_G": integers(0, 1, G).to(dtype),
            "reference_reward_GN": integers(0, 1, G, reference_samples).to(dtype),
            "teacher_logp_GK": filled(-1.0 - normal(G, K).abs()),
            "length_limit_G": torch.full((G,), 2.0 * T, dtype=dtype),
        },
    )
    assert batch.extras.keys() == EXTRAS.keys()
    return policy, batch


def tensors(x: Batch | PolicyOutput) -> dict[str, Tensor]:
    """The tensors of a batch or a policy's output by their names, extras aside."""
    return {f.name: value for f in fields(x) if isinstance(value := getattr(x, f.name), Tensor)}


@dataclass(frozen=True, eq=False)
class Case:
    """What the policy says of a batch that no `prepare` has seen."""

    policy: PolicyOutput
    batch: Batch
    label: str = ""

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> Case:
        """The same with `change(name, tensor)` in place of each tensor, extras included."""

        def all_of(named: Mapping[str, Tensor]) -> dict[str, Any]:
            return {name: change(name, x) for name, x in named.items()}

        batch = replace(self.batch, **all_of(tensors(self.batch)), extras=all_of(self.batch.extras))
        return replace(self, policy=replace(self.policy, **all_of(tensors(self.policy))), batch=batch)

    def cloned(self) -> Case:
        """A copy whose tensors nobody else holds."""
        return self.changed(lambda _, x: x.clone())

    def groups(self, index: Tensor) -> Case:
        """Some of the prompts, or all in another order."""
        return self.changed(lambda _, x: x[index])

    def samples(self, index_GK: Tensor) -> Case:
        """Some of the samples, or all in another order, which may be another one for each prompt: [G, k]."""
        rows_G1 = torch.arange(len(index_GK))[:, None]
        return self.changed(lambda name, x: x[rows_G1, index_GK] if name.endswith(("_GK", "_GKT")) else x)

    def tokens(self, count: int) -> Case:
        """No more than so many tokens of each response."""
        return self.changed(lambda name, x: x[..., :count] if name.endswith("_GKT") else x)

    def longer(self, tokens: int) -> Case:
        """So many places of padding more at the end of each response."""
        return self.changed(
            lambda name, x: torch.nn.functional.pad(x, (0, tokens)) if name.endswith("_GKT") else x,
        )

    def wider(self, samples: int) -> Case:
        """So many samples more in each group, none of which is valid."""

        def wide(name: str, x: Tensor) -> Tensor:
            if name.endswith("_GKT"):
                return torch.nn.functional.pad(x, (0, 0, 0, samples))
            return torch.nn.functional.pad(x, (0, samples)) if name.endswith("_GK") else x

        return self.changed(wide)

    def to(self, dtype: torch.dtype) -> Case:
        """All but masks in this dtype."""
        return self.changed(lambda _, x: x.to(dtype) if x.is_floating_point() else x)

    def with_batch(self, **changes: Any) -> Case:
        """Other fields of the batch."""
        return replace(self, batch=replace(self.batch, **changes))

    def with_policy(self, **changes: Any) -> Case:
        """Other fields of the policy's output."""
        return replace(self, policy=replace(self.policy, **changes))

    @property
    def dtype(self) -> torch.dtype:
        """Of the log-probs."""
        return self.policy.logp_GKT.dtype


def random_case(needs: Needs, seed: int, label: str = "", *, samples: int = 4, **options: Any) -> Case:
    """A random batch as `needs.data` has it, with everything that anyone may declare; zeros in the padding."""
    samples = {"demonstrations": 1, "pairs": 2}.get(needs.data, samples)
    if needs.reference_samples:
        options["reference_samples"] = needs.reference_samples
    policy, batch = random_batch(seed, samples=samples, padding=0.0, **options)
    G, K, T = batch.mask_GKT.shape
    limit_G = torch.full((G,), float(T), dtype=policy.logp_GKT.dtype)  # which the longest response reaches
    batch = batch.with_extras(length_limit_G=limit_G)
    if options.get("signal"):  # and none is the mean of its group, whose sign would be a matter of rounding
        noise_GK = torch.rand((G, K), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        batch = replace(batch, rewards_GK=batch.rewards_GK + 0.05 * noise_GK.to(limit_G.dtype))
    if needs.data in ("demonstrations", "pairs"):  # the better answer first or second
        better_G1 = torch.arange(G)[:, None] % K
        rewards_GK = (torch.arange(K) == better_G1).to(policy.logp_GKT.dtype)
        batch = replace(batch, rewards_GK=rewards_GK, behaviour_logp_GKT=batch.old_logp_GKT)
    return Case(policy, batch, label)


def ordinary_cases(needs: Needs) -> Iterator[Case]:
    """Batches as training meets them, in float64."""
    for seed in (0, 1):
        yield random_case(needs, seed, "ragged, with ties")
        yield random_case(needs, seed, "ragged, no two rewards equal", signal=True)
    low = random_case(needs, 2, "every reward below zero", signal=True)
    yield low if needs.data in ("demonstrations", "pairs") else low.with_batch(rewards_GK=low.batch.rewards_GK - 3)
    yield random_case(needs, 3, "far off-policy", signal=True, off_policy=2.0)
    yield on_policy(random_case(needs, 4, "on-policy", signal=True))


def on_policy(case: Case) -> Case:
    """The same batch where all policies are the one being trained."""
    logp_GKT = case.policy.logp_GKT
    names = ("old_logp_GKT", "behaviour_logp_GKT", "sampler_logp_GKT", "ref_logp_GKT")
    return case.with_batch(**dict.fromkeys(names, logp_GKT))
