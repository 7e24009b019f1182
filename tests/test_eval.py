"""`gvpo-bench eval`: any transformers checkpoint on the real benchmarks."""

import json

import pandas as pd
import pytest
from small import command, files

from benchmarks import load_benchmark
from harness.evaluate import SAMPLE_COLUMNS

pytest_plugins = ["small_fixtures"]

REAL = ["gsm8k", "math500", "aime24"]

QUICK = ["--limit", 2, "--max-new-tokens", 5]


@pytest.fixture(scope="module")
def evaluated(reader, tmp_path_factory):
    """Two problems each of three benchmarks, three samples a problem."""
    out = tmp_path_factory.mktemp("eval") / "out"
    names = [part for name in REAL for part in ("--benchmark", name)]
    assert command("eval", reader, *names, *QUICK, "--samples", 3, "--temperature", 1, "--out", out) == 0
    return out


def test_eval_leaves_a_row_a_sample_of_each_benchmark(evaluated):
    table = pd.read_parquet(evaluated / "samples.parquet")
    assert list(table.columns) == SAMPLE_COLUMNS
    assert table.groupby("benchmark").size().to_dict() == dict.fromkeys(REAL, 2 * 3)
    for name in REAL:
        asked = [problem.id for problem in load_benchmark(name).problems()[:2]]
        assert list(dict.fromkeys(table[table["benchmark"] == name]["problem_id"])) == asked
    # A random model of 98 tokens ends by itself once in 98 tokens.
    assert set(table["finish"]) <= {"length", "eos"}
    assert table.loc[table["finish"] == "length", "tokens"].eq(5).all()
    assert table["verdict"].isin(["correct", "wrong", "no_answer"]).all()


def test_eval_leaves_a_manifest_that_says_how(evaluated, reader):
    found = json.loads((evaluated / "manifest.json").read_text(encoding="utf-8"))
    assert found["command"][:2] == ["gvpo-bench", "eval"]
    settings = found["settings"]
    assert (settings["model"], settings["template"], settings["samples"]) == (str(reader), "plain-v1", 3)
    assert (settings["temperature"], settings["max_new_tokens"], settings["limit"]) == (1.0, 5, 2)
    assert found["versions"]["math-verify"]


def test_eval_prints_a_row_a_benchmark_and_is_greedy_by_default(reader, capsys):
    assert command("eval", reader, "--benchmark", "gsm8k", *QUICK) == 0
    shown = capsys.readouterr().out
    assert "avg@1 (95% CI)" in shown
    (row,) = (line for line in shown.splitlines() if "│ gsm8k" in line)
    assert [cell.strip() for cell in row.split("│")][2] == "2"


def test_both_engines_give_the_same_greedy_responses(reader, tmp_path, capsys):
    responses = []
    for engine in ("cached", "transformers"):
        out = tmp_path / engine
        assert command("eval", reader, "--benchmark", "aime24", *QUICK, "--engine", engine, "--out", out) == 0
        responses.append(pd.read_parquet(out / "samples.parquet")["response"].tolist())
    assert responses[0] == responses[1]


def test_eval_does_not_overwrite(evaluated, reader, capsys):
    before = files(evaluated)
    assert command("eval", reader, "--benchmark", "gsm8k", *QUICK, "--out", evaluated) == 3
    assert "nothing finished is overwritten" in capsys.readouterr().err
    assert files(evaluated) == before


def test_missing_problems_are_refused_with_the_folder_and_the_variable(reader, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GVPO_BENCH_DATA", str(tmp_path))
    assert command("eval", reader, "--benchmark", "gsm8k", *QUICK) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "benchmarks" / "gsm8k_test.jsonl") in message
    assert "GVPO_BENCH_DATA" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmark", "gsm9k"], "no benchmark is called 'gsm9k'"),
        (["--benchmark", "gsm8k", "--template", "chat"], "--template 'chat': choose from none, plain"),
        (["--benchmark", "gsm8k", "--engine", "hf"], "--engine 'hf': choose from cached, transformers"),
        (["--benchmark", "gsm8k", "--samples", 4], "greedy decoding gives the same response each time"),
        # The second benchmark's prompts are checked before the first one is sampled.
        (
            ["--benchmark", "aime24", "--benchmark", "gsm8k", "--max-new-tokens", 8000],
            "benchmark aime24: max_new_tokens",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(reader, tmp_path, options, message, capsys):
    assert command("eval", reader, *options, "--limit", 2, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_that_holds_no_checkpoint_is_refused(tmp_path, capsys):
    assert command("eval", tmp_path, "--benchmark", "gsm8k", *QUICK) == 2
    assert f"model.path = {str(tmp_path)!r}: cannot load this folder" in capsys.readouterr().err
