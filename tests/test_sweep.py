"""A sweep from one command: what it leaves, what it does not run again, what it survives."""

import contextlib
import errno
import os
import platform
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from small import (
    FAULTY,
    assert_same_cell,
    assert_same_sweep,
    command,
    files,
    installed_command,
    lean_environment,
    manifest,
    metrics,
    table,
    write_suite,
)

import harness.sweep.cell
import harness.sweep.executors
import harness.sweep.pool
from benchmarks.judges import judge_for
from harness.record.cell_folder import CellFolder
from harness.record.environment import environment
from harness.record.verify import verify_runs
from harness.suite.config import ConfigError, Resources
from harness.suite.load import load_suite
from harness.suite.plan import coefficients_job, plan
from harness.sweep.cell import bury_cell, keep_to_share, run_cell
from harness.sweep.cells import run_cells
from harness.sweep.events import CellEnd, CellProgress
from harness.sweep.executors import Until
from harness.sweep.pool import LocalPool, gpu_shares

pytest_plugins = ["small_fixtures"]
pytestmark = pytest.mark.usefixtures("no_figures")  # the undisturbed sweep, which comes before, has drawn them

CELLS = ["base", "gvpo-s0", "gvpo-s1", "ppo-s0", "ppo-s1"]
JOB = "coefficients"
"""The folder of the job that compares the gradient coefficients."""


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory) -> Path:
    """The results of the small suite on two workers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert command("sweep", write_suite(folder, base), "--workers", 2, "--out", folder) == 0
    return folder


@pytest.fixture
def no_workers(monkeypatch):
    """Starting a worker is an error."""

    def refuse(*_, **__):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(harness.sweep.pool, "RunningCell", refuse)


def test_every_cell_leaves_manifest_metrics_samples_and_a_checkpoint_that_has_moved(undisturbed, base):
    import torch
    from transformers import AutoModelForCausalLM

    runs = undisturbed / "runs" / "small"
    assert sorted(path.name for path in runs.iterdir() if path.is_dir()) == sorted([*CELLS, JOB])
    start = AutoModelForCausalLM.from_pretrained(base).state_dict()
    for cell in (runs / name for name in CELLS[1:]):
        assert [row["step"] for row in metrics(cell)] == [1, 2, 3, 4, 5, 6]
        assert max(row["reward"] for row in metrics(cell)) > 0  # or there would be nothing to learn from
        end = AutoModelForCausalLM.from_pretrained(cell / "checkpoint").state_dict()
        assert any(not torch.equal(start[name], end[name]) for name in start)
        assert not (cell / "resume").exists()  # only while the cell can still be resumed


def test_first_rollouts_are_the_same_for_two_algorithms_of_a_seed_and_differ_between_seeds(undisturbed):
    first = {name: metrics(undisturbed / "runs" / "small" / name)[0] for name in CELLS[1:]}
    shown = {name: (row["reward"], row["length"], row["sampled_entropy"]) for name, row in first.items()}
    assert shown["gvpo-s0"] == shown["ppo-s0"]
    assert shown["gvpo-s1"] == shown["ppo-s1"]
    assert shown["gvpo-s0"] != shown["gvpo-s1"]


def test_table_has_a_row_for_the_base_and_each_algorithm_with_the_promised_columns(undisturbed):
    found = table(undisturbed)
    assert found.index[0] == "base"
    assert sorted(found.index) == ["base", "gvpo", "ppo"]
    assert {"n_seeds", "avg_at_k", "ci_low", "ci_high", "hard_avg_at_k", "kl", "seconds"} <= set(found.columns)
    assert found.loc[["gvpo", "ppo"], "n_seeds"].tolist() == [2, 2]
    for name in ("table.md", "table.tex", "README.md", "figures"):
        assert (undisturbed / "small" / name).exists()


def test_manifest_says_what_was_run(undisturbed):
    found = manifest(undisturbed / "runs" / "small" / "ppo-s1")
    assert (found["algorithm"], found["seed"], found["status"]) == ("ppo", 1, "finished")
    assert found["command"][:2] == ["gvpo-bench", "sweep"]
    assert found["config"]["algorithm"]["optimizer"]["critic_lr"] == 1e-2
    assert found["versions"]["torch"]
    assert found["code_sha256"] == environment()["code_sha256"]
    assert len(found["code_sha256"]) == 64
    assert found["tokens"]["critic"] > 0
    assert found["hardware"]["node"] == platform.node()
    assert found["config"]["resources"] == {**Resources().model_dump(), "checkpoint_every": 2}


def test_second_sweep_starts_nothing_and_touches_no_cell(undisturbed, no_workers):
    before = {name: files(undisturbed / "runs" / "small" / name) for name in [*CELLS, JOB]}
    assert command("sweep", undisturbed / "small.toml", "--out", undisturbed) == 0
    assert {name: files(undisturbed / "runs" / "small" / name) for name in [*CELLS, JOB]} == before


def test_other_settings_in_the_same_folder_are_refused_before_anything_starts(undisturbed, no_workers, capsys):
    before = files(undisturbed)
    code = command("sweep", undisturbed / "small.toml", "--set", "train.temperature=0.5", "--out", undisturbed)
    assert code == 3
    assert "was finished with other settings" in capsys.readouterr().err
    assert files(undisturbed) == before


def test_sweep_that_grows_by_a_seed_and_an_algorithm_reuses_cells_and_one_worker_gives_the_numbers_of_two(
    undisturbed, suite_file, tmp_path
):
    assert command("sweep", suite_file, "--algorithm", "ppo", "--seeds", 1, "--workers", 1, "--out", tmp_path) == 0
    runs = tmp_path / "runs" / "small"
    before = {name: files(runs / name) for name in ("base", "ppo-s0")}
    assert command("sweep", suite_file, "--workers", 1, "--out", tmp_path) == 0
    assert {name: files(runs / name) for name in ("base", "ppo-s0")} == before
    assert_same_sweep(undisturbed, tmp_path)


def trained_files(cell):
    """What training has left, with times and inodes."""
    return {name: stat for name, stat in files(cell).items() if name.startswith(("checkpoint", "metrics", "training"))}


def test_other_evaluation_settings_evaluate_the_checkpoints_and_train_nothing(
    undisturbed, suite_file, tmp_path, monkeypatch
):
    def no_training(*_, **__):
        raise AssertionError("a cell was trained")

    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    runs = tmp_path / "runs" / "small"
    before = {name: trained_files(runs / name) for name in CELLS}
    changed = ["--set", "evaluation.samples=3", "--set", 'evaluation.benchmarks=["arithmetic-hard"]']
    changed += ["--set", "evaluation.hard_benchmarks=[]"]
    with monkeypatch.context() as patch:
        patch.setattr(harness.sweep.cell, "train", no_training)
        patch.setattr(harness.sweep.executors, "LocalPool", InThisProcess)
        assert command("sweep", suite_file, *changed, "--workers", 1, "--out", tmp_path) == 0
    assert {name: trained_files(runs / name) for name in CELLS} == before
    # As if it had been run with these settings from the start.
    assert command("sweep", suite_file, *changed, "--seeds", 1, "--workers", 2, "--out", tmp_path / "fresh") == 0
    for name in ("base", "gvpo-s0", "ppo-s0"):
        assert_same_cell(tmp_path / "fresh" / "runs" / "small" / name, runs / name)
    # And back: the evaluation that was there before is taken up again, not made again.
    with monkeypatch.context() as patch:
        patch.setattr(harness.sweep.cell, "_work", no_training)
        patch.setattr(harness.sweep.executors, "LocalPool", InThisProcess)
        assert command("sweep", suite_file, "--workers", 1, "--out", tmp_path) == 0
    assert_same_sweep(undisturbed, tmp_path)


@dataclass(frozen=True)
class InThisProcess:
    """An executor that runs cells here, where a test can see into them."""

    workers: int = 1

    def run(self, cells, runs, command):
        for cell in cells:
            yield CellEnd(cell, run_cell(cell, runs, command, lambda *_: None), 0.0)


COUNTS_THREADS = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from algorithms import Algorithm, LossOutput


@dataclass(frozen=True, kw_only=True)
class Counts(Algorithm):
    name: ClassVar[str] = "Counts"

    def loss(self, policy, batch):
        return LossOutput(loss=policy.logp_GKT.sum() * 0, metrics={"threads": torch.get_num_threads()})
"""


@pytest.mark.parametrize("cpus", [1, 3])
def test_cores_of_a_cell_are_threads_and_graders(suite_file, tmp_path, monkeypatch, one_thread, cpus):
    (tmp_path / "counts.py").write_text(COUNTS_THREADS)
    settings = [f"resources.cpus={cpus}", "train.steps=1", "seeds=1"]
    suite = load_suite(str(suite_file), settings, [f"{tmp_path / 'counts.py'}:Counts"])
    cell = next(cell for cell in plan(suite) if cell.name == "counts-s0")
    graders = []

    def count(*arguments, workers, training=False):
        graders.append((training, workers))
        return judge_for(*arguments, workers=workers, training=training)

    monkeypatch.setattr(harness.sweep.cell, "judge_for", count)
    assert run_cell(cell, tmp_path, [], lambda *_: None) == "finished"
    assert [row["algorithm/threads"] for row in metrics(tmp_path / cell.name)] == [cpus]
    assert graders == [(True, cpus), (False, cpus)]


def test_checkpoints_are_kept_unless_the_command_says_otherwise_and_without_them_nothing_is_evaluated_again(
    suite_file, tmp_path, capsys
):
    sweep = ("sweep", suite_file, "--algorithm", "gvpo", "--seeds", 1, "--workers", 1, "--out", tmp_path)
    assert command(*sweep, "--no-keep-checkpoints") == 0
    cell = tmp_path / "runs" / "small" / "gvpo-s0"
    # The baseline's was there until the gradient coefficients were compared, which start from it.
    assert not (cell / "checkpoint").exists()
    assert len(CellFolder(cell.with_name(JOB)).coefficients()) > 0
    assert "Not in the figure of gradient coefficients" not in (tmp_path / "small" / "table.md").read_text()
    before = files(cell)
    assert command(*sweep, "--set", "evaluation.samples=3") == 3
    assert "kept no checkpoint that could be evaluated again" in capsys.readouterr().err
    assert files(cell) == before


def test_only_the_baselines_checkpoint_of_seed_0_outlives_its_cell_where_none_is_kept(suite_file):
    suite = load_suite(str(suite_file), ["resources.keep_checkpoints=false"])
    assert [cell.name for cell in plan(suite) if cell.keeps_checkpoint] == ["gvpo-s0"]
    ablation = [
        "ablation.quantity=lr",
        "ablation.reference=a",
        "ablation.points=[{label='a'}, {label='b', set=['train.steps=2']}]",
    ]
    # No coefficients are compared between the points of an ablation.
    cells = plan(load_suite(str(suite_file), ["resources.keep_checkpoints=false", *ablation]))
    assert [cell.name for cell in cells if cell.keeps_checkpoint] == []


def test_report_is_there_before_the_coefficients_are_compared_and_outlives_their_failure(
    undisturbed, suite_file, tmp_path, monkeypatch, capsys
):
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "small" / JOB)
    there = []

    def out_of_memory(*_):
        there.append((tmp_path / "small" / "table.csv").is_file())
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr(harness.sweep.cell, "compare_coefficients", out_of_memory)
    monkeypatch.setattr(harness.sweep.executors, "LocalPool", InThisProcess)
    assert command("sweep", suite_file, "--workers", 1, "--out", tmp_path) == 0
    assert there == [True]
    assert "no gradient coefficients: MemoryError: CUDA out of memory" in capsys.readouterr().out
    page = (tmp_path / "small" / "README.md").read_text()
    assert "Not in the figure of gradient coefficients: all (MemoryError: CUDA out of memory)" in page
    assert_same_cell(undisturbed / "runs" / "small" / "gvpo-s0", tmp_path / "runs" / "small" / "gvpo-s0")


def test_cells_that_raise_give_nan_or_are_killed_fail_alone(undisturbed, suite_file, tmp_path, capfd):
    (tmp_path / "faulty.py").write_text(FAULTY, encoding="utf-8")
    wanted = [("--algorithm", f"{tmp_path / 'faulty.py'}:{name}") for name in ("Raises", "NotANumber", "Dies", "Late")]
    code = command(
        "sweep", suite_file, *sum(wanted, ()), "--seeds", 1, "--workers", 1, "--out", tmp_path, "--set", "train.steps=6"
    )
    assert code == 1
    runs = tmp_path / "runs" / "small"
    for label, reason in (
        ("raises", "ArithmeticError: the moon is in the wrong house"),
        ("notanumber", "not finite"),
        ("dies", "killed by SIGKILL"),
    ):
        assert manifest(runs / f"{label}-s0")["status"] == "failed"
        assert reason in (runs / f"{label}-s0" / "traceback.txt").read_text()
    for name in ("base", "gvpo-s0", "ppo-s0"):
        assert_same_cell(undisturbed / "runs" / "small" / name, runs / name)
    found = table(tmp_path)
    assert found.loc[["raises", "notanumber", "dies"], "status"].tolist() == ["failed"] * 3
    assert found.loc[["gvpo", "ppo", "late"], "status"].tolist() == ["finished"] * 3
    shown = capfd.readouterr().out
    assert "raises-s0" in shown
    assert "no gradient coefficients of late: ArithmeticError: too far from the base" in shown


class Killed(BaseException):
    """Leaves a cell as SIGKILL would: nothing catches it on the way."""


@pytest.mark.parametrize(
    ("label", "settings"),
    [
        ("ppo", ["train.refresh_every=3", "train.epochs=2"]),
        (
            "gvpo",
            ["train.benchmark=arithmetic-tune", "train.prompts=48", "train.samples=4", "train.history_share=0.5"],
        ),
    ],
    ids=["critic-and-stale-sampler", "history"],
)
def test_cell_killed_again_and_again_ends_with_the_numbers_of_an_undisturbed_one(
    label, settings, suite_file, tmp_path, one_thread
):
    cell = next(c for c in plan(load_suite(str(suite_file), settings)) if c.name == f"{label}-s0")
    assert run_cell(cell, tmp_path / "straight", [], lambda *_: None) == "finished"

    def attempt(stage=None):
        """Runs until a stage; returns the steps that it trained."""
        trained = []

        def on_progress(name, done, total, reward):
            if name == "train":
                trained.append(done)
            if (name, done) == stage:
                raise Killed

        with contextlib.suppress(Killed):
            assert run_cell(cell, tmp_path / "killed", [], on_progress) == "finished"
            assert stage is None
        return trained

    # Checkpoints come after steps 2, 4 and 6, once the step's row is written and told.
    assert attempt(("train", 3)) == [1, 2, 3]
    assert attempt(("train", 6)) == [3, 4, 5, 6]
    assert attempt(("evaluate arithmetic-hard", 12)) == [5, 6]
    assert attempt() == []
    assert_same_cell(tmp_path / "straight" / cell.name, tmp_path / "killed" / cell.name)


def flip(path):
    """Another bit in the middle of a file."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 16
    path.write_bytes(whole)


def test_sweep_sets_aside_what_is_damaged_and_ends_with_the_numbers_of_an_undisturbed_one(
    undisturbed, suite_file, tmp_path, one_thread, monkeypatch, capsys
):
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    runs = tmp_path / "runs" / "small"
    flip(runs / "base" / "samples.parquet")
    rows = (runs / "gvpo-s0" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (runs / "gvpo-s0" / "metrics.jsonl").write_text("".join(rows[:2] + rows[3:]))
    shutil.copy(runs / "ppo-s0" / "samples.parquet", runs / "ppo-s1" / "samples.parquet")
    (runs / "ppo-s0" / "manifest.json").write_text("")
    flip(runs / JOB / "coefficients.parquet")
    # One more is killed after its last checkpoint, which is damaged then.
    shutil.rmtree(runs / "gvpo-s1")
    cell = next(cell for cell in plan(load_suite(str(suite_file))) if cell.name == "gvpo-s1")

    def kill(stage, done, total, reward):
        if (stage, done) == ("train", 5):
            raise Killed

    with contextlib.suppress(Killed):
        run_cell(cell, runs, [], kill)
    flip(next((runs / "gvpo-s1" / "resume").glob("*.safetensors")))

    assert command("report", runs, "--out", tmp_path / "small") == 3
    assert "5 cells do not hold what was recorded" in capsys.readouterr().err
    monkeypatch.setattr(harness.sweep.executors, "LocalPool", InThisProcess)
    assert command("sweep", suite_file, "--workers", 1, "--out", tmp_path) == 0
    said = capsys.readouterr().out
    for line in (
        "base: samples.parquet is not what was recorded",
        "gvpo-s0: metrics.jsonl is not what was recorded",
        "ppo-s1: samples.parquet is not what was recorded",
        "ppo-s0: manifest.json is empty",
        "coefficients: coefficients.parquet is not what was recorded",
        "gvpo-s1: resume/shard",
    ):
        assert line in said
    shutil.rmtree(runs / ".set-aside")
    assert_same_sweep(undisturbed, tmp_path)
    assert verify_runs(runs) == (["6 sound"], False)


def start(suite: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [installed_command(), "sweep", str(suite), "--workers", "1", "--out", str(out)],
        env=lean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(happened, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_sweep_killed_at_a_random_moment_and_after_a_checkpoint_ends_with_the_same_numbers(
    undisturbed, suite_file, tmp_path
):
    out, runs = tmp_path, tmp_path / "runs" / "small"

    # The sweep alone is killed, some moment after training began; its worker is left behind and notices.
    delay = random.uniform(0, 0.3)
    sweep = start(suite_file, out)
    wait_for(lambda: list(runs.glob("*/metrics.jsonl")), sweep)
    time.sleep(delay)
    sweep.kill()
    sweep.wait()
    left = sorted(path.parent.name for path in runs.glob("*/manifest.json"))
    assert left != CELLS, f"all was over {delay:.3f} s after training began"

    # The sweep that goes on is killed with its worker the moment that a new checkpoint is there.
    before = {path: path.stat().st_ino for path in runs.glob("*/resume")}
    sweep = start(suite_file, out)
    wait_for(lambda: any(before.get(p) != p.stat().st_ino for p in runs.glob("*/resume") if p.exists()), sweep)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()

    assert command("sweep", suite_file, "--workers", 1, "--out", out) == 0
    assert_same_sweep(undisturbed, out)
    leftovers = [path.name for path in runs.glob("*/.*") if path.name != ".lock"]
    assert leftovers == []


def test_sweep_whose_time_is_up_reports_whole_seeds_and_goes_on(suite_file, tmp_path, no_figures, capsys):
    quick = ("--set", "train.steps=1", "--set", "resources.checkpoint_every=0", "--workers", 1)
    sweep = ("sweep", suite_file, *quick, "--out", tmp_path)
    assert command(*sweep, "--minutes", 0) == 0
    assert "5 of 5 cells are left: no seed is whole yet, so no report" in capsys.readouterr().out
    assert not (tmp_path / "small").exists()

    assert command(*sweep, "--algorithm", "gvpo") == 0  # both seeds
    assert command(*sweep, "--seeds", 1) == 0  # ppo's first
    assert command(*sweep, "--minutes", 0) == 0
    assert "1 of 5 cells are left: 1 of 2 seeds are whole; the same command goes on" in capsys.readouterr().out
    seeds = pd.read_csv(tmp_path / "small" / "seeds.csv").dropna(subset="seed")  # the base has none
    assert sorted(zip(seeds["algorithm"], seeds["seed"], strict=True)) == [("gvpo", 0), ("ppo", 0)]
    assert "only seeds that every algorithm has run stand here" in (tmp_path / "small" / "README.md").read_text()

    assert command(*sweep, "--minutes", 10) == 0
    assert len(pd.read_csv(tmp_path / "small" / "seeds.csv").dropna(subset="seed")) == 4
    assert "only seeds that every" not in (tmp_path / "small" / "README.md").read_text()


def test_what_still_runs_is_stopped_at_the_first_event_after_the_time(suite_file, monkeypatch):
    class Endless:
        workers, stopped, now = 1, False, 0.0

        def run(self, cells, runs, command):
            try:
                while True:
                    self.now += 40
                    yield CellProgress(cells[0], "train", 1, 2, None)
            finally:
                self.stopped = True

    endless, cells = Endless(), plan(load_suite(str(suite_file)))
    monkeypatch.setattr("harness.sweep.executors.time.monotonic", lambda: endless.now)
    assert len(list(Until(endless, 100.0).run(cells, Path(), []))) == 3  # at 40, 80 and 120 s
    assert endless.stopped


def test_each_worker_gets_a_gpu_of_its_own_and_none_where_cells_take_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_shares(Resources(), 2) == ["", ""]
    assert gpu_shares(Resources(gpus=1), 2) == ["0", "1"]
    assert gpu_shares(Resources(gpus=1), 8) == ["0", "1", "2"]
    assert gpu_shares(Resources(gpus=2), 8) == ["0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert gpu_shares(Resources(gpus=1), 8) == ["4", "6", "7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for gpus in (1, 0.5):
        with pytest.raises(ConfigError, match=rf"resources\.gpus = {gpus}: torch finds no CUDA devices"):
            gpu_shares(Resources(gpus=gpus), 2)


def test_cells_that_take_a_share_of_a_gpu_fill_one_after_all_have_some(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert gpu_shares(Resources(gpus=0.5), 3) == ["4", "6", "4"]
    assert gpu_shares(Resources(gpus=0.5), 16) == ["4", "6", "4", "6"]
    assert gpu_shares(Resources(gpus=0.3), 16) == ["4", "6"] * 3  # a fourth would have 0.1
    assert len(gpu_shares(Resources(gpus=0.125), 16)) == 16


def test_comparison_of_coefficients_which_holds_two_models_has_a_gpu_to_itself(suite_file):
    cell = plan(load_suite(str(suite_file), ["resources.gpus=0.125"]))[1]
    assert coefficients_job([cell]).config.resources.gpus == 1


@pytest.fixture
def shared_gpu(monkeypatch) -> list[float]:
    """A GPU of 80 GB that is not there, and the shares of its memory that processes are held to."""
    held: list[float] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (70e9, 80e9))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", held.append)
    return held


def test_process_is_held_to_its_cells_share_of_the_memory_less_what_cuda_takes(shared_gpu):
    keep_to_share(Resources(gpus=1))
    keep_to_share(Resources())
    assert shared_gpu == []
    keep_to_share(Resources(gpus=0.125))
    assert shared_gpu == [pytest.approx(9 / 80)]  # 80/8 − 1 GB
    with pytest.raises(ConfigError, match=r"resources\.gpus = 0\.0125 of 80 GB: CUDA itself takes 1 GB"):
        keep_to_share(Resources(gpus=0.0125))


def test_cell_that_wants_more_than_its_share_fails_and_says_what_to_do(suite_file, tmp_path, one_thread, monkeypatch):
    def out_of_memory(resources):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("harness.sweep.cell.keep_to_share", out_of_memory)
    cells = {gpus: plan(load_suite(str(suite_file), [f"resources.gpus={gpus}"]))[1] for gpus in (0.25, 1)}
    for gpus, cell in cells.items():
        assert run_cell(cell, tmp_path / str(gpus), [], lambda *_: None) == "failed"
    texts = [(tmp_path / gpus / cells[1].name / "traceback.txt").read_text() for gpus in ("0.25", "1")]
    assert ["The cell has 0.25 of a GPU (resources.gpus)" in text for text in texts] == [True, False]


def test_cells_that_find_the_disk_full_fail_with_that_sentence_which_the_sweep_repeats(
    suite_file, tmp_path, one_thread, monkeypatch, capsys
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    monkeypatch.setattr("harness.sweep.cell._work", full)
    monkeypatch.setattr(harness.sweep.executors, "LocalPool", InThisProcess)
    assert command("sweep", suite_file, "--algorithm", "gvpo", "--seeds", 1, "--workers", 1, "--out", tmp_path) == 1
    said = "metrics.jsonl: No space left on device; make room, and the same command goes on from here"
    assert f"failed gvpo-s0: {said}" in capsys.readouterr().out


def test_cuda_without_a_gpu_for_a_cell_is_refused_before_any_cell(suite_file, tmp_path, no_workers):
    cells = plan(load_suite(str(suite_file), ["model.device=cuda"]))
    with pytest.raises(ConfigError, match=r"model\.device = 'cuda' with resources\.gpus = 0"):
        run_cells(cells, tmp_path / "out", executor=LocalPool(1), command=[], console=Console())
    assert not (tmp_path / "out").exists()


def test_users_file_that_changes_after_planning_is_run_as_it_was(suite_file, tmp_path, one_thread):
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY, encoding="utf-8")
    entry = f'algorithms.raises={{algorithm="{path}:Raises", optimizer={{lr=1e-3, max_norm=1.0}}}}'
    cell = next(c for c in plan(load_suite(str(suite_file), [entry])) if c.name == "raises-s0")
    path.write_text(FAULTY.replace("the moon", "the sun"), encoding="utf-8")
    assert run_cell(cell, tmp_path, [], lambda *_: None) == "failed"
    assert "the moon is in the wrong house" in (tmp_path / "raises-s0" / "traceback.txt").read_text()
    assert (tmp_path / "raises-s0" / "algorithm.py").read_text() == FAULTY


def test_response_longer_than_the_models_positions_is_refused_before_any_cell(suite_file, tmp_path, no_workers, capsys):
    code = command("sweep", suite_file, "--set", "train.max_new_tokens=52", "--out", tmp_path / "out")
    assert code == 2
    # 64 positions less 13 tokens of the longest prompt
    assert "52 does not fit" in (message := capsys.readouterr().err)
    assert "at most 51 are left" in message
    assert not (tmp_path / "out").exists()


def test_model_that_is_not_to_be_had_is_refused_before_any_cell(suite_file, tmp_path, no_workers, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = command("sweep", suite_file, "--set", f"model.path={tmp_path / 'nowhere'}", "--out", tmp_path / "out")
    assert code == 2
    assert "model.path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_another_process_holds_is_not_written_to(suite_file, tmp_path, monkeypatch):
    cell = plan(load_suite(str(suite_file)))[1]
    monkeypatch.setattr("harness.sweep.cell.BURIAL_SECONDS", 0.1)
    folder = CellFolder(tmp_path / cell.name)
    with folder.claim(cell.config.hashes()):
        assert bury_cell(cell, tmp_path, [], "it died", 1.0) == "failed"
        assert {path.name for path in (tmp_path / cell.name).iterdir()} == {".lock", "hash"}
    assert folder.traceback_path.read_text().startswith("it died\n")
    assert "is in use by another process" in folder.error()
    assert bury_cell(cell, tmp_path, [], "it died again", 1.0) == "failed"
    assert folder.traceback_path == tmp_path / cell.name / "traceback.txt"
    assert folder.traceback_path.read_text() == "it died again"
