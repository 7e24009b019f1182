"""Commands under test: started, killed, waited for, and what they leave running."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from job import Job

from harness.processes.fork_server import WORKER_ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent

SECONDS = 900.0
"""After which a command hangs. On an idle machine it takes ten, and on one where others come first, a hundred."""

ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Of pyarrow's allocator, in what is forked."""

LEFT_SECONDS = 60.0
"""How long processes of a command that has ended may take to notice."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | None
    """As subprocess has it; None where it had to be killed."""
    shown: str
    """What it printed."""
    left: Sequence[str] = ()
    """Processes that outlived it, by their command lines."""


class Command:
    """A command that runs, the first of a session of its own."""

    def __init__(self, pid: int, shown: Path) -> None:
        """Made by `start` or `Zygote.start`."""
        self.pid, self.shown = pid, shown
        self.code: int | None = None
        self.over = threading.Event()

    def kill(self, which: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal to its first process, or to all of that one's group, where it still runs."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, which)

    def wait(self, seconds: float = SECONDS, *, others: float = LEFT_SECONDS) -> Ended:
        """Waits for its end, and for those of its processes; kills what is left of them."""
        ended = self.over.wait(seconds)
        deadline = time.monotonic() + others
        while ended and members(self.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [command_line(pid) for pid in members(self.pid)] if ended else []
        while pids := members(self.pid):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.over.wait()
        return Ended(self.code if ended else None, self.shown.read_text("utf-8", errors="replace"), left)


class Zygote:
    """A process that forks commands (zygote.py), to be used as a context."""

    def __init__(self) -> None:
        """It starts when it is first needed."""
        self.process: subprocess.Popen[bytes] | None = None
        self.ids = itertools.count()
        self.lock = threading.Lock()
        self.asked: dict[int, tuple[Path, threading.Event]] = {}
        self.commands: dict[int, Command] = {}
        """Those that run, by their process."""
        self.started: dict[int, Command] = {}
        """Those that `start` is about to return, by the id of their job."""

    def __enter__(self) -> Zygote:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, and all that it has forked."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def start(self, arguments: Sequence[object], folder: Path, *, shown: Path, figures: bool = False) -> Command:
        """Starts `gvpo-bench` with these arguments in a folder. What it prints is added to the file `shown`."""
        number, event = next(self.ids), threading.Event()
        words = [str(argument) for argument in arguments]
        job = Job(number, words, str(folder), str(shown), environment(), figures)
        with self.lock:
            self.asked[number] = (shown, event)
            process = self.process = self.process or self._begun()
            assert process.stdin is not None
            process.stdin.write(job.line())
            process.stdin.flush()
        if not event.wait(SECONDS):
            raise RuntimeError("chaos/zygote.py does not answer: run the campaign again")
        return self.started.pop(number)

    def _begun(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(), **WORKER_ENVIRONMENT, **ONE_THREAD},
        )
        assert process.stdout is not None
        threading.Thread(target=self._listen, args=(process.stdout,), daemon=True).start()
        return process

    def _listen(self, lines: IO[bytes]) -> None:
        for line in lines:
            news = json.loads(line)
            if "id" in news:
                shown, event = self.asked.pop(news["id"])
                self.commands[news["pid"]] = self.started[news["id"]] = Command(news["pid"], shown)
                event.set()
            else:
                command = self.commands.pop(news["pid"])
                command.code = news["code"]
                command.over.set()


def start(arguments: Sequence[object], folder: Path, *, shown: Path, program: Sequence[str] = ()) -> Command:
    """Starts `gvpo-bench` from nothing, as a shell does; `program` is put in place of this Python's."""
    words = [*(program or python()), *map(str, arguments)]
    with shown.open("ab") as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )
    command = Command(process.pid, shown)

    def watch() -> None:
        command.code = process.wait()
        command.over.set()

    threading.Thread(target=watch, daemon=True).start()
    return command


def python() -> list[str]:
    """`gvpo-bench` by this Python, from the files of this folder's project."""
    return [sys.executable, "-m", "harness"]


def environment() -> dict[str, str]:
    """Of every command: one thread, lines that do not break, this project's packages."""
    fixed = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed}


def members(session: int) -> list[int]:
    """The processes of a session, but for those that have ended and wait to be taken notice of."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, of = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
                found.append(int(path.name))
    return found


def command_line(pid: int) -> str:
    """What a process was started as."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    return ""


def descendants(pid: int) -> list[int]:
    """The processes that one has started, and those that they have."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children + [below for child in children for below in descendants(child)]


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background ignore
