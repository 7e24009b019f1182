"""The page in a browser: what a reader does with it, and what it never does. One Chromium for all tests."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page
from site_reader import Reader
from synthetic_runs import config, write_cell

from benchmarks import DataError, Problem
from harness.report import figures
from harness.report.suite_report import write_report
from harness.site import site_problems
from harness.site.site_files import write_site
from harness.site.site_suite import SuitePages, suite_pages

pytest_plugins = ["browser_fixture"]

HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=2">\u202e\x07'
SEEN = HOSTILE.replace("\u202e", "\\u202e").replace("\x07", "\\u0007")
NAME = '<img src=x onerror="window.hurt=3">'
BENCHMARK = "sums<b>"
STEPS = 3


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def pages(out: Path) -> SuitePages:
    """Three algorithms at two seeds, the base, a failed run, and hostile texts."""
    runs = out / "runs" / "small"
    settings = config(evaluation={"benchmarks": [BENCHMARK], "hard_benchmarks": ["hard"], "samples": 4})
    # right samples of four on each of three problems, and on the hard one
    right = {"base": [1, 0, 0, 0], "gvpo": [4, 4, 4, 2], "grpo": [4, 0, 2, 2], "evil": [0, 4, 0, 0]}
    for label, counts in right.items():
        for seed in [None] if label == "base" else [0, 1]:
            score_PK = np.array([[float(sample < count) for sample in range(4)] for count in counts])
            write_cell(
                runs,
                label,
                seed,
                {BENCHMARK: score_PK[:3], "hard": score_PK[3:]},
                display={"evil": NAME, "base": "base"}.get(label),
                kl=0.25,
                curve=() if label == "base" else [0.1, 0.2 + 0.2 * (seed or 0), counts[0] / 4][:STEPS],
                settings=settings,
            )
    write_cell(runs, "ppo", 0, {}, status="failed", settings=settings)
    (runs / "ppo-s0" / "traceback.txt").write_text(f"Traceback\nValueError: {HOSTILE}\n")
    path = runs / "evil-s0" / "samples.parquet"
    samples = pd.read_parquet(path)
    samples.loc[0, ["response", "answer"]] = [HOSTILE, "=1+1"]
    samples.to_parquet(path)

    class Known:
        def problems(self) -> list[Problem]:
            return [Problem(id=f"{BENCHMARK}-{i}", prompt=f"{HOSTILE} {i}", answer=f"gold {i}") for i in range(3)]

    def load(name: str) -> Known:
        if name == BENCHMARK:
            return Known()
        raise DataError("the hard ones are not there")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_problems, "load_benchmark", load)
        patch.setattr(figures, "draw", lambda **given: [])  # which takes longer than all else here
        return suite_pages(write_report(runs, out / "small").publication)


@pytest.fixture(scope="module")
def site(out: Path, pages: SuitePages) -> Path:
    """The folder of the report, in which there is a site of that suite and the same under another name."""
    other = dataclasses.replace(pages, suite="other", summary={**pages.summary, "suite": "other"})
    write_site(out / "small" / "site", [pages, other])
    return out / "small"


@pytest.fixture
def reader(browser: Browser, site: Path) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    reader = Reader(context, site)
    yield reader
    assert reader.said == []
    own = (reader.folder / "site").as_uri()
    assert [url for url in reader.asked if not url.startswith((own, "data:", "blob:", "about:"))] == []
    assert reader.page.evaluate("window.hurt") is None
    context.close()


@pytest.fixture(scope="module")
def large(site: Path, pages: SuitePages, tmp_path_factory) -> Path:
    """The same site with 500 problems and 100 runs."""
    problems, overview = pages.data["problems"], pages.data["overview"]
    rows = [{**problems["problems"][0], "id": f"problem {i}"} for i in range(500)]
    columns = [
        {name: value if name == "name" else (value * 15)[:100] for name, value in column.items()}
        for column in overview["runs"]["columns"]
    ]
    runs = {"what": "runs", "columns": columns}
    data = {**pages.data, "problems": {**problems, "problems": rows}, "overview": {**overview, "runs": runs}}
    out = tmp_path_factory.mktemp("large")
    write_site(out / "site", [dataclasses.replace(pages, data=data)])
    return out


def test_a_hundred_runs_and_five_hundred_problems_open_within_two_seconds_of_work_and_scroll(reader, large):
    reader.folder = large
    page = reader.page
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def work() -> float:
        """Seconds that the page's main thread has worked, whatever else the machine does meanwhile."""
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    for view, rows in (("problems", 500), ("runs", 100)):
        reader.open(f"#/small/{view}")
        assert page.locator(".grid tbody tr").count() == rows
        opened = work()  # since the page was new, or more
        assert 0 < opened < 2
        for _ in range(10):
            page.mouse.wheel(0, 2000)
            page.evaluate("new Promise(requestAnimationFrame)")
        assert work() - opened < 0.5


VIEWS = ("leaderboard", "pairs", "curves", "runs", "runs?run=ppo-s0", "problems", f"problems?problem={BENCHMARK}-0")


def test_every_view_fits_a_phone_has_its_landmarks_and_names_its_controls(reader):
    for view in VIEWS:
        page = reader.open(f"#/small/{view}")
        for width in (390, 1440):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)
        assert page.locator("h1").count() == 1
        for landmark in ("banner", "main", "contentinfo"):
            assert page.get_by_role(landmark).count() == 1
        unnamed = page.evaluate(
            """[...document.querySelectorAll('main input, main select, main button, main a')].filter((one) =>
              !(one.labels?.length || one.textContent.trim() || one.ariaLabel || one.dataset.title))
              .map((one) => one.outerHTML)"""
        )
        assert unnamed == []


def test_a_site_of_several_suites_begins_with_an_index_and_says_what_does_not_exist(reader):
    page = reader.open("")
    assert page.get_by_role("heading", level=2).all_inner_texts() == ["small", "other"]
    page.get_by_role("main").get_by_role("link", name="other").click()
    reader.until("document.title.includes('Leaderboard')")
    assert "#/other/leaderboard" in page.url
    assert "There is no suite called nothing" in reader.open("#/nothing/leaderboard").inner_text("main")
    assert "There is no view called nothing" in reader.open("#/small/nothing").inner_text("main")


def test_the_leaderboard_sorts_filters_and_hides_and_its_link_restores_all_three(reader):
    page = reader.open("#/small/leaderboard")
    assert reader.column_becomes(1, ["base", "GVPO", "GRPO", NAME, "ppo"])  # as in table.md
    sorting = page.get_by_role("columnheader", name="avg@4").first.get_by_role("button")
    sorting.focus()
    page.keyboard.press("Enter")
    # base 1/12, evil 4/12, GRPO 6/12, GVPO 12/12; ppo failed, and what has no number comes last
    assert reader.column_becomes(1, ["base", NAME, "GRPO", "GVPO", "ppo"])
    page.keyboard.press("Enter")
    assert reader.column_becomes(1, ["GVPO", "GRPO", NAME, "base", "ppo"])
    page.get_by_label("Filter rows").fill("po")
    reader.until("document.querySelector('.count').textContent === '3 of 5 rows'")
    assert reader.column_becomes(1, ["GVPO", "GRPO", "ppo"])
    page.get_by_text("Columns").click()
    page.get_by_label("length (tokens)", exact=True).uncheck()
    headings = page.locator(".grid thead th").all_inner_texts()
    assert not any("length" in text for text in headings)
    link = page.url

    again = reader.open(link[link.index("#") :])
    assert reader.column_becomes(1, ["GVPO", "GRPO", "ppo"])
    assert again.locator(".grid thead th").all_inner_texts() == headings
    shown = reader.saved("CSV").splitlines()
    assert [line.split(",")[0] for line in shown] == ["algorithm", "GVPO", "GRPO", "ppo"]
    assert "length" not in shown[0]


def test_the_table_that_is_shown_is_written_as_the_report_writes_it(reader):
    reader.open("#/small/leaderboard")
    markdown = reader.saved("Markdown")
    assert markdown.rstrip("\n") in (reader.folder / "table.md").read_text(encoding="utf-8")
    latex = (reader.folder / "table.tex").read_text(encoding="utf-8")
    for line in reader.saved("LaTeX").splitlines():
        assert line in latex
    assert "window.hurt" in latex  # the hostile name is among these lines


def test_intervals_are_drawn_where_they_are(reader):
    page = reader.open("#/small/leaderboard")
    # evil: right on one problem of three at each seed, so its interval is the widest of the column, 0.333 ± h
    left, width, point = page.evaluate(
        """(() => {
          const bar = document.querySelectorAll('.grid tbody tr')[3].querySelector('.bar');
          const [line, point] = ['i', 'b'].map((tag) => bar.querySelector(tag).style);
          return [line.left, line.width, point.left].map(parseFloat);
        })()"""
    )
    assert point == pytest.approx(left + width / 2)
    assert 0 <= left < point < left + width <= 100


def test_hostile_texts_are_shown_and_do_nothing(reader):
    page = reader.open(f"#/small/problems?problem={BENCHMARK}-0")
    assert SEEN in page.locator(".card pre").all_inner_texts()
    assert f"{SEEN} 0" in page.locator(".problem pre").all_inner_texts()
    assert NAME in page.locator(".card h3").all_inner_texts()
    assert SEEN in reader.open("#/small/runs?run=ppo-s0").inner_text("main")
    assert reader.open("#/small/pairs").locator("th", has_text="onerror").count() == 2
    page = reader.open("#/small/curves")
    assert page.locator("img, main script").count() == 0
    assert reader.said == []
    # Were it ever parsed as HTML, the policy would still let nothing run.
    page.evaluate("(html) => { document.body.insertAdjacentHTML('beforeend', html) }", HOSTILE)
    reader.until("document.querySelector('img') !== null")
    page.wait_for_timeout(100)
    assert reader.said != []
    assert all("Content Security Policy" in text for text in reader.said)
    reader.said.clear()


def test_a_problem_shows_all_algorithms_side_by_side_with_answer_gold_and_verdict(reader):
    page = reader.open(f"#/small/problems?problem={BENCHMARK}-0&benchmark={BENCHMARK}")
    assert page.locator(".card h3").all_inner_texts() == ["GVPO", "GRPO", NAME]
    assert "gold 0" in page.inner_text(".problem")
    evil = page.locator(".card").nth(2)
    assert "0 of 8 correct" in evil.inner_text()  # two seeds of four samples
    assert "=1+1" in evil.inner_text()
    assert "wrong" in evil.inner_text()
    assert "KL 0.25 nats" in evil.inner_text()
    page.get_by_label("Seed").select_option("1")
    reader.until("document.querySelectorAll('.card')[2].textContent.includes('0 of 4 correct')")
    assert "seed=1" in page.url
    page.get_by_role("link", name="Next").click()
    reader.until(f"document.querySelector('h2')?.textContent === '{BENCHMARK}-1'")
    assert "the hard ones are not there" in page.inner_text("main")


def test_problems_are_cut_to_those_where_the_chosen_algorithms_differ(reader):
    page = reader.open("#/small/problems?on=gvpo&on=grpo")
    assert len(reader.column(1)) == 4
    slider = page.get_by_label("Apart by at least")
    slider.fill("0.75")
    # GVPO less GRPO: 4/4 − 4/4, 4/4 − 0/4, 4/4 − 2/4, and 2/4 − 2/4 on the hard one
    reader.until("document.querySelectorAll('.grid tbody tr').length === 1")
    assert reader.column_becomes(1, [f"{BENCHMARK}-1"])
    assert "apart=0.75" in page.url


def test_curves_change_their_axes_and_each_gives_its_data(reader):
    page = reader.open("#/small/curves?on=gvpo&on=grpo")
    page.wait_for_selector(".plot[data-drawn]")
    assert page.locator(".plot .scatterlayer .trace").count() == 4  # a band and a line each
    with page.expect_download() as download:
        page.get_by_role("button", name="points of GVPO as CSV").click()
    rows = pd.read_csv(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8")))
    assert list(rows["step"]) == [1, 2, 3]
    assert rows["mean"].tolist() == pytest.approx([0.1, 0.3, 1.0])  # of 0.2 and 0.4 at step 2
    # Two seeds: t at one degree of freedom, 12.706, times s/√2 = (0.2/√2)/√2
    assert rows["high"][1] - rows["mean"][1] == pytest.approx(12.7062 * 0.1, rel=1e-4)
    for label, chosen, drawn in (("Drawn", "seeds", 4), ("Against", "generated_tokens", 4), ("Drawn", "quantiles", 4)):
        page.get_by_label(label, exact=True).select_option(chosen)
        reader.until(f"document.querySelectorAll('.plot .scatterlayer .trace').length === {drawn}")
    page.get_by_label("log y").check()
    reader.until("document.querySelector('.plot').layout.yaxis.type === 'log'")
    assert page.evaluate("document.querySelector('.plot').layout.xaxis.title.text") == "generated tokens"
    page.evaluate("Plotly.relayout(document.querySelector('.plot'), {'xaxis.range[0]': 1, 'xaxis.range[1]': 900})")
    reader.until("location.hash.includes('xr=1.00000%2C900.000')")
    link = page.url[page.url.index("#") :]
    page = reader.open(link)
    page.wait_for_selector(".plot[data-drawn]")
    assert page.evaluate("document.querySelector('.plot').layout.xaxis.range") == [1, 900]
    assert page.evaluate("document.querySelector('.plot').layout.yaxis.type") == "log"


def test_the_matrix_is_read_with_the_keyboard(reader):
    page = reader.open("#/small/pairs")
    assert page.locator("td.pair").count() == 6  # three algorithms, both ways
    page.locator("td.pair[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    # On problems 4, 4, 4 and 0, 4, 0 of four: 1 − 1/3
    assert f"GVPO less {NAME}: +0.667" in page.inner_text(".detail")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")  # past the diagonal
    assert "2 seeds; not tested" in page.inner_text(".detail")
    shown = reader.saved("CSV").splitlines()
    assert shown[0].startswith("row less column,GVPO,GRPO,")
    assert len(shown) == 4


def test_a_run_shows_its_manifest_and_why_it_failed_and_all_data_come_in_one_archive(reader):
    page = reader.open("#/small/runs")
    page.get_by_role("link", name="ppo-s0").click()
    page.wait_for_selector("h2:text('ppo-s0')")
    assert "Traceback" in page.inner_text("main")
    assert json.loads(reader.saved("Manifest (JSON)"))["command"] == ["gvpo-bench", "sweep", "synthetic.toml"]
    page = reader.open("#/small/leaderboard")
    with page.expect_download() as download:
        page.get_by_role("link", name="All data").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        names = set(packed.namelist())
        samples = pd.read_parquet(io.BytesIO(packed.read("samples.parquet")))
    assert {"table.csv", "seeds.csv", "table.tex", "curves.csv", "pairs.csv", "manifests.json"} <= names
    assert len(samples) == 7 * 16  # three algorithms at two seeds and the base, four problems of four samples
    assert HOSTILE in set(samples["response"])


def test_dark_and_light_have_colours_of_their_own_that_can_be_read(reader):
    def contrast(page: Page) -> float:
        def luminance(color: str) -> float:
            parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
            linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        both = page.evaluate(
            "[getComputedStyle(document.querySelector('.notes')).color, "
            "getComputedStyle(document.documentElement).backgroundColor]"
        )
        light, dark = sorted(map(luminance, both), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    backs = set()
    page = reader.open("#/small/leaderboard")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        backs.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        assert contrast(page) >= 4.5  # WCAG 2.2, 1.4.3
    assert len(backs) == 2
