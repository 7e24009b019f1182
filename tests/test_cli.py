"""The command line: quick help, exit codes that mean something, messages instead of tracebacks."""

import dataclasses
import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from small import command, files, installed_command, lean_environment
from synthetic_runs import ALGORITHMS as ALL
from synthetic_runs import write_runs

from algorithms import ALGORITHMS
from benchmarks.errors import ExitCode
from harness import cli
from harness.__main__ import main as entry_point

pytest_plugins = ["small_fixtures"]

ROOT = Path(__file__).parent.parent


def run(*arguments, **environment):
    return subprocess.run(
        [installed_command(), *arguments],
        capture_output=True,
        text=True,
        env=lean_environment(**environment),
        cwd=ROOT,
        timeout=300,
        check=False,
    )


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_lists_the_commands_and_exit_codes_in_under_half_a_second_of_a_quiet_core():
    before = children_seconds()
    done = run("--help")
    seconds = children_seconds() - before
    assert done.returncode == 0
    for name in ("sweep", "tune", "report", "eval", "grade", "algorithms", "Exit codes"):
        assert name in done.stdout
    assert seconds < 1.0  # CPU time, twice the promise: a shared core is slower than a quiet one


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["eval", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from harness.cli import main\n"
        f"sys.argv = ['gvpo-bench', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_command_the_help_is_shown(capsys):
    assert command() == 2
    assert "sweep" in "".join(capsys.readouterr())


@pytest.mark.parametrize("arguments", [["swep"], ["sweep"], ["sweep", "embedded", "--sed", "3"], ["grade"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    assert command(*arguments) == 2
    assert "Usage" in capsys.readouterr().err


def test_algorithms_lists_every_one_on_a_line_of_eighty_columns(capsys):
    assert command("algorithms") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, cls in ALGORITHMS.items():
        assert [line for line in lines if re.match(rf"{name} +{re.escape(cls.name)}(  |$)", line)]


def test_an_algorithm_is_shown_with_its_formula_its_hyperparameters_and_its_portrait(capsys):
    assert command("algorithms", "gvpo") == 0
    shown = capsys.readouterr().out
    assert "L = 1/|D| Σ_x 1/(k(x)−1) Σ_i [(R_θ,i − R̄_θ) − (R_i − R̄)]²" in shown
    assert "arXiv 2504.19599" in shown
    assert "● a right response" in shown
    for field in dataclasses.fields(ALGORITHMS["gvpo"]):  # type: ignore[arg-type]
        assert f"  {field.name} = {field.default}" in shown


def test_an_unknown_algorithm_is_exit_code_2_and_its_neighbours_are_named(capsys):
    assert command("algorithms", "gpro") == 2
    message = capsys.readouterr().err
    assert message.startswith("gvpo-bench: unknown algorithm 'gpro'")
    assert re.search(r"did you mean .*grpo", message)


@pytest.mark.parametrize("kind", ["svg", "png", "pdf", "csv"])
def test_a_portrait_is_written_as_what_its_name_ends_in(tmp_path, kind):
    starts = {
        "svg": b"<?xml",
        "png": b"\x89PNG",
        "pdf": b"%PDF",
        "csv": b"algorithm,right,reward,log_ratio,coefficient",
    }
    assert command("algorithms", "topr", "--out", tmp_path / f"topr.{kind}") == 0
    assert (tmp_path / f"topr.{kind}").read_bytes().startswith(starts[kind])


def test_a_portrait_of_another_kind_is_refused(tmp_path, capsys):
    assert command("algorithms", "topr", "--out", tmp_path / "topr.gif") == 2
    assert "end the name in .svg, .png, .pdf or .csv" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_report_on_a_folder_without_runs_is_exit_code_2_without_a_traceback(tmp_path, capsys):
    assert command("report", tmp_path / "nowhere") == 2
    message = capsys.readouterr().err
    assert message.startswith("gvpo-bench: ")
    assert "is not a folder" in message


def test_grade_says_what_is_wrong_with_its_file(tmp_path, capsys):
    assert command("grade", tmp_path / "nowhere.jsonl") == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    (tmp_path / "broken.jsonl").write_text('{"gold": "1", "response": "1"}\n{"gold": 2}\n')
    assert command("grade", tmp_path / "broken.jsonl") == 2
    assert "broken.jsonl" in (message := capsys.readouterr().err)
    assert "2" in message


def test_grade_does_not_overwrite(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"gold": "1", "response": "1"}\n')
    (tmp_path / "verdicts.jsonl").write_text("mine\n")
    assert command("grade", tmp_path / "rows.jsonl", "--out", tmp_path / "verdicts.jsonl") == 3
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "verdicts.jsonl").read_text() == "mine\n"


def test_interruption_is_exit_code_130_and_says_how_to_go_on(suite_file, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.sweep.run.run_sweep", interrupt)
    assert command("sweep", suite_file) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_error_of_our_own_making_keeps_its_traceback(suite_file, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("harness.sweep.run.run_sweep", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.app(["sweep", str(suite_file)], standalone_mode=False)


@pytest.mark.parametrize("name", ["algorithms", "benchmarks"])
def test_another_package_of_that_name_is_pointed_out(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli import main; main()", "algorithms"],
        capture_output=True,
        text=True,
        env=lean_environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert f"the package {name!r} found first is {tmp_path / name / '__init__.py'}" in done.stderr
    assert "take that one off PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_system_that_refuses_a_report_is_one_sentence_and_the_same_command_goes_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("harness.report.page.encode", lambda figure, kind: kind.encode())
    runs = write_runs(tmp_path, n_seeds=2, problems=4, steps=3, algorithms={"grpo": ALL["grpo"], "pg": ALL["pg"]})
    before, page = files(runs), tmp_path / "synthetic" / "README.md"
    write_bytes = Path.write_bytes
    refusals = {
        errno.ENOSPC: "No space left on device; make room, and the same command goes on from here",
        errno.EROFS: "Read-only file system; change that or give another --out; the same command goes on from here",
    }
    for number, told in refusals.items():

        def refuse(path, content, number=number):
            if "README.md" in path.name:
                raise OSError(number, os.strerror(number))
            return write_bytes(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", refuse)
            assert command("report", runs) == 1
        assert capsys.readouterr().err == f"gvpo-bench: {page}: {told}\n"
        assert (page.with_name("table.md").is_file(), page.exists()) == (True, False)
    assert command("report", runs) == 0
    assert page.is_file()
    assert files(runs) == before  # which may stand in a read-only folder
    assert not list(tmp_path.rglob(".*"))


def test_other_errors_of_the_system_keep_their_traceback(monkeypatch):
    def fail(*_):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(cli, "_load", fail)
    monkeypatch.setattr(sys, "argv", ["gvpo-bench", "plan", "embedded"])
    with pytest.raises(ConnectionRefusedError):
        cli.main()


class Interrupted:
    """An import that Ctrl-C breaks into."""

    def find_spec(self, name, *_):
        if name == "harness.cli":
            raise KeyboardInterrupt


def test_ctrl_c_while_the_commands_are_imported_is_an_interruption_like_any_later(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "harness.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as done:
        entry_point()
    assert done.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"
