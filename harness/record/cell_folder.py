"""What a run leaves behind, written so that a kill at any moment loses nothing that was finished.

`<runs>/<cell>/` holds metrics.jsonl (a row a step), samples.parquet (a row an evaluated sample), checkpoint/ (a folder
that transformers opens), algorithm.py (where it is a user's own, as it was run), manifest.json (written last: its
presence means that the cell is over), and while the cell can still be resumed, resume/.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError, ExitCode
from harness.record.files import write, write_json

LOCK_SECONDS = 60.0
"""How long a cell waits for another process that still holds its folder, such as the orphan of a killed sweep."""


class RecordError(BenchError, RuntimeError):
    """A runs folder that cannot be continued as asked. The message says which cell, and the ways out."""

    exit_code = ExitCode.REFUSED


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell."""

    path: Path

    @property
    def resume_path(self) -> Path:
        """The folder of what an interrupted cell goes on from."""
        return self.path / "resume"

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the final weights, which transformers opens."""
        return self.path / "checkpoint"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the cell isn't over."""
        try:
            return json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def is_finished(self, expected_hash: str) -> bool:
        """Whether the cell is finished with just these settings.

        Raises RecordError where it was finished with others: nothing finished is overwritten.
        """
        manifest = self.manifest()
        if manifest is None or manifest["status"] != "finished":
            return False
        if manifest["hash"] != expected_hash:
            raise RecordError(
                f"{self.path} was finished with other settings (hash {manifest['hash']}, now {expected_hash}; compare "
                f"its manifest.json). Give another --out, or remove that folder to run the cell again"
            )
        return True

    @contextlib.contextmanager
    def claim(self, cell_hash: str) -> Iterator[None]:
        """Holds the folder against other processes, and clears what an attempt with other settings left there.

        Raises RecordError where another process holds it for longer than LOCK_SECONDS.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise RecordError(f"{self.path} is in use by another process") from None
                    time.sleep(0.2)
            hash_file = self.path / "hash"
            started = hash_file.read_text() if hash_file.is_file() else None
            if not self.is_finished(cell_hash):
                for name in ("manifest.json", "traceback.txt", "samples.parquet"):
                    (self.path / name).unlink(missing_ok=True)
                for scratch in self.path.glob(".*"):  # of an attempt that was killed while it wrote
                    if scratch.is_dir():
                        shutil.rmtree(scratch)
                    elif scratch.name != ".lock":
                        scratch.unlink()
                if started != cell_hash:
                    (self.path / "metrics.jsonl").unlink(missing_ok=True)
                    for folder in (self.resume_path, self.checkpoint_path):
                        shutil.rmtree(folder, ignore_errors=True)
                    write(hash_file, cell_hash)
            yield

    def write_traceback(self, text: str) -> None:
        """Why the cell failed."""
        write(self.path / "traceback.txt", text)

    def has_traceback(self) -> bool:
        """Whether the cell failed with a traceback."""
        return (self.path / "traceback.txt").is_file()

    def metrics(self) -> list[dict[str, Any]]:
        """The rows so far; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    def keep_metrics(self, steps: int) -> None:
        """Drops the rows after a step, before the run continues from there."""
        rows = [row for row in self.metrics() if row["step"] <= steps]
        write(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def add_metrics(self, row: Mapping[str, float]) -> None:
        """Appends the row of a step."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Ends the cell: the manifest comes, and where it finished, what only a resumption needs goes."""
        write_json(self.path / "manifest.json", manifest)
        if manifest["status"] == "finished":
            shutil.rmtree(self.resume_path, ignore_errors=True)
