"""The training step on one GPU: a Qwen2.5-1.5B with random weights, bfloat16, rows of 4,096 tokens.

    python perf/gpu.py                                # needs a CUDA GPU; writes results/gpu/
    python perf/gpu.py --device cpu --tiny --out DIR  # the same code on a tiny model, whose figures mean nothing

Needs torch and transformers alone, so that it runs where the rest of gvpo-bench isn't installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from algorithms import Batch  # noqa: E402
from algorithms.grpo import GRPO  # noqa: E402
from harness.model.policy import LOGITS_AT_ONCE, PolicyModel, autocast, recompute_activations, token_logp  # noqa: E402
from harness.model.rows import Rows  # noqa: E402
from harness.model.scorer import RowScores, Scorer, score  # noqa: E402
from harness.preflight.gpus import GPUS, known_gpu  # noqa: E402
from harness.record.environment import environment  # noqa: E402
from harness.record.files import write, write_json  # noqa: E402
from harness.record.markdown import markdown_table  # noqa: E402
from harness.training.gradient import Passes, accumulate_gradient, to_groups  # noqa: E402

MFU_TARGET, MEMORY_TARGET = 0.4, 1 / 8


@dataclass(frozen=True)
class Shape:
    """A model and the rows that it is trained on, by their tokens."""

    config: dict[str, Any]
    prompt: int
    response: int
    chunk: int
    """Tokens whose logits are in memory at once."""
    matrix: int
    """Rows and columns of the matrices whose product gives the measured peak."""

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.response


QWEN = {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
QWEN |= {"num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32768}
TINY = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
SHAPES = {
    "Qwen2.5-1.5B": Shape(QWEN, prompt=96, response=4000, chunk=LOGITS_AT_ONCE // QWEN["vocab_size"], matrix=8192),
    "tiny": Shape(TINY, prompt=8, response=56, chunk=6, matrix=256),
}


class Bench:
    """One model, one batch of a group's rows, and the training steps on it."""

    def __init__(self, shape: Shape, device: torch.device, samples: int) -> None:
        self.shape, self.device, self.samples = shape, device, samples
        torch.manual_seed(0)
        with torch.device(device):
            model = Qwen2ForCausalLM(Qwen2Config(**shape.config, tie_word_embeddings=True)).eval()
        # With fresh weights every token would be about equally likely, and any two log-probs alike.
        model.get_submodule("model.norm").weight.data *= 5
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
        ids = torch.randint(shape.config["vocab_size"], (samples, shape.length)).tolist()
        self.rows = Rows.of([row[: shape.prompt] for row in ids], [row[shape.prompt :] for row in ids], device)
        valid_GK = torch.ones(1, samples, dtype=torch.bool, device=device)
        old = to_groups(self.logp(shape.chunk, "bfloat16"), valid_GK).logp_GKT
        self.batch = Batch(
            mask_GKT=valid_GK[..., None].expand(old.shape),
            valid_GK=valid_GK,
            rewards_GK=(torch.arange(samples, device=device)[None] % 2).float(),
            old_logp_GKT=old,
            behaviour_logp_GKT=old,
            sampler_logp_GKT=old,
        )

    def logp(self, chunk: int | None, precision: str) -> RowScores:
        """Of the rows' responses, in nats."""
        scorer = Scorer(PolicyModel(self.model, chunk), precision=precision)
        return score(scorer, self.rows, response_length=self.shape.response, token_budget=self.shape.length)

    def step(self, chunk: int | None, passes: Passes) -> None:
        """One update on all rows, a row a micro-batch."""
        scorer = Scorer(PolicyModel(self.model, chunk), precision="bfloat16")
        accumulate_gradient(
            scorer, GRPO(), self.batch, self.rows, token_budget=self.shape.length, passes=passes, first_pass=None
        )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def tokens(self) -> int:
        """Of one update."""
        return self.samples * self.shape.length

    @property
    def flops(self) -> float:
        """Of the model in one update: 6 a parameter and token, and for the causal attention 6 a layer, channel, token
        and token before it, halved. What is computed again counts as no work done.
        """
        parameters = sum(p.numel() for p in self.model.parameters())
        layers, width = self.shape.config["num_hidden_layers"], self.shape.config["hidden_size"]
        return self.tokens * (6 * parameters + 6 * layers * width * self.shape.length)

    def seconds(self, work: Callable[[], object]) -> float:
        """What `work` takes, the GPU's part included."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Returns when the GPU has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self, work: Callable[[], None]) -> int | None:
        """The most that was allocated while `work` ran; None where the device doesn't count."""
        if self.device.type != "cuda":
            work()
            return None
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated()

    def logprob_bytes(self, chunk: int | None) -> int | None:
        """What log-probs of one row and their gradient need beyond the states, and beyond what those of one token need:
        that is the head in bfloat16, and its gradient.
        """
        all_tokens, one_token = (self._head_bytes(chunk, tokens) for tokens in (self.shape.response, 1))
        return None if all_tokens is None or one_token is None else all_tokens - one_token

    def _head_bytes(self, chunk: int | None, tokens: int) -> int | None:
        policy, width = PolicyModel(self.model, chunk), self.shape.config["hidden_size"]
        weight = self.model.get_output_embeddings().weight
        weight.grad = torch.zeros_like(weight)
        hidden_MH = torch.randn(tokens, width, device=self.device).requires_grad_()
        hidden_MH.grad = torch.zeros_like(hidden_MH)
        ids_M = self.rows.response_ids_NT[0, :tokens]
        before = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

        def work() -> None:
            with autocast(self.device, "bfloat16"):
                if chunk is None:
                    logp_M: Tensor = token_logp(policy.head(hidden_MH), ids_M, False)[0]
                else:
                    logp_M = policy.in_chunks(hidden_MH, ids_M)[0]
            logp_M.sum().backward()

        peak = self.peak_bytes(work)
        weight.grad = None
        return None if peak is None else peak - before

    def matrix_peak(self) -> float:
        """FLOP/s of a product of two square bfloat16 matrices, the best of 10."""
        n = self.shape.matrix
        left, right = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        out = torch.empty_like(left)
        return 2 * n**3 / min(self.seconds(lambda: torch.mm(left, right, out=out)) for _ in range(10))


def measure(shape: Shape, device: torch.device, *, samples: int, rounds: int) -> dict[str, Any]:
    """Seconds and peak bytes of each kind of step, and what chunks change in the log-probs."""
    bench = Bench(shape, device, samples)
    steps: dict[str, Callable[[], None]] = {
        "one pass": lambda: bench.step(shape.chunk, "one"),
        "one pass, all logits at once": lambda: bench.step(None, "one"),
        "two passes": lambda: bench.step(shape.chunk, "two"),
    }
    found: dict[str, Any] = {"seconds": {}, "peak_bytes": {}}

    def turns(part: dict[str, Callable[[], None]]) -> None:
        for name, work in part.items():
            work()  # compiles kernels, fills caches
            found["peak_bytes"][name] = bench.peak_bytes(work)
            found["seconds"][name] = []
        for _ in range(rounds):
            for name, work in part.items():
                found["seconds"][name].append(bench.seconds(work))

    matrix = bench.matrix_peak()
    whole, chunked = bench.logprob_bytes(None), bench.logprob_bytes(shape.chunk)
    parity = log_prob_parity(bench)
    turns(steps)
    recompute_activations(bench.model)
    turns({"one pass, activations recomputed": steps["one pass"]})

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    known = known_gpu(name)
    vendor = None if known is None else GPUS[known].bfloat16
    median = {key: statistics.median(values) for key, values in found["seconds"].items()}
    rate = {key: bench.flops / seconds for key, seconds in median.items()}
    return {
        "hardware": name,
        "shape": shape.config,
        "rows": samples,
        "tokens_of_a_row": shape.length,
        "tokens": bench.tokens,
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "logprob_chunk": shape.chunk,
        "model_flops_of_a_step": bench.flops,
        "vendor_peak_flops": vendor,
        "matrix_peak_flops": matrix,
        **found,
        "tokens_per_second": {key: bench.tokens / seconds for key, seconds in median.items()},
        "mfu": {key: None if vendor is None else value / vendor for key, value in rate.items()},
        "share_of_matrix_peak": {key: value / matrix for key, value in rate.items()},
        "overhead": {key: seconds / median["one pass"] for key, seconds in median.items() if key != "one pass"},
        "logprob_bytes": {"all at once": whole, "chunked": chunked},
        "logprob_memory_share": None if whole is None or chunked is None else chunked / whole,
        "parity": parity,
        "environment": environment(),
    }


def log_prob_parity(bench: Bench) -> dict[str, Any]:
    """Differences of response tokens' log-probs in nats: bfloat16 from float32, and chunks from all logits at once."""
    exact = bench.logp(bench.shape.chunk, "float32").logp_NT
    half = bench.logp(bench.shape.chunk, "bfloat16").logp_NT
    whole = bench.logp(None, "bfloat16").logp_NT
    found = {"bfloat16_from_float32": (half - exact).abs(), "chunks_from_all_at_once": (half - whole).abs()}
    parts = {name: {"mean": float(x.mean()), "max": float(x.max())} for name, x in found.items()}
    return {**parts, "dtype": str(half.dtype).removeprefix("torch."), "mean_logp": float(exact.mean())}


def table(results: list[dict[str, Any]]) -> str:
    """One section a machine, as Markdown."""
    lines = ["# The training step on a GPU", ""]
    for found in results:
        versions = found["environment"]["versions"]
        lines += [
            f"## {found['hardware']}",
            "",
            f"{found['parameters']:,} parameters with random weights, {found['rows']} rows of "
            f"{found['tokens_of_a_row']:,} tokens, one a micro-batch, bfloat16 autocast over float32 weights, fused "
            f"AdamW; medians of {len(found['seconds']['one pass'])} turns. torch {versions.get('torch')}, transformers "
            f"{versions.get('transformers')}, {found['environment']['date']}.",
            "",
        ]
        headings = ["step", "tokens/s", "MFU", "of the matrix peak", "time / one pass", "peak memory"]
        rows = []
        for name, rate in found["tokens_per_second"].items():
            mfu = found["mfu"][name]
            row = [
                name,
                f"{rate:,.0f}",
                "" if mfu is None else f"{mfu:.1%}",
                f"{found['share_of_matrix_peak'][name]:.1%}",
                f"{found['overhead'].get(name, 1):.2f}×",
                gigabytes(found["peak_bytes"][name]),
            ]
            rows.append(row)
        lines.append(markdown_table(headings, rows))
        logprob, parity = found["logprob_bytes"], found["parity"]
        half, chunks = parity["bfloat16_from_float32"], parity["chunks_from_all_at_once"]
        lines += [
            "",
            f"- Log-probs of a row and their gradient, beyond the states, the head and its gradient: "
            f"{gigabytes(logprob['all at once'])} with all logits at once, {gigabytes(logprob['chunked'])} in chunks "
            f"of {found['logprob_chunk']} tokens{share(found['logprob_memory_share'])}.",
            f"- Log-probs are {parity['dtype']}. bfloat16 from float32: mean {half['mean']:.2g}, max {half['max']:.2g} "
            f"nats a token (mean log-prob {parity['mean_logp']:.2f}); chunks from all logits at once: max "
            f"{chunks['max']:.2g}.",
            f"- MFU is of the vendor's dense bfloat16 peak, {flops(found['vendor_peak_flops'])}; the product of two "
            f"matrices reaches {flops(found['matrix_peak_flops'])}. Targets: MFU {MFU_TARGET:.0%} in one pass"
            f"{met(found['mfu']['one pass'], MFU_TARGET, at_least=True)}; log-prob memory 1/8"
            f"{met(found['logprob_memory_share'], MEMORY_TARGET, at_least=False)}.",
            "",
        ]
    return "\n".join(lines)


def gigabytes(count: int | None) -> str:
    """Bytes as text."""
    return "not measured" if count is None else f"{count / 2**30:.2f} GiB"


def flops(rate: float | None) -> str:
    """FLOP/s as text."""
    return "unknown" if rate is None else f"{rate / 1e12:,.1f} TFLOP/s"


def share(value: float | None) -> str:
    """A share as text, behind what it is a share of."""
    return "" if value is None else f", {value:.3f} of it"


def met(value: float | None, target: float, *, at_least: bool) -> str:
    """Whether a target is met, as text."""
    if value is None:
        return " (not measured)"
    return " (met)" if (value >= target if at_least else value <= target) else " (not met)"


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try the script")
    parser.add_argument("--samples", type=int, default=4, help="rows of a step")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind of step")
    parser.add_argument("--out", type=Path, help="by default results/gpu, on a GPU with the full model alone")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("perf/gpu.py: torch finds no CUDA GPU here, so there is nothing to measure", file=sys.stderr)
        return 1
    real = options.device == "cuda" and not options.tiny
    if options.out is None and not real:
        print("perf/gpu.py: say with --out where to write figures that mean nothing", file=sys.stderr)
        return 2
    out = options.out or ROOT / "results" / "gpu"
    shape = SHAPES["tiny" if options.tiny else "Qwen2.5-1.5B"]
    found = measure(shape, torch.device(options.device), samples=options.samples, rounds=options.rounds)
    publish(found, out, table)
    return 0


def publish(found: dict[str, Any], out: Path, table: Callable[[list[dict[str, Any]]], str]) -> None:
    """Records a machine's figures, and makes the table of all machines anew."""
    found["command"] = ["/".join(Path(sys.argv[0]).parts[-2:]), *sys.argv[1:]]
    write_json(out / f"{re.sub('[^a-z0-9]+', '-', found['hardware'].lower()).strip('-')}.json", found)
    everything = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    write(out / "table.md", table(everything))
    print(table([found]))


if __name__ == "__main__":
    sys.exit(main())
