"""SkyRL's advantage estimators and policy losses, as its `ppo_utils` registers them, and its loss reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from stubs import stub

STUBBED = ("ray", "skyrl.tinker", "cloudpathlib", "skyrl_gym.envs")
stub(STUBBED)

from fed import GROUPS, Fed, Kind, Row  # noqa: E402
from restate import bessel, by_samples, changed, others, ppo_clip, scaled, signed_mean  # noqa: E402
from skyrl.backends.skyrl_train.utils import ppo_utils  # noqa: E402
from skyrl.train.config.config import AlgorithmConfig  # noqa: E402
from torch import Tensor  # noqa: E402

MODULE = "skyrl.backends.skyrl_train.utils.ppo_utils"
LOSSES = {
    "regular": ppo_utils.ppo_policy_loss,
    "gspo": ppo_utils.gspo_policy_loss,
    "sapo": ppo_utils.sapo_policy_loss,
    "cispo": ppo_utils.compute_policy_loss_cispo,
    "dppo": ppo_utils.dppo_policy_loss,
}
ESTIMATORS = {
    "grpo": ppo_utils.compute_grpo_outcome_advantage,
    "rloo": ppo_utils.compute_rloo_outcome_advantage,
    "reinforce++": ppo_utils.compute_reinforce_plus_plus_outcome_advantage,
    "maxrl": ppo_utils.compute_maxrl_advantage,
}


def policy(
    loss: str, estimator: str = "grpo", *, reduction: str = "token_mean", by_std: bool = True, **options: Any
) -> Callable[[Fed], Tensor]:
    """The loss on its own advantages, reduced as its trainer does; AlgorithmConfig's defaults but for the options."""

    def theirs(case: Fed) -> Tensor:
        config = AlgorithmConfig(policy_loss_type=loss, loss_reduction=reduction, **options)
        advantage_BT, _ = ESTIMATORS[estimator](
            token_level_rewards=case.rewards_BT,
            response_mask=case.mask_BT,
            index=case.group_B.numpy(),
            grpo_norm_by_std=by_std,
            gamma=1.0,
        )
        ends = [int((case.group_B <= g).sum()) for g in range(int(case.group_B.max()) + 1)]
        scaled_BT = ppo_utils.apply_loss_reduction_to_advantages_minibatch(
            advantages=advantage_BT,
            loss_mask=case.mask_BT,
            loss_reduction=reduction,
            micro_batch_size=len(advantage_BT),
            max_seq_len=case.limit,
            prompt_boundaries=list(zip([0, *ends[:-1]], ends, strict=True)),
        )
        return LOSSES[loss](case.logp_BT, case.old_BT, scaled_BT, config, loss_mask=case.mask_BT)[0]

    return theirs


def names(loss: str, estimator: str = "grpo") -> str:
    """The dotted names of both."""
    functions = (ESTIMATORS[estimator], LOSSES[loss])
    return ", ".join(f"{MODULE}.{function.__wrapped__.__name__}" for function in functions)


def rows() -> list[Row]:
    """All comparisons with SkyRL. Its KL loss (k3, coefficient 0.001, on by default) is left out throughout."""
    plain = {"overlong": 0.0, "dynamic_sampling": False}
    return [
        Row(
            algorithm="dapo",
            function=names("regular"),
            theirs=policy("regular"),
            settings=plain | {"clip_high": 0.2},
            peer_settings="its defaults without the KL loss: token_mean, ε 0.2",
            dialect="GRPO",
        ),
        Row(
            algorithm="grpo",
            function=names("regular"),
            theirs=policy("regular", reduction="sequence_mean"),
            peer_settings="loss_reduction=sequence_mean",
            kinds=GROUPS,
        ),
        Row(
            algorithm="dapo",
            function=names("regular"),
            theirs=policy("regular", eps_clip_high=0.28),
            settings=plain,
            peer_settings="eps_clip_high=0.28",
            dialect="DAPO",
        ),
        Row(
            algorithm="dr_grpo",
            function=names("regular"),
            theirs=policy("regular", reduction="seq_mean_token_sum_norm", by_std=False),
            peer_settings="grpo_norm_by_std=False, loss_reduction=seq_mean_token_sum_norm",
            kinds=GROUPS,
            dialect="Dr.GRPO",
        ),
        Row(
            algorithm="gspo",
            function=names("gspo"),
            theirs=policy("gspo", reduction="sequence_mean"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings="policy_loss_type=gspo, loss_reduction=sequence_mean",
            kinds=GROUPS,
            dialect="GSPO",
        ),
        Row(
            algorithm="sapo",
            function=names("sapo"),
            theirs=policy("sapo", reduction="sequence_mean"),
            peer_settings="policy_loss_type=sapo, loss_reduction=sequence_mean",
            kinds=GROUPS,
            dialect="SAPO",
        ),
        Row(
            algorithm="sapo",
            function=names("sapo"),
            theirs=policy("sapo", reduction="sequence_mean"),
            peer_settings="policy_loss_type=sapo, loss_reduction=sequence_mean",
            kinds=("partial",),
            differs="groups of unequal size: ours 1/|D| Σ_x 1/k(x) Σ_i, theirs 1/Σk Σ_x Σ_i",
            restated=changed("sapo", mean_of_groups=by_samples),
        ),
        Row(
            algorithm="cispo",
            function=names("cispo"),
            theirs=policy("cispo"),
            settings={"clip_low": 0.0, "clip_high": 5.0},
            peer_settings="policy_loss_type=cispo",
            dialect="CISPO",
            note="its default clips the weight to [1, 6]: no token weighs less than on-policy",
        ),
        *(
            Row(
                algorithm="dppo",
                function=names("dppo"),
                theirs=policy("dppo", by_std=by_std),
                settings={"threshold": 0.2},
                peer_settings=f"policy_loss_type=dppo, grpo_norm_by_std={by_std}",
                constant=True,
                dialect="DPPO-TV" if by_std else "",
                differs="ours A = R − R̄; theirs by default (R − R̄)/(std + 1e-6), GRPO's advantage" if by_std else "",
                restated=changed("dppo", {"threshold": 0.2}, centred=scaled) if by_std else None,
                note="the loss is ρA where ours is sg[ρ]A log π; the gradient is the same",
            )
            for by_std in (False, True)
        ),
        *(
            Row(
                algorithm="maxrl",
                function=names("regular", "maxrl"),
                theirs=policy("regular", "maxrl", reduction="seq_mean_token_sum_norm"),
                peer_settings="advantage_estimator=maxrl, loss_reduction=seq_mean_token_sum_norm",
                kinds=(cast(Kind, kind),),
                factor=1 / 6,
                constant=True,
                differs=differs,
                restated=signed_mean if differs else None,
                note="at π_θ = π_old; theirs is 1/M of ours",
            )
            for kind, differs in (
                ("verdicts", ""),
                (
                    "on-policy",
                    "groups whose mean reward is negative: ours 0, theirs (R − R̄)/(R̄ + 1e-6), which pushes "
                    "the better "
                    "response down",
                ),
            )
        ),
        Row(
            algorithm="rloo",
            function=names("regular", "rloo"),
            theirs=policy("regular", "rloo"),
            settings={"beta": 0.0},
            peer_settings="advantage_estimator=rloo",
            dialect="RLOO",
            differs="ours 1/|D| Σ_x 1/k Σ_i A_i log π(y_i), a sum over tokens without a ratio; theirs 1/Σ|y| Σ_i Σ_t "
            "min[ρ A_i, clip(ρ, 1±0.2) A_i], PPO's clip on each token",
            restated=ppo_clip(others),
        ),
        Row(
            algorithm="reinforce_pp",
            function=names("regular", "reinforce++"),
            theirs=policy("regular", "reinforce++"),
            settings={"beta": 0.0},
            peer_settings="advantage_estimator=reinforce++, without a KL penalty",
            dialect="REINFORCE++",
            differs="whitening: ours divides by √(1/n Σ(A−Ā)² + 1e-8), theirs by √(1/(n−1) Σ(A−Ā)² + 1e-8)",
            restated=changed("reinforce_pp", {"beta": 0.0}, whitened=bessel),
        ),
    ]
