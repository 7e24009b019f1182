"""What the disk refuses: one sentence with the file's name, before any work where that can be told."""

from __future__ import annotations

import errno
import os
import traceback

import pytest
from small import command, write_suite

from benchmarks.errors import ExitCode
from harness.record import files
from harness.record.disk_errors import MAKE_ROOM, OutputError, add_remedy, refusal, require_writable


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path, tmp_path / "no-model")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("small.toml", "small.toml: Not a directory; change that or give another --out"),
        ("small.toml/below", "small.toml: Not a directory; change that or give another --out"),
        ("n" * 300, "File name too long; change that or give another --out"),
    ],
)
@pytest.mark.parametrize("name", ["sweep", "tune", "doctor"])
def test_an_output_that_cannot_be_a_folder_is_refused_before_any_work(suite, tmp_path, capsys, name, out, message):
    before = sorted(tmp_path.iterdir())
    assert command(name, suite, "--out", tmp_path / out) == ExitCode.INPUT
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("gvpo-bench: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_can_only_be_read_is_told_from_one_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match=os.strerror(errno.EACCES)):
        require_writable(tmp_path / "new" / "newer")
    flags = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*flags[:8], flags.f_flag | os.ST_RDONLY, 255)))
    with pytest.raises(OutputError, match=os.strerror(errno.EROFS)):
        require_writable(tmp_path / "new")


def test_a_full_disk_ends_with_1_and_says_that_the_command_goes_on(suite, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        files.write(tmp_path / "table.csv", "x")

    monkeypatch.setattr("harness.sweep.run.run_sweep", full)
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    assert command("sweep", suite, "--out", tmp_path / "out") == ExitCode.FAILED
    said = f"{tmp_path / 'table.csv'}: No space left on device; make room, and the same command goes on from here"
    assert capsys.readouterr().err == f"gvpo-bench: {said}\n"


def test_libraries_in_rust_name_the_number_in_their_text():
    told = refusal(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert told == "No space left on device; make room, and the same command goes on from here"
    assert refusal(ValueError("no file's")) is None
    assert refusal(OSError("a library's own")) is None


def test_a_full_disk_ends_a_traceback_with_the_remedy_and_other_errors_are_left_as_they_are():
    full, other = OSError(errno.ENOSPC, "No space left on device", "a"), ValueError("no")
    add_remedy(full)
    add_remedy(other)
    assert "".join(traceback.format_exception(full)).rstrip().endswith(MAKE_ROOM)
    assert "".join(traceback.format_exception(other)) == "ValueError: no\n"
