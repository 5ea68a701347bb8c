"""Read a dataset in place: its facts, its small tables, and its rows, a row group at a time. It is not trusted."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from moeviz.errors import DamagedShard, InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.file_limits import shown
from moeviz.formats.dataset.layout import TOKENS, WEIGHTS, Kept, footer_digest, id_type, name_of, schema
from moeviz.formats.dataset.s3 import Place, unreachable
from moeviz.formats.dataset.shard import SIGNED
from moeviz.model_info import ModelInfo

MAX_GROUP_BYTES, MAX_GROUP_ROWS = 2**31, 2**24  # of one column, unpacked; a long text is one row group
MAX_TABLE_BYTES = 2**28
OUTPUT_COLUMNS = {name: name for name in ("norm", "added", "greatest")}
OUTPUT_COLUMNS |= {column: name for name, column in SIGNED.items()}
MAX_CELLS = 2**26  # of counts by label
DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError)
Made = TypeVar("Made")
Columns = dict[str, np.ndarray]  # of a small table, by name


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that is there and has the sizes that the manifest says."""

    path: Place
    number: int
    texts: int
    tokens: int
    files: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the dataset's folder."""
        return name_of(self.number)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus of routing on disk or in a store. `left_out` explains, in a sentence each, why shards are not read.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_dataset(sample_trace(), f"{folder}/out")
    ...     moeviz.read_dataset(f"{folder}/out").counts().assignments.shape  # groups, layers, experts
    (1, 4, 8)
    """

    path: Place
    model: ModelInfo
    kept: Kept
    shards: tuple[Shard, ...]
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layers, shards = len(self.model.layers), len(self.shards)
        return f"<Dataset of {self.model.name!r}: {self.tokens:,} tokens in {shards} shards, {layers} MoE layers>"

    @property
    def tokens(self) -> int:
        """Tokens in the shards that are read."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def texts(self) -> int:
        """Texts in the shards that are read."""
        return sum(shard.texts for shard in self.shards)

    def without(self, shards: Collection[int]) -> "Dataset":
        """Return the dataset without some shards, which turned out to be damaged."""
        rest = tuple(shard for shard in self.shards if shard.number not in shards)
        gone = tuple(f"{shard.name} is damaged." for shard in self.shards if shard.number in shards)
        return replace(self, shards=rest, left_out=(*self.left_out, *gone))

    def table(self, name: str, layers: Sequence[int] | None = None) -> Iterator[tuple[Shard, Columns]]:
        """Yield a small table of each shard in turn, as columns, checked against its sha256 and against the model."""
        for shard in self.shards:
            yield shard, _name_shard(shard, partial(_read_table, self, shard, name, layers))

    def scan(
        self, columns: Sequence[str], texts: np.ndarray | None = None
    ) -> Iterator[tuple[Shard, int, dict[str, Any]]]:
        """Yield each shard and row group in turn, with its columns. Only one is in memory. `texts` are numbers in
        order: row groups without any of them are not read.
        """
        for shard in self.shards:
            with _name_shard(shard, partial(self.file, shard)) as file:
                for group in range(file.metadata.num_row_groups):
                    if texts is not None and not _has_any(file, group, texts):
                        continue
                    yield shard, group, self.group(shard, file, group, columns)

    def file(self, shard: Shard) -> parquet.ParquetFile:
        """Return the rows of a shard; every page is checked when it is read."""
        path = shard.path / TOKENS
        if footer_digest(path) != shard.files[TOKENS].get("footer"):
            raise ValueError(f"{TOKENS} is not what was written")
        file = parquet.ParquetFile(
            path if isinstance(path, Path) else path.open(),
            page_checksum_verification=True,
            read_dictionary=["token"] if self.kept.text else [],
        )
        wanted = schema(self.model, self.kept)
        if file.schema_arrow.names != wanted.names or _rows(file) != shard.tokens:
            file.close()
            raise ValueError(f"{TOKENS} has other columns or rows than the manifest says")
        return file

    def rows(self, shard: Shard, group: int, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of one row group by name, as `group` gives them. Raises `DamagedShard`."""
        with _name_shard(shard, partial(self.file, shard)) as file:
            return self.group(shard, file, group, columns)

    def group(self, shard: Shard, file: parquet.ParquetFile, group: int, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of one row group by name: ids and weights (T, K), words as Arrow dictionaries, the rest as numpy."""
        return _name_shard(shard, lambda: {name: self._column(file, group, name) for name in columns})

    def _column(self, file: parquet.ParquetFile, group: int, name: str) -> Any:
        facts = file.metadata.row_group(group)
        place = file.schema_arrow.names.index(name)
        if facts.num_rows > MAX_GROUP_ROWS or facts.column(place).total_uncompressed_size > MAX_GROUP_BYTES:
            raise ValueError(f"row group {group} unpacks to more than is read")
        column = file.read_row_group(group, columns=[name], use_threads=False).column(0).combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        if column.null_count or len(column) != facts.num_rows:
            raise ValueError(f"column {name} has cells missing")
        if name.startswith(("experts_", "weights_")):
            return self._slots(column, name)
        if pa.types.is_dictionary(column.type):
            return column
        return column.to_numpy(zero_copy_only=False)

    def _slots(self, column: pa.Array, name: str) -> np.ndarray:
        floats = WEIGHTS[self.kept.weights]
        kind = id_type(self.model) if name.startswith("experts_") else np.dtype(floats)
        K = self.model.top_k
        if column.type != pa.binary(K * kind.itemsize):
            raise ValueError(f"column {name} is of the type {column.type}")
        flat = np.frombuffer(column.buffers()[1], kind, len(column) * K, column.offset * K * kind.itemsize)
        return flat.reshape(-1, K)

    def need_order(self, why: str) -> None:
        """Raise `MissingField` if a token's first choice is unknown."""
        if self.model.slot_order != "weight" and self.model.top_k > 1:
            raise MissingField(
                f"{why} needs each token's first choice, and the dataset of {self.model.name!r} does not say which of "
                "a token's experts that is."
            )

    def row_of(self, layer: int) -> int:
        """Return the row of a layer among the L. Raises `InvalidTrace`."""
        return self.model.with_layers([layer])[1][0]

    def counts(self) -> ExpertCounts:
        """Return the number of tokens per expert: the sum of the shards' load tables."""
        return ExpertCounts(self.model, *self._sums(1, lambda shard, table: 0))

    def counts_by_shard(self) -> ExpertCounts:
        """Return counts with a group for each shard, in the order in which they were written: windows of time.

        Raises `InvalidTrace` if there are too many shards for one table.
        """
        L, E, number = len(self.model.layers), max(self.model.num_experts), len(self.shards)
        if number * L * E > MAX_CELLS:
            raise InvalidTrace(f"A table of {number:,} shards, {L} layers and {E} experts is too large.")
        places = {shard.number: at for at, shard in enumerate(self.shards)}
        sums = self._sums(number, lambda shard, table: places[shard.number])
        return ExpertCounts(self.model, *sums, tuple(range(number)), "step")

    def counts_by_label(self, why: str = "This") -> ExpertCounts:
        """Return counts by label, in the order in which labels first appear. Without labels there is an empty one.

        Raises `InvalidTrace` if there are too many labels for one table.
        """
        names = self.labels()
        L, E = len(self.model.layers), max(self.model.num_experts)
        if len(names) * L * E > MAX_CELLS:
            raise InvalidTrace(f"{why} needs a table of {len(names):,} labels, {L} layers and {E} experts: too many.")
        sums = self._sums(len(names), lambda shard, table: label_codes(table, names))
        return ExpertCounts(self.model, *sums, tuple(names), "label")

    def _sums(self, groups: int, group_of: Callable[[Shard, Columns], Any]) -> tuple[np.ndarray, np.ndarray]:
        L, E = len(self.model.layers), max(self.model.num_experts)
        load, recorded = np.zeros((groups, L, E), np.int64), np.zeros((groups, L), np.int64)
        for shard, table in self.table("load"):
            np.add.at(load, (group_of(shard, table), table["layer"], table["expert"]), table["tokens"])
        for shard, table in self.table("slots"):
            np.add.at(recorded, (group_of(shard, table), table["layer"]), table["tokens"])
        return load, recorded

    def output_means(self) -> dict[str, np.ndarray]:
        """The figures of the experts' outputs, (L, E) each: means over an expert's tokens, and the greatest of all.

        NaN for an expert without a token. Empty where they were not recorded in every shard.
        """
        L, E = len(self.model.layers), max(self.model.num_experts)
        tokens, sums = np.zeros((L, E)), dict[str, np.ndarray]()
        known = set(OUTPUT_COLUMNS)
        for _, table in self.table("load"):
            where = table["layer"], table["expert"]
            known &= table.keys()
            np.add.at(tokens, where, table["tokens"])
            for column in known:
                add = np.maximum.at if column == "greatest" else np.add.at
                add(sums.setdefault(column, np.zeros((L, E))), where, table[column])
        found = {}
        for column in known if tokens.any() else ():
            values = sums[column] if column == "greatest" else sums[column] / np.maximum(tokens, 1)
            found[OUTPUT_COLUMNS[column]] = np.where(tokens > 0, values - column.startswith("one_plus"), np.nan)
        return found

    def labels(self) -> list[str]:
        """Return the labels of the texts, in the order in which they first appear."""
        found: dict[str, None] = {}
        for _, table in self.table("locality"):
            found |= dict.fromkeys(table["label"].tolist())
        return list(found)


def _name_shard(shard: Shard, made: Callable[[], Made]) -> Made:
    """Reraise errors about a shard's data with the shard's name in the sentence."""
    try:
        return made()
    except DAMAGED as error:
        if not isinstance(shard.path, Path) and "AWS Error" in str(error):  # the data may be whole
            raise unreachable(shard.path, error) from error
        why = " ".join(str(error).replace(str(shard.path), shard.name).split())[:200]  # no path of this machine
        raise DamagedShard(f"{shard.name} is damaged: {why}. Write it again, or leave it out.", shard.number) from error


def _has_any(file: parquet.ParquetFile, group: int, texts: np.ndarray) -> bool:
    """Return whether a row group may have one of these texts, by the lowest and the highest number in it."""
    column = file.schema_arrow.names.index("text")
    ends = file.metadata.row_group(group).column(column).statistics
    if ends is None or not ends.has_min_max:
        return True
    return bool(np.searchsorted(texts, ends.min) < np.searchsorted(texts, ends.max, "right"))


def _rows(file: parquet.ParquetFile) -> int:
    return sum(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))


def _read_table(dataset: Dataset, shard: Shard, name: str, layers: Sequence[int] | None) -> dict[str, np.ndarray]:
    """Read the columns of a small table; layers and labels of the model as numbers from 0."""
    file, facts = f"{name}.parquet", shard.files[f"{name}.parquet"]
    if facts["bytes"] > MAX_TABLE_BYTES:
        raise ValueError(f"{file} has more bytes than are read")
    data = (shard.path / file).read_bytes()
    if sha256(data).hexdigest() != facts["sha256"]:
        raise ValueError(f"{file} is not what was written")
    source = parquet.ParquetFile(BytesIO(data))
    if sum(source.metadata.row_group(g).total_byte_size for g in range(source.num_row_groups)) > MAX_GROUP_BYTES:
        raise ValueError(f"{file} unpacks to more than is read")
    where = [name for name in ("layer", "from_layer") if name in source.schema_arrow.names]
    wanted = None if layers is None or not where else [(where[0], "in", list(layers))]
    table = parquet.read_table(BytesIO(data), filters=wanted)
    columns = {column: table.column(column).to_numpy() for column in table.column_names}
    return {column: _check_column(dataset.model, column, values) for column, values in columns.items()}


def _check_column(model: ModelInfo, column: str, values: np.ndarray) -> np.ndarray:
    """Convert layers to rows of L; raises `ValueError` for a layer or label that the model does not have."""
    if column in ("layer", "from_layer", "to_layer"):
        own = np.asarray(model.layers)
        rows = np.searchsorted(own, values)
        if (own[np.minimum(rows, len(own) - 1)] != values).any():
            raise ValueError(f"a layer in the column {column} is not of the model")
        return rows
    most = {"expert": max(model.num_experts) - 1, "filled": model.top_k}
    most |= dict.fromkeys(("partner", "from_expert", "to_expert"), most["expert"])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"a number in the column {column} is not a number")
    if values.dtype != object and len(values) and (values.min() < 0 or values.max() > most.get(column, 2**62)):
        raise ValueError(f"a number in the column {column} is not possible")
    return values


def label_codes(table: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Return the index of each row's label."""
    codes: np.ndarray = pd.Index(names, dtype=object).get_indexer(pd.Index(table["label"], dtype=object))
    if (codes < 0).any():
        unknown = table["label"][codes < 0][0]
        raise InvalidTrace(f"A table has the label {shown(unknown)}, which is of no text. Write the dataset again.")
    return codes
