"""What a cell leaves behind, written so that a kill at any moment loses nothing that was finished.

`<runs>/<cell>/` holds

    metrics.jsonl       a row a step
    problems.json       which problems it is trained on, where not on all, and the base's pass rate on each
    algorithm.py        a user's own algorithm, as it was run
    resume/             what an interrupted training goes on from, while there is need of it
    checkpoint/         the trained model, a folder that transformers opens
    training.json       what training it took; its presence means that the training is over
    samples.parquet     a row an evaluated sample, with SAMPLE_COLUMNS
    coefficients.parquet    in place of all these, in the folder of the job that compares gradient coefficients
    manifest.json       settings, versions, costs: written last, its presence means that the cell is over
    traceback.txt       why it failed
    earlier/<hash>/     samples and manifest of evaluations with other settings
    hash, .lock         of which training this is, and whose it is just now

No other module knows these names or formats.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from benchmarks.errors import BenchError, ExitCode
from harness.record.files import new_folder, restore_folder, write, write_json

if TYPE_CHECKING:
    import pandas as pd

LOCK_SECONDS = 60.0
"""How long a cell waits for another process that still holds its folder, such as the orphan of a killed sweep."""

SAMPLE_COLUMNS = [
    *("benchmark", "problem_id", "sample", "response", "answer", "verdict", "score", "tokens", "finish", "kl"),
]
"""Of samples.parquet: see `harness.evaluation.evaluate.evaluate`."""

HASH, METRICS, ALGORITHM, TRAINING = "hash", "metrics.jsonl", "algorithm.py", "training.json"
PROBLEMS = "problems.json"
SAMPLES, COEFFICIENTS, MANIFEST, TRACEBACK = "samples.parquet", "coefficients.parquet", "manifest.json", "traceback.txt"
RESUME, CHECKPOINT = "resume", "checkpoint"

State = Literal["new", "trained", "finished"]
"""What is left to do for a cell: all of it, the evaluation, or nothing."""

Files = dict[str, bytes]
"""Contents by path, relative to a folder."""


class RecordError(BenchError, RuntimeError):
    """A runs folder that cannot be continued as asked. The message says which cell, and the ways out."""

    exit_code = ExitCode.REFUSED


class Hashes(NamedTuple):
    """Of the settings that decide a cell's numbers, those of its training apart from those of its evaluation."""

    training: str
    evaluation: str


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell."""

    path: Path

    @property
    def resume_path(self) -> Path:
        """The folder that an interrupted training goes on from."""
        return self.path / RESUME

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the trained model."""
        return self.path / CHECKPOINT

    @property
    def traceback_path(self) -> Path:
        """The file that says why the cell failed: beside the folder, where another process holds that."""
        return self._refusal if self._refusal.is_file() else self.path / TRACEBACK

    @property
    def _refusal(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{TRACEBACK}")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the cell isn't over."""
        return _read_json(self.path / MANIFEST)

    def training(self) -> dict[str, Any] | None:
        """What `finish_training` recorded, or None while the training isn't over."""
        return _read_json(self.path / TRAINING)

    def state(self, hashes: Hashes) -> State:
        """What is left to do for the cell with these settings.

        Raises RecordError where it was finished or trained with other ones, since nothing finished is overwritten, or
        would have to be evaluated again and kept no checkpoint.
        """
        manifest, training = self.manifest(), self.training()
        finished = manifest is not None and manifest["status"] == "finished"
        found = manifest["hash"] if manifest is not None and finished else training["hash"] if training else None
        if found is None:
            return "new"
        if found != hashes.training:
            raise RecordError(
                f"{self.path} was {'finished' if finished else 'trained'} with other settings (hash {found}, now "
                f"{hashes.training}; compare its manifest.json). Give another --out, or remove that folder to run the "
                "cell again"
            )
        if manifest is not None and finished and manifest.get("evaluation_hash") == hashes.evaluation:
            return "finished"
        if training is None:  # the base, which has none
            return "new"
        if not self.checkpoint_path.is_dir() and not self._earlier(hashes.evaluation).is_dir():
            raise RecordError(
                f"{self.path} was evaluated with other settings and kept no checkpoint that could be evaluated again "
                "(resources.keep_checkpoints). Give another --out, or remove that folder to train the cell again"
            )
        return "trained"

    @contextlib.contextmanager
    def claim(self, hashes: Hashes, seconds: float | None = None) -> Iterator[State]:
        """Holds the folder against other processes, and clears what an attempt with other settings left there.

        Gives the cell's state. An evaluation with other settings is put aside, and taken back where these are its
        settings.

        Raises RecordError where another process holds the folder for longer than `seconds`, by default LOCK_SECONDS, or
        as `state` does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        patience = LOCK_SECONDS if seconds is None else seconds
        try:
            lock = FileLock(self.path / ".lock", timeout=patience, poll_interval=0.2).acquire()
        except Timeout:
            raise RecordError(
                f"{self.path} is in use by another process, perhaps of another sweep: the same command goes on when "
                "that has ended"
            ) from None
        with lock:
            self._refusal.unlink(missing_ok=True)
            for folder in (self.resume_path, self.checkpoint_path):
                restore_folder(folder)
            if self.state(hashes) != "finished":
                self._put_aside()
                self._clear(hashes.training)
                self._take_back(hashes.evaluation)
            yield self.state(hashes)

    def _earlier(self, evaluation_hash: str) -> Path:
        return self.path / "earlier" / evaluation_hash

    def _put_aside(self) -> None:
        """Moves a finished evaluation to earlier/, where one that is asked for again is found."""
        manifest = self.manifest()
        if manifest is not None and manifest["status"] == "finished":
            with new_folder(self._earlier(manifest["evaluation_hash"])) as scratch:
                for name in (SAMPLES, MANIFEST):
                    shutil.copy2(self.path / name, scratch / name)

    def _take_back(self, evaluation_hash: str) -> None:
        earlier = self._earlier(evaluation_hash)
        restore_folder(earlier)
        if earlier.is_dir():
            for name in (SAMPLES, MANIFEST):  # in this order: the manifest says that the samples are there
                write(self.path / name, (earlier / name).read_bytes())

    def _clear(self, training_hash: str) -> None:
        for name in (MANIFEST, TRACEBACK, SAMPLES, COEFFICIENTS):
            (self.path / name).unlink(missing_ok=True)
        for scratch in self.path.glob(".*"):  # of an attempt that was killed while it wrote
            if scratch.is_dir():
                shutil.rmtree(scratch)
            elif scratch.name != ".lock":
                scratch.unlink()
        hash_file = self.path / HASH
        if (hash_file.read_text() if hash_file.is_file() else None) != training_hash:
            for name in (METRICS, PROBLEMS):
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.resume_path, self.checkpoint_path):
                shutil.rmtree(folder, ignore_errors=True)
            write(hash_file, training_hash)

    def write_algorithm(self, source: bytes) -> Path:
        """Keeps a user's file as it is run; returns where."""
        write(self.path / ALGORITHM, source)
        return self.path / ALGORITHM

    def write_problems(self, kept: Sequence[str], rates: Mapping[str, float]) -> None:
        """Keeps the ids of the problems that the cell is trained on, and the base's pass rate on each that it could
        have been."""
        write_json(self.path / PROBLEMS, {"kept": list(kept), "pass_rates": dict(rates)})

    def problems(self) -> frozenset[str] | None:
        """The ids that `write_problems` kept; None where the cell is trained on all."""
        found = _read_json(self.path / PROBLEMS)
        return None if found is None else frozenset(found["kept"])

    def write_traceback(self, text: str) -> None:
        """Why the cell failed."""
        write(self.path / TRACEBACK, text)

    def write_refusal(self, text: str) -> None:
        """Why the cell failed, where another process holds its folder."""
        write(self._refusal, text)

    def has_traceback(self) -> bool:
        """Whether a failure is recorded already."""
        return self.traceback_path.is_file()

    def error(self) -> str:
        """The last line of a failed cell's traceback."""
        path = self.traceback_path
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
        return lines[-1].strip() if lines else "no traceback recorded"

    def metrics(self) -> list[dict[str, Any]]:
        """The rows so far, in order; a last line that a kill cut short is left out.

        Raises RecordError where any other line is not JSON.
        """
        path = self.path / METRICS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                break
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise RecordError(
                    f"{path}, line {number}, is not JSON ({error}): the file is damaged. Remove {self.path} to run the "
                    "cell again"
                ) from None
        return rows

    def keep_metrics(self, steps: int) -> None:
        """Drops the rows after a step, before the run continues from there."""
        rows = [row for row in self.metrics() if row["step"] <= steps]
        write(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def add_metrics(self, row: Mapping[str, float]) -> None:
        """Appends the row of a step."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def samples(self, columns: Sequence[str] = SAMPLE_COLUMNS) -> pd.DataFrame:
        """A row an evaluated sample. Cells of gvpo-bench 0.1 lack the column `answer`."""
        import pandas as pd
        import pyarrow.parquet

        path = self.path / SAMPLES
        recorded = pyarrow.parquet.read_schema(path).names
        return pd.read_parquet(path, columns=[name for name in columns if name in recorded or name != "answer"])

    def write_samples(self, samples: pd.DataFrame) -> None:
        """Keeps the evaluated samples."""
        write(self.path / SAMPLES, samples.to_parquet(index=False))

    def coefficients(self) -> pd.DataFrame:
        """See `write_coefficients`."""
        import pandas as pd

        return pd.read_parquet(self.path / COEFFICIENTS)

    def write_coefficients(self, coefficients: pd.DataFrame) -> None:
        """Keeps the gradient coefficients: see `harness.training.coefficients.compare_coefficients`."""
        write(self.path / COEFFICIENTS, coefficients.to_parquet(index=False))

    def finish_training(self, training_hash: str, record: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Ends the training: `save` writes the checkpoint into a folder, and what only a resumption needs goes.

        `record` is JSON, for `training`.
        """
        with new_folder(self.checkpoint_path) as scratch:
            save(scratch)
        write_json(self.path / TRAINING, {"hash": training_hash, **record})
        shutil.rmtree(self.resume_path, ignore_errors=True)

    def finish(self, manifest: Mapping[str, Any], *, keep_checkpoint: bool = True) -> None:
        """Ends the cell: the manifest comes, and the checkpoint goes where the cell finished and it is not wanted."""
        write_json(self.path / MANIFEST, manifest)
        if manifest["status"] == "finished" and not keep_checkpoint:
            self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Removes the trained model."""
        shutil.rmtree(self.checkpoint_path, ignore_errors=True)

    def progress(self) -> tuple[int, int] | None:
        """Another value each time that there is something new to go on from; None where there is nothing."""
        for path in (self.path / TRAINING, self.resume_path):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                return stat.st_ino, stat.st_mtime_ns
        return None

    def pack(self, what: Literal["to go on", "progress", "results"]) -> Files:
        """The files that travel: to another machine that goes on, back with each of its checkpoints, and in the end."""
        names = {
            "to go on": (HASH, METRICS, PROBLEMS, RESUME, CHECKPOINT, TRAINING),
            "progress": (METRICS, RESUME, CHECKPOINT, TRAINING),
            "results": (
                *(ALGORITHM, METRICS, PROBLEMS, RESUME, CHECKPOINT, TRAINING),
                *(SAMPLES, COEFFICIENTS, TRACEBACK, MANIFEST),
            ),
        }[what]
        return pack(self.path, names)

    def unpack(self, files: Files) -> None:
        """Takes in what another machine packed; the manifest, which says that the cell is over, comes last."""
        unpack(self.path, {name: content for name, content in files.items() if name != MANIFEST})
        if TRAINING in files:  # whose end of training removed what was there to go on from
            shutil.rmtree(self.resume_path, ignore_errors=True)
        if MANIFEST in files:
            write(self.path / MANIFEST, files[MANIFEST])


def cell_folders(runs: Path) -> list[CellFolder]:
    """The folders of a suite's runs that a cell has ended in, by name."""
    return [CellFolder(path.parent) for path in sorted(runs.glob(f"*/{MANIFEST}"))]


def pack(folder: Path, names: Sequence[str]) -> Files:
    """The named files below a folder, and all files of the named folders; what isn't there is left out."""
    paths = [path for name in names for path in (folder / name, *sorted((folder / name).rglob("*")))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def unpack(folder: Path, files: Files) -> None:
    """Writes what `pack` read: each file, and each folder of files, in one step."""
    for top in dict.fromkeys(name.partition("/")[0] for name in files):
        if top in files:
            write(folder / top, files[top])
            continue
        with new_folder(folder / top) as scratch:
            for name, content in files.items():
                if name.startswith(f"{top}/"):
                    write(scratch / name.removeprefix(f"{top}/"), content)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
