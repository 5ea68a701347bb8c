"""Write one shard: into a folder of another name, which is put in its place once it is whole."""

import json
import shutil
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from moeviz.errors import InvalidTrace
from moeviz.formats.dataset.layout import (
    ROWS,
    SHARD,
    TOKENS,
    WEIGHTS,
    Kept,
    footer_digest,
    how_written,
    id_type,
    packed_ids,
    schema,
)
from moeviz.formats.dataset.shard_statistics import ShardStatistics
from moeviz.formats.dataset.storage import LocalStorage, ObjectStorage
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.text import cautions_in_one

Rows = dict[str, np.ndarray]  # columns of tokens; ids and weights are (T, L, K)


def rows_of(trace: RoutingTrace, kept: Kept) -> Rows:
    """Return the rows of a trace's tokens as they are stored. Raises `InvalidTrace` for what a shard cannot hold."""
    rows = {"position": trace.tokens["position"].to_numpy(np.int32)}
    rows["generated"] = (trace.tokens["phase"] == "generated").to_numpy(bool)
    rows["experts"] = packed_ids(trace.experts.transpose(1, 0, 2), id_type(trace.model))
    if kept.text:
        rows["token_id"] = trace.tokens["token_id"].to_numpy(np.int32)
        rows["token"] = trace.tokens["text"].to_numpy(object)
    if (kind := WEIGHTS[kept.weights]) is not None:
        rows["weights"] = _as_kept(trace.need("weights", "A dataset with weights").transpose(1, 0, 2), kind)
    return rows


class ShardWriter:
    """`add` texts in order, then `commit`: until then nothing of it can be seen, and after it all of it.

    with ShardWriter(storage_of(path), 0, model, kept) as writer:
        writer.add(0, "French", [rows_of(trace, kept)])
        writer.commit()
    """

    def __init__(
        self, storage: LocalStorage | ObjectStorage, shard: int, model: ModelInfo, kept: Kept, rows: int = ROWS
    ) -> None:
        self.storage, self.shard, self.model, self.kept, self.most = storage, shard, model, kept, rows
        self.part = storage.scratch(shard)
        self.schema, self.statistics = schema(model, kept), ShardStatistics(model)
        self.file = parquet.ParquetWriter(self.part / TOKENS, self.schema, **how_written(self.schema.names))
        self.held: list[dict[str, np.ndarray]] = []
        self.rows = self.tokens = 0
        self.texts: list[tuple[int, str, int, int]] = []
        self.functions: set[str] = set()
        self.cautions: set[str] = set()  # of traces, beside the model's own

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, pa.ArrowException):  # on a full disk the footer cannot be written either
            self.file.close()
        shutil.rmtree(self.part, ignore_errors=True)

    def add(self, text: int, label: str, stretches: list[Rows]) -> None:
        """One text, in the stretches that it was traced in, as `rows_of` gives them."""
        code, first = self.statistics.labels.setdefault(label, len(self.statistics.labels)), self.tokens
        for number, rows in enumerate(stretches):
            T = len(rows["position"])
            self._hold(np.full(T, text), np.full(T, number, np.int32), rows, np.full(T, code, np.intp))
        self.texts.append((text, label, self.tokens - first, first))

    def add_rows(self, text: np.ndarray, label: list[str], trace: RoutingTrace) -> None:
        """Texts that are whole in one trace, sorted by text and position: the number of the text of each token."""
        codes = np.array(
            [self.statistics.labels.setdefault(name, len(self.statistics.labels)) for name in label], np.intp
        )
        starts = np.flatnonzero(np.append(True, text[1:] != text[:-1])) if len(text) else np.zeros(0, int)
        sizes = np.diff(np.append(starts, len(text)))
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            self.texts.append((int(text[start]), label[start], size, self.tokens + start))
        self.functions.add(trace.model.score_function)
        self._hold(text, np.zeros(len(text), np.int32), rows_of(trace, self.kept), codes)

    def _hold(self, text: np.ndarray, stretch: np.ndarray, rows: Rows, codes: np.ndarray) -> None:
        self.held.append({"text": text, "stretch": stretch, "label": codes} | rows)
        self.rows, self.tokens = self.rows + len(text), self.tokens + len(text)
        if self.rows >= self.most:
            self._flush()

    def _flush(self) -> None:
        """A row group: it ends where a stretch ends, so consecutive tokens are always in one."""
        rows = {name: np.concatenate([part[name] for part in self.held]) for name in self.held[0]}
        names = pa.array(list(self.statistics.labels), pa.string())
        rows["label"] = rows["label"].astype(np.int32)
        columns = []
        for field in self.schema:
            kind, _, layer = field.name.partition("_")
            if field.name == "label":
                columns.append(pa.DictionaryArray.from_arrays(rows["label"], names))
            elif kind in ("experts", "weights"):
                columns.append(_packed(rows[kind][:, self.model.layers.index(int(layer))]))
            else:
                columns.append(pa.array(rows[field.name], field.type))
        table = pa.Table.from_arrays(columns, schema=self.schema)
        self.file.write_table(table, row_group_size=max(len(table), 1))
        self.statistics.add(rows["experts"], rows["label"].astype(np.intp), follows(rows))
        self.held, self.rows = [], 0

    def commit(self, plan: str = "") -> bool:
        """Put the shard in its place; False where another had: what is there stays. `plan`: the digest of the plan."""
        if self.held:
            self._flush()
        self.file.close()
        tables = dict(self.statistics.tables())
        number, label, tokens, first = (
            (list(column) for column in zip(*self.texts, strict=True)) if self.texts else [[]] * 4
        )
        columns = {"text": pa.array(number, pa.int64()), "label": pa.array(label, pa.string())}
        tables["texts"] = pa.table(
            columns | {"tokens": pa.array(tokens, pa.int64()), "first_row": pa.array(first, pa.int64())}
        )
        for name, table in tables.items():
            parquet.write_table(table, self.part / f"{name}.parquet", compression="zstd")
        facts: dict[str, Any] = {"shard": self.shard, "plan": plan, "texts": len(number), "tokens": self.tokens}
        facts |= {"score_functions": sorted(self.functions), "files": files_in(self.part)}
        if self.cautions:
            facts["caution"] = cautions_in_one(sorted(self.cautions))
        (self.part / SHARD).write_text(json.dumps(facts), encoding="utf-8")
        return self.storage.publish(self.part, self.shard)


def follows(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Return whether the row before is the token before, in the same stretch of the same text."""
    text, stretch, position = rows["text"], rows["stretch"], rows["position"]
    same = (text[1:] == text[:-1]) & (stretch[1:] == stretch[:-1]) & (position[1:] == position[:-1] + 1)
    return np.append(np.zeros(min(len(text), 1), bool), same)


def files_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of the tables in a folder."""
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        with path.open("rb") as file:
            found[path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}
    found[TOKENS]["footer"] = footer_digest(folder / TOKENS)
    return found


def _as_kept(weights: np.ndarray, kind: type[np.floating]) -> np.ndarray:
    most = float(np.finfo(kind).max)
    if (highest := float(np.abs(weights).max(initial=0))) > most:
        raise InvalidTrace(
            f"A router's weight is {highest:g}, and float16 holds numbers up to {most:,.0f}. Keep exact weights: "
            "--weights exact."
        )
    return weights.astype(kind)


def _packed(rows: np.ndarray) -> pa.Array:
    """(T, K) as T binaries of fixed size."""
    rows = np.ascontiguousarray(rows)
    kind = pa.binary(rows.shape[1] * rows.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])
