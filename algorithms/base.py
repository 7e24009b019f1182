"""The contract of an algorithm: a pure function from the log-probs of one mini-batch of groups to one scalar.

The harness differentiates that scalar with respect to the log-probs; what comes out is the table of gradient
coefficients C[G, K, T] of the unified paradigm, ∇L = −Σ C ∇log π_θ (DeepSeekMath, arXiv 2402.03300, eq. 5; the seed
article, eq. 1 and 2). An algorithm therefore knows no model, optimiser, rank or micro-batch.

Shape suffixes, here and everywhere:
    G  prompts of the (mini-)batch, one group of samples each
    K  samples of a prompt, padded to the largest group
    T  response tokens, padded to the longest response
Log-probs, entropies and KL are in nats. Padding may hold anything, NaN included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from algorithms.spaces import Choice, LogUniform, require_space

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ± this many nats before exp, so that no ratio overflows; the clamped share is a metric."""

Anchor = Literal["old", "behaviour", "reference"]
"""The policy π' of a KL term: at the start of this iteration, the one that sampled, or the frozen reference."""

Coupling = Literal["batch", "group", "sequence"]
"""The unit between which coefficients are independent: one unit's do not change with the log-probs of another."""

Data = Literal["policy", "base", "demonstrations", "pairs"]
"""Where a group's responses come from: the sampling policy; the frozen base (the SFT model of DeepSeekMath's table 10);
or the training problems themselves, which give one right response each, or a better and a worse one."""

EXTRAS = {
    "greedy_reward_G": "the reward of the greedy response under the weights that sample",
    "reference_reward_GN": "the rewards of `needs.reference_samples` responses of the frozen base to each prompt",
    "teacher_logp_GK": "log-prob of the whole response under the teacher, in its own tokens, nats per response",
    "length_limit_G": "how many tokens a response may have at most",
}
"""What the harness supplies beyond the fields of a `Batch` to an algorithm that declares it in `needs.extras`: by name,
with its shape. N is the number of reference samples."""

Family = Literal[
    "supervised",
    "policy gradient",
    "clipped ratio",
    "weighted ratio",
    "regression",
    "preference",
    "distillation",
    "other",
]
"""What kind of loss it is, by which tables and figures of many algorithms are ordered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What is known of a batch of groups before the update. Everything under the mask is set to zero on construction.

    Raises ValueError where a shape does not fit the mask's, a mask is not boolean, or a reward of a valid sample is NaN
    or infinite.
    """

    mask_GKT: Tensor
    """bool. True on response tokens, EOS included."""
    valid_GK: Tensor
    """bool. False where a group has fewer than K samples."""
    rewards_GK: Tensor
    old_logp_GKT: Tensor
    """log π under the trainer's weights at the start of this iteration."""
    behaviour_logp_GKT: Tensor
    """log π, computed by the trainer, under the weights that drew the sample: the denominator of every importance
    ratio. Differs from `old` for stale and historical samples."""
    sampler_logp_GKT: Tensor
    """The same as the sampling engine reported it: for diagnostics and truncated importance sampling."""
    ref_logp_GKT: Tensor | None = None
    """log π under the frozen reference, where `needs.reference`."""
    old_value_GKT: Tensor | None = None
    """The critic's value of the state in which each token was chosen, where `needs.critic`."""
    final_value_GK: Tensor | None = None
    """The critic's value of the state after the last token, where `needs.critic`: a truncated response bootstraps."""
    truncated_GK: Tensor | None = None
    """bool. True where the response hit the length limit."""
    correction_GKT: Tensor | None = None
    """Factor of each token's coefficient, which the harness applies to what a loss gives: truncated importance sampling
    between sampler and trainer, where it is on. No loss reads it."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What the algorithm alone needs: what the harness supplies of EXTRAS, and what `prepare` computes for `loss`. The
    first dimension is G. A name that ends in _GKT or _GK is held to that shape and is zero under the mask."""

    def __post_init__(self) -> None:
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        shaped = {name: value for name, value in self.extras.items() if name.endswith(("_GKT", "_GK"))}
        for name, value in (tensors | shaped).items():
            shape = self.mask_GKT.shape if name.endswith("_GKT") else self.mask_GKT.shape[:2]
            if value.shape != shape or self.mask_GKT.dim() != 3:
                raise ValueError(f"Batch.{name} has shape {tuple(value.shape)}; the mask asks for {tuple(shape)}")
            if name in ("mask_GKT", "valid_GK", "truncated_GK") and value.dtype != torch.bool:
                raise ValueError(f"Batch.{name} holds {value.dtype}; it must be torch.bool")
        object.__setattr__(self, "mask_GKT", self.mask_GKT & self.valid_GK[..., None])
        for name, value in tensors.items():
            if value.dtype != torch.bool:
                object.__setattr__(self, name, masked(value, self.mask_GKT if value.dim() == 3 else self.valid_GK))
        for name, value in shaped.items():
            if value.dtype != torch.bool:
                shaped[name] = masked(value, self.mask_GKT if value.dim() == 3 else self.valid_GK)
        object.__setattr__(self, "extras", {**self.extras, **shaped})
        bad_GK = ~torch.isfinite(self.rewards_GK)
        if bad_GK.any():
            g, k = bad_GK.nonzero()[0].tolist()
            raise ValueError(
                f"rewards_GK[{g}, {k}] is {self.rewards_GK[g, k].item()}; a reward must be finite "
                f"({int(bad_GK.sum())} of {bad_GK.numel()} are not)"
            )

    def groups(self, index: slice | Tensor) -> Batch:
        """The same batch restricted to some groups."""
        picked: dict[str, Any] = {
            f.name: value[index] for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **picked, extras={name: x[index] for name, x in self.extras.items()})

    def with_extras(self, **extras: Tensor) -> Batch:
        """The same batch with more extras: what `prepare` returns."""
        return replace(self, extras={**self.extras, **extras})

    def extra(self, name: str) -> Tensor:
        """The extra of that name. Raises ValueError where there is none, with who would have to supply it."""
        if name not in self.extras:
            supplier = "declare it in needs.extras" if name in EXTRAS else "prepare() computes it, once a rollout batch"
            raise ValueError(f"Batch.extras has no {name!r}; {supplier}")
        return self.extras[name]

    def anchor_logp_GKT(self, anchor: Anchor) -> Tensor:
        """log π' of the chosen anchor policy."""
        require_anchor(anchor)
        if anchor == "reference":
            if self.ref_logp_GKT is None:
                raise ValueError("anchor 'reference' needs Batch.ref_logp_GKT, which is None")
            return self.ref_logp_GKT
        return self.old_logp_GKT if anchor == "old" else self.behaviour_logp_GKT


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyOutput:
    """What the model says of the batch now: the variables that the harness differentiates with respect to."""

    logp_GKT: Tensor
    """log π_θ of each response token, at the sampling temperature."""
    entropy_GKT: Tensor | None = None
    """Entropy of π_θ at each response token, where `needs.entropy`."""
    value_GKT: Tensor | None = None
    """The critic's value in the state of each response token, where `needs.critic`."""

    def __post_init__(self) -> None:
        for name, value in (("entropy_GKT", self.entropy_GKT), ("value_GKT", self.value_GKT)):
            if value is not None and value.shape != self.logp_GKT.shape:
                raise ValueError(
                    f"PolicyOutput.{name} has shape {tuple(value.shape)}; logp_GKT has {tuple(self.logp_GKT.shape)}"
                )


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """What a loss returns."""

    loss: Tensor
    """Scalar, to be minimised."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars to log, detached on construction. Raises TypeError for what is no table of numbers."""

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, Mapping):
            raise TypeError(f"LossOutput.metrics is a {type(self.metrics).__name__}; give a dict of scalars by name")
        metrics = {}
        for name, x in self.metrics.items():
            try:
                metrics[name] = torch.as_tensor(x).detach()
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"metric {name!r} is a {type(x).__name__}; a metric is a number or a tensor") from None
        object.__setattr__(self, "metrics", metrics)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an algorithm asks of the harness. It belongs to the instance, since it depends on hyper-parameters.

    Raises ValueError for what the harness cannot supply, naming the field and what it may be.
    """

    reference: bool = False
    """Log-probs under the frozen base policy. Always with the anchor 'reference'."""
    critic: bool = False
    """Values from a critic, which the harness trains on the gradient of the loss with respect to them."""
    entropy: bool = False
    coupling: Coupling = "batch"
    """"batch" is always right. A smaller unit saves a forward pass; a test checks the declaration."""
    anchor: Anchor | None = None
    """The anchor policy, where there is one: 'behaviour' is refused for groups of mixed age."""
    sampler: bool = False
    """Reads `sampler_logp_GKT`."""
    data: Data = "policy"
    """Where the responses come from. Given ones have no sampling policy: there `behaviour` is `old`."""
    extras: tuple[str, ...] = ()
    """Names of EXTRAS, which the harness supplies and charges to the token ledger."""
    reference_samples: int = 0
    """N of `reference_reward_GN`."""
    refill: Callable[[Tensor], bool] | None = None
    """Whether a group of these rewards, [K], is worth training on. The harness draws further prompts in place of groups
    that are not, and charges their tokens."""
    min_group_size: int = 1
    off_policy: bool = False
    """Right whatever policy sampled, without importance weights: truncated importance sampling, whose weights would
    break that (GVPO's coefficients of a group sum to zero), is refused."""

    def __post_init__(self) -> None:
        choices = {"coupling": get_args(Coupling), "anchor": (*get_args(Anchor), None), "data": get_args(Data)}
        for name, values in choices.items():
            value = getattr(self, name)
            require(value in values, f"needs.{name} is {value!r}; use one of {', '.join(map(str, values))}")
        for f in fields(Needs):
            value = getattr(self, f.name)
            if isinstance(f.default, bool):
                require(isinstance(value, bool), f"needs.{f.name} is {value!r}; use True or False")
            elif isinstance(f.default, int):  # and the least
                whole = type(value) is int and value >= f.default
                require(whole, f"needs.{f.name} is {value!r}; use a whole number of at least {f.default}")
        refill = self.refill
        require(refill is None or callable(refill), f"needs.refill is {refill!r}; use a function of rewards [K]")
        if self.anchor == "reference":
            object.__setattr__(self, "reference", True)
        require(isinstance(self.extras, tuple | list), f"needs.extras is {self.extras!r}; use a tuple of names")
        for name in self.extras:
            require(name in EXTRAS, f"needs.extras names {name!r}; the harness supplies {', '.join(EXTRAS)}")
        asked = "reference_reward_GN" in self.extras
        require(
            asked == (self.reference_samples > 0),
            f"needs.reference_samples is {self.reference_samples} and 'reference_reward_GN' is "
            f"{'' if asked else 'not '}in needs.extras; the one asks for the other",
        )


def hyperparameter(default: Any, doc: str, *, search: Choice | LogUniform | None = None) -> Any:
    """A dataclass field with its vetted default, a line that says what it does, and the space it is tuned over.

    Raises TypeError where that is no search space.
    """
    require_space(search)
    return field(default=default, metadata={"doc": doc, "search": search})


class Algorithm:
    """Base of every algorithm: a frozen dataclass whose fields are its hyper-parameters.

    `ALGORITHMS["gvpo"](beta=0.1).loss(policy, batch).loss` works in a bare Python shell, in float32 and float64.
    """

    name: ClassVar[str]
    """How tables and figures call it."""
    family: ClassVar[Family] = "other"

    @property
    def needs(self) -> Needs:
        """What the harness must supply, and how the loss couples its tokens."""
        return Needs()

    def prepare(self, batch: Batch) -> Batch:
        """Computes once per rollout batch what must not depend on the mini-batch, into `extras`."""
        return batch

    def loss(self, policy: PolicyOutput, batch: Batch) -> LossOutput:
        """The scalar to be minimised over one mini-batch, differentiable in what `policy` holds."""
        raise NotImplementedError


_REPLAY: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("replay", default=None)


def stop_gradient(x: Tensor) -> Tensor:
    """sg[x] of a formula: x, held constant.

    Whatever a loss holds constant passes through here and not through `detach`: `gvpo-bench check` compares the
    gradient with finite differences in which these values, and no others, stay as they are.
    """
    replay = _REPLAY.get()
    return x.detach() if replay is None else replay(x.detach())


@contextmanager
def stopped_gradients(replay: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, `stop_gradient(x)` is `replay(x)`: for whoever records what a loss holds constant, or repeats it."""
    token = _REPLAY.set(replay)
    try:
        yield
    finally:
        _REPLAY.reset(token)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """x with zeros under the mask. Taken before any arithmetic: after an exp, `where` still back-propagates 0·NaN."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def sequence_sum(x_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    """Σ_t x over the response tokens, [G, K]."""
    return masked(x_GKT, mask_GKT).sum(-1)


def token_mean(x_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    """Mean over all response tokens of the batch, scalar; 0 if there are none."""
    return masked(x_GKT, mask_GKT).sum() / mask_GKT.sum().clamp(min=1)


def group_size(valid_GK: Tensor) -> Tensor:
    """k(x), the number of samples of each prompt, [G, 1], at least 1 so that it can divide."""
    return valid_GK.sum(-1, keepdim=True).clamp(min=1)


def centred(x_GK: Tensor, valid_GK: Tensor) -> Tensor:
    """x_i − x̄ within each group, zero where there is no sample, [G, K].

    Exactly zero where all x of a group are equal, in every precision: the rounded mean of eight times 1.2 is not 1.2 in
    float32, and what divides by a spread would make a signal of that last digit. The gradient is that of x_i − x̄.
    """
    x_GK = masked(x_GK, valid_GK)
    centred_GK = x_GK - x_GK.sum(-1, keepdim=True) / group_size(valid_GK)
    lowest_G1 = x_GK.masked_fill(~valid_GK, math.inf).amin(-1, keepdim=True)
    highest_G1 = x_GK.masked_fill(~valid_GK, -math.inf).amax(-1, keepdim=True)
    exact_GK = torch.where(lowest_G1 == highest_G1, centred_GK - centred_GK.detach(), centred_GK)
    return masked(exact_GK, valid_GK)


def covariance(x_GK: Tensor, y_GK: Tensor, valid_GK: Tensor) -> Tensor:
    """1/(k−1) Σ_i (x_i − x̄)(y_i − ȳ) of each group (the seed, eq. 17), [G]; zero for a group of one."""
    return (centred(x_GK, valid_GK) * centred(y_GK, valid_GK)).sum(-1) / (valid_GK.sum(-1) - 1).clamp(min=1)


def token_log_prob(policy: PolicyOutput, batch: Batch) -> Tensor:
    """log π_θ of each token, zero under the mask, [G, K, T], in nats. Raises ValueError for another shape."""
    if policy.logp_GKT.shape != batch.mask_GKT.shape:
        raise ValueError(
            f"PolicyOutput.logp_GKT has shape {tuple(policy.logp_GKT.shape)}; the batch asks for "
            f"{tuple(batch.mask_GKT.shape)}"
        )
    return masked(policy.logp_GKT, batch.mask_GKT)


def token_log_ratio(policy: PolicyOutput, batch: Batch, anchor: Anchor) -> Tensor:
    """log π_θ − log π' of each token, zero under the mask, [G, K, T], in nats."""
    return token_log_prob(policy, batch) - batch.anchor_logp_GKT(anchor)


def sequence_log_ratio(policy: PolicyOutput, batch: Batch, anchor: Anchor) -> Tensor:
    """ℓ_i = Σ_t log π_θ − Σ_t log π', [G, K], in nats per response."""
    return token_log_ratio(policy, batch, anchor).sum(-1)


def clamped_ratio(log_ratio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """exp of log-ratios clamped to ±LOG_RATIO_LIMIT (1 under the mask), and the share that was clamped."""
    log_ratio = masked(log_ratio, mask)
    share = (log_ratio.detach().abs() > LOG_RATIO_LIMIT).sum() / mask.sum().clamp(min=1)
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp(), share


def require(ok: bool, message: str) -> None:
    """Raises ValueError with the message unless ok: for the ranges of hyper-parameters."""
    if not ok:
        raise ValueError(message)


def require_anchor(anchor: str) -> None:
    """Raises ValueError unless the anchor is one of Anchor's."""
    require(anchor in get_args(Anchor), f"anchor is {anchor!r}; use one of {', '.join(get_args(Anchor))}")
