"""TRL's GRPOTrainer on the embedded base, in blocks of steps. Runs in an environment of its own, without the harness.

The same work as the harness's step: `trl_child.py SETTINGS.json`, with the checkpoint, the prompts in the order of the
steps, and the numbers below. 16 updates a step are 16 optimiser steps of per_device_train_batch_size = 16, with
steps_per_generation = 16: one generation of 256 responses, shuffled, each trained on once. (num_iterations = 16 would
train 16 times on all 256.)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from blocks import Blocks
from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer


class Tick(TrainerCallback):
    """A step of ours is `updates` optimiser steps of the Trainer's."""

    def __init__(self, blocks: Blocks, updates: int) -> None:
        self.blocks, self.updates = blocks, updates

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        if state.global_step % self.updates == 0:
            self.blocks.tick()


def main() -> None:
    """Trains with TRL as the settings say."""
    blocks = Blocks()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    batch, updates = settings["prompts_per_step"] * settings["samples"], settings["updates"]

    def reward(
        prompt_ids: list[list[int]] | None = None, completions: list[str] | None = None, **_: Any
    ) -> list[float]:
        """Costs nothing; half of each group is right, so that no advantage is zero."""
        return [float(i % 2) for i in range(len(completions or []))]

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=settings["model"],
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": settings["prompts"]}),
            callbacks=[Tick(blocks, updates)],
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=batch // updates,
                gradient_accumulation_steps=1,
                steps_per_generation=updates,
                num_iterations=1,
                num_generations=settings["samples"],
                max_completion_length=settings["max_new_tokens"],
                shuffle_dataset=False,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                beta=0.0,
                learning_rate=settings["lr"],
                lr_scheduler_type="constant",
                max_grad_norm=settings["max_norm"],
                optim="adamw_torch_fused",
                adam_beta1=settings["betas"][0],
                adam_beta2=settings["betas"][1],
                weight_decay=0.0,
                max_steps=10**6,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                model_init_kwargs={"dtype": "float32"},
                dataloader_pin_memory=False,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        trainer.train()


if __name__ == "__main__":
    main()
