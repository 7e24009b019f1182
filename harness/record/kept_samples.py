"""The responses that training drew at chosen steps (`train.keep_samples_every`): `<cell>/training-samples/`, a
compressed Parquet file a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.files import remove
from harness.record.parquet_files import read_table, write_table

if TYPE_CHECKING:
    import pandas as pd

KEPT = "training-samples"
KEPT_COLUMNS = (*("problem_id", "sample", "response", "answer", "verdict", "reward", "tokens", "truncated", "logp"),)
"""A row a sample. `answer` is what the response votes for, "" where it gives none; `verdict` is None where the response
was given and not drawn; `tokens` counts the response, EOS included; `logp` is its log-prob in nats, the sum over its
tokens as the sampling engine reported them (of a given one, under the policy at the start of the step)."""


@dataclass(frozen=True)
class KeptSamples:
    """Those of one cell."""

    cell: Path
    """The cell's folder."""

    def steps(self) -> list[int]:
        """The steps of which there are samples, in order."""
        found = (path.stem.removeprefix("step-") for path in (self.cell / KEPT).glob("step-*.parquet"))
        return sorted(int(step) for step in found if step.isdecimal())

    def missing(self, every: int, steps: int) -> bool:
        """Whether there are none of a step that would have been kept, of the first `steps`."""
        return bool(every) and not set(range(every, steps + 1, every)) <= set(self.steps())

    def read(self, step: int) -> pd.DataFrame:
        """The samples of a step, with KEPT_COLUMNS. Raises RecordError where they cannot be read."""
        return read_table(self.cell, _name(step), KEPT_COLUMNS)

    def content(self, step: int) -> bytes:
        """The file of a step."""
        return (self.cell / _name(step)).read_bytes()

    def write(self, step: int, samples: pd.DataFrame) -> None:
        """Keeps the samples of a step."""
        write_table(self.cell, _name(step), samples[list(KEPT_COLUMNS)], compression="zstd")

    def keep(self, steps: int) -> None:
        """Drops the samples after a step, and what a kill left of a file."""
        folder = self.cell / KEPT
        wanted = {(self.cell / _name(step)).name for step in self.steps() if step <= steps}
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in wanted:
                remove(path)


def _name(step: int) -> str:
    return f"{KEPT}/step-{step:07d}.parquet"
