"""The same expert ids on disk in other layouts: bits an id of each, beside those of the layout that datasets have."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

TEXT = 512  # tokens
Columns = dict[str, pa.Array]
SPLIT = "BYTE_STREAM_SPLIT"


def binary(rows: np.ndarray) -> pa.Array:
    """(T, n) bytes as T binaries of n."""
    rows = np.ascontiguousarray(rows)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)])


def column_a_layer(ids: np.ndarray) -> Columns:
    """That of datasets."""
    return {f"layer_{layer}": binary(ids[:, layer]) for layer in range(ids.shape[1])}


def row_a_token(ids: np.ndarray) -> Columns:
    """All layers of a token in one cell."""
    return {"experts": binary(ids.reshape(len(ids), -1))}


def list_a_layer(ids: np.ndarray) -> Columns:
    """A list of ids."""
    K = ids.shape[2]
    lists = (pa.FixedSizeListArray.from_arrays(pa.array(ids[:, at].ravel()), K) for at in range(ids.shape[1]))
    return {f"layer_{layer}": column for layer, column in enumerate(lists)}


def column_a_slot(ids: np.ndarray) -> Columns:
    """A column of ids for each layer and slot."""
    _, L, K = ids.shape
    return {f"layer_{layer}_{slot}": pa.array(ids[:, layer, slot]) for layer in range(L) for slot in range(K)}


def row_a_layer(ids: np.ndarray) -> Columns:
    """A row a token and layer, a column a slot."""
    return {f"slot_{slot}": pa.array(ids[:, :, slot].ravel()) for slot in range(ids.shape[2])}


def row_a_text(ids: np.ndarray) -> Columns:
    """All tokens of a text in one cell, for each layer."""
    texts = ids[: len(ids) // TEXT * TEXT].reshape(-1, TEXT, *ids.shape[1:])
    return {f"layer_{at}": pa.array([text[:, at].tobytes() for text in texts]) for at in range(ids.shape[1])}


LAYOUTS: dict[str, tuple[Callable[[np.ndarray], Columns], str]] = {
    "column a layer, binary, plain": (column_a_layer, "PLAIN"),
    "column a layer, binary, split": (column_a_layer, SPLIT),
    "column a layer, list, split": (list_a_layer, SPLIT),
    "column a layer, list, dictionary": (list_a_layer, "dictionary"),
    "column a layer and slot, dictionary": (column_a_slot, "dictionary"),
    "row a token and layer, dictionary": (row_a_layer, "dictionary"),
    "row a token, binary, plain": (row_a_token, "PLAIN"),
    "row a text, binary, plain": (row_a_text, "PLAIN"),
}


def bits_of(ids: np.ndarray, layout: str, level: int = 3) -> float:
    """Bits an id of ids (T, L, K), by zstd of that level and row groups of 65,536 tokens."""
    made, encoding = LAYOUTS[layout]
    table, target = pa.table(made(ids)), BytesIO()
    how: dict[str, Any] = {"use_dictionary": encoding == "dictionary", "write_statistics": False}
    if encoding != "dictionary":
        ends = ".list.element" if made is list_a_layer else ""
        how["column_encoding"] = {f"{name}{ends}": encoding for name in table.column_names}
    rows = {row_a_layer: 65_536 * ids.shape[1], row_a_text: 65_536 // TEXT}.get(made, 65_536)
    parquet.write_table(table, target, compression="zstd", compression_level=level, row_group_size=rows, **how)
    facts = parquet.ParquetFile(BytesIO(target.getvalue())).metadata
    groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
    size = sum(group.column(at).total_compressed_size for group in groups for at in range(group.num_columns))
    return 8 * size / ids.size
