"""The page that is watched, in a browser: what is new comes, and the reader's place stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page
from site_reader import Reader
from synthetic_runs import config, write_cell

from harness.record.cell_folder import CellFolder
from harness.record.kept_samples import KEPT_COLUMNS
from harness.record.standing import PlannedCell, write_plan
from harness.site import live_pages
from harness.site.live_pages import LivePages
from harness.site.local_server import serving

pytest_plugins = ["browser_fixture"]

HOSTILE = '</script><img src=x onerror="window.hurt=1">'
LABELS = ("gvpo", "grpo", "ppo")


class Watcher(Reader):
    """A reader of the page of a sweep in progress, who can have it go on."""

    def __init__(self, browser: Browser, runs: Path) -> None:
        super().__init__(browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce"), runs)
        self.pages = LivePages(runs)
        self.running = contextlib.ExitStack()
        self.expected = "nothing"
        self.pages.refresh()
        self.pages.refresh()
        self.url = self.running.enter_context(serving(self.pages.find))

    def open(self, where: str) -> Page:
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}{where}")
        self.ready()
        self.page.evaluate("site.period = 50")
        return self.page

    def end(self) -> None:
        """Ends the server, after which the page, which goes on asking, says that requests fail, however they do."""
        assert self.said == []
        self.running.close()
        self.expected = "Failed to load resource: net::"

    def train(self, label: str, step: int) -> None:
        """Has a cell take its next step."""
        cell = CellFolder(self.folder / f"{label}-s0")
        cell.path.mkdir(exist_ok=True)
        right, wrong = (HOSTILE, "3", "correct", 1.0, 3, False, -0.5), ("=4", "4", "wrong", 0.0, 2, False, -2.0)
        cell.kept.write(step, pd.DataFrame([("p", 0, *right), ("p", 1, *wrong)], columns=[*KEPT_COLUMNS]))
        cell.add_metrics({"step": step, "reward": step / 8})

    def renew(self) -> None:
        """Has the page be made anew, and waits until the reader sees it."""
        assert self.pages.refresh()
        version = next(reversed(self.pages.versions))
        self.until(f"site.version === '{version}' && !document.querySelector('main').hasAttribute('aria-busy')")


def finished(runs: Path, label: str, seed: int | None) -> None:
    settings = config()
    settings["train"] |= {"benchmark": "arithmetic-train"}
    scores = {"arithmetic": np.array([[1.0, 0.0]]), "arithmetic-hard": np.array([[0.0, 0.0]])}
    write_cell(runs, label, seed, scores, curve=() if seed is None else [0.25, 0.5], settings=settings)


@pytest.fixture
def watcher(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    """The base and GVPO are over; GRPO and PPO have not begun."""
    monkeypatch.setattr(live_pages, "REST", 0.0)
    runs = tmp_path / "s"
    finished(runs, "base", None)
    finished(runs, "gvpo", 0)
    write_plan(
        runs,
        [PlannedCell("base", "base", None, 0, "arithmetic-train")]
        + [PlannedCell(f"{label}-s0", label, 0, 2, "arithmetic-train") for label in LABELS],
    )
    watcher = Watcher(browser, runs)
    yield watcher
    assert watcher.page.evaluate("window.hurt") is None
    watcher.page.goto("about:blank")  # or it asks a server that ends, every 50 ms
    watcher.running.close()
    assert [text for text in watcher.said if not text.startswith(watcher.expected)] == []
    assert [url for url in watcher.asked if not url.startswith((watcher.url, "data:", "blob:", "about:"))] == []
    watcher.page.context.close()


def test_what_is_new_comes_and_the_reader_keeps_filter_order_columns_menus_and_cursor(watcher):
    page = watcher.open("#/s/leaderboard")
    bar = page.locator(".live-bar")
    assert "4 runs, 2 waiting, 2 finished" in bar.inner_text()
    page.get_by_text("Columns").click()
    page.get_by_label("length (tokens)", exact=True).uncheck()
    page.get_by_role("columnheader", name="avg@8").first.get_by_role("button").click()
    search = page.get_by_label("Filter rows")
    search.fill("p")
    watcher.until("location.hash.includes('q=p')")
    search.press("Home")
    link = page.url
    assert watcher.column_becomes(1, ["GVPO"])
    finished(watcher.folder, "grpo", 0)
    watcher.renew()
    assert watcher.column_becomes(1, ["GRPO", "GVPO"])
    assert page.url == link
    assert page.get_by_label("Filter rows").input_value() == "p"
    assert page.evaluate("[document.activeElement.type, document.activeElement.selectionStart]") == ["search", 0]
    assert page.locator("details.menu[open]").count() == 1
    assert not any("length" in text for text in page.locator(".grid thead th").all_inner_texts())
    assert "4 runs, 1 waiting, 3 finished" in bar.inner_text()

    page.get_by_role("button", name="Pause").click()
    version = page.evaluate("site.version")
    finished(watcher.folder, "ppo", 0)
    watcher.pages.refresh()
    page.wait_for_timeout(300)
    assert page.evaluate("site.version") == version
    page.get_by_role("button", name="Go on").click()
    watcher.until(f"site.version !== '{version}'")

    watcher.end()
    watcher.until("document.querySelector('.live-bar').textContent.includes('gvpo-bench watch has ended')")


def test_progress_and_curves_are_those_so_far_and_a_zoom_stays(watcher):
    page = watcher.open("")
    watcher.until("document.title.includes('Progress')")
    assert watcher.column_becomes(1, ["grpo-s0", "ppo-s0", "base", "gvpo-s0"])
    watcher.train("ppo", 1)
    watcher.renew()
    assert watcher.column_becomes(1, ["ppo-s0", "grpo-s0", "base", "gvpo-s0"])
    assert page.locator(".grid tbody tr").first.inner_text().split("\t")[3:7] == ["training", "1", "2", "0.125"]
    page.get_by_role("link", name="ppo-s0").click()
    page.get_by_role("link", name="Its curves").click()
    page.wait_for_selector(".plot[data-drawn]")
    page.evaluate("Plotly.relayout(document.querySelector('.plot'), {'yaxis.range[0]': 0, 'yaxis.range[1]': 0.5})")
    watcher.until("location.hash.includes('yr=0.00000%2C0.500000')")
    watcher.train("ppo", 2)
    watcher.renew()
    watcher.until("document.querySelector('.view:not(.coming) .plot')?.data[0].x.length === 2")
    assert page.evaluate("document.querySelector('.plot').layout.yaxis.range") == [0, 0.5]


def test_responses_of_training_are_shown_by_problem_and_step(watcher):
    for step in (1, 2):
        watcher.train("ppo", step)
    watcher.pages.refresh()
    page = watcher.open("#/s/problems")
    page.get_by_label("Responses").select_option("training")
    assert watcher.column_becomes(1, ["p"])
    page.get_by_label("Step", exact=True).select_option("2")
    watcher.until("document.querySelector('.grid tbody').textContent.includes('0.500')")  # of rewards 1 and 0
    page.get_by_role("link", name="p", exact=True).click()
    page.wait_for_selector("h4")
    assert page.locator("h4").all_inner_texts() == ["step 2"]
    assert page.locator(".card pre").all_inner_texts() == [HOSTILE, "=4"]
    assert "reward 1, log-prob -0.5 nats" in page.inner_text(".card")
    page.get_by_label("Step", exact=True).select_option("")
    watcher.until("document.querySelectorAll('h4').length === 2")
    assert "of=training" in page.url
