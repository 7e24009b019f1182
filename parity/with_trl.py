"""TRL's trainers: their own methods on a light stand-in for `self`, whose attributes are their own config's defaults.

Advantages and loss are what `_generate_and_score_completions` and `_compute_loss` compute; generation, rewards and the
model's log-probs are given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from fed import GROUPS, Fed, Row, our_loss
from restate import by_tokens, changed, constant, sequence_clip, std_1e4
from torch import Tensor
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer import dpo_trainer, grpo_trainer, rloo_trainer

STUBBED: tuple[str, ...] = ()
GRPO_FUNCTIONS = (
    "trl.GRPOTrainer._generate_and_score_completions",
    "trl.GRPOTrainer._compute_loss",
)
RLOO_FUNCTIONS = ("trl.RLOOTrainer._generate_and_score_completions", "trl.RLOOTrainer._compute_loss")


@contextmanager
def _nothing(*_: Any, **__: Any) -> Any:
    yield


for module in (grpo_trainer, rloo_trainer, dpo_trainer):
    # Of what the methods call, these alone need more than tensors: other processes, and a model with checkpoints.
    for name, replacement in {
        "gather": lambda x: x,
        "gather_object": lambda x: x,
        "disable_gradient_checkpointing": _nothing,
        "is_peft_model": lambda model: False,
    }.items():
        if hasattr(module, name):
            setattr(module, name, replacement)


class StandIn(SimpleNamespace):
    """A trainer's `self`: what is set, then what its config says, under the trainer's own names."""

    args: Any
    get_gamma_weights = staticmethod(GRPOTrainer.get_gamma_weights)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.args, name)


def config(kind: type[Any], **options: Any) -> Any:
    """The trainer's config with its defaults but for the options."""
    return kind(output_dir="unused", report_to="none", bf16=False, use_cpu=True, **options)


def stand_in(case: Fed, args: Any, **attributes: Any) -> StandIn:
    """What both online trainers read beside their config."""
    model, ref = SimpleNamespace(training=True), SimpleNamespace()
    logp: dict[int, Tensor] = {id(model): case.old_BT, id(ref): case.ref_BT}
    completions = [[1] * int(n) for n in case.bool_BT.sum(-1)]
    B = len(completions)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
        sync_gradients=True,
    )
    logs: dict[str, Any] = {name: [] for name in ("prompt", "completion", "advantages", "images")}
    return StandIn(
        args=args,
        model=model,
        ref_model=ref,
        logp=logp,
        accelerator=accelerator,
        prompts=[([1], completion) for completion in completions],
        completions=completions,
        B=B,
        _calculate_rewards=lambda *_: case.rewards_B[:, None].clone(),
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _metrics={"train": defaultdict(list)},
        _logs=logs | {"rewards": defaultdict(list), "extra": defaultdict(list)},
        _pending_extra_logs=defaultdict(list),
        _pending_metrics=defaultdict(list),
        reward_weights=torch.ones(1),
        reward_func_names=["given"],
        reward_funcs=[None],
        num_generations=case.group_size,
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        max_completion_length=case.limit,
        pad_to_multiple_of=None,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        environment_factories=None,
        tools=None,
        environments=None,
        vllm_importance_sampling_correction=False,
        _is_vlm=False,
        _image_token_id=None,
        image_token_id=None,
        _get_per_token_logps_and_entropies=lambda model, *_, **__: (
            logp[id(model)],
            torch.zeros_like(case.old_BT),
            None,
        ),
        **attributes,
    )


def online(trainer: type[Any], args: Any, case: Fed) -> Tensor:
    """The trainer's advantages and its loss."""
    me = stand_in(case, args)
    lists = [[1]] * me.B, me.completions
    me._generate = lambda prompts: (
        (*lists, None, me.completions, None, {}, None, None) if trainer is GRPOTrainer else (*lists, me.completions)
    )
    inputs = trainer._generate_and_score_completions(me, [{"prompt": "p"} for _ in range(me.B)])
    if trainer is GRPOTrainer:
        inputs["old_per_token_logps"] = case.old_BT  # as with num_iterations > 1; by default it is π_θ itself
    me.logp[id(me.model)] = case.logp_BT
    return trainer._compute_loss(me, me.model, inputs)


def grpo(**options: Any) -> Callable[[Fed], Tensor]:
    """GRPOTrainer with its defaults but for the options."""

    def theirs(case: Fed) -> Tensor:
        B = int(case.batch.valid_GK.sum())
        sizes = {"num_generations": case.group_size, "per_device_train_batch_size": B}
        return online(GRPOTrainer, config(GRPOConfig, **sizes, gradient_accumulation_steps=1, **options), case)

    return theirs


def rloo(**options: Any) -> Callable[[Fed], Tensor]:
    """RLOOTrainer with its defaults but for the options."""

    def theirs(case: Fed) -> Tensor:
        B = int(case.batch.valid_GK.sum())
        sizes = {"num_generations": case.group_size, "per_device_train_batch_size": B}
        return online(RLOOTrainer, config(RLOOConfig, **sizes, **options), case)

    return theirs


def dpo(**options: Any) -> Callable[[Fed], Tensor]:
    """DPOTrainer with its defaults but for the options, on the better and the worse response of each prompt."""

    def theirs(case: Fed) -> Tensor:
        order_B = torch.cat([torch.arange(0, len(case.old_BT), 2), torch.arange(1, len(case.old_BT), 2)])
        mask_BT = case.mask_BT[order_B]
        one = torch.ones(len(mask_BT), 1, dtype=mask_BT.dtype)

        def model_of(logp_BT: Tensor) -> Any:
            nothing = torch.zeros_like(mask_BT)
            outputs = SimpleNamespace(
                log_probs=(logp_BT * case.mask_BT)[order_B],
                entropy=nothing,
                mean_logits=nothing,
                is_top1=nothing.bool(),
            )

            class Model:
                training = True

                def __call__(self, **_: Any) -> Any:
                    return outputs

            return Model()

        args = config(DPOConfig, **options)
        accelerator = SimpleNamespace(
            device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, num_processes=1
        )
        me = StandIn(
            args=args,
            model=model_of(case.logp_BT),
            ref_model=model_of(case.ref_BT),
            accelerator=accelerator,
            aux_loss_enabled=False,
            precompute_ref_logps=False,
            f_divergence_type=args.f_divergence_type,
            loss_types=[args.loss_type] if isinstance(args.loss_type, str) else args.loss_type,
            loss_weights=args.loss_weights or [1.0],
            _metrics={"train": defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
        )
        ids = torch.ones(len(mask_BT), mask_BT.shape[1] + 1, dtype=torch.long)
        completion_mask = torch.cat([0 * one, mask_BT], 1)
        inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": completion_mask}
        return DPOTrainer._compute_loss(me, me.model, inputs, False)

    return theirs


STD = "ours Â = (R − R̄)/(std + 1e-6), theirs (R − R̄)/(std + 1e-4)"


def rows() -> list[Row]:
    """All comparisons with TRL. Its groups all have one size."""
    plain = {"overlong": 0.0, "dynamic_sampling": False}
    grpo_row: dict[str, Any] = {"function": ", ".join(GRPO_FUNCTIONS), "kinds": GROUPS}

    def row(algorithm: str, *, std: bool = False, **rest: Any) -> Row:
        """A row that differs by the std's ε alone where `std` says so."""
        if std:
            rest |= {"differs": STD, "restated": changed(algorithm, rest.get("settings"), standardised=std_1e4)}
        return Row(algorithm=algorithm, **rest)

    return [
        row(
            "dapo",
            theirs=grpo(),
            settings=plain | {"clip_high": 0.2},
            dialect="GRPO",
            std=True,
            note="its default loss_type is 'dapo': the mean over the tokens of the generation batch",
            **grpo_row,
        ),
        row("grpo", theirs=grpo(loss_type="grpo"), peer_settings="loss_type=grpo", std=True, **grpo_row),
        row(
            "dapo",
            theirs=grpo(loss_type="bnpo"),
            settings=plain | {"clip_high": 0.2},
            peer_settings="loss_type=bnpo",
            std=True,
            note="the mean over the tokens of a micro-batch: with one micro-batch DAPO's",
            **grpo_row,
        ),
        row(
            "dapo",
            theirs=grpo(epsilon_high=0.28),
            settings=plain,
            peer_settings="epsilon_high=0.28",
            dialect="DAPO",
            std=True,
            **grpo_row,
        ),
        row(
            "dr_grpo",
            theirs=grpo(loss_type="dr_grpo", scale_rewards="none"),
            peer_settings="loss_type=dr_grpo, scale_rewards=none",
            dialect="Dr.GRPO",
            **grpo_row,
        ),
        row(
            "dr_grpo",
            theirs=grpo(loss_type="dr_grpo"),
            peer_settings="loss_type=dr_grpo",
            differs="ours Â = R − R̄; theirs by default (R − R̄)/(std + 1e-4): the loss_type leaves scale_rewards at "
            "'group'",
            restated=changed("dr_grpo", centred=std_1e4),
            **grpo_row,
        ),
        row(
            "gspo",
            theirs=grpo(loss_type="grpo", importance_sampling_level="sequence"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings="loss_type=grpo, importance_sampling_level=sequence",
            dialect="GSPO",
            std=True,
            **grpo_row,
        ),
        row(
            "gspo",
            theirs=grpo(importance_sampling_level="sequence"),
            settings={"clip_low": 0.2, "clip_high": 0.2},
            peer_settings="importance_sampling_level=sequence",
            differs="ours 1/|D| Σ_x 1/k Σ_i f(s_i); theirs, with the default loss_type 'dapo', 1/Σ|y| Σ_i |y_i| "
            "f(s_i): "
            "a response counts by its length; and the std's ε",
            restated=changed(
                "gspo", {"clip_low": 0.2, "clip_high": 0.2}, standardised=std_1e4, mean_of_groups=by_tokens
            ),
            **grpo_row,
        ),
        row(
            "cispo",
            theirs=grpo(loss_type="cispo"),
            peer_settings="loss_type=cispo",
            dialect="CISPO",
            differs="ours sg[clip(ρ, 0, 1 + ε_high)], 5 by default; theirs sg[min(ρ, ε_high)] with ε_high = ε = "
            "0.2: no "
            "weight is above 0.2; and the std's ε",
            restated=changed(
                "cispo",
                {"clip_low": 1.0, "clip_high": -0.8},
                standardised=std_1e4,
                require_clip=constant(lambda *_, **__: None),
            ),
            **grpo_row,
        ),
        row(
            "cispo",
            theirs=grpo(loss_type="cispo", epsilon_high=5.0),
            peer_settings="loss_type=cispo, epsilon_high=5, as its docs advise",
            std=True,
            **grpo_row,
        ),
        row(
            "sapo", theirs=grpo(loss_type="sapo"), peer_settings="loss_type=sapo", dialect="SAPO", std=True, **grpo_row
        ),
        row(
            "vespo",
            theirs=grpo(loss_type="vespo"),
            peer_settings="loss_type=vespo",
            dialect="VESPO",
            std=True,
            **grpo_row,
        ),
        row(
            "rloo",
            theirs=rloo(),
            function=", ".join(RLOO_FUNCTIONS),
            kinds=("on-policy",),
            constant=True,
            dialect="RLOO",
            note="at π_θ = π_old; the loss is Σ A instead of Σ A log π, the gradient is the same",
        ),
        row(
            "rloo",
            theirs=rloo(),
            function=", ".join(RLOO_FUNCTIONS),
            kinds=("off-policy",),
            differs="ours A_i log π(y_i); theirs min[ρ_i A_i, clip(ρ_i, 1±0.2) A_i] with ρ_i the ratio of whole "
            "responses",
            restated=sequence_clip,
        ),
        row("offline_dpo", theirs=dpo(), function="trl.DPOTrainer._compute_loss", kinds=("pairs",), dialect="DPO"),
        row("dpo", theirs=dpo(), function="trl.DPOTrainer._compute_loss", kinds=("pairs",)),
        row(
            "ipo",
            theirs=dpo(loss_type=["ipo"]),
            function="trl.DPOTrainer._compute_loss",
            kinds=("pairs",),
            settings={"length_average": True},
            peer_settings="loss_type=ipo",
            dialect="IPO",
        ),
        row(
            "ipo",
            theirs=dpo(loss_type=["ipo"]),
            function="trl.DPOTrainer._compute_loss",
            kinds=("pairs",),
            peer_settings="loss_type=ipo",
            differs="ours ℓ_i = Σ_t log π_θ/π_ref, as the paper writes it; theirs the mean over the tokens of a "
            "response",
            restated=lambda case: our_loss("ipo", {"length_average": True}, case),
        ),
    ]
