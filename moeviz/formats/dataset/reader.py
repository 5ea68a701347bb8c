"""Read a dataset where it lies: its facts, its small tables, and its rows, a row group at a time. It is not trusted."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.file_limits import shown
from moeviz.formats.dataset.layout import (
    FILES,
    MANIFEST,
    PLAN,
    TOKENS,
    WEIGHTS,
    Kept,
    facts_from,
    footer_digest,
    id_type,
    name_of,
    schema,
)
from moeviz.formats.trace_facts import parse_json
from moeviz.model_info import ModelInfo
from moeviz.names import quoted, why_no_file

MAX_GROUP_BYTES, MAX_GROUP_ROWS = 2**31, 2**24  # of one column, unpacked; a long text is one row group
MAX_TABLE_BYTES = 2**28
DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError)
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that is there and has the sizes that the manifest says."""

    path: Path
    number: int
    texts: int
    tokens: int
    files: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return name_of(self.number)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus of routing on disk. `left_out` says in a sentence each which shards are not read, and why."""

    path: Path
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

    def table(self, name: str, layers: Sequence[int] | None = None) -> Iterator[tuple[Shard, dict[str, np.ndarray]]]:
        """A small table of each shard in turn, as columns, checked against its sha256 and against the model."""
        for shard in self.shards:
            yield shard, _of_shard(shard, partial(_checked, self, shard, name, layers))

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[Shard, int, dict[str, Any]]]:
        """Those columns of every row group in turn, and which shard and row group it is. No more is in memory."""
        for shard in self.shards:
            with _of_shard(shard, partial(self.file, shard)) as file:
                for group in range(file.metadata.num_row_groups):
                    yield shard, group, self.group(shard, file, group, columns)

    def file(self, shard: Shard) -> parquet.ParquetFile:
        """The rows of a shard; every page is checked when it is read."""
        path = shard.path / TOKENS
        if footer_digest(path) != shard.files[TOKENS].get("footer"):
            raise ValueError(f"{TOKENS} is not what was written")
        file = parquet.ParquetFile(
            path, page_checksum_verification=True, read_dictionary=["token"] if self.kept.text else []
        )
        wanted = schema(self.model, self.kept)
        if file.schema_arrow.names != wanted.names or _rows(file) != shard.tokens:
            file.close()
            raise ValueError(f"{TOKENS} has other columns or rows than the manifest says")
        return file

    def group(self, shard: Shard, file: parquet.ParquetFile, group: int, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of one row group by name: ids and weights (T, K), words as Arrow dictionaries, the rest as numpy."""
        return _of_shard(shard, lambda: {name: self._column(file, group, name) for name in columns})

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
        """Raise `MissingField` where nobody knows which expert is a token's first choice."""
        if self.model.slot_order != "weight" and self.model.top_k > 1:
            raise MissingField(
                f"{why} needs each token's first choice, and the dataset of {self.model.name!r} does not say which of "
                "a token's experts that is."
            )

    def row_of(self, layer: int) -> int:
        """Which of the L layers this is. Raises `InvalidTrace`."""
        return self.model.with_layers([layer])[1][0]

    def counts(self) -> ExpertCounts:
        """How many tokens each expert got: the sum of the shards' load tables."""
        return self.counts_by_label("Counts").counts() if self.shards else _nothing(self.model)

    def counts_by_label(self, why: str = "This") -> ExpertCounts:
        """The same by label, in the order in which labels first appear. Without labels there is one, which is empty."""
        names = self.labels()
        L, E = len(self.model.layers), max(self.model.num_experts)
        load, recorded = np.zeros((len(names), L, E), np.int64), np.zeros((len(names), L), np.int64)
        code = {name: number for number, name in enumerate(names)}
        for _, table in self.table("load"):
            np.add.at(load, (_codes(table, code), table["layer"], table["expert"]), table["tokens"])
        for _, table in self.table("slots"):
            np.add.at(recorded, (_codes(table, code), table["layer"]), table["tokens"])
        return ExpertCounts(self.model, load, recorded, tuple(names), "label")

    def labels(self) -> list[str]:
        """The labels of the texts, in the order in which they first appear."""
        found: dict[str, None] = {}
        for _, table in self.table("locality"):
            found |= dict.fromkeys(table["label"].tolist())
        return list(found)


def is_dataset(path: str | Path) -> bool:
    """Whether a path is a folder that a dataset was begun in."""
    path = Path(path)
    return not why_no_file(path) and path.is_dir() and any((path / name).is_file() for name in (MANIFEST, PLAN))


def read_dataset(path: str | Path, partial: bool = False) -> Dataset:
    """Open a dataset. Nothing of it is read but its manifest; sizes are compared, and sums when a table is read.

    partial  read the shards that are whole, and say in `left_out` which are not.

    Raises `InvalidTrace`, with the shard's name, where a shard is missing, damaged, or not of this dataset, and for a
    dataset that is not finished; and `OSError` if it cannot be read.
    """
    path = Path(path)
    if not (path / MANIFEST).exists():
        return _unfinished(path, partial)
    content = parse_json((path / MANIFEST).read_bytes(), f"{MANIFEST} of {path.name}")
    model, kept = facts_from(content, f"{MANIFEST} of {path.name}")
    shards, wrong = [], _strangers(path, content)
    for number, facts in enumerate(_listed(content)):
        shard = _shard(path, number, facts)
        if why := _why_not(shard):
            wrong.append(f"{shard.name} {why}.")
        else:
            shards.append(shard)
    return _opened(Dataset(path, model, kept, tuple(shards)), wrong, partial)


def check_dataset(dataset: Dataset) -> list[str]:
    """What is wrong with the shards, a sentence each: every byte is read, and compared with its sha256."""
    return [f"{shard.name} {why}." for shard in dataset.shards if (why := _changed(shard))]


def _opened(dataset: Dataset, wrong: list[str], partial: bool) -> Dataset:
    if wrong and not partial:
        more = f" {len(wrong) - 1} more are not whole either." if len(wrong) > 1 else ""
        raise InvalidTrace(
            f"{quoted(dataset.path)}: {wrong[0]}{more} Read the rest with --partial (in Python, partial=True), or "
            "write those shards again."
        )
    return replace(dataset, left_out=tuple(wrong))


def _unfinished(path: Path, partial: bool) -> Dataset:
    """The shards of a dataset that are there so far, by what each says of itself."""
    if not (path / PLAN).exists():
        raise InvalidTrace(f"{quoted(path)} holds no dataset: it has no {MANIFEST}.")
    if not partial:
        raise InvalidTrace(
            f"{quoted(path)} is not finished: it has no {MANIFEST}. Finish it with --resume, or read what is there "
            "with --partial (in Python, partial=True)."
        )
    plan = parse_json((path / PLAN).read_bytes(), f"{PLAN} of {path.name}")
    model, kept = facts_from(plan, f"{PLAN} of {path.name}")
    shards, wrong = [], []
    for number in range(len(plan["shards"]) if isinstance(plan.get("shards"), list) else 0):
        try:
            facts = parse_json((path / name_of(number) / "shard.json").read_bytes(), "file shard.json")
            shard = _shard(path, number, facts)
            why = _why_not(shard)
        except (OSError, InvalidTrace) as error:
            why = "is not there yet" if isinstance(error, OSError) else f"is damaged: {error}"
        if why:
            wrong.append(f"{name_of(number)} {why}.")
        else:
            shards.append(shard)
    return Dataset(path, model, kept, tuple(shards), tuple(wrong))


def _listed(content: dict[str, Any]) -> list[dict[str, Any]]:
    shards = content.get("shards")
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise InvalidTrace(f"{MANIFEST} lists {shown(shards)} as its shards, which is damaged. Write it again.")
    return shards


def _strangers(path: Path, content: dict[str, Any]) -> list[str]:
    """Shards that the manifest does not list: a copy, or one of another run, would be counted twice."""
    own = {name_of(number) for number in range(len(_listed(content)))}
    found = sorted(place.name for place in path.glob("shard-*") if re.fullmatch(r"shard-\d+", place.name))
    return [f"{name} is not in the manifest, so it is not of this dataset." for name in found if name not in own]


def _shard(path: Path, number: int, facts: dict[str, Any]) -> Shard:
    """Raises `InvalidTrace` for what no writer says of a shard."""
    numbers = [facts.get(name) for name in ("shard", "texts", "tokens")]
    files = facts.get("files")
    whole = all(type(value) is int and value >= 0 for value in numbers) and numbers[0] == number
    if not whole or not isinstance(files, dict) or set(files) != set(FILES) or not all(map(_is_file, files.values())):
        raise InvalidTrace(f"What is said of {name_of(number)} is damaged: {shown(facts)}. Write the dataset again.")
    return Shard(path / name_of(number), number, int(facts["texts"]), int(facts["tokens"]), files)


def _is_file(facts: Any) -> bool:
    return isinstance(facts, dict) and type(facts.get("bytes")) is int and type(facts.get("sha256")) is str


def _why_not(shard: Shard) -> str:
    """Why a shard is not whole, as the end of a sentence; "" if it has the sizes that it should have."""
    if not shard.path.is_dir():
        return "is missing"
    for name, facts in shard.files.items():
        place = shard.path / name
        if not place.is_file():
            return f"is damaged: {name} is missing"
        if (size := place.stat().st_size) != facts["bytes"]:
            return f"is damaged: {name} has {size:,} bytes, and {facts['bytes']:,} were written"
    return ""


def _changed(shard: Shard) -> str:
    for name, facts in shard.files.items():
        digest = sha256()
        with (shard.path / name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != facts["sha256"]:
            return f"is damaged: {name} is not what was written"
    return ""


def _of_shard(shard: Shard, made: Callable[[], Made]) -> Made:
    """The same, with the shard's name in the sentence where it is damaged."""
    try:
        return made()
    except DAMAGED as error:
        raise InvalidTrace(
            f"{shard.name} is damaged: {' '.join(str(error).split())[:200]}. Write it again, or leave it out."
        ) from error


def _rows(file: parquet.ParquetFile) -> int:
    return sum(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))


def _checked(dataset: Dataset, shard: Shard, name: str, layers: Sequence[int] | None) -> dict[str, np.ndarray]:
    """The columns of a small table; layers and labels of the model as numbers from 0."""
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
    return {column: _valid(dataset.model, column, values) for column, values in columns.items()}


def _valid(model: ModelInfo, column: str, values: np.ndarray) -> np.ndarray:
    """Layers become rows of the L; raises `ValueError` for what the model does not have."""
    if column in ("layer", "from_layer", "to_layer"):
        own = np.asarray(model.layers)
        rows = np.searchsorted(own, values)
        if (own[np.minimum(rows, len(own) - 1)] != values).any():
            raise ValueError(f"a layer in the column {column} is not of the model")
        return rows
    most = {"expert": max(model.num_experts) - 1, "filled": model.top_k}
    most |= dict.fromkeys(("partner", "from_expert", "to_expert"), most["expert"])
    if values.dtype != object and len(values) and (values.min() < 0 or values.max() > most.get(column, 2**62)):
        raise ValueError(f"a number in the column {column} is not possible")
    return values


def _codes(table: dict[str, np.ndarray], code: dict[str, int]) -> np.ndarray:
    names, which = np.unique(table["label"].astype(str), return_inverse=True)
    unknown = [name for name in names.tolist() if name not in code]
    if unknown:
        raise InvalidTrace(f"A table has the label {shown(unknown[0])}, which is of no text. Write the dataset again.")
    return np.array([code[name] for name in names.tolist()], np.intp)[which.ravel()]


def _nothing(model: ModelInfo) -> ExpertCounts:
    L, E = len(model.layers), max(model.num_experts)
    return ExpertCounts(model, np.zeros((1, L, E), np.int64), np.zeros((1, L), np.int64))
