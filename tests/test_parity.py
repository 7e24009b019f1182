"""The committed tables of results/parity/ are complete, consistent with the library, and claim what was measured."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from algorithms import ALGORITHMS

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-5
PEERS = {"trl", "verl", "ms-swift", "openrlhf", "skyrl", "areal", "trinity-rft"}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / "parity" / "table.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def read() -> dict:
    return tomllib.loads((ROOT / "parity" / "read_not_run.toml").read_text())


def test_every_algorithm_has_a_row_or_a_reason_why_no_peer_has_it(table, read):
    without = set(ALGORITHMS) - set(table.algorithm)
    assert without == set(read["reason"])
    assert set(table.algorithm) <= set(ALGORITHMS)


def test_every_peer_that_is_installed_was_run(table):
    ran = table[table.verdict != "read, not run"]
    assert set(ran.peer) == PEERS
    assert (ran[["version", "function"]] != "").all(axis=None)


def test_a_row_that_agrees_is_below_the_tolerance_and_one_that_differs_says_in_what(table):
    ran = table[table.verdict != "read, not run"]
    for row in ran.itertuples():
        off = max(float(row.coefficients), float(row.loss or 0))
        assert (off <= TOLERANCE) == (row.verdict == "agrees"), row
        assert (row.verdict == "differs") == bool(row.differs), row
        assert ("ours" in row.differs and "theirs" in row.differs) or row.verdict == "agrees", row
        assert not row.explained or float(row.explained) <= TOLERANCE, row


def test_rows_that_were_read_say_where_and_are_all_there(table, read):
    rows = table[table.verdict == "read, not run"]
    assert len(rows) == len(read["read"])
    assert (rows[["loss", "coefficients"]] == "").all(axis=None)
    for row in read["read"]:
        assert all(row[name] for name in ("repository", "file", "function", "version")), row
        ALGORITHMS[row["algorithm"]](**row.get("settings", {}))
        assert not (row.get("differs") and row.get("dialect")), (
            "a dialect is computed by our settings: nothing may differ"
        )


def test_the_settings_of_the_table_are_those_of_an_algorithm(table):
    for row in table.itertuples():
        if row.our_settings != "defaults":
            call = ast.parse(f"f({row.our_settings})", mode="eval").body
            assert isinstance(call, ast.Call)
            ALGORITHMS[row.algorithm](**{str(k.arg): ast.literal_eval(k.value) for k in call.keywords})


def test_dialects_hold_one_batch_for_all_who_share_a_name():
    dialects = pd.read_csv(ROOT / "results" / "parity" / "dialects.csv")
    for name, group in dialects.groupby("name"):
        tokens = {tuple(zip(one.response, one.token, strict=True)) for _, one in group.groupby("peer")}
        assert len(tokens) == 1, name
        assert {"gvpo-bench"} < set(group.peer), name


def test_the_page_counts_what_the_table_holds(table):
    page = (ROOT / "results" / "parity" / "README.md").read_text()
    ran = table[table.verdict != "read, not run"]
    assert f"**{(ran.verdict == 'agrees').sum()} of {len(ran)} agree**" in page
