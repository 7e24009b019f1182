"""vLLM in child processes: `python -m harness.sampling.vllm_server` is such a child.

A child is talked to in JSON lines over a socket; weights go through a safetensors file in shared memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from benchmarks.errors import BenchError, ExitCode
from harness.model.ranks import environment_alone
from harness.sampling.vllm_process import VLLM

SERVER_CALLS = ("load_file", "sample", "score")


class VLLMError(BenchError, RuntimeError):
    """The engine does not do what it should. The message says what it is and what to do."""

    exit_code = ExitCode.FAILED


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
        """See `VLLM.load_file`."""
        self._all("load_file", [file] * len(self.servers))

    def sample(self, requests: Sequence[Mapping[str, Any]]) -> list[list[tuple[list[int], list[float]]]]:
        """See `VLLM.sample`: the requests are shared out."""
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
        """Ends all servers."""
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
                    "harness.sampling.vllm_server",
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
            f"the vLLM server has not answered '{name}' within resources.server_timeout = {self.timeout:g} s; raise "
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
        """Ends the child and its workers, at once if it must."""
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
