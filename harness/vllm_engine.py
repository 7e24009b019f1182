"""vLLM as a sampling engine: in this process, or as a server on other GPUs.

An engine starts from the model's configuration alone and gets every weight from the trainer. After each hand-over a
probe is scored by both sides: one of vLLM's own reload calls returns without having done anything, and a sampler that
is a step behind ruins a run without a word.

vLLM itself is imported by the class `VLLM` and nowhere else: in this process, or in the child that a `Server` starts
with `python -m harness.vllm_engine`. The child is talked to in JSON lines over a socket; weights go through a
safetensors file in shared memory.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from harness.config import ConfigError, Rollout, VLLMSettings
from harness.padded_heads import needs_padding, padded_config, padded_weights
from harness.policy import Rows, Scorer, score
from harness.rollout import Response
from harness.seeding import seed_of

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in the process that opens it
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or all workers of a sweep would be bound to the same core
    "TOKENIZERS_PARALLELISM": "false",
}
"""Read when vLLM is imported; what the user has set is left alone."""

PROBE_PROMPT, PROBE_RESPONSE = 8, 24
"""Tokens of the probe."""

LOWEST_TEMPERATURE = 0.01
"""vLLM raises temperatures below this one, but for 0, without asking."""

NO_CHANGE = 1e-6
"""Nats that the trainer's log-probs of the probe may move without the engine's having to."""

SERVER_CALLS = ("load_file", "sample", "score")


class VLLMError(RuntimeError):
    """The engine does not do what it should. The message says what it is and what to do."""


def check_vllm(settings: Rollout, device: torch.device) -> None:
    """Refuses what cannot work on this machine. `device` is the trainer's.

    Raises ConfigError where vLLM isn't installed, a setting is for GPUs that are not there, or the trainer is one of
    several processes.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise ConfigError(
            f"rollout.engine = 'vllm' samples for one training process, and torchrun started {dist.get_world_size()}: "
            "use rollout.engine = 'cached' with several ranks"
        )
    if find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine = 'vllm': vLLM is not installed. pip install 'gvpo-bench[vllm]' (CUDA); on a CPU see "
            "requirements-vllm.txt, or use rollout.engine = 'cached'"
        )
    vllm = settings.vllm_or_default
    if device.type == "cuda":
        if vllm.mode == "server" and not vllm.devices:
            raise ConfigError(
                "rollout.vllm.mode = 'server' needs rollout.vllm.devices, the GPUs of the server, such as [4, 5]"
            )
        return
    for key in ("sleep", "gpu_memory_fraction", "devices"):
        if getattr(vllm, key):
            raise ConfigError(
                f"rollout.vllm.{key} = {getattr(vllm, key)} is for GPUs, and the trainer is on the {device.type}: "
                "leave it out"
            )


@contextlib.contextmanager
def open_vllm(
    settings: Rollout, model: PreTrainedModel, *, eos_ids: Sequence[int], precision: str
) -> Iterator[VLLMEngine]:
    """An engine with the model's weights, which ends with the block.

    Raises VLLMError where the engine's log-probs are not the trainer's.
    """
    vllm = settings.vllm_or_default
    on_cuda = next(model.parameters()).device.type == "cuda"
    colocated = vllm.mode == "colocated"
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    options: dict[str, Any] = {
        "dtype": precision,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "max_num_seqs": settings.batch,
        "max_model_len": vllm.max_model_len or positions,
    }
    if on_cuda:
        options["gpu_memory_utilization"] = vllm.memory_fraction
        options["enable_sleep_mode"] = colocated and vllm.sleep is not False
    else:
        options["enforce_eager"] = True  # compiling takes longer than it saves
    bytes_of_weights = sum(x.numel() for x in model.parameters()) * (2 if precision == "bfloat16" else 4)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_shared_folder(bytes_of_weights)))
        config_for_vllm(model).save_pretrained(folder)
        sampler: VLLM | Server
        if colocated:
            sampler = stack.enter_context(contextlib.closing(VLLM(folder, options)))
        else:
            sampler = stack.enter_context(contextlib.closing(Server(folder, options, vllm)))
        engine = VLLMEngine(sampler, vllm, folder, eos_ids=eos_ids, precision=precision)
        engine.sync(model)
        yield engine


def _shared_folder(size: int) -> tempfile.TemporaryDirectory[str]:
    """A folder of this user's alone with room for so many bytes: in shared memory where there is some."""
    shared = Path("/dev/shm")
    in_memory = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1.1 * size
    return tempfile.TemporaryDirectory(prefix="gvpo-bench-vllm-", dir=shared if in_memory else None)


class VLLMEngine:
    """An `Engine` over vLLM.

    A sample's random numbers depend on its prompt's seed and its place in the group alone. The log-probs are those that
    the tokens were drawn with.
    """

    def __init__(
        self, sampler: VLLM | Server, settings: VLLMSettings, folder: Path, *, eos_ids: Sequence[int], precision: str
    ) -> None:
        self.sampler, self.settings, self.folder = sampler, settings, folder
        self.eos_ids, self.precision = list(eos_ids), precision
        self.tolerance = settings.tolerance or (0.25 if precision == "bfloat16" else 1e-3)
        self.probe: tuple[list[int], list[int]] | None = None
        self.last: tuple[Tensor, Tensor] | None = None
        self.asleep = False

    def sync(self, model: PreTrainedModel) -> None:
        """Hands over all weights and checks that they have arrived.

        Raises VLLMError where the log-probs of the probe differ by more than the tolerance, or those of the engine
        stand still while the trainer's move.
        """
        self._wake()
        if isinstance(self.sampler, VLLM) and self.settings.tensor_parallel_size == 1:
            self.sampler.load(checkpoint_weights(model))
        else:
            dtype = getattr(torch, self.precision)
            file = self.folder / "weights.safetensors"
            weights = {
                name: torch.empty_like(x, device="cpu", dtype=dtype, memory_format=torch.contiguous_format).copy_(x)
                for name, x in checkpoint_weights(model)
            }
            try:
                save_file(weights, file)
                self.sampler.load_file(str(file))
            finally:
                file.unlink(missing_ok=True)
        self._check(model)

    def _check(self, model: PreTrainedModel) -> None:
        if self.probe is None:
            self.probe = self._new_probe(model)
        prompt, response = self.probe
        rows = Rows.of([prompt], [response], next(model.parameters()).device)
        scorer = Scorer(model, None, 1.0, self.precision)
        scored = score(scorer, rows, response_length=len(response), token_budget=len(prompt) + len(response))
        trainer = scored.logp_GKT[0].double().cpu()
        engine = torch.tensor(self.sampler.score([*prompt, *response])[len(prompt) :], dtype=torch.float64)
        difference = (trainer - engine).abs()
        t = int(difference.nan_to_num(nan=torch.inf).argmax())
        if not float(difference[t]) <= self.tolerance:
            raise VLLMError(
                f"after a weight sync vLLM's log-probs are not the trainer's: token {t} of the probe has "
                f"{float(engine[t]):.6f} nats in vLLM and {float(trainer[t]):.6f} in the trainer, the largest "
                f"difference of {len(response)} is {float(difference[t]):.2g} and rollout.vllm.tolerance is "
                f"{self.tolerance:g}. Samples would come from another policy than the one trained. Where the numbers "
                "are far apart the weights did not arrive: check the versions (vllm 0.32.0, transformers <5.20) and "
                "that vLLM knows this architecture. Where they are close, the two compute with different precision: "
                "raise the tolerance, and consider train.sampler_ratio_cap"
            )
        if self.last is not None:
            moved, followed = ((now - last).abs().max() for now, last in zip((trainer, engine), self.last, strict=True))
            if float(moved) > NO_CHANGE and float(followed) == 0:
                raise VLLMError(
                    f"a weight sync changed nothing in vLLM: the trainer's log-probs of the probe moved by up to "
                    f"{float(moved):.2g} nats since the last one and vLLM's by exactly 0 (at token {t}: "
                    f"{float(engine[t]):.6f} in vLLM, {float(trainer[t]):.6f} in the trainer). vLLM still has the "
                    "weights of the last sync: check the versions (vllm 0.32.0), and do not go on with this run"
                )
        self.last = trainer, engine

    def _new_probe(self, model: PreTrainedModel) -> tuple[list[int], list[int]]:
        """A prompt of fixed tokens, and a response that the engine draws: log-probs as they occur."""
        vocabulary = model.config.get_text_config().vocab_size
        prompt = [seed_of("probe", i) % vocabulary for i in range(PROBE_PROMPT)]
        length = min(PROBE_RESPONSE, (self.settings.max_model_len or 10**9) - PROBE_PROMPT - 1)
        request = _request(prompt, 1, 1.0, length, seed_of("probe"), [])
        return prompt, self.sampler.sample([request])[0][0][0]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> list[list[Response]]:
        """See `Engine`. The log-probs of greedy responses are those of temperature 1.

        Raises ConfigError for a temperature that vLLM would change, or a response that it would cut short.
        """
        if 0 < temperature < LOWEST_TEMPERATURE:
            raise ConfigError(
                f"temperature {temperature}: vLLM samples at {LOWEST_TEMPERATURE} or above, or greedily at 0"
            )
        longest = max(map(len, prompts), default=0)
        limit = self.settings.max_model_len
        if limit is not None and longest + max_new_tokens > limit:
            raise ConfigError(
                f"rollout.vllm.max_model_len = {limit}: the longest prompt has {longest} tokens and its response up to "
                f"{max_new_tokens}; raise it to {longest + max_new_tokens} or leave it out"
            )
        self._wake()
        # Greedy responses to a prompt are all the same, and vLLM refuses to draw several.
        asked = [i for i, count in enumerate(counts) if count]
        drawn = self.sampler.sample(
            [
                _request(
                    prompts[i], counts[i] if temperature else 1, temperature, max_new_tokens, seeds[i], self.eos_ids
                )
                for i in asked
            ]
        )
        groups: list[list[Response]] = [[] for _ in prompts]
        for i, group in zip(asked, drawn, strict=True):
            responses = [Response(tokens, logp, truncated=tokens[-1] not in self.eos_ids) for tokens, logp in group]
            groups[i] = responses if temperature else responses * counts[i]
        return groups

    def release_memory(self) -> None:
        if not self.asleep and isinstance(self.sampler, VLLM) and self.sampler.can_sleep:
            self.sampler.sleep()
            self.asleep = True

    def _wake(self) -> None:
        if self.asleep:
            assert isinstance(self.sampler, VLLM)
            self.sampler.wake()
            self.asleep = False


def _request(
    prompt: Sequence[int], count: int, temperature: float, max_tokens: int, seed: int, stop: Sequence[int]
) -> dict[str, Any]:
    # vLLM adds a sample's place in its group to the seed: seeds far apart, with room up to an int64.
    return {
        "prompt": list(prompt),
        "n": count,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "seed": seed_of("vllm", seed) >> 8,
        "stop_token_ids": list(stop),
    }


def _pads(model: PreTrainedModel) -> bool:
    return next(model.parameters()).device.type == "cpu" and needs_padding(model.config)


def config_for_vllm(model: PreTrainedModel) -> PreTrainedConfig:
    """The model's own, but for what vLLM cannot do on the CPU."""
    config = padded_config(model.config) if _pads(model) else copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # which a model that was never saved does not have there
    if next(model.parameters()).device.type == "cpu":
        # There the output layer keeps a packed copy of its weights, and a reload of tied embeddings passes it by.
        config.tie_word_embeddings = False
    return config


def checkpoint_weights(model: PreTrainedModel) -> Iterable[tuple[str, Tensor]]:
    """Every tensor of a checkpoint by name; the output layer too where it is tied to the embeddings."""
    weights = model.state_dict().items()
    return padded_weights(weights, model.config.head_dim) if _pads(model) else weights


def _global_generator_untouched() -> contextlib.AbstractContextManager[None]:
    """vLLM seeds torch's own generator and draws from it."""
    return torch.random.fork_rng(devices=[])


class VLLM:
    """vLLM in this process, and with tensor parallelism in workers that it starts."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from vllm import LLM

        self.can_sleep = bool(options.get("enable_sleep_mode"))
        with _global_generator_untouched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.llm = LLM(
                model=str(folder),
                load_format="dummy",
                skip_tokenizer_init=True,
                trust_remote_code=False,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                worker_extension_cls="harness.vllm_engine.WorkerExtension",
                seed=0,
                **options,
            )

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_prefix_cache()

    def load_file(self, file: str) -> None:
        self.llm.collective_rpc("load_safetensors", args=(file,))
        self.llm.reset_prefix_cache()

    def sample(self, requests: Sequence[Mapping[str, Any]]) -> list[list[tuple[list[int], list[float]]]]:
        """Tokens and their log-probs of each request's samples."""
        from vllm import SamplingParams

        # What an earlier call left in the cache would change the rounding.
        self.llm.reset_prefix_cache()
        # Our EOS are stops like others: which they are is not left to the model's own files.
        fixed = {"top_p": 1.0, "top_k": 0, "ignore_eos": True, "logprobs": 0, "detokenize": False}
        params = [SamplingParams(**{k: v for k, v in r.items() if k != "prompt"}, **fixed) for r in requests]
        prompts = [{"prompt_token_ids": list(r["prompt"])} for r in requests]
        with _global_generator_untouched():
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            [
                (tokens := list(o.token_ids), [at[token].logprob for token, at in zip(tokens, o.logprobs, strict=True)])
                for o in output.outputs
            ]
            for output in outputs
        ]

    def score(self, tokens: Sequence[int]) -> list[float]:
        """log π of each token given those before it, at temperature 1; NaN for the first.

        The temperature below is that of the one token that vLLM insists on drawing.
        """
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        with _global_generator_untouched():
            (output,) = self.llm.generate([{"prompt_token_ids": list(tokens)}], params, use_tqdm=False)
        found = zip(tokens, output.prompt_logprobs, strict=True)
        return [float("nan") if at is None else at[token].logprob for token, at in found]

    def sleep(self) -> None:
        self.llm.sleep(level=1)

    def wake(self) -> None:
        torch.cuda.empty_cache()
        self.llm.wake_up()

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm


class WorkerExtension:
    """Mixed into vLLM's worker class."""

    def load_safetensors(self, file: str) -> None:
        """Takes over every weight of a file, one tensor at a time."""

        def weights() -> Iterator[tuple[str, Tensor]]:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    yield name, tensors.get_tensor(name)

        self.reload_weights(weights_iterator=weights())  # type: ignore[attr-defined]


class Server:
    """vLLM in a child process with GPUs of its own, which ends when this process does."""

    def __init__(self, folder: Path, options: Mapping[str, Any], settings: VLLMSettings) -> None:
        self.folder, self.timeout = folder, settings.server_timeout
        environment = {**os.environ}
        # The child must find this very package, however this process has found it.
        paths = [str(Path(__file__).parent.parent), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if settings.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, settings.devices))
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(self.timeout)
        self.log = folder / "server.log"
        with theirs, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness.vllm_engine", str(theirs.fileno()), str(folder), json.dumps(options)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the sweep's to deal with; and its workers end with it
            )
        self.received = b""
        try:
            self._reply("start")
        except BaseException:
            self.close()
            raise

    def load_file(self, file: str) -> None:
        self._call("load_file", file)

    def sample(self, requests: Sequence[Mapping[str, Any]]) -> list[list[tuple[list[int], list[float]]]]:
        found: list[list[tuple[list[int], list[float]]]] = self._call("sample", requests)
        return found

    def score(self, tokens: Sequence[int]) -> list[float]:
        found: list[float] = self._call("score", tokens)
        return found

    def _call(self, name: str, argument: Any) -> Any:
        with contextlib.suppress(ConnectionError):  # the reply says why
            self._send(json.dumps([name, argument]).encode() + b"\n", name)
        return self._reply(name)

    def _send(self, line: bytes, name: str) -> None:
        try:
            self.socket.sendall(line)
        except TimeoutError:
            raise self._silent(name) from None

    def _reply(self, name: str) -> Any:
        while b"\n" not in self.received:
            try:
                part = self.socket.recv(2**20)
            except TimeoutError:
                raise self._silent(name) from None
            except ConnectionError:
                part = b""
            if not part:
                raise VLLMError(f"the vLLM server died in '{name}' ({self._end()}). The end of its log:\n{self._log()}")
            self.received += part
        line, _, self.received = self.received.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise VLLMError(f"the vLLM server failed in '{name}':\n{reply['error']}")
        return reply["result"]

    def _silent(self, name: str) -> VLLMError:
        return VLLMError(
            f"the vLLM server has not answered '{name}' within rollout.vllm.server_timeout = {self.timeout:g} s; raise "
            f"it if one call may take longer. The end of its log:\n{self._log()}"
        )

    def _end(self) -> str:
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}; SIGKILL often means out of memory"
        return f"exit code {code}"

    def _log(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        return "\n".join(lines) or "(empty)"

    def close(self) -> None:
        self.socket.close()  # which the child takes as the end
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):  # its workers too, which share its session
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def serve(descriptor: int, folder: Path, options: Mapping[str, Any]) -> None:
    """The child: answers calls until the other side closes the socket, or is no more."""
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb") as lines:

        def reply(**message: Any) -> None:
            lines.write(json.dumps(message).encode() + b"\n")
            lines.flush()

        try:
            vllm = VLLM(folder, options)
        except Exception:
            reply(error=traceback.format_exc())
            return
        reply(result=None)
        for line in lines:
            name, argument = json.loads(line)
            try:
                if name not in SERVER_CALLS:
                    raise ValueError(f"unknown call {name!r}")
                result = getattr(vllm, name)(argument)
            except Exception:
                reply(error=traceback.format_exc())
            else:
                reply(result=result)
    shutil.rmtree(folder, ignore_errors=True)  # where the other side was killed
    os._exit(0)  # vLLM's own farewell takes seconds


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
