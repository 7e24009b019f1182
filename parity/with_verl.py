"""verl's advantage estimators and policy losses, as `verl.trainer.ppo.core_algos` registers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stubs import stub

STUBBED = ("ray", "wandb")
stub(STUBBED)

from fed import GROUPS, Fed, Row  # noqa: E402
from restate import (  # noqa: E402
    bessel,
    by_samples,
    by_tokens,
    changed,
    constant,
    dual_clip,
    length_weighted,
    lone_reward,
    nonzero_alpha,
    others,
    ppo_clip,
    scaled,
)
from torch import Tensor  # noqa: E402
from verl.trainer.config import AlgoConfig  # noqa: E402
from verl.trainer.ppo import core_algos  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402

MODULE = "verl.trainer.ppo.core_algos"
PER_PROMPT = "groups of unequal size: ours 1/|D| Σ_x 1/k(x) Σ_i, theirs 1/Σk Σ_x Σ_i (a prompt counts by its samples)"


def advantages(estimator: str, case: Fed, **options: Any) -> Tensor:
    """By verl's estimator, [B, T]."""
    options = {"index": case.group_B.numpy(), "config": AlgoConfig(), **options}
    function = core_algos.get_adv_estimator_fn(estimator)
    return function(token_level_rewards=case.rewards_BT, response_mask=case.mask_BT, **options)[0]


def policy_loss(
    name: str, estimator: str = "grpo", *, agg: str = "token-mean", options: dict[str, Any] | None = None, **config: Any
) -> Callable[[Fed], Tensor]:
    """verl's loss of that name on its own advantages, with ActorConfig's defaults but for `config`."""

    def theirs(case: Fed) -> Tensor:
        actor = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **config)
        loss, _ = core_algos.get_policy_loss_fn(name)(
            old_log_prob=case.old_BT,
            log_prob=case.logp_BT,
            advantages=advantages(estimator, case, **(options or {})),
            response_mask=case.mask_BT,
            loss_agg_mode=agg,
            config=actor,
        )
        return loss

    return theirs


def remax(case: Fed) -> Tensor:
    """Its advantages, and its loss without ratio or clip, on a sum per response."""
    greedy_B = case.batch.extra("greedy_reward_G")[case.group_B]
    return policy_loss("gpg", "remax", agg="seq-mean-token-sum", options={"reward_baselines": greedy_B})(case)


def with_kl(theirs: Callable[[Fed], Tensor], estimate: str, beta: float, agg: str) -> Callable[[Fed], Tensor]:
    """The loss with verl's KL loss added, as its actor does."""

    def total(case: Fed) -> Tensor:
        kl_BT = core_algos.kl_penalty(case.logp_BT, case.ref_BT, estimate)
        return theirs(case) + beta * core_algos.agg_loss(kl_BT, case.mask_BT, agg)

    return total


def reinforce_pp(beta: float) -> Callable[[Fed], Tensor]:
    """REINFORCE++ with the penalty −β k1 in the reward, as `apply_kl_penalty` puts it there."""

    def theirs(case: Fed) -> Tensor:
        kl_BT = core_algos.kl_penalty(case.old_BT, case.ref_BT, "kl") * case.mask_BT
        rewards_BT = case.rewards_BT - beta * kl_BT
        estimate = core_algos.get_adv_estimator_fn("reinforce_plus_plus")
        advantage_BT, _ = estimate(rewards_BT, case.mask_BT, config=AlgoConfig())
        actor = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
        loss = core_algos.get_policy_loss_fn("vanilla")
        return loss(case.old_BT, case.logp_BT, advantage_BT, case.mask_BT, "token-mean", actor)[0]

    return theirs


def ppo(case: Fed, *, whiten: bool = True) -> Tensor:
    """GAE, the clipped surrogate, and the clipped value loss, the defaults of verl's actor and critic."""
    old_value_BT = case.rows(case.batch.old_value_GKT)  # type: ignore[arg-type]
    A_BT, return_BT = core_algos.compute_gae_advantage_return(case.rewards_BT, old_value_BT, case.mask_BT, 1.0, 1.0)
    if not whiten:
        A_BT = (return_BT - old_value_BT) * case.mask_BT
    actor = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    loss = core_algos.get_policy_loss_fn("vanilla")
    policy, _ = loss(case.old_BT, case.logp_BT, A_BT, case.mask_BT, "token-mean", actor)
    value, _ = core_algos.compute_value_loss(case.value_BT, return_BT, old_value_BT, case.mask_BT, 0.5, "token-mean")
    return policy + value


TOKEN_MEAN = {"overlong": 0.0, "dynamic_sampling": False}
"""DAPO without its shaping and refilling: what verl's config calls GRPO."""
WHITEN = "whitening: ours divides by √(1/n Σ(A−Ā)² + 1e-8), theirs by √(1/(n−1) Σ(A−Ā)² + 1e-8)"


def rows() -> list[Row]:
    """All comparisons with verl."""
    loss = f"{MODULE}.compute_policy_loss_"
    grpo = f"{MODULE}.compute_grpo_outcome_advantage, {loss}vanilla"
    response = "seq-mean-token-mean"
    unscaled = {"norm_adv_by_std_in_grpo": False}
    return [
        Row(
            algorithm="dapo",
            function=grpo,
            theirs=policy_loss("vanilla"),
            settings={"clip_high": 0.2, **TOKEN_MEAN},
            peer_settings="its defaults for adv_estimator=grpo: token-mean, ε 0.2, c 3",
            dialect="GRPO",
            note="verl's GRPO is a mean over tokens: in this library DAPO's loss with one ε",
        ),
        Row(
            algorithm="dapo",
            function=grpo,
            theirs=policy_loss("vanilla"),
            settings={"clip_high": 0.2, **TOKEN_MEAN},
            kinds=("far",),
            differs="dual clip where Â < 0: ours max(ρ, 1−ε)·Â, without bound; theirs at least c·Â with c = 3, so no "
            "gradient where ρ > 3",
            restated=changed("dapo", {"clip_high": 0.2, **TOKEN_MEAN}, clipped_surrogate=dual_clip),
        ),
        Row(
            algorithm="dapo",
            function=grpo,
            theirs=policy_loss("vanilla"),
            settings={"clip_high": 0.2, **TOKEN_MEAN},
            kinds=("lone",),
            differs="a group of one: ours Â = 0, theirs Â = R (mean 0, std 1)",
            restated=changed("dapo", {"clip_high": 0.2, **TOKEN_MEAN}, standardised=lone_reward),
        ),
        Row(
            algorithm="grpo",
            function=grpo,
            theirs=policy_loss("vanilla", agg=response),
            peer_settings=f"loss_agg_mode={response}",
            kinds=GROUPS,
        ),
        Row(
            algorithm="grpo",
            function=grpo,
            theirs=policy_loss("vanilla", agg=response),
            peer_settings=f"loss_agg_mode={response}",
            kinds=("partial",),
            differs=PER_PROMPT,
            restated=changed("grpo", mean_of_groups=by_samples),
        ),
        Row(
            algorithm="grpo",
            function=f"{grpo}, {MODULE}.kl_penalty",
            theirs=with_kl(policy_loss("vanilla", agg=response), "low_var_kl", 0.04, response),
            settings={"beta": 0.04},
            peer_settings=f"loss_agg_mode={response}, kl_loss_type=low_var_kl, kl_loss_coef=0.04",
            kinds=GROUPS,
        ),
        Row(
            algorithm="dr_grpo",
            function=grpo,
            theirs=policy_loss("vanilla", agg="seq-mean-token-sum-norm", options={"norm_adv_by_std_in_grpo": False}),
            peer_settings="norm_adv_by_std_in_grpo=False, loss_agg_mode=seq-mean-token-sum-norm",
            kinds=GROUPS,
            dialect="Dr.GRPO",
            note="theirs divides by the width of the padded mini-batch unless loss_scale_factor is set; here it is M",
        ),
        Row(
            algorithm="dapo",
            function=grpo,
            theirs=policy_loss("vanilla", clip_ratio_high=0.28),
            settings=TOKEN_MEAN,
            peer_settings="clip_ratio_high=0.28, token-mean: the loss of its DAPO recipe",
            dialect="DAPO",
        ),
        Row(
            algorithm="gspo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}gspo",
            theirs=policy_loss("gspo", agg=response),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings=f"loss_agg_mode={response}, ε 0.2",
            kinds=GROUPS,
        ),
        Row(
            algorithm="gspo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}gspo",
            theirs=policy_loss("gspo"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings="its actor's defaults: token-mean, ε 0.2",
            dialect="GSPO",
            differs="ours 1/|D| Σ_x 1/k Σ_i f(s_i); theirs 1/Σ|y| Σ_i |y_i| f(s_i): a response counts by its length; "
            "and ε is GRPO's 0.2, not the paper's 3e-4 and 4e-4",
            restated=changed("gspo", {"clip_low": 0.2, "clip_high": 0.2}, mean_of_groups=by_tokens),
        ),
        Row(
            algorithm="sapo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}sapo",
            theirs=policy_loss("sapo"),
            dialect="SAPO",
            kinds=GROUPS,
            note="loss_agg_mode is ignored: always a mean per response",
        ),
        Row(
            algorithm="sapo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}sapo",
            theirs=policy_loss("sapo"),
            kinds=("partial",),
            differs=PER_PROMPT,
            restated=changed("sapo", mean_of_groups=by_samples),
        ),
        Row(
            algorithm="cispo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}cispo",
            theirs=policy_loss("cispo"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            dialect="CISPO",
            note="its default clips the weight to [0.8, 1.2], with a floor",
        ),
        Row(
            algorithm="gmpo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}geo_mean",
            theirs=policy_loss("geo_mean"),
            settings={"clip": 0.2},
            dialect="GMPO",
            kinds=GROUPS,
            note="its clip_ratio, 0.2 by default, is read as a log-ratio; the paper's is 0.4",
        ),
        *(
            Row(
                algorithm="dppo",
                function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}dppo_{divergence}",
                theirs=policy_loss(f"dppo_{divergence}", options=unscaled),
                settings={"divergence": divergence, "threshold": 0.2},
                peer_settings="norm_adv_by_std_in_grpo=False; δ is clip_ratio, 0.2",
            )
            for divergence in ("tv", "kl")
        ),
        *(
            Row(
                algorithm="dppo",
                function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}dppo_{divergence}",
                theirs=policy_loss(f"dppo_{divergence}"),
                settings={"divergence": divergence, "threshold": 0.2},
                peer_settings="its defaults; δ is clip_ratio, 0.2",
                dialect="DPPO-TV" if divergence == "tv" else "",
                differs="ours A = R − R̄; theirs by default (R − R̄)/(std + 1e-6), GRPO's advantage",
                restated=changed("dppo", {"divergence": divergence, "threshold": 0.2}, centred=scaled),
            )
            for divergence in ("tv", "kl")
        ),
        Row(
            algorithm="dppo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}dppo_tv",
            theirs=policy_loss("dppo_tv", options=unscaled),
            settings={"threshold": 0.2},
            peer_settings="norm_adv_by_std_in_grpo=False",
            kinds=("far",),
            differs="ours min(ρ, 20); theirs min(ρ, 3): ActorConfig.clip_ratio_c, 3, hides the 20 of the function",
            restated=changed("dppo", {"threshold": 0.2}, LARGEST_RATIO=constant(3.0)),
        ),
        Row(
            algorithm="dppo",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}dppo_tv",
            theirs=policy_loss("dppo_tv", options=unscaled, clip_ratio_c=20.0),
            settings={"threshold": 0.2},
            peer_settings="norm_adv_by_std_in_grpo=False, clip_ratio_c=20",
            kinds=("far",),
        ),
        Row(
            algorithm="gpg",
            function=f"{MODULE}.compute_gpg_outcome_advantage, {loss}gpg",
            theirs=policy_loss("gpg", "gpg"),
            dialect="GPG",
            differs="ours α = |D| / #{x: rewards differ}; theirs α = B / #{i: R_i ≠ 0}, responses with a reward "
            "that is "
            "not zero",
            restated=nonzero_alpha,
        ),
        Row(
            algorithm="gpg",
            function=f"{MODULE}.compute_grpo_outcome_advantage, {loss}gpg",
            theirs=policy_loss("gpg", options={"norm_adv_by_std_in_grpo": False}),
            settings={"rescale": False},
            peer_settings="adv_estimator=grpo, norm_adv_by_std_in_grpo=False, loss_mode=gpg",
        ),
        Row(
            algorithm="rloo",
            function=f"{MODULE}.compute_rloo_outcome_advantage, {loss}gpg",
            theirs=policy_loss("gpg", "rloo", agg="seq-mean-token-sum"),
            settings={"beta": 0.0},
            peer_settings="adv_estimator=rloo, loss_mode=gpg, loss_agg_mode=seq-mean-token-sum",
            kinds=GROUPS,
        ),
        Row(
            algorithm="rloo",
            function=f"{MODULE}.compute_rloo_outcome_advantage, {loss}vanilla",
            theirs=policy_loss("vanilla", "rloo"),
            settings={"beta": 0.0},
            peer_settings="its defaults for adv_estimator=rloo",
            dialect="RLOO",
            differs="ours 1/|D| Σ_x 1/k Σ_i A_i log π(y_i), a sum over tokens without a ratio; theirs 1/Σ|y| Σ_i Σ_t "
            "min[ρ A_i, clip(ρ, 1±0.2) A_i], PPO's clip on each token",
            restated=ppo_clip(others),
        ),
        Row(
            algorithm="remax",
            function=f"{MODULE}.compute_remax_outcome_advantage, {loss}gpg",
            theirs=remax,
            peer_settings="adv_estimator=remax, loss_mode=gpg, loss_agg_mode=seq-mean-token-sum",
            kinds=GROUPS,
        ),
        Row(
            algorithm="opo",
            function=f"{MODULE}.compute_opo_outcome_advantage, {loss}gpg",
            theirs=policy_loss("gpg", "opo", agg="seq-mean-token-sum"),
            peer_settings="adv_estimator=opo, loss_mode=gpg, loss_agg_mode=seq-mean-token-sum",
            kinds=GROUPS,
        ),
        Row(
            algorithm="opo",
            function=f"{MODULE}.compute_opo_outcome_advantage, {loss}vanilla",
            theirs=policy_loss("vanilla", "opo"),
            peer_settings="its defaults for adv_estimator=opo",
            differs="ours 1/|D| Σ_x 1/k Σ_i A_i log π(y_i), a sum over tokens without a ratio; theirs 1/Σ|y| Σ_i Σ_t "
            "min[ρ A_i, clip(ρ, 1±0.2) A_i]",
            restated=ppo_clip(length_weighted),
        ),
        Row(
            algorithm="reinforce_pp",
            function=f"{MODULE}.compute_reinforce_plus_plus_outcome_advantage, {loss}vanilla, {MODULE}.kl_penalty",
            theirs=reinforce_pp(0.01),
            peer_settings="use_kl_in_reward, kl_penalty=kl, kl_coef=0.01",
            dialect="REINFORCE++",
            differs=WHITEN,
            restated=changed("reinforce_pp", whitened=bessel),
        ),
        Row(
            algorithm="reinforce_pp_baseline",
            function=f"{MODULE}.compute_reinforce_plus_plus_baseline_outcome_advantage, {loss}vanilla, "
            f"{MODULE}.kl_penalty",
            theirs=with_kl(policy_loss("vanilla", "reinforce_plus_plus_baseline"), "k2", 0.01, "token-mean"),
            peer_settings="kl_loss_type=k2, kl_loss_coef=0.01",
            dialect="REINFORCE++ baseline",
            differs=WHITEN,
            restated=changed("reinforce_pp_baseline", whitened=bessel),
        ),
        Row(
            algorithm="ppo",
            function=f"{MODULE}.compute_gae_advantage_return, {loss}vanilla, {MODULE}.compute_value_loss",
            theirs=ppo,
            dialect="PPO",
            kinds=(*GROUPS, "partial"),
            differs=WHITEN,
            restated=changed("ppo", whitened=bessel),
        ),
        Row(
            algorithm="ppo",
            function=f"{MODULE}.compute_gae_advantage_return, {loss}vanilla, {MODULE}.compute_value_loss",
            theirs=lambda case: ppo(case, whiten=False),
            settings={"whiten": False},
            peer_settings="its returns less its values, not whitened",
        ),
    ]
