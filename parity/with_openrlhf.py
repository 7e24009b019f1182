"""OpenRLHF's losses, and the advantages of its experience maker on a light stand-in for `self`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from stubs import stub

STUBBED = (
    "flash_attn",
    "ray",
    "deepspeed",
    "vllm",
    "pylatexenc",
    "optree",
    "transformers_stream_generator",
    "torchdata",
)
stub(STUBBED)

from fed import GROUPS, Fed, Row  # noqa: E402
from openrlhf.models.loss import DPOLoss, PolicyLoss, SFTLoss, ValueLoss  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from restate import by_tokens, changed, others, over_tokens, ppo_clip  # noqa: E402
from torch import Tensor  # noqa: E402

LOSS = "openrlhf.models.loss."
MAKER = "openrlhf.trainer.ppo_utils.experience_maker.RemoteExperienceMaker.compute_advantages_and_returns"


def advantages(estimator: str, case: Fed, kl_coef: float = 0.0) -> tuple[Tensor, Tensor]:
    """Advantages and returns by OpenRLHF's estimator, [B, T]."""
    assert case.batch.old_value_GKT is not None
    advantage = SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False)
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=advantage),
        rollout=SimpleNamespace(n_samples_per_prompt=case.group_size),
        reward=SimpleNamespace(
            clip_range=None, overlong_buffer_len=None, overlong_penalty_factor=None, stop_properly_penalty_coef=None
        ),
    )
    experience = SimpleNamespace(
        rewards=case.rewards_B.clone(),
        index=list(range(len(case.rewards_B))),
        action_mask=case.bool_BT,
        kl=case.old_BT - case.ref_BT,
        values=case.rows(case.batch.old_value_GKT),
        info={},
    )
    me = SimpleNamespace(
        strategy=SimpleNamespace(args=args),
        kl_ctl=SimpleNamespace(value=kl_coef),
        advantage_estimator=estimator,
    )
    me.get_advantages_and_returns = RemoteExperienceMaker.get_advantages_and_returns.__get__(me)
    me.get_cumulative_returns = RemoteExperienceMaker.get_cumulative_returns.__get__(me)
    (made,) = RemoteExperienceMaker.compute_advantages_and_returns(me, [experience])
    return made.advantages, made.returns


def policy(estimator: str, *, kl_coef: float = 0.0, **options: object) -> Callable[[Fed], Tensor]:
    """PolicyLoss on its own advantages."""

    def theirs(case: Fed) -> Tensor:
        advantage_BT, _ = advantages(estimator, case, kl_coef)
        return PolicyLoss(**options)(case.logp_BT, case.old_BT, advantage_BT, case.mask_BT)[0]

    return theirs


def ppo(case: Fed) -> Tensor:
    """PolicyLoss and ValueLoss, with GAE."""
    assert case.batch.old_value_GKT is not None
    advantage_BT, return_BT = advantages("gae", case)
    loss = PolicyLoss()(case.logp_BT, case.old_BT, advantage_BT, case.mask_BT)[0]
    old_value_BT = case.rows(case.batch.old_value_GKT)
    return loss + ValueLoss(clip_eps=0.5)(case.value_BT, old_value_BT, return_BT, case.mask_BT)


def dpo(*, ipo: bool = False) -> Callable[[Fed], Tensor]:
    """DPOLoss on sums over tokens, which is what its trainer gives it."""

    def theirs(case: Fed) -> Tensor:
        chosen, rejected = ((case.logp_BT * case.mask_BT).sum(-1)[i::2] for i in (0, 1))
        ref_chosen, ref_rejected = ((case.ref_BT * case.mask_BT).sum(-1)[i::2] for i in (0, 1))
        return DPOLoss(beta=0.1, ipo=ipo)(chosen, rejected, ref_chosen, ref_rejected)[0]

    return theirs


def sft(case: Fed) -> Tensor:
    """SFTLoss."""
    return SFTLoss(token_level_loss=False)(case.logp_BT, case.mask_BT)


STD = "ours Â = (R − R̄)/(std + 1e-6), theirs (R − R̄)/(std + 1e-9)"
TOKENS = (
    "ours 1/|D| Σ_x 1/k Σ_i A_i log π(y_i), a sum over tokens without a ratio; theirs 1/Σ|y| Σ_i Σ_t "
    "min[ρ A_i, clip(ρ, 1±0.2) A_i], PPO's clip on each token"
)


def rows() -> list[Row]:
    """All comparisons with OpenRLHF. Its groups all have one size."""
    plain = {"overlong": 0.0, "dynamic_sampling": False, "clip_high": 0.2}
    loss = f"{MAKER}, {LOSS}PolicyLoss"
    return [
        Row(
            algorithm="dapo",
            function=loss,
            theirs=policy("group_norm"),
            settings=plain,
            peer_settings="advantage.estimator=group_norm: token mean",
            kinds=GROUPS,
            dialect="GRPO",
            note=f"within 1e-5, though the std's ε is another: {STD}",
        ),
        Row(
            algorithm="grpo",
            function=loss,
            theirs=policy("group_norm", token_level_loss=False),
            peer_settings="advantage.estimator=group_norm, token_level_loss off",
            kinds=GROUPS,
        ),
        Row(
            algorithm="dr_grpo",
            function=loss,
            theirs=policy("dr_grpo"),
            peer_settings="advantage.estimator=dr_grpo",
            kinds=GROUPS,
            dialect="Dr.GRPO",
            differs="ours 1/|D| Σ_x 1/k Σ_i 1/M Σ_t; theirs 1/Σ|y| Σ_i Σ_t: only the std is left out, the mean is over "
            "the batch's tokens",
            restated=lambda case: case.limit * changed("dr_grpo", mean_of_groups=over_tokens)(case),
        ),
        Row(
            algorithm="gspo",
            function=loss,
            theirs=policy("group_norm", policy_loss_type="gspo"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings="policy_loss_type=gspo, advantage.estimator=group_norm",
            kinds=GROUPS,
            dialect="GSPO",
            note="ε is GRPO's 0.2, not the paper's 3e-4 and 4e-4",
        ),
        Row(
            algorithm="rloo",
            function=loss,
            theirs=policy("rloo"),
            settings={"beta": 0.0},
            peer_settings="advantage.estimator=rloo, kl.init_coef=0",
            kinds=GROUPS,
            dialect="RLOO",
            differs=TOKENS,
            restated=ppo_clip(others),
        ),
        Row(
            algorithm="reinforce_pp",
            function=loss,
            theirs=policy("reinforce", kl_coef=0.01),
            peer_settings="advantage.estimator=reinforce, kl.init_coef=0.01",
            kinds=GROUPS,
            dialect="REINFORCE++",
        ),
        Row(
            algorithm="reinforce_pp_baseline",
            function=loss,
            theirs=policy("reinforce_baseline"),
            settings={"beta": 0.0},
            peer_settings="advantage.estimator=reinforce_baseline, without its KL loss",
            kinds=GROUPS,
            dialect="REINFORCE++ baseline",
        ),
        Row(
            algorithm="ppo",
            function=f"{loss}, {LOSS}ValueLoss",
            theirs=ppo,
            peer_settings="advantage.estimator=gae, value clip 0.5",
            kinds=GROUPS,
            dialect="PPO",
        ),
        Row(
            algorithm="offline_dpo",
            function=f"{LOSS}DPOLoss",
            theirs=dpo(),
            kinds=("pairs",),
            dialect="DPO",
        ),
        Row(
            algorithm="ipo",
            function=f"{LOSS}DPOLoss",
            theirs=dpo(ipo=True),
            peer_settings="ipo=True",
            kinds=("pairs",),
            dialect="IPO",
        ),
        Row(
            algorithm="sft",
            function=f"{LOSS}SFTLoss",
            theirs=sft,
            peer_settings="token_level_loss=False",
            kinds=GROUPS,
        ),
        Row(
            algorithm="sft",
            function=f"{LOSS}SFTLoss",
            theirs=lambda case: SFTLoss()(case.logp_BT, case.mask_BT),
            kinds=GROUPS,
            differs="ours 1/|D| Σ_x 1/k Σ_i 1/|y_i| Σ_t; theirs 1/Σ|y| Σ_i Σ_t, the mean over the batch's tokens",
            restated=changed("sft", mean_of_groups=by_tokens),
        ),
    ]
