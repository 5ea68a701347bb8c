"""The texts of a corpus, read as a stream: their shards, and the texts of one shard again. Files are not trusted.

A place is (file, offset): a byte of a file with a text per line, a row of a table, or 0 of a file that is one text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from moeviz.errors import InvalidPrompt
from moeviz.labelled_texts import text_of_line, texts_of_files
from moeviz.text import is_text, quoted, why_no_file
from moeviz.whole_files import is_pipe_or_device

SUFFIXES = (".jsonl", ".parquet", ".txt", ".md")  # of the files of a folder that are texts
MAX_LINE = 2**28  # bytes of a text
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Text:
    """One text, and where it begins."""

    place: Place
    label: str
    text: str


def check_file(name: str) -> Path:
    """Return the path of that name. Raises `InvalidPrompt` for a name that no file can have, a pipe and a device."""
    if why := why_no_file(name):
        raise InvalidPrompt(f"No file can be called {quoted(name)}: the name {why}.")
    if is_pipe_or_device(Path(name)):
        raise InvalidPrompt(f"{quoted(name)} is a pipe or a device, whose end is not known. Save it as a file first.")
    return Path(name)


def files_of(paths: Sequence[str]) -> list[Path]:
    """List the files of these paths, those of a folder by name. Raises `InvalidPrompt`, `OSError`."""
    found: list[Path] = []
    for name in paths:
        path = check_file(name)
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not inside:
            raise InvalidPrompt(
                f"The folder {quoted(name)} has no {', '.join(SUFFIXES)} file in it. Give one that has."
            )
        found += inside
    return found


def texts_from(files: Sequence[Path], start: Place = (0, 0), lines: bool = False) -> Iterator[Text]:
    """Yield all texts from a place on. `lines`: each line of a text file is a text. Raises `InvalidPrompt`."""
    first, offset = start
    for number, path in enumerate(files[first:], start=first):
        yield from _of_file(path, number, offset if number == first else 0, lines)


def planned(files: Sequence[Path], shard_bytes: int, lines: bool = False) -> list[dict[str, Any]]:
    """Divide texts into shards, cut where `shard_bytes` of text are full. Reads everything, and holds nothing.

    Each shard has first_text, texts, place (of its first text) and the sha256 of its labels and texts.
    """
    shards: list[dict[str, Any]] = []
    size = shard_bytes  # the first text begins a shard
    digest = sha256()
    for count, text in enumerate(texts_from(files, lines=lines)):
        if size >= shard_bytes:
            _close(shards, digest)
            shards.append({"first_text": count, "texts": 0, "place": list(text.place)})
            digest, size = sha256(), 0
        size += _add_to_digest(digest, text)
        shards[-1]["texts"] += 1
    if not shards:
        raise InvalidPrompt("There are no texts to trace. Give at least one, with its label.")
    _close(shards, digest)
    return shards


def texts_of_shard(files: Sequence[Path], shard: dict[str, Any], lines: bool = False) -> Iterator[Text]:
    """Yield the texts of one shard again. Raises `InvalidPrompt` after the last, unless they are as planned."""
    digest, left = sha256(), shard["texts"]
    for text in texts_from(files, tuple(shard["place"]), lines):
        _add_to_digest(digest, text)
        yield text
        left -= 1
        if not left:
            break
    if left or digest.hexdigest() != shard["sha256"]:
        raise InvalidPrompt(
            f"The texts changed after the run was planned: those from text {shard['first_text']:,} on are not what "
            "they were. Restore them, or write a new dataset into another folder."
        )


def _close(shards: list[dict[str, Any]], digest: Any) -> None:
    if shards:
        shards[-1]["sha256"] = digest.hexdigest()


def _add_to_digest(digest: Any, text: Text) -> int:
    label, content = text.label.encode(), text.text.encode()
    for part in (label, content):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return len(content)


def _of_file(path: Path, number: int, offset: int, lines: bool) -> Iterator[Text]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _of_parquet(path, number, offset)
    elif suffix == ".jsonl" or lines:
        yield from _of_lines(path, number, offset, suffix == ".jsonl")
    else:  # one text, or the rows of a table
        for row, (label, text) in enumerate(texts_of_files([(path.name, path.read_bytes())])):
            if row >= offset:
                yield Text((number, row), label, text)


def _of_lines(path: Path, number: int, offset: int, json: bool) -> Iterator[Text]:
    label = _stem(path)
    with path.open("rb") as file:
        file.seek(offset)
        while line := file.readline(MAX_LINE):
            where = f"{path.name!r}, the line at byte {offset:,}"
            if len(line) == MAX_LINE:
                raise InvalidPrompt(f"{where} has more than {MAX_LINE:,} bytes. Cut it into several texts.")
            try:
                words = line.decode("utf-8-sig" if offset == 0 else "utf-8").strip("\r\n")
            except UnicodeDecodeError as error:
                raise InvalidPrompt(f"{where} is not text in UTF-8. Save the file in that encoding.") from error
            place, offset = (number, offset), offset + len(line)
            if words.strip():
                yield Text(place, *(text_of_line(words, where, label) if json else (label, words)))


def _of_parquet(path: Path, number: int, offset: int) -> Iterator[Text]:
    """Yield one row per text: the column `text` and, if present, `label`, or else `kind`."""
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise InvalidPrompt(
                    f"{path.name!r} has no column “text”. Give each row a text, and a label if it has one."
                )
            columns, row = ["text", *[name for name in ("label", "kind") if name in names][:1]], 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows > offset:
                    yield from _of_group(file, group, columns, path, (number, row), offset)
                row += rows
    except (pa.ArrowException, ValueError) as error:
        raise InvalidPrompt(f"{path.name!r} is not a Parquet file, or it is damaged: {str(error)[:200]}.") from error


def _of_group(
    file: parquet.ParquetFile, group: int, columns: list[str], path: Path, start: Place, offset: int
) -> Iterator[Text]:
    number, row = start
    for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=columns, use_threads=False):
        for found in batch.to_pylist():
            text, label = found["text"], found.get(columns[-1] if len(columns) > 1 else "", _stem(path))
            if not isinstance(text, str) or not text or not isinstance(label, str) or not label:
                raise InvalidPrompt(
                    f"{path.name!r}, row {row:,}, has no text, or no label. Give each row both, or no label."
                )
            if row >= offset:
                yield Text((number, row), label, text)
            row += 1


def _stem(path: Path) -> str:
    if not is_text(path.stem):
        raise InvalidPrompt(
            f"The file name {quoted(path.name)} is not text in UTF-8, so it cannot be a label. Rename it."
        )
    return path.stem
