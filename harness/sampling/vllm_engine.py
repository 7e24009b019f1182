"""vLLM as a sampling engine: in this process, or as servers on other GPUs. Each rank of a cell has its own.

An engine starts from the model's configuration alone and gets every weight from the trainer. After each hand-over a
probe is scored by both sides: one of vLLM's own reload calls returns without having done anything, and a sampler that
is a step behind ruins a run without a word.

vLLM itself is imported by the class `VLLM` and nowhere else: in this process, or in the child that a `Server` starts
with `python -m`. A child is talked to in JSON lines over a socket; weights go through a safetensors
file in shared memory.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

import harness
from harness.model.policy import PolicyModel, Rows, Scorer, score
from harness.model.ranks import Ranks, environment_alone, free_memory, visible_gpus, whole
from harness.record.seeding import seed_of
from harness.sampling.local import Response
from harness.sampling.padded_heads import needs_padding, padded_config, padded_weights
from harness.suite.config import ConfigError, Rollout, VLLMSettings

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

    Raises ConfigError where vLLM isn't installed, a setting is for GPUs that are not there, or for one rank alone.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine = 'vllm': vLLM is not installed. pip install 'gvpo-bench[vllm]' (CUDA); on a CPU see "
            "requirements-vllm.txt, or use rollout.engine = 'cached'"
        )
    vllm, ranks = settings.vllm_or_default, Ranks.of_group()
    if vllm.mode == "colocated" and vllm.tensor_parallel_size > 1 and not ranks.alone:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel_size = {vllm.tensor_parallel_size} on {ranks.size} ranks: colocated, each "
            "rank samples other prompts on its own GPU; leave it at 1, or set mode = 'server'"
        )
    for key in ("sleep", "gpu_memory_fraction"):
        if device.type != "cuda" and getattr(vllm, key):
            raise ConfigError(
                f"rollout.vllm.{key} = {getattr(vllm, key)} is for GPUs, and the trainer is on the {device.type}: "
                "leave it out"
            )


@contextlib.contextmanager
def open_vllm(
    settings: Rollout, model: PreTrainedModel, *, eos_ids: Sequence[int], precision: str
) -> Iterator[VLLMEngine]:
    """An engine with the model's weights, which ends with the block. With several ranks all must open theirs.

    Raises ConfigError where servers have no GPUs left, VLLMError where the engine's log-probs are not the trainer's.
    """
    vllm, ranks = settings.vllm_or_default, Ranks.of_group()
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
    if colocated and not ranks.alone:
        # vLLM then works within the process group that is there, in which each rank is an engine of its own.
        options["distributed_executor_backend"] = "external_launcher"
    bytes_of_weights = sum(x.numel() for x in model.parameters()) * (2 if precision == "bfloat16" else 4)
    bytes_of_weights *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each rank writes its own file
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_shared_folder(bytes_of_weights)))
        config_for_vllm(model).save_pretrained(folder)
        sampler: VLLM | Servers
        if colocated:
            sampler = stack.enter_context(contextlib.closing(VLLM(folder, options)))
        else:
            devices = server_devices(on_cuda, vllm.tensor_parallel_size)
            sampler = stack.enter_context(contextlib.closing(Servers(folder, options, vllm.server_timeout, devices)))
        engine = VLLMEngine(sampler, vllm, folder, eos_ids=eos_ids, precision=precision, ranks=ranks)
        engine.sync(PolicyModel(model))
        yield engine


def server_devices(on_cuda: bool, parallel: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each server of this rank: the GPUs that no rank trains on, shared out among the ranks.
    On the CPU one server, and nothing to set.

    Raises ConfigError where that leaves a rank without.
    """
    if not on_cuda:
        return [None]
    rank, ranks = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    found = visible_gpus()
    each = (len(found) - ranks) // ranks
    if each < parallel:
        raise ConfigError(
            f"rollout.vllm.mode = 'server': of {len(found)} GPUs here {ranks} train, and each of their servers needs "
            f"tensor_parallel_size = {parallel} of the others; give the cell {ranks * (1 + parallel)} GPUs "
            "(resources.gpus), or use mode = 'colocated'"
        )
    mine = found[ranks + rank * each :][:each]
    return [",".join(mine[first : first + parallel]) for first in range(0, each - parallel + 1, parallel)]


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
        self,
        sampler: VLLM | Servers,
        settings: VLLMSettings,
        folder: Path,
        *,
        eos_ids: Sequence[int],
        precision: str,
        ranks: Ranks,
    ) -> None:
        self.sampler, self.settings, self.folder = sampler, settings, folder
        self.eos_ids, self.precision, self.ranks = list(eos_ids), precision, ranks
        self.tolerance = settings.tolerance or (0.25 if precision == "bfloat16" else 1e-3)
        self.probe: tuple[list[int], list[int]] | None = None
        self.last: tuple[Tensor, Tensor] | None = None
        self.asleep = False

    def sync(self, policy: PolicyModel) -> None:
        """Hands over all weights, one at a time where they are sharded, and checks that they have arrived.

        Raises VLLMError where the log-probs of the probe differ by more than the tolerance, or those of the engine
        stand still while the trainer's move.
        """
        self._wake()
        if isinstance(self.sampler, VLLM) and self.settings.tensor_parallel_size == 1:
            self.sampler.load(checkpoint_weights(policy.model))
        else:
            dtype = getattr(torch, self.precision)
            file = self.folder / "weights.safetensors"
            weights = {
                name: torch.empty_like(x, device="cpu", dtype=dtype, memory_format=torch.contiguous_format).copy_(x)
                for name, x in checkpoint_weights(policy.model)
            }
            try:
                save_file(weights, file)
                self.sampler.load_file(str(file))
            finally:
                file.unlink(missing_ok=True)
        self._check(policy)

    def _check(self, policy: PolicyModel) -> None:
        if self.probe is None:  # the same one for all, since they score it together
            self.probe = self.ranks.first(lambda: self._new_probe(policy.model))
        prompt, response = self.probe
        rows = Rows.of([prompt], [response], next(policy.parameters()).device)
        scorer = Scorer(policy, None, 1.0, self.precision, self.ranks)
        scored = score(scorer, rows, response_length=len(response), token_budget=len(prompt) + len(response))
        trainer = scored.logp_GKT[0].double().cpu()
        # A row for each of vLLM's copies of the weights, [S, T].
        found = [logp[len(prompt) :] for logp in self.sampler.score([*prompt, *response])]
        engine_ST = torch.tensor(found, dtype=torch.float64)
        difference_ST = (trainer - engine_ST).abs().nan_to_num(nan=torch.inf)

        def numbers(server: int, t: int) -> str:
            where = "vLLM" if len(found) == 1 else f"server {server} of {len(found)} of vLLM"
            vllm, ours = float(engine_ST[server, t]), float(trainer[t])
            return f"token {t} of the probe has {vllm:.6f} nats in {where} and {ours:.6f} in the trainer"

        server, t = divmod(int(difference_ST.argmax()), len(response))
        largest = float(difference_ST[server, t])
        if not largest <= self.tolerance:
            raise VLLMError(
                f"after a weight sync vLLM's log-probs are not the trainer's: {numbers(server, t)}, the largest "
                f"difference of {len(response)} is {largest:.2g} and rollout.vllm.tolerance is {self.tolerance:g}. "
                "Samples would come from another policy than the one trained. Where the numbers are far apart the "
                "weights did not arrive: check the versions (vllm 0.32.0, transformers <5.20) and that vLLM knows this "
                "architecture. Where they are close, the two compute with different precision: raise the tolerance, "
                "and consider train.sampler_ratio_cap"
            )
        if self.last is not None:
            moved = float((trainer - self.last[0]).abs().max())
            followed_S = (engine_ST - self.last[1]).abs().amax(-1)
            stuck = int(followed_S.argmin())
            if moved > NO_CHANGE and float(followed_S[stuck]) == 0:
                t = int(difference_ST[stuck].argmax())
                raise VLLMError(
                    f"a weight sync changed nothing in vLLM: the trainer's log-probs of the probe moved by up to "
                    f"{moved:.2g} nats since the last one and vLLM's by exactly 0 ({numbers(stuck, t)}). vLLM still "
                    "has the weights of the last sync: check the versions (vllm 0.32.0), and do not go on with this run"
                )
        self.last = trainer, engine_ST

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
    """Every tensor of a checkpoint, whole, by name; the output layer too where it is tied to the embeddings."""
    weights = ((name, whole(x)) for name, x in model.state_dict().items())
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
        self.among_ranks = options.get("distributed_executor_backend") == "external_launcher"
        with _global_generator_untouched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.llm = LLM(
                model=str(folder),
                load_format="dummy",
                skip_tokenizer_init=True,
                trust_remote_code=False,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                worker_extension_cls="harness.sampling.vllm_engine.WorkerExtension",
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

    def score(self, tokens: Sequence[int]) -> list[list[float]]:
        """log π of each token given those before it, at temperature 1, NaN for the first. The one list in the list is
        that of the one copy of the weights.

        The temperature below is that of the one token that vLLM insists on drawing.
        """
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        with _global_generator_untouched():
            (output,) = self.llm.generate([{"prompt_token_ids": list(tokens)}], params, use_tqdm=False)
        found = zip(tokens, output.prompt_logprobs, strict=True)
        return [[float("nan") if at is None else at[token].logprob for token, at in found]]

    def sleep(self) -> None:
        self.llm.sleep(level=1)

    def wake(self) -> None:
        torch.cuda.empty_cache()
        self.llm.wake_up()

    def close(self) -> None:
        core = self.llm.llm_engine.engine_core
        if self.among_ranks:  # the whole farewell would end the ranks' process group too
            core._finalizer.detach()
            core.engine_core.model_executor.shutdown()
        else:
            core.shutdown()
        del self.llm, core
        free_memory()


class WorkerExtension:
    """Mixed into vLLM's worker class."""

    def load_safetensors(self, file: str) -> None:
        """Takes over every weight of a file, one tensor at a time."""

        def weights() -> Iterator[tuple[str, Tensor]]:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    yield name, tensors.get_tensor(name)

        self.reload_weights(weights_iterator=weights())  # type: ignore[attr-defined]


class Servers:
    """vLLM in child processes that share out the prompts, and each have all weights."""

    def __init__(self, folder: Path, options: Mapping[str, Any], timeout: float, devices: Sequence[str | None]) -> None:
        self.servers: list[Server] = []
        try:
            for place, visible in enumerate(devices):
                self.servers.append(Server(folder, options, timeout, visible, folder / f"server-{place}.log"))
            for server in self.servers:
                server.reply("start")
        except BaseException:
            self.close()
            raise

    def load_file(self, file: str) -> None:
        self._all("load_file", [file] * len(self.servers))

    def sample(self, requests: Sequence[Mapping[str, Any]]) -> list[list[tuple[list[int], list[float]]]]:
        size = len(self.servers)
        parts = self._all("sample", [requests[place::size] for place in range(size)])
        return [parts[i % size][i // size] for i in range(len(requests))]

    def score(self, tokens: Sequence[int]) -> list[list[float]]:
        """See `VLLM.score`: a list for each server."""
        return [logp for (logp,) in self._all("score", [tokens] * len(self.servers))]

    def _all(self, name: str, arguments: Sequence[Any]) -> list[Any]:
        for server, argument in zip(self.servers, arguments, strict=True):
            server.ask(name, argument)
        return [server.reply(name) for server in self.servers]

    def close(self) -> None:
        for server in self.servers:
            server.close()


class Server:
    """vLLM in a child process, on the GPUs that `visible` names, which ends when this process does."""

    def __init__(
        self, folder: Path, options: Mapping[str, Any], timeout: float, visible: str | None, log: Path
    ) -> None:
        self.timeout, self.log = timeout, log
        environment = environment_alone()
        # The child must find this very package, however this process has found it.
        paths = [str(Path(harness.__file__).resolve().parent.parent), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(self.timeout)
        with theirs, self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "harness.sampling.vllm_engine",
                    str(theirs.fileno()),
                    str(folder),
                    json.dumps(options),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C is the sweep's to deal with; and its workers end with it
            )
        self.received = b""

    def ask(self, name: str, argument: Any) -> None:
        """Sends a call, which the child answers in its time."""
        with contextlib.suppress(ConnectionError):  # the reply says why
            self._send(json.dumps([name, argument]).encode() + b"\n", name)

    def _send(self, line: bytes, name: str) -> None:
        try:
            self.socket.sendall(line)
        except TimeoutError:
            raise self._silent(name) from None

    def reply(self, name: str) -> Any:
        """The answer to the oldest open call, or to the start.

        Raises VLLMError where there is none within the timeout, the child has died, or the call failed there.
        """
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
    """The child: answers calls until the other side closes the socket, or is no more, and then ends at once."""
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb") as lines:
        farewell = threading.Thread(target=_end_with, args=(connection, folder), daemon=True)
        farewell.start()

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
        farewell.join()


def _end_with(connection: socket.socket, folder: Path) -> None:
    """Ends this process and its workers when the other side is gone, even in the middle of a call: the next cell needs
    the GPU. vLLM's own farewell would take seconds."""
    hangup = select.poll()
    hangup.register(connection, 0)  # which is told without being asked for
    hangup.poll()
    shutil.rmtree(folder, ignore_errors=True)  # where the other side was killed
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
