"""AReaL's losses in `areal.utils.functional`, on this library's advantages: its own are a method of its trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stubs import stub

STUBBED = ("ray", "areal.infra", "areal.api", "areal.utils.perf_tracer", "torchdata", "numba")
stub(STUBBED)

import torch  # noqa: E402
from areal.utils import functional  # noqa: E402
from fed import GROUPS, Fed, Row  # noqa: E402
from restate import by_tokens, changed  # noqa: E402
from torch import Tensor  # noqa: E402

from algorithms.terms import standardised  # noqa: E402

MODULE = "areal.utils.functional."
GIVEN = "Â is ours, standardised in the group; AReaL's default adv_norm is whitening over the batch's tokens"


def advantage_BT(case: Fed) -> Tensor:
    """GRPO's, by this library."""
    return case.broadcast(case.rows(standardised(case.batch.rewards_GK, case.batch.valid_GK)))


def ppo(**options: Any) -> Callable[[Fed], Tensor]:
    """`ppo_actor_loss_fn` with the defaults of its config but for the options."""

    def theirs(case: Fed) -> Tensor:
        return functional.ppo_actor_loss_fn(
            logprobs=case.logp_BT,
            proximal_logprobs=case.old_BT,
            old_logprobs=case.old_BT,
            advantages=advantage_BT(case),
            loss_mask=case.bool_BT,
            **({"eps_clip": 0.2} | options),
        )[0]

    return theirs


def sapo(case: Fed) -> Tensor:
    """`sapo_loss_fn` with the defaults of its config."""
    return functional.sapo_loss_fn(
        logprobs=case.logp_BT,
        old_logprobs=case.old_BT,
        advantages=advantage_BT(case),
        tau_pos=1.0,
        tau_neg=1.05,
        loss_mask=case.bool_BT,
    )[0]


def dpo(loss_type: str) -> Callable[[Fed], Tensor]:
    """`dpo_pair_logratios` and `dpo_preference_loss` on packed pairs, as its DPO engine calls them."""

    def theirs(case: Fed) -> Tensor:
        # Packed rows: a prompt token before each response, since its mask is shifted by one.
        lengths = (case.bool_BT.sum(-1) + 1).tolist()
        zero = torch.zeros(1, dtype=torch.float64)
        logp, ref = (
            torch.cat([torch.cat([x[:n], zero]) for x, n in zip(x_BT, (n - 1 for n in lengths), strict=True)])
            for x_BT in (case.logp_BT, case.ref_BT)
        )
        mask = torch.cat([torch.tensor([False] + [True] * (n - 1)) for n in lengths])
        ends = torch.tensor([0, *lengths]).cumsum(0)
        pairs = torch.ones(len(lengths) // 2, dtype=torch.bool)
        policy, reference, tokens = functional.functional.dpo_pair_logratios(logp, ref, ends, mask, pairs)
        ratio = policy - reference
        if loss_type == "ipo":
            ratio = ratio / tokens
        return functional.functional.dpo_preference_loss(
            ratio[:, 0] - ratio[:, 1], beta=0.1, loss_type=loss_type
        ).mean()

    return theirs


def rows() -> list[Row]:
    """All comparisons with AReaL."""
    plain = {"overlong": 0.0, "dynamic_sampling": False}
    return [
        Row(
            algorithm="dapo",
            function=f"{MODULE}ppo_actor_loss_fn",
            theirs=ppo(),
            settings=plain | {"clip_high": 0.2},
            peer_settings="its loss's defaults, on our Â: token mean, ε 0.2",
            dialect="GRPO",
            note=GIVEN,
        ),
        Row(
            algorithm="dapo",
            function=f"{MODULE}ppo_actor_loss_fn",
            theirs=ppo(eps_clip_higher=0.28),
            settings=plain,
            peer_settings="eps_clip_higher=0.28, on our Â",
            dialect="DAPO",
            note=GIVEN,
        ),
        Row(
            algorithm="gspo",
            function=f"{MODULE}ppo_actor_loss_fn",
            theirs=ppo(importance_sampling_level="sequence"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings="importance_sampling_level=sequence, on our Â",
            dialect="GSPO",
            note=GIVEN,
            differs="ours 1/|D| Σ_x 1/k Σ_i f(s_i); theirs 1/Σ|y| Σ_i |y_i| f(s_i): a response counts by its length",
            restated=changed("gspo", {"clip_low": 0.2, "clip_high": 0.2}, mean_of_groups=by_tokens),
        ),
        Row(
            algorithm="sapo",
            function=f"{MODULE}sapo_loss_fn",
            theirs=sapo,
            peer_settings="use_sapo_loss, on our Â",
            kinds=GROUPS,
            dialect="SAPO",
            note=GIVEN,
            differs="ours 1/|D| Σ_x 1/k Σ_i 1/|y_i| Σ_t; theirs 1/Σ|y| Σ_i Σ_t, the mean over the batch's tokens",
            restated=changed("sapo", mean_of_groups=by_tokens),
        ),
        *(
            Row(
                algorithm=algorithm,
                function=f"{MODULE}functional.dpo_pair_logratios, {MODULE}functional.dpo_preference_loss",
                theirs=dpo(loss_type),
                settings=settings,
                peer_settings=f"loss_type={loss_type}",
                kinds=("pairs",),
                dialect=dialect,
                note="in float32",
            )
            for algorithm, loss_type, settings, dialect in (
                ("offline_dpo", "sigmoid", {}, "DPO"),
                ("ipo", "ipo", {"length_average": True}, "IPO"),
            )
        ),
    ]
