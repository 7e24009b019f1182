"""Tables and figures of 28 algorithms: by family, and with some highlighted; those of a few stay as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import rich.console
from synthetic_runs import FAMILIES, many, write_runs
from typer.testing import CliRunner

from algorithms.base import Family
from harness.cli import app
from harness.report.cast import BASELINE, cast_of
from harness.report.comparison import ReportError
from harness.report.families import MANY
from harness.report.suite_report import write_report

LABELS = [label for labels in FAMILIES.values() for label in labels]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("many"), n_seeds=2, problems=8, steps=4, algorithms=many())


@pytest.fixture(autouse=True)
def _figures_are_not_rasterised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())


def first_column(markdown: str) -> list[str]:
    """Of the first table, without its heading."""
    rows = markdown.partition("\n\n")[0].splitlines()[2:]
    return [row.strip("| ").partition(" |")[0] for row in rows]


def test_rows_stand_under_their_family_from_the_highest_score_to_the_lowest(runs: Path, tmp_path: Path) -> None:
    table = write_report(runs, tmp_path).table
    shown = first_column((tmp_path / "table.md").read_text(encoding="utf-8"))
    expected = ["base"]
    for family in get_args(Family):
        own = table[table["family"] == family].sort_values("avg_at_k", ascending=False)
        expected += [f"*{family}*", *own["name"]] if len(own) else []
    assert shown == expected
    assert len(table) == 1 + 28
    csv = pd.read_csv(tmp_path / "table.csv")
    assert csv.columns[2] == "family"
    assert dict(zip(csv["algorithm"], csv["family"], strict=True))["topr"] == "weighted ratio"


def test_each_table_has_the_headings_and_latex_breaks_over_pages(runs: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path)
    # the scores, what could be told apart, the samples of two benchmarks, and the costs
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("| *regression* |") == 5
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert latex.count(r"\textit{regression}}") == 5
    assert latex.count(r"\begin{longtable}") == latex.count(r"\end{longtable}") == 4
    assert r"\begin{table}" not in latex


def test_a_terminal_of_80_columns_shows_every_name_and_number_whole(runs: Path, tmp_path: Path) -> None:
    report = write_report(runs, tmp_path)
    console = rich.console.Console(width=80)
    with console.capture() as capture:
        console.print(report.render())
    text = capture.get()
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    for name in report.table["name"]:
        assert re.search(rf"^ ?{re.escape(name)} +\d\.\d{{3}} ± ", text, re.MULTILINE), name


def test_the_number_of_tests_that_were_corrected_for_is_said(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, n_seeds=12, problems=4, steps=2, algorithms=many())
    report = write_report(runs, tmp_path / "out")
    assert "Holm-corrected over 27 tests" in report.path.read_text(encoding="utf-8")


def test_a_manifest_without_a_family_has_that_of_the_registered_class_or_is_among_the_others(
    runs: Path, tmp_path: Path
) -> None:
    for path in runs.glob("g[rv]p*-s*/manifest.json"):
        manifest = json.loads(path.read_text())
        name = "grpo" if manifest["algorithm"] == "grpo" else "mine.py:Mine"
        manifest["config"]["algorithm"]["name"] = name
        path.write_text(json.dumps(manifest | {"family": None}))
    table = write_report(runs, tmp_path).table.set_index("algorithm")
    assert table.loc["grpo", "family"] == "clipped ratio"
    assert table.loc["gvpo", "family"] == "other"
    assert table.index[-1] in ("gvpo", "gvpd")


def cast(count: int, highlight: tuple[str, ...] = ()) -> Any:
    labels = LABELS[:count]
    families = {label: family for family, own in FAMILIES.items() for label in own} if count > MANY else {}
    return cast_of({label: label.upper() for label in labels}, labels, families, "pg", highlight)


def test_few_algorithms_share_a_panel_and_many_have_one_a_family() -> None:
    assert [panel.strong for panel in cast(MANY).panels] == [LABELS[:MANY]]
    panels = cast(28).panels
    assert [panel.title for panel in panels] == list(FAMILIES)
    for panel in panels:
        assert set(panel.strong) == {*FAMILIES[panel.title], "pg"}  # the baseline stands in each
        assert sorted([*panel.strong, *panel.behind]) == sorted(LABELS)


def test_no_two_algorithms_of_a_panel_look_the_same_and_none_is_grey() -> None:
    many_of = cast(28)
    for panel in many_of.panels:
        styles = [many_of.style[label] for label in panel.strong]
        assert len({str(style.color) for style in styles}) == len(styles)
        assert len({style.marker for style in styles if style != BASELINE}) >= len(styles) - 1
        for style in styles:
            assert style == BASELINE or max(style.color) - min(style.color) > 0.2


@pytest.mark.parametrize("count", [6, 28])
def test_highlighted_labels_and_the_baseline_stand_out_in_one_panel(count: int) -> None:
    shown = cast(count, ("online_rft", "sft"))
    (panel,) = shown.panels
    assert panel.strong == ["sft", "online_rft", "pg"]
    assert len(panel.behind) == count - 3
    assert {label for label, style in shown.style.items() if not style.muted} == {"sft", "online_rft", "pg"}


def test_highlights_are_bold_names_and_a_note(runs: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path, highlight=["topr"])
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert re.findall(r"\*\*(.*?)\*\*", markdown) == ["TOPR"] * 5
    assert "Highlighted, by choice and not by result: TOPR." in markdown


def test_a_label_without_a_cell_is_refused_before_anything_is_written(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"highlight 'grop' has no cell .* choose from: .*grpo"):
        write_report(runs, tmp_path / "out", highlight=["grop"])
    assert not (tmp_path / "out").exists()


def test_the_command_highlights_as_many_labels_as_are_given(runs: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["report", str(runs), "--out", str(tmp_path), "--highlight", "gvpo", "--highlight", "sft"]
    )
    assert done.exit_code == 0, done.output
    assert "not by result: GVPO, SFT." in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_what_draws_no_responses_has_no_curve_and_a_family_of_such_has_no_panel() -> None:
    curves = pd.DataFrame({"algorithm": LABELS, "reward": 0.5})
    curves.loc[curves["algorithm"].isin(["gvpd", "sft"]), "reward"] = None
    panels = cast(28).with_values(curves, "reward").panels
    assert [panel.title for panel in panels] == [family for family in FAMILIES if family != "distillation"]
    assert panels[0].strong == ["rft", "online_rft", "pg"]
    assert all("sft" not in panel.behind for panel in panels)
