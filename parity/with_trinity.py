"""Trinity-RFT's policy losses and group advantages, with the default arguments that the classes themselves name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from stubs import stub

STUBBED = ("ray",)
stub(STUBBED)

from fed import GROUPS, Fed, Row  # noqa: E402
from restate import changed, dual_clip, held_gate, one_pair, token_taper  # noqa: E402
from torch import Tensor  # noqa: E402
from trinity.algorithm.advantage_fn.grpo_advantage import GRPOGroupedAdvantage  # noqa: E402
from trinity.algorithm.advantage_fn.opmd_advantage import OPMDGroupAdvantage  # noqa: E402
from trinity.algorithm.policy_loss_fn.cispo_policy_loss import CISPOPolicyLossFn  # noqa: E402
from trinity.algorithm.policy_loss_fn.dpo_loss import DPOLossFn  # noqa: E402
from trinity.algorithm.policy_loss_fn.gspo_policy_loss import GSPOLossFn  # noqa: E402
from trinity.algorithm.policy_loss_fn.opmd_policy_loss import OPMDPolicyLossFn  # noqa: E402
from trinity.algorithm.policy_loss_fn.ppo_policy_loss import PPOPolicyLossFn  # noqa: E402
from trinity.algorithm.policy_loss_fn.sapo_policy_loss import SAPOPolicyLossFn  # noqa: E402
from trinity.algorithm.policy_loss_fn.topr_policy_loss import TOPRPolicyLossFn  # noqa: E402


def advantages(kind: type[Any], case: Fed, **options: Any) -> Tensor:
    """By Trinity's group advantage, [B, T]."""
    estimator = kind(**(kind.default_args() | options))
    out_BT = case.mask_BT.clone()
    for g in case.group_B.unique():
        at = (case.group_B == g).nonzero()[:, 0].tolist()
        group = [SimpleNamespace(reward=float(case.rewards_B[b]), action_mask=case.mask_BT[b]) for b in at]
        estimator.calculate_group_advantage(str(g), group)
        for b, experience in zip(at, group, strict=True):
            out_BT[b] = experience.advantages
    return out_BT


def policy(
    loss: type[Any],
    advantage: type[Any] = GRPOGroupedAdvantage,
    estimator: dict[str, Any] | None = None,
    **options: Any,
) -> Callable[[Fed], Tensor]:
    """The loss on Trinity's own advantages."""

    def theirs(case: Fed) -> Tensor:
        return loss(**(loss.default_args() | options))(
            logprob=case.logp_BT,
            old_logprob=case.old_BT,
            ref_logprob=case.ref_BT,
            action_mask=case.mask_BT,
            advantages=advantages(advantage, case, **(estimator or {})),
        )[0]

    return theirs


def dpo(case: Fed) -> Tensor:
    """Its DPO, whose sums run over all dimensions: the pairs are fed one by one."""
    loss = DPOLossFn(**DPOLossFn.default_args())
    pairs = [slice(b, b + 2) for b in range(0, len(case.logp_BT), 2)]
    losses = [loss(logprob=case.logp_BT[p], ref_logprob=case.ref_BT[p], action_mask=case.mask_BT[p])[0] for p in pairs]
    return sum(losses[1:], losses[0]) / len(losses)


def dpo_batch(case: Fed) -> Tensor:
    """Its DPO as it stands, on all pairs at once."""
    loss = DPOLossFn(**DPOLossFn.default_args())
    return loss(logprob=case.logp_BT, ref_logprob=case.ref_BT, action_mask=case.mask_BT)[0]


def rows() -> list[Row]:
    """All comparisons with Trinity-RFT."""
    plain = {"overlong": 0.0, "dynamic_sampling": False}
    where = "trinity.algorithm."
    grpo = f"{where}advantage_fn.GRPOGroupedAdvantage, {where}policy_loss_fn."
    opmd = f"{where}advantage_fn.OPMDGroupAdvantage, {where}policy_loss_fn.OPMDPolicyLossFn"
    return [
        Row(
            algorithm="dapo",
            function=f"{grpo}PPOPolicyLossFn",
            theirs=policy(PPOPolicyLossFn),
            settings=plain | {"clip_high": 0.2},
            peer_settings="its defaults without the KL loss: token mean, ε 0.2",
            dialect="GRPO",
        ),
        Row(
            algorithm="dapo",
            function=f"{grpo}PPOPolicyLossFn",
            theirs=policy(PPOPolicyLossFn),
            settings=plain | {"clip_high": 0.2},
            kinds=("far",),
            differs="dual clip where Â < 0: ours max(ρ, 1−ε)·Â, without bound; theirs at least c·Â with c = 3",
            restated=changed("dapo", plain | {"clip_high": 0.2}, clipped_surrogate=dual_clip),
        ),
        Row(
            algorithm="gspo",
            function=f"{grpo}GSPOLossFn",
            theirs=policy(GSPOLossFn),
            kinds=GROUPS,
            dialect="GSPO",
        ),
        Row(
            algorithm="sapo",
            function=f"{grpo}SAPOPolicyLossFn",
            theirs=policy(SAPOPolicyLossFn),
            kinds=GROUPS,
            dialect="SAPO",
            differs="ours −1/|D| Σ_x 1/k Σ_i 1/|y_i| Σ_t f(ρ) Â_i, whose coefficient f'(ρ)·ρ·Â fades as ρ "
            "leaves 1; theirs "
            "−1/Σ|y| Σ_i Σ_t sg[f(ρ)] Â_i log π, whose coefficient f(ρ)·Â grows with ρ and is 2 Â on-policy",
            restated=held_gate,
        ),
        Row(
            algorithm="cispo",
            function=f"{grpo}CISPOPolicyLossFn",
            theirs=policy(CISPOPolicyLossFn),
            settings={"clip_low": 1.0, "clip_high": 0.28},
            dialect="CISPO",
            note="its default clips the weight to [0, 1.28]",
        ),
        Row(
            algorithm="opmd",
            function=opmd,
            theirs=policy(OPMDPolicyLossFn, OPMDGroupAdvantage),
            dialect="OPMD",
        ),
        Row(
            algorithm="opmd",
            function=opmd,
            theirs=policy(OPMDPolicyLossFn, OPMDGroupAdvantage, {"opmd_baseline": "logavgexp"}),
            settings={"baseline": "log_mean_exp"},
            peer_settings="opmd_baseline=logavgexp",
        ),
        Row(
            algorithm="gpg",
            function=opmd,
            theirs=policy(OPMDPolicyLossFn, OPMDGroupAdvantage),
            settings={"rescale": False},
            factor=0.5,
            note="its OPMD by default is GPG without α, times 1/(1+τ) = ½",
        ),
        Row(
            algorithm="topr",
            function=f"{grpo}TOPRPolicyLossFn",
            theirs=policy(TOPRPolicyLossFn),
            dialect="TOPR",
            differs="ours sg[min(1, π(y)/π_behaviour(y))]·(R − R̄), a ratio of whole responses, summed over "
            "tokens; theirs "
            "sg[min(1, ρ)]·(R − R̄)/(std + 1e-6), a ratio per token, the mean over tokens",
            restated=token_taper,
        ),
        Row(
            algorithm="offline_dpo",
            function=f"{where}policy_loss_fn.DPOLossFn",
            theirs=dpo,
            peer_settings="one pair a micro-batch",
            kinds=("pairs",),
        ),
        Row(
            algorithm="offline_dpo",
            function=f"{where}policy_loss_fn.DPOLossFn",
            theirs=dpo_batch,
            kinds=("pairs",),
            dialect="DPO",
            differs="ours mean_x −log σ(β(ℓ_w − ℓ_l)); theirs −log σ(β Σ_x (ℓ_w − ℓ_l)): masked_sum sums over "
            "the pairs of "
            "the micro-batch too",
            restated=one_pair,
        ),
    ]
