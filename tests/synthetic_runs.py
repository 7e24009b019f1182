"""A folder of recorded cells as a sweep leaves it, with made-up but plausible numbers, for the tests of the report.

`python tests/synthetic_runs.py OUT` writes one of six algorithms × 12 seeds to OUT/runs/synthetic and its report to
OUT, which is how the figures are looked at; `many` after it, one of 28, and further words are labels to highlight.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.record.cell_folder import CellFolder

# final score, hard score, KL, length, lr
ALGORITHMS: dict[str, tuple[str, float, float, float, float, float]] = {
    "gvpo": ("GVPO", 0.853, 0.62, 1.10, 7.8, 1e-4),
    "grpo": ("GRPO", 0.846, 0.60, 1.25, 7.9, 1.5e-4),
    "ppo": ("PPO", 0.869, 0.66, 1.45, 8.0, 8e-5),
    "dpo": ("DPO", 0.835, 0.55, 0.90, 7.5, 5e-5),
    "kimi": ("Kimi k1.5", 0.851, 0.61, 1.05, 7.8, 1e-4),
    "pg": ("PG + KL", 0.848, 0.60, 1.15, 7.7, 1.2e-4),
}
BASE = (0.275, 0.16, 4.3)

FAMILIES: dict[str, dict[str, str]] = {
    "supervised": {"sft": "SFT", "rft": "RFT", "online_rft": "Online RFT"},
    "policy gradient": {
        **{"pg": "PG + KL", "rloo": "RLOO", "remax": "ReMax", "reinforce_pp": "REINFORCE++"},
        **{"reinforce_pp_baseline": "REINFORCE++ baseline", "gpg": "GPG", "opo": "OPO", "maxrl": "MaxRL"},
    },
    "clipped ratio": {
        **{"grpo": "GRPO", "ppo": "PPO", "dr_grpo": "Dr.GRPO", "dapo": "DAPO", "gspo": "GSPO", "gmpo": "GMPO"},
        **{"dppo": "DPPO", "sapo": "SAPO"},
    },
    "weighted ratio": {"cispo": "CISPO", "vespo": "VESPO", "topr": "TOPR"},
    "regression": {"gvpo": "GVPO", "kimi": "Kimi k1.5", "tba": "TBA"},
    "preference": {"dpo": "DPO", "ipo": "IPO"},
    "distillation": {"gvpd": "GVPD"},
}
"""28 algorithms by family."""


def many() -> dict[str, tuple[str, float, float, float, float, float]]:
    """Made-up numbers for all of FAMILIES, some close to each other and some far away."""
    random = np.random.default_rng(1)
    labels = [(label, name) for family in FAMILIES.values() for label, name in family.items()]
    return {
        label: (name, random.uniform(0.5, 0.92), random.uniform(0.4, 0.7), random.lognormal(0.2, 0.6), 7.8, 1e-4)
        for label, name in labels
    }


def config(**changes: Any) -> dict[str, Any]:
    return {
        "train": {"benchmark": "arithmetic", "steps": 30, "prompts": 32, "samples": 8, "temperature": 1.0},
        "evaluation": {
            "benchmarks": ["arithmetic"],
            "hard_benchmarks": ["arithmetic-hard"],
            "samples": 8,
            "temperature": 1.0,
            "max_new_tokens": 16,
        },
        "report": {"baseline": "grpo"},
        "tuning": {"trials": 16, "benchmark": "arithmetic-tune", "seeds": [1000, 1001]},
        **changes,
    }


def write_cell(
    suite: Path,
    label: str,
    seed: int | None,
    scores: Mapping[str, np.ndarray],
    *,
    display: str | None = None,
    kl: float | None = 1.0,
    length: float = 8.0,
    curve: Sequence[float] = (),
    lr: float = 1e-4,
    status: str = "finished",
    suite_hash: str = "5a17e0000000cafe",
    settings: dict[str, Any] | None = None,
    family: str | None = None,
    protocol: str | None = None,
) -> Path:
    """One cell. `scores` has an array of 0 and 1 of shape (problems, samples) a benchmark; `curve` a reward a step."""
    name = "base" if label == "base" else f"{label}{f'@{protocol}' if protocol else ''}-s{seed}"
    folder = suite / name
    folder.mkdir(parents=True)
    steps = np.arange(1, len(curve) + 1)
    length_of_step = np.linspace(4.3, length, len(curve)) if len(curve) else np.zeros(0)
    generated = np.cumsum(np.round(256 * length_of_step)).astype(int)
    manifest: dict[str, Any] = {
        "suite": suite.name,
        "cell": name,
        "algorithm": label,
        "display": display or label.upper(),
        "family": family,
        "seed": seed,
        "hash": f"{name}-hash",
        "suite_hash": suite_hash,
        "status": status,
        "config": (settings or config())
        | {
            "algorithm": None
            if label == "base"
            else {"optimizer": {"lr": lr, "max_norm": 1.0}, "parameters": {"beta": 0.1, "anchor": "old"}}
        }
        | ({"protocol": protocol} if protocol else {}),
        "tokens": {
            "generated": int(generated[-1]) if len(curve) else 0,
            "trained": int(generated[-1]) if len(curve) else 0,
            "reference": 100 if label == "dpo" else 0,
            "critic": 20 if label == "ppo" else 0,
            "scored": 3 if len(curve) else 0,
            "evaluation": 5000,
        },
        "seconds": {"wall": 7.0, "cpu": 6.5, "rollout": 2.0, "train": 3.0 + (seed or 0), "evaluation": 1.0},
        "versions": {"gvpo-bench": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "hardware": {"cpu": "a made-up processor", "cores": 2, "gpu": None},
        "command": ["/somewhere/bin/gvpo-bench", "sweep", "synthetic.toml"],
        "git": {"commit": "0123abc", "dirty": False},
    }
    if status == "failed":
        del manifest["tokens"]
        manifest |= {"display": label, "seconds": {"wall": 1.0}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if len(curve):
        metrics = pd.DataFrame(
            {"step": steps, "reward": curve, "length": length_of_step, "generated_tokens": generated}
        )
        metrics.to_json(folder / "metrics.jsonl", orient="records", lines=True, double_precision=15)
    if status == "failed":
        (folder / "traceback.txt").write_text("Traceback\n  line\nFloatingPointError: the loss is NaN at step 3\n")
        return folder
    rows = [
        (benchmark, f"{benchmark}-{problem}", sample, float(score))
        for benchmark, score_PK in scores.items()
        for problem, score_K in enumerate(score_PK)
        for sample, score in enumerate(score_K)
    ]
    samples = pd.DataFrame(rows, columns=["benchmark", "problem_id", "sample", "score"])
    samples["response"] = ":1,2=3"
    samples["answer"] = np.where(samples["score"] == 1, "3", "4")
    samples["verdict"] = np.where(samples["score"] == 1, "correct", "wrong")
    samples["tokens"] = np.round(length + (samples.index % 3 - 1)).astype(int)
    samples["finish"] = "eos"
    samples["kl"] = None if label == "base" else kl
    samples.to_parquet(folder / "samples.parquet")
    return folder


def write_runs(
    out: Path,
    *,
    n_seeds: int = 12,
    problems: int = 192,
    steps: int = 30,
    algorithms: Mapping[str, tuple[str, float, float, float, float, float]] = ALGORITHMS,
) -> Path:
    """The algorithms, six unless given, and the base; returns the folder of the cells."""
    family_of = {label: family for family, labels in FAMILIES.items() for label in labels}
    random = np.random.default_rng(0)
    suite = out / "runs" / "synthetic"
    difficulty = {
        "arithmetic": random.normal(0, 0.9, problems),
        "arithmetic-hard": random.normal(0, 1.1, problems // 2),
    }

    def sample(levels: Sequence[float]) -> dict[str, np.ndarray]:
        drawn = {}
        for (benchmark, shift_P), level in zip(difficulty.items(), levels, strict=True):
            share_P = 1 / (1 + np.exp(-(np.log(level / (1 - level)) * 1.25 + shift_P)))
            drawn[benchmark] = (random.random((len(shift_P), 8)) < share_P[:, None]).astype(float)
        return drawn

    write_cell(suite, "base", None, sample(BASE[:2]), display="base", kl=None, length=BASE[2])
    for index, (label, (display, score, hard, kl, length, lr)) in enumerate(algorithms.items()):
        for seed in range(n_seeds):
            collapsed = label == "dpo" and seed == 3
            own = 0.12 if collapsed else float(np.clip(score + random.normal(0, 0.012), 0.02, 0.98))
            rise = 1 / (1 + np.exp(-(np.arange(steps) - 8 - index % 12) / 3.5))
            curve = np.clip(0.27 + (own - 0.27) * rise + random.normal(0, 0.025, steps), 0, 1)
            write_cell(
                suite,
                label,
                seed,
                sample((own, 0.06 if collapsed else hard)),
                display=display,
                kl=kl * float(random.lognormal(0, 0.08)) * (2.2 if collapsed else 1),
                length=length * float(random.lognormal(0, 0.02)),
                curve=list(curve),
                lr=lr,
                family=family_of[label],
            )
    table = coefficients(random)
    if len(algorithms) > len(ALGORITHMS):
        made = list(table.groupby("algorithm"))
        repeated = zip(algorithms.items(), itertools.cycle(made))
        table = pd.concat([part.assign(algorithm=label, display=of[0]) for (label, of), (_, part) in repeated])
    write_coefficients(suite, table)
    return suite


def write_coefficients(suite: Path, table: pd.DataFrame | None, **manifest: Any) -> None:
    """The folder of the job that compares gradient coefficients."""
    job = CellFolder(suite / "coefficients")
    job.path.mkdir(parents=True)
    if table is not None:
        job.write_coefficients(table)
    job.finish({"status": "finished", "hash": "h", "left_out": {}, **manifest})


def coefficients(random: np.random.Generator, prompts: int = 12, samples: int = 8) -> pd.DataFrame:
    """Coefficients of simplified losses on one batch whose policy has moved from its anchor."""
    reward_GK = (random.random((prompts, samples)) < random.uniform(0.1, 0.9, (prompts, 1))).astype(float)
    log_ratio_GK = random.normal(0, 0.5, (prompts, samples)) + 0.4 * (reward_GK - 0.5)
    length_GK = random.integers(4, 13, (prompts, samples))
    centred_GK = reward_GK - reward_GK.mean(axis=1, keepdims=True)
    ratio_GK = log_ratio_GK - log_ratio_GK.mean(axis=1, keepdims=True)
    clipped_GK = np.sign(centred_GK) * log_ratio_GK > 0.3
    response_GK = {
        "gvpo": centred_GK - 0.3 * ratio_GK,
        "grpo": np.where(clipped_GK, 0, centred_GK / (reward_GK.std(axis=1, keepdims=True) + 1e-4)),
        "ppo": np.where(clipped_GK, 0, centred_GK + random.normal(0, 0.1, centred_GK.shape)),
        "dpo": centred_GK / (1 + np.exp(ratio_GK * np.sign(centred_GK))),
        "kimi": centred_GK - 0.3 * log_ratio_GK,
        "pg": np.exp(log_ratio_GK) * (centred_GK - 0.1 * ratio_GK),
    }
    rows = []
    for label, value_GK in response_GK.items():
        for (prompt, sample), value in np.ndenumerate(value_GK):
            shared = (label, ALGORITHMS[label][0], prompt, sample)
            own = (reward_GK[prompt, sample], log_ratio_GK[prompt, sample], value / (prompts * (samples - 1)))
            rows += [(*shared, token, *own) for token in range(length_GK[prompt, sample])]
    return pd.DataFrame(
        rows, columns=["algorithm", "display", "prompt", "sample", "token", "reward", "log_ratio", "coefficient"]
    )


if __name__ == "__main__":
    import rich

    from harness.report.suite_report import write_report

    folder, *words = sys.argv[1:]
    runs = write_runs(Path(folder), algorithms=many() if words else ALGORITHMS)
    rich.print(write_report(runs, Path(folder) / "synthetic", highlight=words[1:]).render())
