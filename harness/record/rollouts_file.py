"""The rollouts that a cell records, so that others can be trained on them: `rollouts/<step>.parquet`, and a checksum of
each in `rollouts.jsonl`, which the record of the training vouches for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.files import RecordError, write
from harness.record.metrics_file import add_row, keep_rows, read_rows
from harness.record.sums import sum_of

if TYPE_CHECKING:
    import pyarrow

ROLLOUTS, ROLLOUT_SUMS = "rollouts", "rollouts.jsonl"


def schema() -> pyarrow.Schema:
    """The columns of a step's file, a row a sample:

    group: its place in the batch. problem_id, prompt (token ids): what was asked.
    first: drawn for the step's own prompts; trained: in the batch, which refilling may have kept it out of.
    tokens: of the response. sampler_logp, behaviour_logp: of each of them, in nats, by the sampling engine and by the
    trainer under the same weights; the second is there where it was trained on.
    reward, truncated, verdict: as they were drawn.
    """
    import pyarrow as pa

    ids, nats = pa.list_(pa.int32()), pa.list_(pa.float32())
    return pa.schema(
        {
            **{"group": pa.int32(), "problem_id": pa.string(), "first": pa.bool_(), "trained": pa.bool_()},
            **{"prompt": ids, "tokens": ids, "sampler_logp": nats, "behaviour_logp": nats},
            **{"reward": pa.float64(), "truncated": pa.bool_(), "verdict": pa.string()},
        }
    )


def step_path(cell: Path, step: int) -> Path:
    """Where the rollouts of a step of a cell lie, counted from 1."""
    return cell / ROLLOUTS / f"{step:06d}.parquet"


def add_rollouts(cell: Path, step: int, rows: Sequence[Mapping[str, Any]], drawn: int) -> None:
    """Writes the rollouts of the next step: first the file, then its checksum.

    Args:
        cell: the folder of the cell.
        step: counted from 1.
        rows: a sample each, as in `schema`.
        drawn: tokens that were drawn for them, those that refilling threw away included.
    """
    import pyarrow as pa
    import pyarrow.parquet

    table, buffer = pa.Table.from_pylist(list(rows), schema()), pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    write(step_path(cell, step), buffer.getvalue().to_pybytes())
    add_row(cell / ROLLOUT_SUMS, {"step": step, "drawn": drawn, "sha256": sum_of(step_path(cell, step))})


def keep_rollouts(cell: Path, steps: int) -> None:
    """Drops what was recorded after a step, before the run continues from there.

    Raises RecordError where less was recorded, or it is damaged.
    """
    keep_rows(cell / ROLLOUT_SUMS, steps)
    faults = rollout_faults(cell)
    if (recorded := len(recorded_steps(cell))) < steps:
        faults.append(f"{ROLLOUT_SUMS} has {recorded} of {steps} steps")
    if faults:
        raise RecordError(
            f"{cell}: the rollouts before step {steps + 1} cannot be kept ({'; '.join(faults)}). Remove that folder to "
            "run the cell again"
        )


def recorded_steps(cell: Path) -> list[dict[str, Any]]:
    """`step`, `drawn` and `sha256` of each recorded step, in order. Raises RecordError as `metrics_file.read_rows`."""
    return read_rows(cell / ROLLOUT_SUMS)


def rollout_faults(cell: Path, steps: int | None = None) -> list[str]:
    """What of a cell's recorded rollouts, or of those of its first steps, does not fit their checksums, a phrase each;
    nothing where there are none."""
    faults = []
    try:
        for row in read_rows(cell / ROLLOUT_SUMS, steps):
            path = step_path(cell, row["step"])
            name = path.relative_to(cell).as_posix()
            if not path.is_file():
                faults.append(f"{name} is missing")
            elif sum_of(path) != row.get("sha256"):
                faults.append(f"{name} is not what was recorded (its SHA-256 differs)")
    except RecordError as error:
        faults.append(str(error))
    return faults


def read_rollouts(cell: Path, step: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a step, counted from 1, as they were recorded; of all columns, or of some.

    Raises RecordError where the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet

    path = step_path(cell, step)
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path, columns=columns and [*columns]).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RecordError(f"{path} cannot be read ({str(error).partition(chr(10))[0]})") from None
    return rows
