"""Whether a cell's folder holds what was recorded there, and so what is left to do for it. Reads, and changes nothing.

Checksums make a tree. manifest.json has those of the evaluation and of training.json, which has those of what training
left, rollouts.jsonl among it, which has those of the rollouts; `resume/` has its own and those of the rows, kept
samples and problems up to its step, and goes with the rollouts up to it. Each of these records but the rollouts'
carries a checksum of itself. Cells that were recorded before there were any have none, and are taken as they are.

See cell_folder.py for the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from harness.record.files import RecordError, refuse_links
from harness.record.kept_samples import KEPT
from harness.record.rollouts_file import ROLLOUT_SUMS, ROLLOUTS, rollout_faults
from harness.record.sums import OWN_SUMS, SUMS, is_sealed, read_record, sum_of, sums_of, unfit

HASH, METRICS, ALGORITHM, TRAINING, LOCK = "hash", "metrics.jsonl", "algorithm.py", "training.json", ".lock"
PROBLEMS = "problems.json"
SAMPLES, COEFFICIENTS, MANIFEST, TRACEBACK = "samples.parquet", "coefficients.parquet", "manifest.json", "traceback.txt"
RESUME, CHECKPOINT, EARLIER = "resume", "checkpoint", "earlier"

TRAINED = (METRICS, KEPT, PROBLEMS, ALGORITHM, ROLLOUT_SUMS)
"""What training.json vouches for, beside the checkpoint."""
OF_TRAINING = (METRICS, KEPT, PROBLEMS, ROLLOUT_SUMS, ROLLOUTS, RESUME, CHECKPOINT)
"""What a training with other settings leaves no use for."""
EVALUATED = (SAMPLES, COEFFICIENTS)
"""What the manifest vouches for, beside training.json."""

WAY_OUT = "the sweep of this suite sets such a cell aside and runs it again"

State = Literal["new", "trained", "finished"]
"""What is left to do for a cell: all of it, the evaluation, or nothing."""

REQUIRED = {
    MANIFEST: (
        *("suite", "cell", "algorithm", "seed", "hash", "suite_hash", "status", "command", "config"),
        *("versions", "hardware", "git", "seconds"),
    ),
    TRAINING: ("hash", "display", "tokens", "seconds"),
}
"""Keys of a record without a checksum, which may lack any."""


class Hashes(NamedTuple):
    """Of the settings that decide a cell's numbers, those of its training apart from those of its evaluation."""

    training: str
    evaluation: str


@dataclass(frozen=True)
class Found:
    """The records in a cell's folder, None where there is none or it is damaged, and what does not fit them."""

    manifest: dict[str, Any] | None
    training: dict[str, Any] | None
    evaluation_faults: list[str]
    training_faults: list[str]
    """But for the checkpoint's, which is large: see `checkpoint_faults`."""

    @property
    def faults(self) -> list[str]:
        """All of them."""
        return [*self.evaluation_faults, *self.training_faults]

    @property
    def is_sealed(self) -> bool:
        """Whether what is there carries checksums."""
        return all(is_sealed(record) for record in (self.manifest, self.training) if record is not None)


@dataclass(frozen=True)
class Judgement:
    """What is left to do for a cell, from what is sound of it."""

    state: State
    faults: Sequence[str] = ()
    """What is not, a phrase each."""
    whole: bool = False
    """Whether the faults are such that nothing of the cell is of use."""


def judge(path: Path, hashes: Hashes) -> Judgement:
    """Judges a cell's folder for these settings.

    Raises RecordError where it holds a link or something of the wrong kind; where the cell was finished or trained with
    other settings, since nothing finished is overwritten; or where it would have to be evaluated again and kept no
    checkpoint.
    """
    found = look(path)
    manifest, training = found.manifest, found.training
    finished = manifest is not None and manifest["status"] == "finished"
    recorded = manifest if finished else training
    if recorded is not None and recorded["hash"] != hashes.training:
        raise RecordError(
            f"{path} was {'finished' if finished else 'trained'} with other settings (hash {recorded['hash']}, now "
            f"{hashes.training}; compare its {MANIFEST}). Give another --out, or remove that folder to run the cell "
            "again"
        )
    if found.training_faults:
        return Judgement("new", found.faults, whole=True)
    if manifest is not None and finished and not found.faults and manifest.get("evaluation_hash") == hashes.evaluation:
        return Judgement("finished")
    if training is None:  # the base, which has none, or a cell that is not trained yet
        unusable = [] if finished else resume_faults(path)
        return Judgement("new", [*found.evaluation_faults, *unusable], whole=bool(unusable))
    if not earlier_faults(path, hashes.evaluation):
        return Judgement("trained", found.evaluation_faults)
    if not (path / CHECKPOINT).is_dir():
        if finished and not found.evaluation_faults:
            raise RecordError(
                f"{path} was evaluated with other settings and kept no checkpoint that could be evaluated again "
                "(resources.keep_checkpoints). Give another --out, or remove that folder to train the cell again"
            )
        return Judgement("new", found.evaluation_faults or [f"{CHECKPOINT}/ is missing"], whole=True)
    unusable = checkpoint_faults(path, training)
    return Judgement("new" if unusable else "trained", [*found.evaluation_faults, *unusable], whole=bool(unusable))


def look(path: Path) -> Found:
    """The records of a cell and all that does not fit them, without the checkpoint. Raises RecordError as `judge`."""
    _check_kinds(path)
    manifest, evaluation_faults = _read(path, MANIFEST)
    training, training_faults = _read(path, TRAINING)
    if manifest is not None and not _is_of(path, manifest):
        evaluation_faults = [f"{MANIFEST} is that of cell {manifest['cell']}"]
        manifest = None
    elif manifest is not None:
        sums = dict(manifest.get(SUMS, {}))
        expected = {TRAINING: sums.pop(TRAINING)} if TRAINING in sums else None
        if SUMS in manifest:
            finished = manifest["status"] == "finished"
            evaluation_faults += unfit(path, sums, dict.fromkeys((*EVALUATED, *sums)) if finished else ())
        if expected and not training_faults:
            training_faults += unfit(path, expected, expected)
    if training is not None and SUMS in training:
        training_faults += unfit(path, _within(training[SUMS], TRAINED), TRAINED)
    return Found(manifest, training, evaluation_faults, training_faults)


def all_faults(path: Path) -> list[str]:
    """All that does not fit, of everything in the folder of a cell. Raises RecordError as `judge`."""
    found = look(path)
    faults = [*found.faults, *rollout_faults(path)]
    if found.training is not None and (path / CHECKPOINT).is_dir():
        faults += checkpoint_faults(path, found.training)
    elif found.training is not None and not faults and (found.manifest or {}).get("status") != "finished":
        faults.append(f"{CHECKPOINT}/ is missing")
    elif found.training is None and not found.training_faults:
        faults += [fault for fault in resume_faults(path) if fault not in faults]
    for earlier in sorted((path / EARLIER).glob("[!.]*")):
        faults += earlier_faults(path, earlier.name)
    return faults


def checkpoint_faults(path: Path, training: Mapping[str, Any]) -> list[str]:
    """What of the trained model is not as the record of the training says, nor left without sums by an old one."""
    return unfit(path, _within(training[SUMS], (CHECKPOINT,)), (CHECKPOINT,)) if SUMS in training else []


def earlier_faults(path: Path, evaluation_hash: str) -> list[str]:
    """What of an evaluation that was put aside cannot be taken back; that it isn't there, where it is not."""
    name = f"{EARLIER}/{evaluation_hash}"
    manifest, faults = _read(path / name, MANIFEST, f"{name}/{MANIFEST}")
    if manifest is None:
        return faults or [f"{name}/{MANIFEST} is missing"]
    if not _is_of(path, manifest):
        return [f"{name}/{MANIFEST} is that of cell {manifest['cell']}"]
    if manifest.get("evaluation_hash") != evaluation_hash:
        return [f"{name}/{MANIFEST} is that of evaluation {manifest.get('evaluation_hash')}"]
    if SUMS in manifest:
        sums = _within(manifest[SUMS], EVALUATED)
        faults += unfit(path, {f"{name}/{key}": x for key, x in sums.items()}, [f"{name}/{SAMPLES}"])
        trained = _within(manifest[SUMS], (TRAINING,))
        faults += unfit(path, trained, trained)
    elif not (path / name / SAMPLES).is_file():
        faults.append(f"{name}/{SAMPLES} is missing")
    return faults


def resume_record(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """What `resume/` says of itself: the `hash` of its training, and sums."""
    return read_record(path / RESUME / OWN_SUMS, f"{RESUME}/{OWN_SUMS}")


def resume_sums(path: Path, folder: Path) -> dict[str, Any]:
    """What a `folder` that is to become `resume/` has to say: its sums, and those of what goes with it.

    Of the rows so far it says how many bytes they are, since more will follow.
    """
    names = sorted(below.name for below in folder.iterdir() if below.name != OWN_SUMS)
    metrics = path / METRICS
    size = metrics.stat().st_size if metrics.is_file() else 0
    return {
        SUMS: {f"{RESUME}/{name}": x for name, x in sums_of(folder, names).items()} | sums_of(path, (PROBLEMS, KEPT)),
        "metrics": {"bytes": size, "sha256": sum_of(metrics, size) if size else None},
    }


def resume_faults(path: Path) -> list[str]:
    """What an interrupted training cannot go on from; nothing where it left nothing."""
    if not (path / RESUME).is_dir():
        return []
    record, faults = resume_record(path)
    if record is None or SUMS not in record:
        return faults or [f"{RESUME}/{OWN_SUMS} is missing"]
    metrics, rows = path / METRICS, record["metrics"]
    try:
        names = [f"{RESUME}/{below.name}" for below in sorted((path / RESUME).iterdir()) if below.name != OWN_SUMS]
        if rows["bytes"] and not (metrics.is_file() and sum_of(metrics, rows["bytes"]) == rows["sha256"]):
            faults.append(f"{METRICS} does not hold the rows that {RESUME}/ follows")
        elif (path / ROLLOUT_SUMS).is_file():
            faults += rollout_faults(path, metrics.read_bytes()[: rows["bytes"]].count(b"\n") if rows["bytes"] else 0)
    except OSError as error:
        return [f"{error.filename} cannot be read ({error.strerror})"]
    kept = _within(record[SUMS], (KEPT,))  # further ones may have followed
    return [*faults, *unfit(path, record[SUMS], (*names, PROBLEMS, *kept))]


def lasting_steps(path: Path, hashes: Hashes, state: State) -> int:
    """How many steps of a cell in this state were trained and are not trained again: all where the training is over,
    else those that `resume/` follows. Counts rows, whatever they hold."""
    metrics = path / METRICS
    rows = metrics.read_bytes() if metrics.is_file() else b""
    if state == "new":
        record, _ = resume_record(path)
        if record is None or SUMS not in record or record["hash"] != hashes.training:
            return 0
        rows = rows[: record["metrics"]["bytes"]]
    return rows.count(b"\n")


def _read(folder: Path, name: str, called: str | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    record, faults = read_record(folder / name, called)
    if record is not None and not is_sealed(record):
        lacking = [key for key in REQUIRED[name] if key not in record]
        if lacking:
            return None, [f"{called or name} lacks {', '.join(lacking)}"]
    return record, faults


def _is_of(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is that of the cell of this folder, which in an ablation lies in the folder of its point."""
    parts = PurePath(str(manifest.get("cell", path.name))).parts
    return path.parts[-len(parts) :] == parts[-len(path.parts) :]


def _within(sums: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {key: x for key, x in sums.items() if key.partition("/")[0] in names}


def _check_kinds(path: Path) -> None:
    """Raises RecordError where a link, a file or a folder is where it should not be."""
    refuse_links(path)
    folders = [path, *(path / name for name in (RESUME, CHECKPOINT, EARLIER, ROLLOUTS, KEPT))]
    names = (
        HASH,
        METRICS,
        ALGORITHM,
        ROLLOUT_SUMS,
        TRAINING,
        LOCK,
        PROBLEMS,
        SAMPLES,
        COEFFICIENTS,
        MANIFEST,
        TRACEBACK,
    )
    for below in folders:
        if below.exists() and not below.is_dir():
            raise RecordError(f"{below} is a file, where there should be a folder: move it away")
    for below in (path / name for name in names):
        if below.is_dir():
            raise RecordError(f"{below} is a folder, where there should be a file: move it away")
