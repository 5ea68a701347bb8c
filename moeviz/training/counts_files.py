"""Counts of many experts, in Parquet files beside routing.jsonl: a file a log, put together as they become many.

One row a layer: step int64 · layer int32 · counts list of int64 · importance list of float32 · dead_since list of int32
(-1: not dead). Files are numbered in the order in which they were written; of two rows of a step, the later one counts.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES, MAX_LAYERS

FOLDER = "counts"
LARGE = 1_024  # layers x experts of which a line has no counts: 48 x 128 would be 180 kB a line
TOGETHER = 64  # files that become one
MAX_ROWS = TOGETHER * MAX_LAYERS
NAME = re.compile(r"part-(\d{6,12})\.parquet")
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("layer", pa.int32()),
        ("counts", pa.list_(pa.int64())),
        ("importance", pa.list_(pa.float32())),
        ("dead_since", pa.list_(pa.int32())),
    ]
)
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError)


def parts_of(folder: Path) -> list[Path]:
    """The files of a run, as they were written."""
    found = {int(name[1]): file for file in folder.glob("part-*.parquet") if (name := NAME.fullmatch(file.name))}
    return [found[place] for place in sorted(found)]


def write_counts_of_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add the counts of a log, `rows` with the columns above; put files together where they have become many."""
    folder.mkdir(exist_ok=True)
    parts = parts_of(folder)
    number = int(NAME.fullmatch(parts[-1].name)[1]) + 1 if parts else 0  # type: ignore[index]
    _write(pa.Table.from_pylist(list(rows), SCHEMA), folder / f"part-{number:06d}.parquet")
    singles = [part for part in parts if int(NAME.fullmatch(part.name)[1]) % TOGETHER != TOGETHER - 1]  # type: ignore[index]
    if number % TOGETHER == TOGETHER - 1:
        tables = [parquet.read_table(part, schema=SCHEMA) for part in [*singles, folder / f"part-{number:06d}.parquet"]]
        _write(pa.concat_tables(tables), folder / f"part-{number:06d}.parquet")
        for part in singles:
            part.unlink()


def _write(table: pa.Table, target: Path) -> None:
    """In one piece: whoever reads meanwhile finds the old file or the new one."""
    beside = target.with_suffix(".writing")
    parquet.write_table(table, beside, compression="zstd")
    beside.replace(target)


class Arrays:
    """Counts, importance and the steps of death (S, L, E) of the logs of a run, as they are found."""

    def __init__(self, steps: Sequence[int], layers: Sequence[int], experts: int) -> None:
        shape = (len(steps), len(layers), experts)
        self.steps, self.layers = np.asarray(steps, np.int64), np.asarray(layers, np.int64)
        self.counts = np.full(shape, -1, np.int64)
        self.importance = np.full(shape, np.nan, np.float32)
        self.dead_since = np.full(shape, -1, np.int32)

    def read(self, file: Path) -> None:
        """Take what a file has. Raises `InvalidTrace` for one that is damaged, or not of this run."""
        try:
            _check_declared_size(parquet.read_metadata(file))
            table = parquet.read_table(file, schema=SCHEMA)
            table.validate(full=True)
            step, layer = (table.column(name).to_numpy() for name in ("step", "layer"))
            row, column = _places(self.steps, step), _places(self.layers, layer)
            kept = (row >= 0) & (column >= 0)
            for name in ("counts", "importance", "dead_since"):
                self._take(name, table.column(name).combine_chunks(), row, column, kept)
        except UNREADABLE as error:
            raise InvalidTrace(f"The counts in {file.name} cannot be read: {str(error)[:200]}.") from error

    def _take(self, name: str, lists: pa.ListArray, row: np.ndarray, column: np.ndarray, kept: np.ndarray) -> None:
        target = getattr(self, name)
        lengths = np.diff(lists.offsets.to_numpy())
        values = lists.flatten().to_numpy()
        if len(values) != lengths.sum() or (lengths > target.shape[2]).any() or lists.null_count:
            raise ValueError("its lists are not of the experts of this run")
        for length in np.unique(lengths):  # one, unless layers have different numbers of experts
            mine = lengths == length
            starts = lists.offsets.to_numpy()[:-1][mine & kept] - lists.offsets.to_numpy()[0]
            target[row[mine & kept], column[mine & kept], :length] = values[starts[:, None] + np.arange(length)]


def _check_declared_size(metadata: parquet.FileMetaData) -> None:
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if size > MAX_BYTES or metadata.num_rows > MAX_ROWS:
        raise ValueError(f"it unpacks to {size:,} bytes in {metadata.num_rows:,} rows")


def _places(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each value is among those that are known, in ascending order; -1 for others."""
    if not len(known):
        return np.full(len(values), -1)
    at = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[at] == values, at, -1)
