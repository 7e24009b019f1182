"""`gvpo-bench eval`: any transformers checkpoint on the real benchmarks."""

import json

import pandas as pd
import pytest
from small import command, files

from benchmarks import load_benchmark
from benchmarks.math_problems import MathBenchmark
from harness.evaluation.evaluate import SAMPLE_COLUMNS

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
    table = pd.concat([pd.read_parquet(evaluated / "samples" / f"{name}.parquet") for name in REAL])
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
    assert found["template"] == "plain-v1"
    assert found["versions"]["math-verify"]


def test_eval_leaves_its_scores_with_pass_and_majority(evaluated):
    table = pd.read_csv(evaluated / "scores.csv").set_index("benchmark")
    assert list(table.index) == REAL
    assert {"avg_at_k", "pass_at_2", "pass_at_3", "maj_at_k", "wrong", "no_answer", "truncated"} <= set(table)
    samples = pd.read_parquet(evaluated / "samples" / "gsm8k.parquet")
    assert table.loc["gsm8k", "truncated"] == (samples["finish"] == "length").mean()
    assert table.loc["gsm8k", "avg_at_k"] == samples["score"].mean()


def test_eval_prints_a_row_a_benchmark_and_is_greedy_by_default(reader, capsys):
    assert command("eval", reader, "--benchmark", "gsm8k", *QUICK) == 0
    shown = capsys.readouterr().out
    (row,) = (line.split() for line in shown.splitlines() if line.startswith(" gsm8k"))
    # Two problems, none of which the reader can answer: no interval above or below zero, all wrong or without answer.
    assert row[1:4] == ["2", "0.0", "0.0–0.0"]


def test_both_engines_give_the_same_greedy_responses(reader, tmp_path, capsys):
    responses = []
    for engine in ("cached", "transformers"):
        out = tmp_path / engine
        assert command("eval", reader, "--benchmark", "aime24", *QUICK, "--engine", engine, "--out", out) == 0
        responses.append(pd.read_parquet(out / "samples" / "aime24.parquet")["response"].tolist())
    assert responses[0] == responses[1]


def test_eval_refuses_to_mix_settings_and_names_them(evaluated, reader, capsys):
    before = files(evaluated)
    assert command("eval", reader, "--benchmark", "gsm8k", *QUICK, "--out", evaluated) == 3
    message = capsys.readouterr().err
    assert "other settings (samples was 3, now 1; temperature was 1.0, now 0.0)" in message
    assert files(evaluated) == before


def test_eval_refuses_a_folder_of_something_else(reader, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert command("eval", reader, "--benchmark", "gsm8k", *QUICK, "--out", tmp_path) == 3
    assert "is no evaluation; choose a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_eval_goes_on_with_what_is_missing(reader, tmp_path, capsys, monkeypatch):
    both = ["eval", reader, "--benchmark", "gsm8k", "--benchmark", "aime24", *QUICK, "--out", tmp_path / "out"]
    own = MathBenchmark.answer_of

    def interrupted(benchmark, response):
        if benchmark.name == "aime24":
            raise KeyboardInterrupt
        return own(benchmark, response)

    with monkeypatch.context() as patch:
        patch.setattr(MathBenchmark, "answer_of", interrupted)
        assert command(*both) == 130
    before = files(tmp_path / "out" / "samples")
    assert list(before) == ["gsm8k.parquet"]
    capsys.readouterr()
    assert command(*both) == 0
    shown = capsys.readouterr().out
    assert "finished before: gsm8k" in shown
    assert "\n gsm8k " in shown
    after = files(tmp_path / "out" / "samples")
    assert after["gsm8k.parquet"] == before["gsm8k.parquet"]
    assert sorted(after) == ["aime24.parquet", "gsm8k.parquet"]
    # All of it is there: nothing is sampled any more, and another benchmark may join.
    assert command(*both) == 0
    assert files(tmp_path / "out" / "samples") == after


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
        (["--benchmark", "gsm8k", "--template", "qwen"], "--template: no template is called 'qwen'; choose from none"),
        (["--benchmark", "gsm8k", "--template", "chat"], "the tokenizer of this checkpoint has no chat template"),
        (["--benchmark", "gsm8k", "--engine", "hf"], "--engine hf: Input should be 'cached'"),
        (["--benchmark", "gsm8k", "--revision", "main"], "is a folder, which has no revisions"),
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
