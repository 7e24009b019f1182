"""The site's data and files: what is read from a report, what is held of the responses, what stands in a script."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from publishing import write_small
from synthetic_runs import write_cell
from typer.testing import CliRunner

import harness.site.vendored
from benchmarks import DataError, Problem
from harness.cli import app
from harness.report import figures
from harness.report.choice import report_of
from harness.report.columns import TextTable
from harness.report.recorded_cells import load_cells, recorded_suite
from harness.site import site_problems
from harness.site.site_curves import metrics_of, series
from harness.site.site_files import POLICY, data_script, site_files, write_site
from harness.site.site_problems import gather
from harness.site.site_suite import SuitePages, suite_pages
from harness.site.site_tables import escapes, reading, table_json
from harness.site.vendored import SiteError, require_libraries, vendored
from harness.statistics.pairs import pairwise


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.905 ± 0.011", (0.905, 0.011)),
        ("−0.020 ± 0.011", (-0.020, 0.011)),
        ("+0.069", (0.069, None)),
        ("< 0.001", (0.0, None)),
        ("12.5%", (0.125, None)),
        ("37.1 k", (37100.0, None)),
        ("3e-05", (3e-05, None)),
        ("−12% (−30% to 5%)", (-0.12, None)),
        ("0.57 (0.40–0.70)", (0.57, None)),
        ("clip 0.2", None),
        ("too few seeds to test", None),
        ("", None),
    ],
)
def test_the_numbers_of_a_table_are_read_from_its_texts(text, found):
    assert reading(text) == (found and pytest.approx(found, nan_ok=False) if found and found[1] else found)


def test_a_table_keeps_its_texts_and_says_what_is_a_number_and_what_is_bold():
    table = TextTable(
        {"algorithm": ["base", "A"], "avg@8": ["0.2 ± 0.1", "failed"], "p": ["", "< 0.001"]},
        {"p": [False, True]},
        families=["", "regression"],
    )
    name, family, score, p = table_json("scores", table)["columns"]
    assert name == {"name": "algorithm", "texts": ["base", "A"]}
    assert family["texts"] == ["", "regression"]
    assert (score["values"], score["halves"], score["texts"]) == ([0.2, None], [0.1, None], ["0.2 ± 0.1", "failed"])
    assert (p["values"], p["bold"]) == ([None, 0.0], [False, True])
    assert "halves" not in p


def test_texts_that_markdown_and_latex_write_as_they_are_need_no_escape():
    found = escapes(["plain", "A*-PO", "50%", "plain"])
    assert list(found) == ["A*-PO", "50%"]
    assert found["A*-PO"][0] == r"A\*-PO"
    assert found["50%"] == ["50%", r"50\%"]


def test_what_the_matrix_of_pairs_shows_is_escaped_too(tmp_path):
    suite = recorded_suite(write_small(tmp_path / "runs" / "s", failed=False))
    data = suite_pages(report_of(suite).publication).data
    ((*_, text, opposite, _, _, _),) = data["pairs"]["pairs"]
    assert data["overview"]["escaped"][text][1] == text.replace("−", "$-$").replace("±", r"$\pm$")
    assert opposite in data["overview"]["escaped"]


def test_pairs_are_corrected_over_all_of_those_that_are_tested():
    p_of = {("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): None}
    pairs = pairwise(["a", "b", "c"], lambda first, second: {"p_value": p_of[first, second]})
    assert [(pair.first, pair.second) for pair in pairs] == list(p_of)
    assert [pair.p_holm for pair in pairs] == [0.02, 0.04, None]  # Holm over two: 2 × 0.01, then 1 × 0.04
    assert pairwise(["a"], lambda first, second: {}) == []


@pytest.fixture
def two_seeds(tmp_path, monkeypatch):
    """Two seeds of one algorithm and the base on one problem, whose question is known, and another's, which is not."""
    suite = tmp_path / "runs" / "s"
    for label, seed, right in (("base", None, [1, 0]), ("a", 0, [1, 1]), ("a", 1, [0, 1])):
        write_cell(
            suite, label, seed, {"arithmetic": np.array([right]), "arithmetic-hard": np.array([[0, 0]])}, curve=[0.5]
        )

    class Known:
        def problems(self):
            return [Problem(id="arithmetic-0", prompt="1+2", answer="3")]

    def load(name):
        if name == "arithmetic":
            return Known()
        raise DataError("the file is not there")

    monkeypatch.setattr(site_problems, "load_benchmark", load)
    return load_cells(suite)[0]


def test_equal_responses_of_a_cell_are_held_once_with_their_samples(two_seeds):
    cells = two_seeds
    found = gather(cells, ["base", "a"])
    (first, second), ((row, _),) = found.listed["problems"], found.shards
    assert (first["id"], first["question"], first["gold"], first["scores"]) == ("arithmetic-0", "1+2", "3", [0.5, 0.75])
    assert (second["question"], second["gold"], second["scores"]) == (None, None, [0.0, 0.0])
    assert found.listed["unknown"] == {"arithmetic-hard": "the file is not there"}
    names = [cell.name for cell in cells]
    a0 = names.index("a-s0")
    assert row["counts"][a0] == [2, 0, 0, 0, 0]  # COUNTED: both correct
    assert row["counts"][names.index("a-s1")] == [1, 1, 0, 0, 0]
    # tokens are 7 and 8 for the two samples (see write_cell), so the two texts differ in these alone
    assert [[row["texts"][text], samples] for place, text, _, _, samples in row["rows"] if place == a0] == [
        [(":1,2=3", "3", "correct", "eos", 7), [0]],
        [(":1,2=3", "3", "correct", "eos", 8), [1]],
    ]
    assert found.listed["seeds"] == [0, 1]


def test_log_probs_stand_beside_the_kl_where_they_were_recorded(two_seeds):
    path = two_seeds[0].rows.path.parent / "a-s0" / "samples.parquet"
    pd.read_parquet(path).assign(logp=[-1.23456, np.nan, -2.0, -2.0]).to_parquet(path)
    ((row, _),) = gather(two_seeds, ["base", "a"]).shards
    of_cell = {place: [logp for at, _, _, logp, _ in row["rows"] if at == place] for place, *_ in row["rows"]}
    place = [cell.name for cell in two_seeds].index("a-s0")
    assert of_cell[place] == [-1.235, None]
    assert all(found == [None] * len(found) for other, found in of_cell.items() if other != place)


def test_the_command_writes_the_site_beside_the_tables(two_seeds, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda **given: [])
    runs = two_seeds[0].rows.path.parent
    done = CliRunner().invoke(app, ["report", str(runs), "--html"])
    assert done.exit_code == 0, done.output
    site = runs.parent.parent / "s" / "site"
    assert (site.parent / "table.csv").is_file()
    assert {path.name for path in site.iterdir()} == {"data", "index.html", "page", "vendor"}


def test_responses_of_further_seeds_are_left_out_where_there_is_too_much_text_and_their_verdicts_stay(two_seeds):
    found = gather(two_seeds, ["a"], most=20)  # 4 responses of the base and 4 of seed 0 have 7 characters each
    assert found.listed["seeds"] == []  # the base's 28 are more than 20 already
    found = gather(two_seeds, ["a"], most=30)
    assert found.listed["seeds"] == [0]
    places = {cell.name: place for place, cell in enumerate(two_seeds)}
    row = found.shards[0][0]
    assert places["a-s1"] not in {place for place, *_ in row["rows"]}
    assert row["counts"][places["a-s1"]] == [1, 1, 0, 0, 0]
    assert found.samples.loc[found.samples["seed"] == 1, "response"].isna().all()


def test_metrics_are_offered_with_the_usual_ones_first_and_without_those_that_nobody_recorded():
    curves = pd.DataFrame(
        {"place": [0, 0, 2], "step": [1, 2, 1], "zeta": [1, 2, 3], "reward": [0.5, np.nan, 1 / 3], "loss": [np.nan] * 3}
    )
    assert metrics_of(curves) == ["reward", "zeta"]
    assert series(curves, "reward") == [[0, [0.5, None]], [2, [0.333333]]]


def test_data_in_a_script_hold_no_character_that_html_or_javascript_would_read():
    hostile = {"</script><script>": ["\u2028`${x}`'\"\\", math.nan, np.float64(0.5), np.int64(3), (True, None)]}
    script = data_script("a/b", hostile).decode()
    found = re.fullmatch(r"site\.put\(\"a/b\", '([A-Za-z0-9+/=]*)'\);\n", script)
    assert found is not None
    text = gzip.decompress(base64.b64decode(found[1])).decode()
    assert json.loads(text) == {"</script><script>": ["\u2028`${x}`'\"\\", None, 0.5, 3, [True, None]]}


def pages(suite: str) -> SuitePages:
    return SuitePages(suite, {"overview": {"a": 1}}, {"suite": suite}, lambda: {"table.csv": b"a\n"})


def test_a_site_is_the_same_bytes_for_the_same_data_and_runs_only_the_script_whose_hash_it_names():
    files = site_files([pages("one"), pages("two: <b>")])
    assert files == site_files([pages("one"), pages("two: <b>")])
    assert {name for name in files if name.startswith("data/")} == {
        "data/site.js",
        *(f"data/{suite}/{name}" for suite in ("one", "two___b_") for name in ("overview.js", "all.zip")),
    }
    html = files["index.html"].decode()
    assert html.count("<script") == 1
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", html)
    assert "unsafe-eval" not in html
    assert "script-src 'sha256-" in html
    assert POLICY.startswith("default-src 'none'")
    assert all(len(files[name].splitlines()) <= 400 for name in files if name.startswith("page/"))


def test_a_site_replaces_an_earlier_one_and_nothing_else(tmp_path):
    out = tmp_path / "site"
    write_site(out, [pages("one")])
    assert write_site(out, [pages("two")]) == out / "index.html"
    assert not (out / "data" / "one").exists()
    other = tmp_path / "public_html"
    other.mkdir()
    for name in ("notes.txt", "index.html"):
        (other / name).write_text("mine")
        with pytest.raises(SiteError, match="is no site"):
            write_site(other, [pages("one")])
    assert {path.name for path in other.iterdir()} == {"notes.txt", "index.html"}
    with pytest.raises(SiteError, match="names of their own"):
        site_files([pages("a b"), pages("a_b")])


def test_a_site_is_replaced_from_within(tmp_path, monkeypatch):
    write_site(tmp_path / "site", [pages("one")])
    monkeypatch.chdir(tmp_path / "site")
    write_site(Path(), [pages("two")])
    assert {path.name for path in (tmp_path / "site" / "data").iterdir()} == {"site.js", "two"}


def test_the_libraries_come_from_their_packages_with_their_licences():
    found = vendored()
    assert b"window.DataTable=" in found["datatables.js"]
    assert b"export{" not in found["datatables.js"]
    assert found["LICENSES.txt"].count(b"Permission is hereby granted") >= 2


def test_a_missing_library_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(harness.site.vendored, "find_spec", lambda name: None)
    with pytest.raises(SiteError, match=r"needs the package plotly: pip install 'gvpo-bench\[html\]'"):
        require_libraries()
