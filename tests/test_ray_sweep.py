"""A sweep on a Ray cluster of two nodes, one of which is killed in the middle."""

import platform

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'gvpo-bench[ray]'")


from ray.cluster_utils import Cluster
from rich.console import Console
from small import assert_same_cell, command, manifest, write_suite

from harness.cells import plan
from harness.config import load_suite
from harness.ray_sweep import RayCluster, _Driver, connect
from harness.sweep import CellNote, CellProgress, run_cells

pytest_plugins = ["small_fixtures"]
pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def local(base, quick_workers, tmp_path_factory):
    """The results of the small suite at one seed, from the local pool."""
    folder = tmp_path_factory.mktemp("local")
    assert command("sweep", write_suite(folder, base), "--seeds", 1, "--workers", 1, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def cluster():
    """A head with room for one cell, which stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": False,
                "_system_config": {"health_check_period_ms": 1000},  # a dead node is found in seconds
            },
        )
        yield found
        found.shutdown()


class Killing:
    """Runs cells on the cluster, and kills one of its nodes when a cell there has trained three steps."""

    def __init__(self, cluster):
        self.cluster, self.node = cluster, cluster.add_node(num_cpus=1)
        self.killed = None
        self.events = []
        """Of the cell that was killed, from then on."""

    def run(self, cells, runs, command):
        there = set()
        for event in RayCluster(self.cluster.address).run(cells, runs, command):
            if event.cell.name == self.killed:
                self.events.append(event)
            if isinstance(event, CellNote) and self.node.node_id in event.text:
                there.add(event.cell.name)
            # The cell waits with its next steps until this one has been told: it cannot be over.
            trained_3 = isinstance(event, CellProgress) and (event.stage, event.done) == ("train", 3)
            if self.killed is None and event.cell.name in there and trained_3:
                self.killed = event.cell.name
                self.cluster.remove_node(self.node, allow_graceful=False)
            yield event


@pytest.mark.parametrize("shared", [True, False], ids=["shared-folder", "own-disks"])
def test_sweep_that_loses_a_node_goes_on_from_the_checkpoint_with_the_numbers_of_the_local_pool(
    shared, local, base, cluster, tmp_path, monkeypatch
):
    if not shared:  # without the driver's mark no worker takes the folder for the driver's
        monkeypatch.setattr(_Driver, "__enter__", lambda self: self)
    suite = load_suite(str(write_suite(tmp_path, base)), ["seeds=1"])
    with connect(cluster.address):
        executor = Killing(cluster)
        outcome = run_cells(plan(suite), tmp_path / "runs" / "small", executor=executor, command=[], console=Console())
    assert executor.killed in ("gvpo-s0", "ppo-s0")
    assert outcome.failed == {}
    assert sorted(outcome.finished) == ["base", "gvpo-s0", "ppo-s0"]
    # The checkpoint after step 2 had reached the driver, if not the one after step 4.
    steps = [event.done for event in executor.events if isinstance(event, CellProgress) and event.stage == "train"]
    assert steps in ([3, 4, 5, 6], [5, 6])
    for name in outcome.finished:
        assert_same_cell(local / "runs" / "small" / name, tmp_path / "runs" / "small" / name)
        assert manifest(tmp_path / "runs" / "small" / name)["hardware"]["node"] == platform.node()
