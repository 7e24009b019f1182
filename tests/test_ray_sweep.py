"""A sweep on a Ray cluster of two nodes, one of which is killed in the middle."""

import dataclasses
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'gvpo-bench[ray]'")


from process_tree import descendants, listening
from ray.cluster_utils import Cluster
from rich.console import Console
from small import (
    FAULTY,
    assert_close_cell,
    assert_same_cell,
    command,
    ended,
    lean_environment,
    manifest,
    write_suite,
)

import harness.model.embedded
import harness.sweep.ray_worker
from harness.model.embedded import embedded_base
from harness.record.cell_folder import CellFolder
from harness.record.environment import environment
from harness.record.travel import pack, unpack
from harness.suite.config import ConfigError
from harness.suite.load import load_suite
from harness.suite.plan import Cell, coefficients_job, plan
from harness.sweep.cells import run_cells
from harness.sweep.events import CellEvent, CellNote, CellProgress
from harness.sweep.ray_sweep import RayCluster, _Driver, connect
from harness.sweep.ray_worker import Job, Place, Worker

pytest_plugins = ["small_fixtures"]
pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def local(base, tmp_path_factory):
    """The results of the small suite at one seed, from the local pool."""
    folder = tmp_path_factory.mktemp("local")
    assert command("sweep", write_suite(folder, base), "--seeds", 1, "--workers", 1, "--out", folder) == 0
    return folder


def first_cell(suite_file, label, *settings):
    return next(cell for cell in plan(load_suite(str(suite_file), settings)) if cell.config.label == label)


def worker(monkeypatch, tmp_path, **job):
    """A worker in this process, whose runs folder is not the driver's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GVPO_BENCH_CACHE", str(tmp_path / "cache"))
    about = {"command": ["gvpo-bench"], "variables": {}, "models": [], "base": None, **job}
    return Worker(Job(runs=tmp_path / "nowhere", mark=tmp_path / "nowhere", folder=tmp_path, **about))


def test_worker_on_its_own_disk_sends_each_checkpoint_a_step_later_and_every_result(
    local, suite_file, tmp_path, monkeypatch, one_thread
):
    found = worker(monkeypatch, tmp_path)
    messages = [found.start(first_cell(suite_file, "gvpo"), {}, {})]
    while messages[-1][0] != "done":
        messages.append(found.next())
    told = [message[1:3] if message[0] == "progress" else sorted(message[1]) for message in messages[:-1]]
    shard = "resume/shard-00001-model-00001-of-00001.safetensors"
    checkpoint = ["hash", "metrics.jsonl", "resume/progress.json", shard, "resume/sums.json"]
    train = [("train", step) for step in range(1, 7)]
    assert told[1:10] == [*train[:3], checkpoint, *train[3:5], checkpoint, train[5], ("evaluate arithmetic", 12)]
    # The training is over, and another worker would have to evaluate it only.
    assert {"checkpoint/model.safetensors", "metrics.jsonl", "training.json"} <= set(told[10])
    assert "resume/state.pt" not in told[10]
    _, status, results = messages[-1]
    assert status == "finished"
    unpack(tmp_path / "gvpo-s0", results)
    assert_same_cell(local / "runs" / "small" / "gvpo-s0", tmp_path / "gvpo-s0")
    assert not any((tmp_path / "nowhere").rglob("*"))


def test_trained_cell_is_evaluated_on_another_disk_and_not_trained(
    local, suite_file, tmp_path, monkeypatch, one_thread
):
    cell = local / "runs" / "small" / "gvpo-s0"
    found = worker(monkeypatch, tmp_path)
    (tmp_path / "trained").mkdir()
    for name in ("hash", "metrics.jsonl", "training.json"):
        shutil.copy(cell / name, tmp_path / "trained" / name)
    shutil.copytree(cell / "checkpoint", tmp_path / "trained" / "checkpoint")
    messages = [found.start(first_cell(suite_file, "gvpo"), CellFolder(tmp_path / "trained").pack("to go on"), {})]
    while messages[-1][0] != "done":
        messages.append(found.next())
    assert [message[1] for message in messages if message[1] == "train"] == []
    CellFolder(tmp_path / "gvpo-s0").unpack(messages[-1][2])
    assert_same_cell(cell, tmp_path / "gvpo-s0")


def test_coefficients_are_compared_on_another_disk(local, suite_file, tmp_path, monkeypatch, one_thread):
    runs = local / "runs" / "small"
    job = coefficients_job([cell for cell in plan(load_suite(str(suite_file))) if cell.name in ("gvpo-s0", "ppo-s0")])
    found = worker(monkeypatch, tmp_path)
    message = found.start(job, {}, {"gvpo-s0": CellFolder(runs / "gvpo-s0").pack("to go on")})
    while message[0] != "done":
        message = found.next()
    CellFolder(tmp_path / "job").unpack(message[2])
    pd.testing.assert_frame_equal(
        CellFolder(tmp_path / "job").coefficients(), CellFolder(runs / "coefficients").coefficients(), check_exact=True
    )


def test_cell_that_fails_on_another_disk_sends_its_traceback(suite_file, tmp_path, monkeypatch, one_thread):
    (tmp_path / "mine.py").write_text(FAULTY, encoding="utf-8")
    cell = first_cell(
        suite_file,
        "raises",
        f'algorithms.raises={{algorithm="{tmp_path}/mine.py:Raises", optimizer={{lr=1, max_norm=1}}}}',
    )
    (tmp_path / "mine.py").unlink()  # as on another machine
    found = worker(monkeypatch, tmp_path)
    message = found.start(cell, {}, {})
    while message[0] != "done":
        message = found.next()
    _, status, results = message
    assert status == "failed"
    assert b"ArithmeticError: the moon is in the wrong house" in results["traceback.txt"]
    assert results["algorithm.py"] == FAULTY.encode()


def test_embedded_base_of_the_driver_is_used_whatever_the_node_has(base, suite_file, tmp_path, monkeypatch):
    used = {}

    def look(cell, *_):
        used.update(pack(embedded_base(), ["."]))
        return "finished"

    monkeypatch.setattr(harness.model.embedded, "hash_of", lambda _: base.name.removeprefix("embedded-base-"))
    monkeypatch.setattr(harness.sweep.ray_worker, "launch_cell", look)
    node = worker(monkeypatch, tmp_path, base=pack(base.parent, [base.name]))
    assert node.start(first_cell(suite_file, "gvpo"), None, {}) == ("done", "finished", {})
    assert used == pack(base, ["."])


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"environment": {**environment(), "code_sha256": "0"}}, "other code of gvpo-bench"),
        ({"environment": {**environment(), "versions": {"torch": "1.0"}}}, "torch 1.0 instead of"),
        ({"missing": "/models/mine"}, "model.path = /models/mine: .* has no such folder"),
    ],
    ids=["code", "versions", "model"],
)
def test_node_that_would_give_other_numbers_stops_the_sweep(suite_file, tmp_path, difference, message):
    driver = _Driver([first_cell(suite_file, "gvpo")], tmp_path, [])
    place = Place(node_id="1", environment=environment(), mark=None, missing=None)
    assert driver._accept(place) is place
    with pytest.raises(ConfigError, match=message):
        driver._accept(dataclasses.replace(place, **difference))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("train.pass_rate=[0.1, 0.9]", "pass_rate is measured once for all cells"),
        ("train.replay=gvpo", "replay has cells read what another has recorded"),
    ],
)
def test_what_cells_share_needs_a_folder_that_they_share(suite_file, tmp_path, setting, why):
    def driver(*settings):
        cell = next(cell for cell in plan(load_suite(str(suite_file), settings)) if cell.is_trained)
        return _Driver([cell], tmp_path, [])

    measures = driver(setting)
    elsewhere = Place(node_id="1", environment=environment(), mark=None, missing=None)
    with pytest.raises(ConfigError, match=rf"{why}, and .* does not see .*: give an"):
        measures._accept(elsewhere)
    here = dataclasses.replace(elsewhere, mark=measures.text)
    assert measures._accept(here) is here
    assert driver()._accept(elsewhere) is elsewhere


def test_packed_files_come_out_as_they_were_and_replace_a_folder_whole(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder, name in ((there, "resume/deep/two"), (there, "one"), (there, ".lock"), (here, "resume/old")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    files = pack(there, ["one", "resume", "missing"])
    assert files == {"one": b"one", "resume/deep/two": b"resume/deep/two"}
    unpack(here, files)
    assert pack(here, ["."]) == files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "auto", "--workers", "2"], "--workers is for this machine alone"),
        (["--ray", "ray://head:10001"], "runs on a node of the cluster"),
        (["--ray", "127.0.0.1:9"], "--ray 127.0.0.1:9: [Errno 111] Connection refused"),
        (["--ray", "auto", "--set", "resources.gpus=-1"], "resources.gpus = -1"),
    ],
)
def test_cluster_that_is_not_to_be_had_is_wrong_input(suite_file, tmp_path, options, message, capsys):
    assert command("sweep", suite_file, *options, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


LOCAL = """
import sys
from harness.suite.load import load_suite
from harness.sweep.executors import open_executor


class Worker:
    def answer(self):
        pass


with open_executor("local", None, load_suite(sys.argv[1])):
    import ray

    worker = ray.remote(Worker).remote()
    ray.get(worker.answer.remote())
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_local_cluster_listens_on_loopback_and_ends_with_a_driver_that_is_killed(suite_file):
    driver = subprocess.Popen(
        [sys.executable, "-c", LOCAL, suite_file], env=lean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"ready\n"
    started = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(driver.pid)}
    assert {"gcs_server", "raylet", "ray::Worker"} <= {Path(text.split("\0")[0]).name for text in started.values()}
    assert listening([driver.pid, *started]) == {"loopback"}
    driver.kill()
    driver.communicate()
    # Ray's agents, which run nothing of ours, look for the lost cluster for a minute.
    assert all(ended(pid, seconds=60) for pid, text in started.items() if "Agent" not in text)


@pytest.fixture(scope="module")
def cluster():
    """A head without room for cells, and one node with room for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
        found = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "_system_config": {"health_check_period_ms": 1000},  # a dead node is found in seconds
            },
        )
        found.add_node(num_cpus=1)
        yield found
        found.shutdown()


class Killing:
    """Runs cells on the cluster, and kills the first of its nodes on which a cell has trained four steps."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.killed = None
        """The cell that lost its node."""
        self.events = []
        """Of that cell, from its new start on."""

    workers = 1

    def run(self, cells: Sequence[Cell], runs: Path, command: list[str]) -> Generator[CellEvent, None, None]:
        where = {}
        for event in RayCluster(self.cluster.address).run(cells, runs, command):
            name = event.cell.name
            if isinstance(event, CellNote) and event.text.startswith("runs on"):
                where[name] = event.text
                self.events += [event] if name == self.killed else []
            elif name == self.killed and self.events:
                self.events.append(event)
            # The cell waits with its next steps until this one has been told: it cannot be over.
            mid_training = isinstance(event, CellProgress) and (event.stage, event.done) == ("train", 4)
            if self.killed is None and mid_training:
                self.killed = name
                (node,) = [node for node in self.cluster.worker_nodes if node.node_id in where[name]]
                kill(node)
                self.cluster.remove_node(node, allow_graceful=False)
            yield event


def kill(node):
    """Ends a node as a power cut would: its raylet, and before that can tell anyone, all that the raylet started."""
    raylet = node.all_processes["raylet"][0].process.pid
    started = [
        pid for task in Path(f"/proc/{raylet}/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    for pid in [raylet, *map(int, started)]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("shared", [True, False], ids=["shared-folder", "own-disks"])
def test_sweep_that_loses_a_node_goes_on_from_the_checkpoint_with_the_numbers_of_the_local_pool(
    shared, local, base, cluster, tmp_path, monkeypatch
):
    if not shared:  # without the driver's mark no worker takes the folder for the driver's
        monkeypatch.setattr(_Driver, "__enter__", lambda self: self)
    suite = load_suite(str(write_suite(tmp_path, base)), ["seeds=1"])
    cluster.add_node(num_cpus=1)
    with connect(cluster.address):
        executor = Killing(cluster)
        outcome = run_cells(plan(suite), tmp_path / "runs" / "small", executor=executor, command=[], console=Console())
    assert executor.killed in ("gvpo-s0", "ppo-s0")
    assert outcome.failed == {}
    assert sorted(outcome.finished) == ["base", "gvpo-s0", "ppo-s0"]
    # The checkpoint of step 2 had reached the driver; on a shared disk that of step 4 may have been written.
    steps = [event.done for event in executor.events if isinstance(event, CellProgress) and event.stage == "train"]
    assert steps in ([[3, 4, 5, 6], [5, 6]] if shared else [[3, 4, 5, 6]])
    for name in outcome.finished:
        assert_same_cell(local / "runs" / "small" / name, tmp_path / "runs" / "small" / name)
        assert manifest(tmp_path / "runs" / "small" / name)["hardware"]["node"] == platform.node()


def test_cell_of_two_ranks_that_loses_its_node_goes_on_from_its_sharded_checkpoint(
    local, base, cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(_Driver, "__enter__", lambda self: self)  # each node has its own disk
    settings = ["seeds=1", "resources.ranks=2", "resources.cpus=2"]
    suite = load_suite(str(write_suite(tmp_path, base)), settings, ["gvpo"])
    cells = [cell for cell in plan(suite) if cell.is_trained]
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    with connect(cluster.address):
        executor = Killing(cluster)
        outcome = run_cells(cells, tmp_path / "runs" / "small", executor=executor, command=[], console=Console())
    assert (executor.killed, outcome.failed) == ("gvpo-s0", {})
    steps = [event.done for event in executor.events if isinstance(event, CellProgress) and event.stage == "train"]
    assert steps == [3, 4, 5, 6]
    found = tmp_path / "runs" / "small" / "gvpo-s0"
    assert manifest(found)["ranks"] == 2
    assert_close_cell(local / "runs" / "small" / "gvpo-s0", found)


def test_users_algorithm_that_kills_its_process_fails_alone_and_is_not_tried_again(
    local, suite_file, cluster, tmp_path, capsys
):
    (tmp_path / "faulty.py").write_text(FAULTY, encoding="utf-8")
    options = ["--ray", cluster.address, "--seeds", 1, "--out", tmp_path]
    assert (
        command("sweep", suite_file, "--algorithm", f"{tmp_path}/faulty.py:Dies", "--algorithm", "gvpo", *options) == 1
    )
    shown = capsys.readouterr().out
    assert shown.count("dies-s0: runs on") == 1
    assert "failed dies-s0" in shown
    runs = tmp_path / "runs" / "small"
    assert "The process that ran dies-s0 died: killed by SIGKILL" in (runs / "dies-s0" / "traceback.txt").read_text()
    assert manifest(runs / "dies-s0")["status"] == "failed"
    assert_same_cell(local / "runs" / "small" / "gvpo-s0", runs / "gvpo-s0")
