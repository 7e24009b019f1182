"""What a cell leaves behind, written so that a kill at any moment loses nothing that was finished.

`<runs>/<cell>/` holds

    metrics.jsonl       a row a step
    training-samples/   responses that training drew, a file a step, at the steps that are kept
    problems.json       which problems it is trained on, where not on all, and the base's pass rate on each
    rollouts/           what each step drew, where it is recorded, and rollouts.jsonl with sums: rollouts_file.py
    algorithm.py        a user's own algorithm, as it was run
    resume/             what an interrupted training goes on from, while there is need of it, and sums.json of it
    checkpoint/         the trained model, a folder that transformers opens
    training.json       what training it took, and sums of all the above; its presence means that the training is over
    samples.parquet     a row an evaluated sample, with SAMPLE_COLUMNS
    coefficients.parquet    in place of all these, in the folder of the job that compares gradient coefficients
    manifest.json       settings, versions, costs, sums: written last, its presence means that the cell is over
    traceback.txt       why it failed
    earlier/<hash>/     samples and manifest of evaluations with other settings
    hash, .lock         of which training this is, and whose it is just now

and what does not fit its sums is set aside in `<runs>/.set-aside/<cell>-<n>/`. Nothing outside of harness/record/ knows
these names or formats; cell_state.py judges a folder.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import Timeout

from harness.record.aside import set_aside
from harness.record.cell_state import (
    ALGORITHM,
    CHECKPOINT,
    COEFFICIENTS,
    EARLIER,
    EVALUATED,
    HASH,
    LOCK,
    MANIFEST,
    METRICS,
    OF_TRAINING,
    PROBLEMS,
    RESUME,
    SAMPLES,
    TRACEBACK,
    TRAINED,
    TRAINING,
    WAY_OUT,
    Hashes,
    Judgement,
    State,
    all_faults,
    checkpoint_faults,
    earlier_faults,
    judge,
    lasting_steps,
    look,
    resume_record,
    resume_sums,
)
from harness.record.files import (
    RecordError,
    locked,
    new_folder,
    refuse_links,
    remove,
    restore_folder,
    write,
    write_json,
)
from harness.record.kept_samples import KEPT, KeptSamples
from harness.record.metrics_file import add_row, keep_rows, read_rows
from harness.record.parquet_files import read_table, write_table
from harness.record.rollouts_file import ROLLOUTS
from harness.record.sums import OWN_SUMS, SEAL, SUMS, seal, sums_of
from harness.record.text import last_line
from harness.record.travel import Files, pack, unpack

if TYPE_CHECKING:
    import pandas as pd

LOCK_SECONDS = 60.0
"""How long a cell waits for another process that still holds its folder, such as the orphan of a killed sweep."""

SAMPLE_COLUMNS = [
    *("benchmark", "problem_id", "sample", "response", "answer", "verdict", "score", "tokens", "finish", "kl", "logp"),
]
"""Of samples.parquet: see `harness.evaluation.evaluate.evaluate`."""
LATER = ("answer", "logp")  # which cells of earlier versions lack


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
        """The manifest, or None while the cell isn't over. Raises RecordError where it does not fit its checksum."""
        found = look(self.path)
        return self._sound(found.manifest, found.evaluation_faults)

    def training(self) -> dict[str, Any] | None:
        """What `finish_training` recorded, or None while the training isn't over. Raises RecordError as `manifest`."""
        found = look(self.path)
        return self._sound(found.training, found.training_faults)

    def _sound(self, record: dict[str, Any] | None, faults: Sequence[str]) -> dict[str, Any] | None:
        if faults:
            raise RecordError(f"{self.path}: {'; '.join(faults)}. {WAY_OUT[0].upper()}{WAY_OUT[1:]}")
        return None if record is None else {key: x for key, x in record.items() if key not in (SEAL, SUMS)}

    def is_sealed(self) -> bool:
        """Whether what is recorded carries checksums; cells of earlier versions do not."""
        return look(self.path).is_sealed

    def faults(self, *, checkpoints: bool = False) -> list[str]:
        """What does not fit the checksums, a phrase each; with `checkpoints` of all that is there, else of what a
        report reads. Raises RecordError where a link or something of the wrong kind is there."""
        return all_faults(self.path) if checkpoints else look(self.path).faults

    def require_checkpoint(self) -> None:
        """Raises RecordError where the trained model does not fit its checksums."""
        found = look(self.path)
        self._sound(None, [*found.training_faults, *checkpoint_faults(self.path, found.training or {})])

    def state(self, hashes: Hashes) -> State:
        """What is left to do for the cell with these settings, from what is sound of it. Raises RecordError as
        `cell_state.judge`."""
        return judge(self.path, hashes).state

    def lasting_steps(self, hashes: Hashes, state: State) -> int:
        """How many steps were trained and, in this state, are not trained again."""
        return lasting_steps(self.path, hashes, state)

    @contextlib.contextmanager
    def claim(self, hashes: Hashes, seconds: float | None = None) -> Iterator[State]:
        """Holds the folder against other processes, sets aside what does not fit its checksums, and clears what an
        attempt with other settings left there.

        Gives the cell's state. An evaluation with other settings is put aside, and taken back where these are its
        settings.

        Raises RecordError where another process holds the folder for over `seconds` (LOCK_SECONDS), or as `state` does.
        """
        try:
            lock = self.hold(LOCK_SECONDS if seconds is None else seconds)
        except Timeout:
            why = "is in use by another process, perhaps of another sweep; run the same command when that has ended"
            raise RecordError(f"{self.path} {why}") from None
        with lock:
            self._refusal.unlink(missing_ok=True)
            found, _ = self._mend(hashes)
            state = found.state
            if state == "finished":
                self._tidy()
            else:
                self._put_aside()
                self._clear(hashes.training)
                state = "finished" if self._take_back(hashes.evaluation) else state
            yield state

    def mend(self, hashes: Hashes) -> str | None:
        """Sets aside what does not fit its checksums, and says so; None where all fits, or another process is at it.
        Raises RecordError as `state` does."""
        if not judge(self.path, hashes).faults:
            return None
        with contextlib.suppress(Timeout), self.hold():
            found, where = self._mend(hashes)
            if where is not None:
                left = "the cell is run again" if found.state == "new" else "its checkpoint is evaluated again"
                return f"{'; '.join(found.faults)}. Set aside in {where}; {left}"
        return None

    def _mend(self, hashes: Hashes) -> tuple[Judgement, Path | None]:
        """What is sound of the cell, and where the rest was set aside."""
        for folder in (self.resume_path, self.checkpoint_path, self.path / KEPT, self._earlier(hashes.evaluation)):
            restore_folder(folder)
        found = judge(self.path, hashes)
        return found, self.set_aside(found.faults, whole=found.whole) if found.faults else None

    def hold(self, seconds: float = 0.0) -> Any:
        """The lock of the folder, made where there is none. Raises filelock's Timeout, or RecordError."""
        refuse_links(self.path)
        if self.path.is_file():
            raise RecordError(f"{self.path} is a file, where there should be a folder: move it away")
        self.path.mkdir(parents=True, exist_ok=True)
        return locked(self.path / LOCK, seconds)

    def set_aside(self, faults: Sequence[str], *, whole: bool = True) -> Path:
        """Moves the cell, or its evaluation alone, to where nothing reads it; returns where. To be done in a claim."""
        every = sorted(path.name for path in self.path.iterdir() if path.name != LOCK)
        # The records go first: a kill on the way leaves nothing that is taken for sound.
        names = [MANIFEST, TRAINING, RESUME, *every] if whole else [MANIFEST, *EVALUATED]
        return set_aside(self.path, names, faults, runs=self.path.parent, label=self.path.name)

    def tidy(self) -> None:
        """Removes from a finished cell what a kill left there that is of no use, unless somebody is at it."""
        if self.resume_path.exists() or self._scratch():
            with contextlib.suppress(OSError), self.hold():  # Timeout is one; so is a disk that cannot be written
                self._tidy()

    def _tidy(self) -> None:
        if (self.path / MANIFEST).is_file():
            for path in (self.resume_path, *self._scratch()):
                remove(path)

    def _scratch(self) -> list[Path]:
        """What an attempt that was killed left while it wrote."""
        return [path for path in self.path.glob(".*") if path.name != LOCK]

    def _earlier(self, evaluation_hash: str) -> Path:
        return self.path / EARLIER / evaluation_hash

    def _put_aside(self) -> None:
        """Moves a finished evaluation to earlier/, where one that is asked for again is found."""
        manifest = look(self.path).manifest
        if manifest is not None and manifest["status"] == "finished":
            with new_folder(self._earlier(manifest["evaluation_hash"])) as scratch:
                for name in (SAMPLES, MANIFEST):
                    shutil.copy2(self.path / name, scratch / name)

    def _take_back(self, evaluation_hash: str) -> bool:
        """Whether there was an evaluation with these settings that is sound."""
        earlier = self._earlier(evaluation_hash)
        if not earlier.is_dir():
            return False
        if faults := earlier_faults(self.path, evaluation_hash):
            names = [f"{EARLIER}/{evaluation_hash}"]
            set_aside(self.path, names, faults, runs=self.path.parent, label=self.path.name)
            return False
        for name in (SAMPLES, MANIFEST):  # in this order: the manifest says that the samples are there
            write(self.path / name, (earlier / name).read_bytes())
        return True

    def _clear(self, training_hash: str) -> None:
        for name in (MANIFEST, TRACEBACK, *EVALUATED):
            remove(self.path / name)
        for path in self._scratch():
            remove(path)
        hash_file = self.path / HASH
        found = hash_file.read_text(errors="replace") if hash_file.is_file() else None
        known = look(self.path).training
        if known is not None:
            remove(self.resume_path)  # of which a kill at the end of the training left something
        else:
            known, _ = resume_record(self.path)
        if (known["hash"] if known else found) != training_hash:
            for name in OF_TRAINING:
                remove(self.path / name)
        if found != training_hash:
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
        path = self.path / PROBLEMS
        return frozenset(json.loads(path.read_text(encoding="utf-8"))["kept"]) if path.is_file() else None

    def write_traceback(self, text: str, *, beside: bool = False) -> None:
        """Why the cell failed; beside the folder, where another process holds that."""
        write(self._refusal if beside else self.path / TRACEBACK, text)

    def traceback(self) -> str | None:
        """Why the cell failed; None where that is not recorded."""
        path = self.traceback_path
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def error(self) -> str:
        """The last line of a failed cell's traceback."""
        return last_line(self.traceback())

    def metrics(self) -> list[dict[str, Any]]:
        """The rows so far: see `metrics_file.read_rows`."""
        return read_rows(self.path / METRICS)

    @property
    def kept(self) -> KeptSamples:
        """The responses that training drew, at the steps that are kept."""
        return KeptSamples(self.path)

    def keep_metrics(self, steps: int) -> None:
        """Drops the rows and kept samples after a step, before the run continues from there."""
        keep_rows(self.path / METRICS, steps)
        self.kept.keep(steps)

    def add_metrics(self, row: Mapping[str, float]) -> None:
        """Appends the row of a step."""
        add_row(self.path / METRICS, row)

    def samples(self, columns: Sequence[str] = SAMPLE_COLUMNS) -> pd.DataFrame:
        """A row an evaluated sample, without columns of LATER that it was recorded before."""
        return read_table(self.path, SAMPLES, columns, may_lack=LATER)

    def write_samples(self, samples: pd.DataFrame) -> None:
        """Keeps the evaluated samples."""
        write_table(self.path, SAMPLES, samples)

    def coefficients(self) -> pd.DataFrame:
        """See `write_coefficients`."""
        return read_table(self.path, COEFFICIENTS)

    def write_coefficients(self, coefficients: pd.DataFrame) -> None:
        """Keeps the gradient coefficients: see `harness.training.coefficients.compare_coefficients`."""
        write_table(self.path, COEFFICIENTS, coefficients)

    def seal_resume(self, folder: Path, training_hash: str) -> None:
        """Leaves checksums in a folder that is to become `resume/`, of it and of the rows and problems so far."""
        write_json(folder / OWN_SUMS, seal({"hash": training_hash, **resume_sums(self.path, folder)}))

    def finish_training(self, training_hash: str, record: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Ends the training: `save` writes the checkpoint into a folder, and what only a resumption needs goes.

        `record` is JSON, for `training`.
        """
        with new_folder(self.checkpoint_path) as scratch:
            save(scratch)
        self.seal_training({"hash": training_hash, **record})
        remove(self.resume_path)

    def seal_training(self, record: Mapping[str, Any]) -> None:
        """Writes training.json, which vouches for all that the training has left."""
        write_json(self.path / TRAINING, seal({**record, SUMS: sums_of(self.path, (*TRAINED, CHECKPOINT))}))

    def finish(self, manifest: Mapping[str, Any], *, keep_checkpoint: bool = True) -> None:
        """Ends the cell: the manifest comes, and the checkpoint goes where the cell finished and it is not wanted."""
        finished = manifest["status"] == "finished"
        trained = (TRAINING,) if (self.path / TRAINING).is_file() else TRAINED
        sums = sums_of(self.path, (*EVALUATED, *trained)) if finished else {}
        write_json(self.path / MANIFEST, seal({**manifest, SUMS: sums}))
        if finished and not keep_checkpoint:
            self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Removes the trained model. A kill on the way leaves all of it, or none that is taken for one."""
        if self.checkpoint_path.is_dir():
            gone = self.path / f".{CHECKPOINT}-dropped"
            remove(gone)
            self.checkpoint_path.rename(gone)
            remove(gone)

    def progress(self) -> tuple[int, int] | None:
        """Another value each time that there is something new to go on from; None where there is nothing."""
        for path in (self.path / TRAINING, self.resume_path):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                return stat.st_ino, stat.st_mtime_ns
        return None

    def pack(self, what: Literal["to go on", "results"]) -> Files:
        """The files that travel, to another machine that goes on and back: a record after what it vouches for."""
        trained = (HASH, ROLLOUTS, *TRAINED, RESUME, CHECKPOINT, TRAINING)
        return pack(self.path, trained if what == "to go on" else (*trained, *EVALUATED, TRACEBACK, MANIFEST))

    def unpack(self, files: Files) -> None:
        """Takes in what another machine packed; the manifest, which says that the cell is over, comes last."""
        unpack(self.path, {name: content for name, content in files.items() if name != MANIFEST})
        if TRAINING in files:  # whose end of training removed what was there to go on from
            remove(self.resume_path)
        if MANIFEST in files:
            write(self.path / MANIFEST, files[MANIFEST])
