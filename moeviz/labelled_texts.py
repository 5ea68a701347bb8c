"""Labelled texts from files: what `moeviz corpus` and the app's Corpus page read. Files are not trusted."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import PurePath

from moeviz.embedded.evaluation import evaluation_set
from moeviz.errors import InvalidPrompt
from moeviz.text import cut, is_text, quoted, with_and

MOST_NAMED = 8  # columns, in a sentence
A_LINE = '{"label": "French", "text": "Il fait froid."}'


def texts_of_files(files: Iterable[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """Return the (label, text) pairs of files, given as names and contents.

    A `.jsonl` file has a pair per line, and a `.csv` or `.tsv` file a pair per row, in the columns text and label; any
    other file is one text. Without a label of its own, a text is labelled by the file's name without the suffix. Raises
    `InvalidPrompt`, with the file and the line, if one holds no text.
    """
    pairs = []
    for path, data in ((PurePath(name), data) for name, data in files):
        text, label = _decode(data, path), _label(path)
        read = {".jsonl": _texts_of_lines, ".csv": _texts_of_rows, ".tsv": _texts_of_rows}.get(path.suffix.lower())
        pairs += [(label, text)] if read is None else read(text, path, label)
    return pairs


def texts_that_ship() -> list[tuple[str, str]]:
    """Return the (label, text) pairs of the held-out texts that ship with the embedded model."""
    return [(text.label, text.text) for text in evaluation_set()]


def _label(path: PurePath) -> str:
    if not is_text(path.stem):
        raise InvalidPrompt(
            f"The file name {quoted(path.name)} is not text in UTF-8, so it cannot be a label. Rename the file."
        )
    return path.stem


def _decode(data: bytes, path: PurePath) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPrompt(f"{path.name!r} is not text in UTF-8. Save it in that encoding.") from error
    if not text.strip():
        raise InvalidPrompt(f"{path.name!r} is empty. A corpus needs files with text in them.")
    return text


def _texts_of_lines(lines: str, path: PurePath, label: str) -> list[tuple[str, str]]:
    # str.splitlines would cut at characters that JSON may hold as they are.
    numbered = enumerate(lines.split("\n"), start=1)
    return [text_of_line(line, f"{path.name!r}, line {number}", label) for number, line in numbered if line.strip()]


def _texts_of_rows(table: str, path: PurePath, label: str) -> list[tuple[str, str]]:
    """Read a table of texts. Its delimiter is a tab in a .tsv file, or the comma or semicolon of its first line."""
    first = table.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    csv.field_size_limit(max(csv.field_size_limit(), len(table) + 1))
    try:
        rows = [*csv.DictReader(io.StringIO(table, newline=""), delimiter=delimiter, strict=True)]
    except csv.Error as error:
        raise InvalidPrompt(f"{path.name!r} cannot be read as a table: {error}. Save it as CSV again.") from error
    columns = [] if not rows else [str(name) for name in rows[0] if name]
    if "text" not in columns:
        names = with_and([cut(name, 40) for name in columns[:MOST_NAMED]])
        has = f"its columns are {names}" if columns else "it has no rows"
        raise InvalidPrompt(
            f"{path.name!r} has no column 'text': {has}. Name the column of the texts 'text', and that of their labels "
            "'label'. (If it holds a trace, moeviz metrics reads it.)"
        )
    return [(row.get("label") or label, row["text"]) for row in rows if row["text"] and row["text"].strip()]


def text_of_line(line: str, where: str, label: str) -> tuple[str, str]:
    """Return the (label, text) pair of a line of JSON; `label` is for lines without one. Raises `InvalidPrompt`."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where} is not JSON. It must look like {A_LINE}.") from error
    if not isinstance(found, dict):
        raise InvalidPrompt(f"{where} is not a JSON object. It must look like {A_LINE}.")
    found.setdefault("label", found.get("kind", label))
    for field in ("label", "text"):
        if not isinstance(found.get(field), str) or not found[field]:
            raise InvalidPrompt(f"{where} has no {field!r} with text in it. It must look like {A_LINE}.")
        try:
            found[field].encode()
        except UnicodeEncodeError as error:
            raise InvalidPrompt(
                f"{where} has half a character in its {field!r}, which is not valid text. Save the file again in UTF-8."
            ) from error
    return found["label"], found["text"]
