"""A sweep that is watched: what its page says so far, and whom it is shown to."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small import files
from synthetic_runs import config, write_cell
from typer.testing import CliRunner

from harness.cli import app
from harness.record.cell_folder import CellFolder
from harness.record.kept_samples import KEPT_COLUMNS
from harness.record.standing import PlannedCell, read_plan, rows_of, stage_of, write_plan
from harness.site import live_pages
from harness.site.live_pages import LivePages
from harness.site.local_server import serving
from harness.site.vendored import SiteError
from harness.site.watch import watch

SCORES = {"arithmetic": np.array([[1.0, 0.0]]), "arithmetic-hard": np.array([[0.0, 0.0]])}
PLAN = [
    PlannedCell("base", "base", None, 0, "arithmetic-train"),
    *(PlannedCell(f"{label}-s0", label, 0, 3, "arithmetic-train") for label in ("gvpo", "grpo", "ppo")),
]


def data_of(pages: LivePages, name: str) -> Any:
    """What a data script hands to the page."""
    content = pages.find(f"data/{name}.js", "")
    assert content is not None
    return json.loads(gzip.decompress(base64.b64decode(content.split(b"'")[1])))


def shown(pages: LivePages, name: str) -> dict[str, list[str]]:
    """A table by its columns."""
    return {column["name"]: column["texts"] for column in data_of(pages, name)["columns"]}


def watched(runs: Path) -> LivePages:
    """The page as it is once what is over has been compared."""
    pages = LivePages(runs)
    assert pages.refresh()
    assert pages.refresh()
    return pages


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The base is over, GVPO has been trained for two steps of three, GRPO and PPO have not begun."""
    folder = tmp_path / "runs" / "s"
    settings = config()
    settings["train"] |= {"benchmark": "arithmetic-train"}
    write_cell(folder, "base", None, SCORES, settings=settings)
    write_plan(folder, PLAN)
    cell = CellFolder(folder / "gvpo-s0")
    cell.path.mkdir()
    (cell.path / "hash").write_text("h")
    for step in (1, 2):
        cell.kept.write(
            step, pd.DataFrame([("t", 0, "=3", "3", "correct", 1.0, 3, False, -0.5)], columns=[*KEPT_COLUMNS])
        )
        cell.add_metrics({"step": step, "reward": step / 8})
    return folder


def test_a_sweep_says_which_cells_it_is_asked_for_and_says_it_once(tmp_path):
    assert read_plan(tmp_path) == []
    write_plan(tmp_path, PLAN)
    before = files(tmp_path)
    write_plan(tmp_path, PLAN)
    assert files(tmp_path) == before
    assert read_plan(tmp_path) == PLAN
    (tmp_path / "sweep.json").write_text('{"cells": [{"a": 1}]}')
    assert read_plan(tmp_path) == []


def test_the_stage_of_a_cell_is_what_its_folder_shows(tmp_path):
    cell = CellFolder(tmp_path / "gvpo-s0")
    assert stage_of(cell.path) == "waiting"
    cell.path.mkdir()
    (cell.path / "hash").write_text("h")
    assert stage_of(cell.path) == "started"
    cell.add_metrics({"step": 1})
    assert stage_of(cell.path) == "training"
    assert [row["step"] for row in rows_of(cell.path, "h")] == [1]
    assert rows_of(cell.path, "other") == []  # they are of a run that is still to be cleared
    cell.finish_training("h", {}, lambda folder: None)
    assert stage_of(cell.path) == "evaluating"
    cell.write_traceback("ValueError")
    assert stage_of(cell.path) == "failed"
    cell.finish({"status": "finished"})
    assert stage_of(cell.path) == "finished"


def test_the_page_of_a_sweep_in_progress_has_its_progress_its_curves_and_its_samples_so_far(runs):
    before = files(runs)
    pages = watched(runs)
    assert files(runs) == before  # it reads
    progress = shown(pages, "s/progress")
    assert progress["run"] == ["gvpo-s0", "grpo-s0", "ppo-s0", "base"]  # what is at work comes first
    assert progress["stage"] == ["training", "waiting", "waiting", "finished"]
    assert (progress["step"], progress["of"]) == (["2", "", "", ""], ["3", "3", "3", ""])
    assert progress["reward"] == ["0.250", "", "", ""]
    overview = data_of(pages, "s/overview")
    assert overview["cells"] == [["base", "base", None, "finished"], ["gvpo-s0", "gvpo", 0, "training"]]
    assert data_of(pages, f"s/curves-{overview['metrics'].index('reward')}") == [[1, [0.125, 0.25]]]
    live = data_of(pages, "live")
    assert (live["counts"], live["runs"]) == ({"training": 1, "waiting": 2, "finished": 1}, 4)
    training = data_of(pages, "s/training")
    assert (training["algorithms"], training["steps"]) == (["gvpo"], [1, 2])
    assert training["problems"][0]["rewards"] == {"1": [1.0], "2": [1.0]}
    assert overview["tables"][0]["what"] == "scores"


def test_the_page_is_made_anew_when_something_has_changed_and_not_else(runs, monkeypatch):
    monkeypatch.setattr(live_pages, "REST", 0.0)
    pages = watched(runs)
    first = data_of(pages, "live")["version"]
    assert not pages.refresh()
    problems = pages.find("data/s/problems.js", "")
    CellFolder(runs / "gvpo-s0").add_metrics({"step": 3, "reward": 0.5})
    assert pages.refresh()
    assert data_of(pages, "live")["version"] != first
    assert shown(pages, "s/progress")["step"] == ["3", "", "", ""]
    assert pages.find("data/s/problems.js", "") is problems  # of cells that are over
    old = pages.find("data/s/progress.js", first)
    assert old is not None  # whoever has the page of before may still ask for it
    assert old != pages.find("data/s/progress.js", "")
    write_cell(runs, "grpo", 0, SCORES, curve=[0.5])
    assert pages.refresh()
    assert shown(pages, "s/progress")["stage"] == ["training", "waiting", "finished", "finished"]
    assert pages.find("data/s/problems.js", "") != problems


def test_there_is_a_page_before_the_comparison_is_made(runs):
    pages = LivePages(runs)
    assert pages.refresh()
    assert shown(pages, "s/progress")["stage"] == ["training", "waiting", "waiting", "finished"]
    assert data_of(pages, "s/overview")["notes"] == [live_pages.NOT_YET]
    assert pages.refresh()
    assert data_of(pages, "s/overview")["tables"][0]["what"] == "scores"


def test_cells_that_cannot_be_compared_leave_the_tables_as_they_were_and_say_why(runs, monkeypatch):
    monkeypatch.setattr(live_pages, "REST", 0.0)
    pages = watched(runs)
    write_cell(runs, "grpo", 0, SCORES, curve=[0.5], suite_hash="another")
    assert pages.refresh()
    assert "mixes cells of different suites" in data_of(pages, "live")["trouble"]
    assert data_of(pages, "s/overview")["tables"][0]["columns"][0]["texts"] == ["BASE"]
    assert not pages.refresh()


@pytest.mark.parametrize("first", [True, False])
def test_a_cell_that_starts_over_while_the_page_is_made_leaves_the_page_as_it_was(runs, monkeypatch, first):
    monkeypatch.setattr(live_pages, "REST", 0.0)
    pages = LivePages(runs) if first else watched(runs)
    rows = runs / "gvpo-s0" / "metrics.jsonl"
    made = live_pages.pages_of

    def start_over(*given: Any) -> Any:
        rows.unlink(missing_ok=True)
        return made(*given)

    monkeypatch.setattr(live_pages, "pages_of", start_over)
    CellFolder(runs / "gvpo-s0").add_metrics({"step": 3})
    assert not pages.refresh()
    live = data_of(pages, "live")
    assert live["trouble"] == live_pages.UNSTEADY
    assert pages.refresh()
    assert data_of(pages, "live")["version"] != live["version"]
    assert data_of(pages, "live")["trouble"] is None
    assert shown(pages, "s/progress")["stage"] == ["started", "waiting", "waiting", "finished"]


def test_what_cannot_be_read_for_longer_is_named(runs, monkeypatch):
    monkeypatch.setattr(live_pages, "REST", 0.0)
    pages = watched(runs)
    (runs / "gvpo-s0" / "training-samples" / "step-0000002.parquet").write_bytes(b"PAR1")
    CellFolder(runs / "gvpo-s0").add_metrics({"step": 3})
    assert not pages.refresh()
    assert not pages.refresh()
    assert "step-0000002.parquet" in data_of(pages, "live")["trouble"]


def begin(runs: Path, name: str) -> None:
    """The first step of a cell."""
    (runs / name).mkdir()
    CellFolder(runs / name).add_metrics({"step": 1, "reward": 0.5})


def labels(pages: LivePages) -> list[str]:
    return [algorithm for _, algorithm, _, _ in data_of(pages, "s/overview")["cells"]]


def test_the_runs_of_two_protocols_are_two_algorithms_and_those_of_one_are_one(tmp_path):
    runs = tmp_path / "s"
    plan = [
        PlannedCell(f"{label}-s{seed}", label, seed, 3, "arithmetic-train")
        for label in ("gvpo", "gvpo@default")
        for seed in (0, 1)
    ]
    write_cell(runs, "base", None, SCORES)
    write_plan(runs, plan)
    begin(runs, "gvpo@default-s1")
    assert labels(watched(runs)) == ["base", "gvpo"]
    write_cell(runs, "gvpo", 0, SCORES, curve=[0.5], protocol="default")
    assert labels(watched(runs)) == ["base", "gvpo", "gvpo"]  # as the report of what is over calls them
    begin(runs, "gvpo-s1")
    assert labels(watched(runs)) == ["base", "gvpo", "gvpo@tuned", "gvpo"]
    write_cell(runs, "gvpo", 0, SCORES, curve=[0.5])
    assert labels(watched(runs)) == ["base", "gvpo", "gvpo@default", "gvpo", "gvpo@default"]


def test_names_in_the_table_of_progress_are_escaped(tmp_path):
    write_plan(tmp_path / "s", [PlannedCell("a_b-s0", "a_b", 0, 3, "arithmetic-train")])
    assert data_of(watched(tmp_path / "s"), "s/progress")["escaped"]["a_b-s0"][1] == r"a\_b-s0"


def test_before_any_cell_is_over_there_is_a_page_too(tmp_path):
    folder = tmp_path / "s"
    write_plan(folder, PLAN)
    pages = watched(folder)
    assert data_of(pages, "s/overview")["tables"] == []
    assert shown(pages, "s/progress")["stage"] == ["waiting"] * 4
    assert pages.find("index.html", "") == pages.find("", "")


@pytest.fixture
def address() -> Iterator[str]:
    found = {"": b"the page", "page/site.css": b"a {}"}
    with serving(lambda path, version: found.get(path)) as url:
        yield url.removeprefix("http://").rstrip("/")


def answer(address: str, path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    return connection.getresponse()


def test_the_server_gives_its_files_to_this_machines_browser(address):
    assert address.startswith("127.0.0.1:")
    found = answer(address)
    assert (found.status, found.read()) == (200, b"the page")
    assert found.headers["Content-Type"] == "text/html; charset=utf-8"
    assert found.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert answer(address, "/page/site.css?v=1-2").headers["Content-Type"] == "text/css; charset=utf-8"
    head = answer(address, method="HEAD")
    assert (head.status, head.headers["Content-Length"], head.read()) == (200, "8", b"")
    port = address.rpartition(":")[2]
    assert answer(address, Host=f"localhost:{port}").status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", ""])
def test_another_name_for_this_machine_is_refused(address, host):
    assert answer(address, Host=host.format(port=address.rpartition(":")[2])).status == 421


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("same-origin", "no-cors", 200),
        ("cross-site", "no-cors", 403),
        ("same-site", "cors", 403),
        ("cross-site", "navigate", 200),
    ],
)
def test_scripts_of_other_pages_get_nothing_and_links_lead_here(address, site, mode, status):
    assert answer(address, Sec_Fetch_Site=site, Sec_Fetch_Mode=mode).status == status


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/etc/passwd", "//etc/passwd", "/page/../site.css", "/page", "/x"]
)
def test_a_path_is_the_name_of_a_file_that_is_served_or_nothing(address, path):
    assert answer(address, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_asked_of_it_but_to_show(address, method):
    assert answer(address, method=method).status == 501


def test_ctrl_c_ends_it_within_a_second(runs):
    said: list[str] = []
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            timer.start()

    started = time.monotonic()
    watch(runs, port=0, say=say)
    assert time.monotonic() - started < 0.3 + 1 + 3  # the page is made first
    assert said[0].startswith(f"watching {runs} at http://127.0.0.1:")
    assert said[1] == "ended; the runs go on"
    with pytest.raises(ConnectionRefusedError):
        answer(said[0].split()[-4].removeprefix("http://").rstrip("/"))


def test_what_cannot_be_watched_is_refused_with_what_to_do(tmp_path):
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "nowhere")])
    assert isinstance(done.exception, SiteError)
    assert "is not a folder" in str(done.exception)
    with serving(lambda path, version: None) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(SiteError, match=f"port {port} is in use: give another --port"),
            serving(lambda *_: None, port),
        ):
            pass
