"""The child process of a vLLM server, with a sampler in vLLM's place."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small import ended

CHILD = """
import sys, time
from pathlib import Path
import harness.sampling.vllm_server as engine


class Sampler:
    def __init__(self, folder, options): ...

    def sample(self, requests):
        Path(requests[0]).touch()
        time.sleep(600)


engine.VLLM = Sampler
engine.serve(int(sys.argv[1]), Path(sys.argv[2]), {})
"""


@pytest.mark.parametrize("busy", [True, False])
def test_server_ends_at_once_when_its_trainer_is_gone_whatever_it_is_doing(busy, tmp_path):
    ours, theirs = socket.socketpair()
    ours.settimeout(120)
    folder, sampling = tmp_path / "folder", tmp_path / "sampling"
    folder.mkdir()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(theirs.fileno()), str(folder)],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
    try:
        assert json.loads(ours.recv(1000)) == {"result": None}
        if busy:
            ours.sendall(json.dumps(["sample", [str(sampling)]]).encode() + b"\n")
            while not sampling.exists():
                assert child.poll() is None
        ours.close()
        assert ended(child.pid, seconds=10)
        assert child.wait() == -signal.SIGKILL
        assert not folder.exists()
    finally:
        child.kill()
