"""ms-swift's advantages, and GRPOTrainer's loss on a light stand-in for `self`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from stubs import stub

STUBBED = ("trl.experimental.ppo", "trl.experimental.gkd", "trl.experimental.cpo", "trl.experimental.orpo")
stub(STUBBED)

import torch  # noqa: E402
from fed import GROUPS, Fed, Row  # noqa: E402
from restate import changed, constant, others, over_batch_std, ppo_clip, std_1e4, unscaled  # noqa: E402
from swift.rl_core.advantage import compute_advantages  # noqa: E402
from swift.rl_core.data import GRPOBatch  # noqa: E402
from swift.rlhf_trainers.grpo_trainer import GRPOTrainer  # noqa: E402
from torch import Tensor  # noqa: E402

FUNCTION = "swift.rl_core.advantage.compute_advantages, swift.rlhf_trainers.GRPOTrainer._compute_loss_and_metrics"
STD = "ours Â = (R − R̄)/(std + 1e-6), theirs (R − R̄)/(std + 1e-4)"


def policy(
    loss_type: str = "grpo", estimator: str = "grpo", scale: str = "group", **options: Any
) -> Callable[[Fed], Tensor]:
    """The trainer's loss on its own advantages, with GRPOArgumentsMixin's defaults but for the options."""

    def theirs(case: Fed) -> Tensor:
        advantage_B, _ = compute_advantages(
            case.rewards_B[:, None], torch.ones(1, dtype=torch.float64), case.group_size, estimator, scale
        )
        nothing = torch.zeros_like(case.old_BT)
        attributes = {
            "args": SimpleNamespace(delta=None, log_entropy=False, top_entropy_quantile=1.0),
            "model": SimpleNamespace(training=True),
            "accelerator": SimpleNamespace(
                num_processes=1, device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
            ),
            "compute_entropy": False,
            "overlong_filter": False,
            "beta": 0.0,
            "kl_in_reward": False,
            "rollout_importance_sampling_mode": None,
            "log_rollout_offpolicy_metrics": False,
            "disable_rollout_importance_sampling": False,
            "importance_sampling_level": "token",
            "_has_teacher": False,
            "loss_type": loss_type,
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "tau_pos": 1.0,
            "tau_neg": 1.05,
            "off_policy_sequence_mask_delta": None,
            "max_completion_length": case.limit,
            "num_generations": case.group_size,
            "sdar_loss_coef": 0.0,
            "chord_sft_iterator": None,
            "_metrics": {"train": defaultdict(list)},
            "_get_per_token_logps_and_entropies": lambda *_, **__: (case.logp_BT, nothing),
            "_undo_gradient_accumulation_scaling": lambda loss: loss,
        }
        batch = GRPOBatch(
            completion_mask=case.bool_BT,
            truncated_mask=torch.zeros(len(case.bool_BT), dtype=torch.bool),
            seq_lengths=case.bool_BT.sum(-1),
            old_per_token_logps=case.old_BT,
            ref_per_token_logps=case.ref_BT,
            advantages=case.broadcast(advantage_B),
            num_items_in_batch=case.bool_BT.sum(),
        )
        me = SimpleNamespace(**(attributes | options))
        return GRPOTrainer._compute_loss_and_metrics(me, me.model, {}, batch)[0]

    return theirs


def rows() -> list[Row]:
    """All comparisons with ms-swift. Its groups all have one size; its KL loss (β 0.04 by default) is left out."""
    plain = {"overlong": 0.0, "dynamic_sampling": False}

    def row(
        algorithm: str, theirs: Callable[[Fed], Tensor], settings: dict[str, Any] | None = None, **rest: Any
    ) -> Row:
        """A row that differs by the std's ε alone, unless it says otherwise."""
        settings = settings or {}
        if "differs" not in rest:
            rest |= {"differs": STD, "restated": changed(algorithm, settings, standardised=std_1e4)}
        return Row(
            algorithm=algorithm, theirs=theirs, settings=settings, **({"function": FUNCTION, "kinds": GROUPS} | rest)
        )

    return [
        row("grpo", policy(), dialect="GRPO", peer_settings="its defaults without the KL loss: loss_type=grpo"),
        row(
            "grpo",
            policy(scale="none", beta=0.04),
            {"beta": 0.04},
            peer_settings="scale_rewards=none, beta=0.04",
            differs="ours Â = (R − R̄)/std; theirs R − R̄ with scale_rewards=none: Dr.GRPO's advantage",
            restated=changed("grpo", {"beta": 0.04}, standardised=unscaled),
        ),
        row("grpo", policy(beta=0.04), {"beta": 0.04}, peer_settings="its defaults, beta=0.04"),
        row(
            "dapo",
            policy("dapo", epsilon_high=0.28),
            plain,
            dialect="DAPO",
            peer_settings="loss_type=dapo, epsilon_high=0.28",
        ),
        row("dapo", policy("bnpo"), plain | {"clip_high": 0.2}, peer_settings="loss_type=bnpo"),
        row(
            "dr_grpo",
            policy("dr_grpo", scale="none"),
            dialect="Dr.GRPO",
            differs="",
            peer_settings="loss_type=dr_grpo, scale_rewards=none",
        ),
        row(
            "gspo",
            policy(importance_sampling_level="sequence"),
            {"clip_low": 0.2, "clip_high": 0.2},
            dialect="GSPO",
            peer_settings="importance_sampling_level=sequence",
        ),
        row("sapo", policy("sapo"), dialect="SAPO", peer_settings="loss_type=sapo"),
        row(
            "cispo",
            policy("cispo"),
            dialect="CISPO",
            peer_settings="loss_type=cispo",
            differs="ours sg[clip(ρ, 0, 1 + ε_high)], 5 by default; theirs sg[min(ρ, ε_high)] with ε_high = ε = "
            "0.2: no "
            "weight is above 0.2; and the std's ε",
            restated=changed(
                "cispo",
                {"clip_low": 1.0, "clip_high": -0.8},
                standardised=std_1e4,
                require_clip=constant(lambda *_, **__: None),
            ),
        ),
        row("cispo", policy("cispo", epsilon_high=5.0), peer_settings="loss_type=cispo, epsilon_high=5"),
        row(
            "reinforce_pp_baseline",
            policy("bnpo", "reinforce_plus_plus", "batch"),
            {"beta": 0.0},
            peer_settings="advantage_estimator=reinforce_plus_plus, loss_type=bnpo, without a KL",
            dialect="REINFORCE++",
            differs="ours whitens R − R̄ over the tokens of the batch (mean and std by token); theirs divides "
            "by the std "
            "over responses, 1/(n−1), + 1e-4",
            restated=ppo_clip(over_batch_std),
        ),
        row(
            "rloo",
            policy("grpo", "rloo", "none"),
            {"beta": 0.0},
            peer_settings="advantage_estimator=rloo",
            dialect="RLOO",
            differs="ours 1/|D| Σ_x 1/k Σ_i A_i log π(y_i), a sum over tokens without a ratio; theirs 1/B Σ_i "
            "1/|y_i| Σ_t "
            "min[ρ A_i, clip(ρ, 1±0.2) A_i]",
            restated=ppo_clip(others, responses=True),
        ),
    ]
