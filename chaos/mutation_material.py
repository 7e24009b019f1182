"""What mutated configurations are made of: suites that are valid, and values, keys and paths that mostly are not."""

from __future__ import annotations

LONG = "n" * 300
VALUES = (
    *("0", "-1", "1", "2", "3.5", "-0.0", "1e-320", "1e308", "inf", "-inf", "nan", "true", "false", "0x7f", "1_000"),
    *(
        str(2**31),
        str(2**53 + 1),
        str(2**63 - 1),
        str(2**63),
        str(-(2**63) - 1),
        "9" * 400,
        "9" * 5000,
        "0x" + "f" * 5000,
    ),
    *(
        '""',
        '"x"',
        '" "',
        '"."',
        '".."',
        '"-"',
        '"/"',
        '"a/b"',
        '".hidden"',
        '"\\u0000"',
        '"\\u202e"',
        '"\\n"',
        '"é😀"',
    ),
    *(
        f'"{LONG}"',
        '"' + "ü" * 120 + '"',
        '"~nosuchuser"',
        '"~nosuchuser/mine.py:Mine"',
        '"/proc/1/mem"',
        '"/dev/zero"',
    ),
    *("[]", "[[]]", "{}", "{ x = 1 }", "[0, 0]", "[1, 2, 3]", "[0.9, 1.0]", "[-0.1, 0.5]", "[0.5, inf]", '["a", "a"]'),
    *('["arithmetic", "arithmetic"]', '["arithmetic-hard"]', '["nowhere"]', '"arithmetic"', '"gsm8k"', '"gvpo"'),
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "'''\nx\n'''", "[" * 60 + "]" * 60, "[" * 3000 + "]" * 3000),
    *("{ lr = 1e-3, max_norm = 1.0, betas = [0.9, 1.0] }", "{ arithmetic = 4 }", "nonsense", "", "1 2", "#", "=", '"'),
)
"""Right in some places, wrong in most."""

KEYS = (
    *("name", "seeds", "model.path", "model.revision", "model.template", "model.teacher", "model.device", "model.lora"),
    *("model.lora.rank", "model.lora.alpha", "model.lora.target_modules", "model.precision", "model.weights"),
    *("train.benchmark", "train.limit", "train.pass_rate", "train.pass_rate_samples", "train.steps", "train.prompts"),
    *("train.samples", "train.mini_batches", "train.epochs", "train.refresh_every", "train.history_share"),
    *("train.temperature", "train.max_new_tokens", "train.reward", "train.refill_rounds", "train.sampler_ratio_cap"),
    *("rollout.engine", "rollout.vllm", "rollout.vllm.mode", "rollout.vllm.tensor_parallel_size", "evaluation.limit"),
    *("evaluation.benchmarks", "evaluation.hard_benchmarks", "evaluation.samples", "evaluation.temperature"),
    *("evaluation.max_new_tokens", "report.baseline", "report.published", "resources.ranks", "resources.gpus"),
    *("resources.cpus", "resources.token_budget", "resources.checkpoint_every", "resources.server_timeout"),
    *("tuning.trials", "tuning.benchmark", "tuning.seeds", "tuning.lr", "tuning.max_norm", "tuning.critic_lr"),
    *("algorithms", "algorithms.gvpo", "algorithms.gvpo.optimizer", "algorithms.gvpo.optimizer.lr"),
    *("algorithms.gvpo.optimizer.betas", "algorithms.gvpo.optimizer.max_norm", "algorithms.gvpo.parameters"),
    *("algorithms.gvpo.parameters.beta", "algorithms.gvpo.parameters.anchor", "algorithms.gvpo.algorithm"),
    *("algorithms.gvpo.tuned", "algorithms..hidden", "algorithms.new", f"algorithms.{LONG}.optimizer.lr", "ablation"),
    *("ablation.points", "ablation.quantity", "ablation.axis", "ablation.reference", "model", "train", "evaluation"),
    *("report", "resources", "rollout", "tuning", "", ".", "a.b.c", "name.x", "seeds.x.y", "é.x", ".".join("a" * 4000)),
)
"""Of every section, and some of none."""

ALGORITHMS = (
    *(
        "gvpo",
        "grpo",
        "ppo",
        "sft",
        "gvpd",
        "remax",
        "offline_dpo",
        "GVPO",
        "",
        ":",
        "::",
        "x:",
        ":x",
        "nowhere.py:Mine",
    ),
    *("~nosuchuser/mine.py:Mine", f"{LONG}.py:Mine", f"mine.py:{LONG}", "/:Mine", "/dev/null:Mine", ".:Mine", LONG),
    *("{folder}/mine.py:Mine", "{folder}/mine.py:.hidden", "{folder}/suite.toml:Mine", "{folder}/locked.py:Mine"),
    *("{folder}/broken.py:Mine", "{folder}/exits.py:Mine", "\udcff.py:Mine", "mine.py:Mine\n", "base", "coefficients"),
)
"""For --algorithm; {folder} is where the suite lies."""

SOURCES = (
    LONG,
    f"{LONG}.toml",
    "~nosuchuser/suite.toml",
    "",
    ".",
    "/",
    "/dev/null",
    "{folder}",
    "{folder}/locked.toml",
)
OUTS = ("{folder}/suite.toml", "{folder}/suite.toml/below", f"{{folder}}/{LONG}", "/proc/out", "/dev/null", "~", "")

FILES = {
    "mine.py": """
from dataclasses import dataclass
from typing import ClassVar
from algorithms import Algorithm, LossOutput
from algorithms.base import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Mine(Algorithm):
    name: ClassVar[str] = "Mine"
    beta: float = hyperparameter(0.1, "unused")

    def loss(self, policy, batch):
        return LossOutput(loss=policy.logp_GKT.sum())
""",
    "broken.py": "class Mine(:\n",
    "exits.py": "import sys\nsys.exit(0)\n",
}
"""That lie beside the suite."""

ODD = (0, 9, 10, 13, 34, 39, 92, 127, 160, 0x202E, 0xFEFF, 0x1F600)
"""Characters that files have by accident, by number."""

SMALL = """
name = "small"
seeds = 2

[model]
path = "embedded"

[train]
benchmark = "arithmetic-train"
steps = 6
prompts = 8
samples = 8
mini_batches = 2
max_new_tokens = 4

[resources]
checkpoint_every = 2

[evaluation]
benchmarks = ["arithmetic"]
hard_benchmarks = ["arithmetic-hard"]
samples = 2
limit = 12

[report]
baseline = "gvpo"

[tuning]
trials = 2
benchmark = "arithmetic-tune"
seeds = [1000]
lr = [1e-4, 1e-2]
max_norm = [0.1, 10.0]
critic_lr = [1e-4, 1e-2]

[algorithms.gvpo]
optimizer = { lr = 3e-3, max_norm = 1.0 }

[algorithms.ppo]
optimizer = { lr = 3e-3, max_norm = 1.0, critic_lr = 1e-2 }
parameters = { beta = 0.1 }
"""
"""A suite that takes milliseconds to plan."""

ABLATION = (
    SMALL[: SMALL.index("[tuning]")]
    + """
[ablation]
quantity = "k"
axis = "log"
reference = "4"

[[ablation.points]]
label = "2"
set = ["train.samples=2"]

[[ablation.points]]
label = "4"
set = ["train.samples=4", "algorithms.gvpo.parameters.beta=0.2"]

[algorithms.gvpo]
optimizer = { lr = 3e-3, max_norm = 1.0, betas = [0.9, 0.99] }
parameters = { beta = 0.1, anchor = "old" }
"""
)
