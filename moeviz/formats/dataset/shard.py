"""Write one shard: into a folder of another name, which is put in its place once it is whole.

Its small tables are exact counts that are added up over shards, made while its rows are written:

| table | columns | |
|---|---|---|
| load | label, layer, expert, tokens, first | tokens that the expert has, and those whose first choice it is |
| slots | label, layer, filled, tokens | recorded tokens with this number of experts |
| groups | row_group, layer, expert, tokens | where an expert's tokens are: balance over time, contexts |
| pairs | layer, expert, partner, tokens | tokens that have both; expert < partner |
| flow | from_layer, to_layer, from_expert, to_expert, tokens | by first choices, in consecutive MoE layers |
| locality | label, layer, pairs, same_first, same_any | consecutive tokens with an expert; label of the later |
| texts | text, label, tokens, first_row | |

If experts' outputs were recorded, `load` has their sums too: norm, added, one_plus_cosine and one_plus_residual (1
more for each token, so that no sum is below 0), and greatest, the maximum.

Rows that would be 0 are left out, except in `locality`. If the order of slots is not known, `first`, `flow` and
`same_first` are of the order that the source had, and readers refuse them.

D labels, L layers, E experts, K slots, T tokens of a row group.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from hashlib import file_digest
from itertools import combinations
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
    stored_values,
)
from moeviz.formats.dataset.storage import LocalStorage, ObjectStorage
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.text import cautions_in_one

SIGNED = {"cosine": "one_plus_cosine", "residual": "one_plus_residual"}
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
        rows["weights"] = _convert_weights(trace.need("weights", "A dataset with weights").transpose(1, 0, 2), kind)
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
        self.cautions: set[str] = set()  # of traces, in addition to the model's own

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
        """Add texts that are whole in a trace, sorted by text and position; `text` has the number of each token's."""
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
        """Write a row group. It ends where a stretch ends, so consecutive tokens are always in one."""
        rows = {name: np.concatenate([part[name] for part in self.held]) for name in self.held[0]}
        names = pa.array(list(self.statistics.labels), pa.string())
        rows["label"] = rows["label"].astype(np.int32)
        columns = []
        for field in self.schema:
            kind, _, layer = field.name.partition("_")
            if field.name == "label":
                columns.append(pa.DictionaryArray.from_arrays(rows["label"], names))
            elif kind in ("experts", "weights"):
                columns.append(_pack_rows(rows[kind][:, self.model.layers.index(int(layer))]))
            else:
                columns.append(pa.array(rows[field.name], field.type))
        table = pa.Table.from_arrays(columns, schema=self.schema)
        self.file.write_table(table, row_group_size=max(len(table), 1))
        self.statistics.add(rows["experts"], rows["label"].astype(np.intp), follows(rows))
        self.held, self.rows = [], 0

    def commit(self, plan: str = "") -> bool:
        """Put the shard in its place; False if another is there: it stays. `plan`: the digest of the plan."""
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
            parquet.write_table(table, self.part / f"{name}.parquet", compression="zstd", write_page_checksum=True)
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


def _convert_weights(weights: np.ndarray, kind: type[np.floating]) -> np.ndarray:
    most = float(np.finfo(kind).max)
    if (highest := float(np.abs(weights).max(initial=0))) > most:
        raise InvalidTrace(
            f"A router's weight is {highest:g}, and float16 holds numbers up to {most:,.0f}. Keep exact weights: "
            "--weights exact."
        )
    return weights.astype(kind)


def _pack_rows(rows: np.ndarray) -> pa.Array:
    """Pack (T, K) into T binaries of fixed size."""
    rows = np.ascontiguousarray(rows)
    kind = pa.binary(rows.shape[1] * rows.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])


class ShardStatistics:
    """The sums over a shard's rows so far."""

    def __init__(self, model: ModelInfo) -> None:
        self.model, self.labels = model, dict[str, int]()
        self.L, self.E, self.K = len(model.layers), max(model.num_experts), model.top_k
        self.W = self.E + 1  # the last bin takes empty slots, and is dropped
        self.none, self.missing = stored_values(id_type(model))
        L, W = self.L, self.W
        self.load, self.first = (np.zeros((0, L, W), np.int64) for _ in range(2))
        self.slots, self.near = np.zeros((0, L, self.K + 1), np.int64), np.zeros((0, L, 3), np.int64)
        self.pairs, self.flow = np.zeros((L, W * W), np.int64), np.zeros((max(L - 1, 0), W * W), np.int64)
        self.groups: list[np.ndarray] = []
        self.outputs: dict[str, dict[str, np.ndarray]] = {}  # (L, E) sums of each figure, by label

    def add_outputs(self, label: str, trace: RoutingTrace) -> None:
        """Add the figures of the experts' outputs of a text with this label."""
        if trace.outputs is None:
            return
        layer, token, slot = np.nonzero(trace.filled)
        cell, arrays = layer * self.E + trace.experts[layer, token, slot], trace.outputs.arrays()
        sums = self.outputs.setdefault(label, {name: np.zeros(self.L * self.E) for name in arrays})
        for name, part in arrays.items():
            values = part[layer, token, slot].astype(np.float64)
            if name == "greatest":
                np.maximum.at(sums[name], cell, values)
            else:
                sums[name] += np.bincount(cell, values + (name in SIGNED), minlength=self.L * self.E)

    def add(self, ids: np.ndarray, label: np.ndarray, follows: np.ndarray) -> None:
        """Add a row group: ids (T, L, K) as stored, codes of labels (T,), whether each row follows the one before."""
        for name in ("load", "first", "slots", "near"):  # a row for each new label
            table = getattr(self, name)
            more = np.zeros((len(self.labels) - len(table), *table.shape[1:]), np.int64)
            setattr(self, name, np.concatenate([table, more]))
        group, before = np.zeros((self.L, self.W), np.int64), None
        for row in range(self.L):
            stored = np.ascontiguousarray(ids[:, row].T)  # (K, T): slot by slot is ten times as fast
            recorded, chosen = stored[0] != self.missing, np.minimum(stored, self.E)
            wide = chosen.astype(np.intp)
            by_label = self._count_bins(wide, label, self.W)
            self.load[:, row] += by_label
            group[row] = by_label.sum(axis=0)
            self.first[:, row] += self._count_bins(wide[:1], label, self.W)
            filled = (chosen != self.E).sum(axis=0)
            self.slots[:, row] += self._count_bins(filled[None, recorded], label[recorded], self.K + 1)
            for i, j in combinations(range(self.K), 2):
                self.pairs[row] += np.bincount(wide[i] * self.W + wide[j], minlength=self.W**2)
            if before is not None:
                self.flow[row - 1] += np.bincount(before * self.W + wide[0], minlength=self.W**2)
            before = wide[0]
            self.near[:, row] += same_as_before(chosen, filled > 0, follows, label, len(self.labels), self.E)
        self.groups.append(group)

    def _count_bins(self, values: np.ndarray, label: np.ndarray, width: int) -> np.ndarray:
        bins = np.bincount((label * width + values).ravel(), minlength=len(self.labels) * width)
        return bins.reshape(len(self.labels), width)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """All tables except `texts`, by name."""
        layer, names = np.asarray(self.model.layers, np.int32), np.array(list(self.labels), object)
        load, E = self.load[..., : self.E], self.E
        d, r, e = np.nonzero(load)
        first = self.first[..., :E][d, r, e]
        counts = {"label": names[d], "layer": layer[r], "expert": e, "tokens": load[d, r, e], "first": first}
        yield "load", _table_of(**counts, **self._sums_of_outputs(names, d, r * E + e))
        d, r, n = np.nonzero(self.slots)
        yield "slots", _table_of(label=names[d], layer=layer[r], filled=n, tokens=self.slots[d, r, n])
        groups = np.array(self.groups, np.int64).reshape(-1, self.L, self.W)[..., :E]
        g, r, e = np.nonzero(groups)
        yield "groups", _table_of(row_group=g.astype(np.int32), layer=layer[r], expert=e, tokens=groups[g, r, e])
        both = self.pairs.reshape(-1, self.W, self.W)[:, :E, :E]
        both = np.triu(both + both.transpose(0, 2, 1), 1)
        r, e, p = np.nonzero(both)
        yield "pairs", _table_of(layer=layer[r], expert=e, partner=p, tokens=both[r, e, p])
        flow = self.flow.reshape(-1, self.W, self.W)[:, :E, :E]
        r, a, b = np.nonzero(flow)
        ends = {"from_layer": layer[r], "to_layer": layer[r + 1] if len(r) else layer[r]}
        yield "flow", _table_of(**ends, from_expert=a, to_expert=b, tokens=flow[r, a, b])
        near, D = self.near.reshape(-1, 3), len(names)
        counted = dict(zip(("pairs", "same_first", "same_any"), near.T, strict=True))
        yield "locality", _table_of(label=np.repeat(names, self.L), layer=np.tile(layer, D), **counted)

    def _sums_of_outputs(self, names: np.ndarray, label: np.ndarray, cell: np.ndarray) -> dict[str, np.ndarray]:
        """Sum the columns of `load` over these rows, by label, layer and expert."""
        if not self.outputs:
            return {}
        known = set.intersection(*({*sums} for sums in self.outputs.values()))
        none = np.zeros(self.L * self.E)
        every = {name: np.stack([self.outputs.get(label, {}).get(name, none) for label in names]) for name in known}
        return {SIGNED.get(name, name): every[name][label, cell] for name in sorted(known)}


def same_as_before(
    chosen: np.ndarray, has: np.ndarray, follows: np.ndarray, label: np.ndarray, labels: int, none: int
) -> np.ndarray:
    """(D, 3): consecutive tokens that both have an expert; of them with the same first, and with any in common."""
    some = np.zeros(max(chosen.shape[1] - 1, 0), bool)
    for after in chosen:
        for before in chosen:
            some |= (before[:-1] == after[1:]) & (after[1:] != none)
    both = follows[1:] & has[1:] & has[:-1]
    same = both & (chosen[0, 1:] == chosen[0, :-1])
    return np.stack([np.bincount(label[1:][mask], minlength=labels) for mask in (both, same, both & some)], axis=1)


def _table_of(**columns: np.ndarray) -> pa.Table:
    small = ("expert", "partner", "from_expert", "to_expert", "filled")
    kinds = dict.fromkeys(small, pa.int16()) | {"label": pa.string()}
    return pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
