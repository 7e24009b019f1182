"""Tables of a cell's folder, as Parquet files. pandas is imported when one is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.files import RecordError, write

if TYPE_CHECKING:
    import pandas as pd


def read_table(
    cell: Path, name: str, columns: Sequence[str] | None = None, *, may_lack: Collection[str] = ()
) -> pd.DataFrame:
    """A table in the folder of a cell, or these columns of it, without those that it may lack and does.

    Raises RecordError where it cannot be read.
    """
    import pandas as pd
    import pyarrow
    import pyarrow.parquet

    try:
        if columns is not None and may_lack:
            recorded = pyarrow.parquet.read_schema(cell / name).names
            columns = [column for column in columns if column in recorded or column not in may_lack]
        return pd.read_parquet(cell / name, columns=None if columns is None else list(columns))
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise RecordError(f"{cell / name} cannot be read ({reason}). Remove {cell} to run the cell again") from None


def write_table(cell: Path, name: str, table: pd.DataFrame, *, compression: str = "snappy") -> None:
    """Writes a table into the folder of a cell, in one step. The same table gives the same bytes."""
    write(cell / name, table.to_parquet(index=False, compression=compression))  # type: ignore[call-overload]
