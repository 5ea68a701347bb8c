"""How the fuzzing changes an input: bytes, and what each format is made of, put together again with right checksums."""

import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

Mutation = Callable[[bytes, random.Random], bytes]
NUMBERS = (
    0,
    1,
    -1,
    -2,
    2,
    7,
    127,
    128,
    255,
    256,
    32_766,
    32_767,
    32_768,
    65_536,
    2**31 - 1,
    2**31,
    2**63,
    10**30,
    -(10**9),
)
VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "a", "prompt", "softmax", "\ud800", "\0", "=1", 0.5, -0.0, 1e308, 1e-320, [], {},
    [[]], [0, 1], [[0, 1], [5, 1]], {"a": 1}, [None], "x" * 5000, float("nan"), float("inf"), "moeviz trace v1",
)  # fmt: skip
LARGE = 2**19  # bytes or rows
PIECES = tuple(
    b'\0|\xff|\n|\r\n|,|"|""|\'|=|{|}|[|]|:|null|NaN|Infinity|-1|1e999|0x10|99999999999|PK\x03\x04|PAR1|\xef\xbb\xbf|\xed\xa0\x80'
    b"|position|layer|expert|slot|weight|about|token|label|phase|prompt|generated".split(b"|")
)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change a few places: flip, insert, cut, double, move."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(found) + 1), rng.choice((1, 1, 2, 4, 8, 64, 512))
        kind = rng.randrange(6)
        if kind == 0 and found:
            found[at % len(found)] = rng.randrange(256)
        elif kind == 1:
            found[at:at] = rng.choice(PIECES)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif kind == 4:
            found[at : at + length] = rng.choice(PIECES)
        else:
            other = rng.randrange(len(found) + 1)
            found[at:at] = found[other : other + length]
    return bytes(found)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """Change one place of something that came from JSON."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        kind = rng.randrange(8)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[rng.choice([*value, "x", "", "rows", "label", "row"])] = value[key]
        elif kind == 1:
            value.insert(key, value[key])
        else:
            value[key] = mutated_value(value[key], rng)
        return value
    return rng.choice(VALUES)


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """The same for bytes of JSON."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = mutated_value(value, rng)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def _npy(content: bytes, rng: random.Random) -> bytes:
    """The header of an array, or its numbers, or the JSON in them."""
    start, text, values = content[:10], content[10 : 10 + 118], content[10 + 118 :]
    kind = rng.randrange(5)
    if kind == 0:
        return mutated_bytes(content, rng)
    if kind == 1:
        array = np.zeros(
            [rng.choice((0, 1, 2, 4, 8, 32, 100)) for _ in range(rng.randrange(5))], rng.choice("bhiqfdcSU?")
        )
        sink = io.BytesIO()
        np.save(sink, array)
        return sink.getvalue()
    if kind == 2:
        return start + mutated_bytes(text, rng) + values
    if values[:1] == b"{":
        values = mutated_json(values, rng)
        sink = io.BytesIO()
        np.save(sink, np.frombuffer(values, np.uint8))
        return sink.getvalue()
    numbers = np.frombuffer(values[: len(values) // 4 * 4], rng.choice(("<i2", "<f4"))).copy()
    if len(numbers):
        special = [-3, -2, -1, 0, 32767] if numbers.dtype == np.int16 else [np.nan, np.inf, -np.inf, 0, -1, 1e30]
        numbers[rng.randrange(len(numbers)) :: rng.choice((1, 7, 10**6))] = rng.choice(special)
    return start + text + numbers.tobytes()


def _bomb(content: bytes, rng: random.Random) -> bytes:
    """Far more zeros than the file that they are packed into, in an array that may claim to have more still."""
    claimed = rng.choice((b"(", b"(" + b"9" * 9 + b", "))
    return content[:128].replace(b"(", claimed) + bytes(rng.choice((2**20, 2**24, 2**25)))


def mutated_npz(data: bytes, rng: random.Random) -> bytes:
    """Members changed, left out, doubled, renamed; packed anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > LARGE:
            raise ValueError("a bomb already")
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(8)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append((rng.choice(["logits.npy", "weights.npy", "x.npy", "../x.npy", "header.npy"]), content))
    elif kind == 2 and rng.random() < 0.2:
        members[at] = name, _bomb(content, rng)
    else:
        members[at] = name, _npy(content, rng)
    sink, method = io.BytesIO(), rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2))
    if len(members) > at and len(members[at][1]) > LARGE:
        method = zipfile.ZIP_DEFLATED
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name that is there twice is meant
        for place, (name, content) in enumerate(members):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1 + place, 0, 0, 0)), content, method)
        archive.comment = rng.choice((b"", b"", b"{}", mutated_bytes(b'{"title": "a"}', rng)[:60_000]))
    return sink.getvalue()


def mutated_csv(data: bytes, rng: random.Random) -> bytes:
    """Cells, rows and columns changed; the facts in `about` too."""
    rows = [line.split(b",") for line in data.split(b"\n")]
    kind = rng.randrange(6)
    row = rng.choice(rows)
    if kind == 0:
        rows.insert(rng.randrange(len(rows)), row)
    elif kind == 1:
        rows.remove(row)
    elif kind == 2:
        rng.shuffle(rows)
    elif kind == 3 and b'"{' in data:
        start, end = data.index(b'"{') + 1, data.index(b'}"') + 1
        facts = mutated_json(data[start:end].replace(b'""', b'"'), rng)
        return data[:start] + facts.replace(b'"', b'""') + data[end:]
    elif kind == 4:
        column = rng.randrange(len(rows[0]))
        rows = [cells[:column] + cells[column + 1 :] for cells in rows]
    else:
        value = rng.choice((b"", b'""', b"NA", *PIECES, *(str(number).encode() for number in NUMBERS)))
        row[rng.randrange(len(row))] = value
    return b"\n".join(b",".join(cells) for cells in rows)


def _column(count: int, rng: random.Random) -> pa.Array:
    """A column of any type."""
    makers: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array([rng.choice(NUMBERS[:15]) for _ in range(count)], pa.int64()),
        lambda: pa.array([rng.choice((0.0, 0.5, -1.0, float("nan"), 1e300)) for _ in range(count)], pa.float64()),
        lambda: pa.array(
            [rng.choice((0, 1, 2)) for _ in range(count)], rng.choice((pa.int8(), pa.uint64(), pa.uint8()))
        ),
        lambda: pa.array([rng.choice((None, 0, 1)) for _ in range(count)], pa.int32()),
        lambda: pa.array([rng.choice(("", "prompt", "é", "=1", None)) for _ in range(count)]),
        lambda: pa.array([rng.choice((b"\xff", b"a")) for _ in range(count)], pa.binary()),
        lambda: pa.array([rng.choice((True, False)) for _ in range(count)]),
        lambda: pa.array([[0, 1]] * count),
        lambda: pa.array([{"a": 1}] * count),
        lambda: pa.nulls(count),
        lambda: pa.array([0] * count, rng.choice((pa.timestamp("us"), pa.duration("s"), pa.date32(), pa.time64("us")))),
        lambda: pa.array([1] * count, pa.decimal128(10, 2)),
        lambda: pa.array([0.5] * count, pa.float16()),
        lambda: pa.DictionaryArray.from_arrays(
            pa.array([0] * count, pa.int32()), pa.array([rng.choice(("a", "prompt"))])
        ),
    )
    return rng.choice(makers)()


def _rows_bomb(row: pa.Table, rng: random.Random) -> bytes:
    """One row very often, or often with a long text: in the file each text is there once."""
    rows, text = rng.choice(((LARGE, "a"), (2**13, "a" * 2**13)))
    same = pa.nulls(rows, pa.int32()).fill_null(0)
    columns = [
        pa.DictionaryArray.from_arrays(same, pa.array([text])) if pa.types.is_string(column.type) else column.take(same)
        for column in row.columns
    ]
    sink = io.BytesIO()
    table = pa.table(columns, names=row.column_names).replace_schema_metadata(row.schema.metadata)
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def mutated_parquet(data: bytes, rng: random.Random) -> bytes:
    """Columns replaced, left out, renamed; rows cut and repeated; the facts changed; written anew, in any way."""
    if parquet.read_metadata(io.BytesIO(data)).num_rows >= 2**13:
        raise ValueError("a bomb already")
    table = parquet.read_table(io.BytesIO(data))
    metadata, names = dict(table.schema.metadata or {}), list(table.column_names)
    kind, at = rng.randrange(7), rng.randrange(max(1, len(names)))
    if kind == 0 and names:
        table = table.drop_columns([names[at]])
    elif kind == 1 and names:
        names[at] = rng.choice(["position", "layer", "expert", "weight", "token", "label", "", "é"])
        table = table.rename_columns(names)
    elif kind == 2:
        table = table.slice(rng.randrange(1 + table.num_rows), rng.randrange(1 + table.num_rows))
    elif kind == 3 and table.num_rows:
        table = table.take(pa.array([rng.randrange(table.num_rows) for _ in range(rng.choice((1, 9, 300)))]))
        if rng.random() < 0.2:
            return _rows_bomb(table.slice(0, 1), rng)
    elif kind == 4 and b"moeviz" in metadata:
        metadata[b"moeviz"] = rng.choice((mutated_json, mutated_bytes))(metadata[b"moeviz"], rng)
        table = table.replace_schema_metadata(metadata)
    elif kind == 5:
        table = table.replace_schema_metadata({key: value for key, value in metadata.items() if key != b"moeviz"})
    elif names:
        table = table.set_column(at, names[at], _column(table.num_rows, rng))
    sink = io.BytesIO()
    how = {"compression": rng.choice(("zstd", "snappy", "none")), "use_dictionary": rng.random() < 0.5}
    parquet.write_table(table, sink, row_group_size=rng.choice((1, 10, 10**6)), **how)
    return sink.getvalue()
