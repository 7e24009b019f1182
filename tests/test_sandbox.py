"""What code in a grading process can do: it tries to write, to start processes and to reach the network."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sandbox import _readable_by_all, offered

TRIES = """
import json, os, signal, socket, sys
from benchmarks.sandbox import confine

folder, port = sys.argv[1], int(sys.argv[2])

def fork():
    if os.fork() == 0:
        os._exit(0)

def connect():
    socket.create_connection(("127.0.0.1", port), timeout=2)

def send():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("127.0.0.1", port))

def append():
    with open(folder + "/there", "a") as file:
        file.write("more")

tries = {
    "create": lambda: open(folder + "/new", "x"),
    "append": append,
    "truncate": lambda: os.truncate(folder + "/there", 0),
    "remove": lambda: os.remove(folder + "/there"),
    "rename": lambda: os.rename(folder + "/there", folder + "/moved"),
    "make a folder": lambda: os.mkdir(folder + "/folder"),
    "link": lambda: os.symlink(folder, folder + "/link"),
    "fork": fork,
    "execute": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "connect": connect,
    "send": send,
    "signal": lambda: os.kill(os.getppid(), 0),
    "read": lambda: open(folder + "/there").read(),
    "import": lambda: __import__("wave"),
}
held = confine()
done = []
for name, attempt in tries.items():
    try:
        attempt()
    except OSError:
        continue
    done.append(name)
print(json.dumps({"held": held, "done": done}))
"""
HARMLESS = ["read", "import"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a file, into which everybody may write; pytest's own are closed to other users."""
    path = Path(tempfile.mkdtemp())
    (path / "there").write_text("something")
    path.chmod(0o777)
    (path / "there").chmod(0o666)
    yield path
    shutil.rmtree(path)


def tried(folder: Path, without: str | None = None) -> tuple[list[str], list[str]]:
    """What held, and what was done in spite of it, in a process that cannot import one of the libraries."""
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    if without:
        (hidden / f"{without}.py").write_text("raise ImportError('hidden')")
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [str(hidden), root, os.environ.get("PYTHONPATH")]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        ran = subprocess.run(
            [sys.executable, "-c", TRIES, str(folder), str(server.getsockname()[1])],
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(ran.stdout)
    return found["held"], found["done"]


both = pytest.mark.skipif(
    not {"Landlock", "seccomp"} <= set(offered()), reason="needs a Linux with Landlock, and libseccomp"
)


@both
def test_code_in_a_confined_process_can_read_and_compute_and_nothing_else(folder: Path) -> None:
    held, done = tried(folder)
    assert held == list(offered())
    assert done == HARMLESS
    assert (folder / "there").read_text() == "something"


@both
@pytest.mark.parametrize("library", ["py_landlock", "pyseccomp"])
def test_landlock_and_seccomp_each_suffice_where_the_other_is_missing(library: str, folder: Path) -> None:
    held, done = tried(folder, without=library)
    assert {"Landlock", "seccomp"} - set(held) == {"Landlock" if library == "py_landlock" else "seccomp"}
    stays_root = os.getuid() == 0 and "another user" not in held  # whom the limit of processes does not bind
    assert done == (["fork", *HARMLESS] if stays_root and "seccomp" not in held else HARMLESS)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, who can become another user")
def test_a_process_of_root_becomes_nobody_where_nobody_can_read_what_it_needs(folder: Path) -> None:
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import package;"
        "from benchmarks.sandbox import confine; print('another user' in confine([package]))"
    )
    for mode, readable in ((0o755, True), (0o700, False)):
        package.chmod(mode)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == str(readable and _readable_by_all(os))
