"""Labelled texts from files: what `moeviz corpus` and the app's Corpus page read. Files are not trusted."""

import json
from collections.abc import Iterable
from pathlib import PurePath

from moeviz.embedded.evaluation import evaluation_set
from moeviz.errors import InvalidPrompt
from moeviz.text import is_text, quoted

A_LINE = '{"label": "French", "text": "Il fait froid."}'


def texts_of_files(files: Iterable[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """The (label, text) pairs of files, given as names and contents.

    A `.jsonl` file has one pair per line; any other file is one text, labelled by its name without the suffix. Raises
    `InvalidPrompt`, with the file and the line, if one holds no text.
    """
    pairs = []
    for path, data in ((PurePath(name), data) for name, data in files):
        text = _decoded(data, path)
        pairs += _texts_of_lines(text, path.name) if path.suffix.lower() == ".jsonl" else [(_label(path), text)]
    return pairs


def texts_that_ship() -> list[tuple[str, str]]:
    """The (label, text) pairs of the held-out texts that ship with the embedded model."""
    return [(text.label, text.text) for text in evaluation_set()]


def _label(path: PurePath) -> str:
    if not is_text(path.stem):
        raise InvalidPrompt(
            f"The file name {quoted(path.name)} is not text in UTF-8, so it cannot be a label. Rename the file."
        )
    return path.stem


def _decoded(data: bytes, path: PurePath) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPrompt(f"{path.name!r} is not text in UTF-8. Save it in that encoding.") from error
    if not text.strip():
        raise InvalidPrompt(f"{path.name!r} is empty. A corpus needs files with text in them.")
    return text


def _texts_of_lines(lines: str, name: str) -> list[tuple[str, str]]:
    # str.splitlines would cut at characters that JSON may hold as they are.
    numbered = enumerate(lines.split("\n"), start=1)
    return [text_of_line(line, f"{name!r}, line {number}") for number, line in numbered if line.strip()]


def text_of_line(line: str, where: str, label: str | None = None) -> tuple[str, str]:
    """The (label, text) pair of a line of JSON; `label` is for lines that have none. Raises `InvalidPrompt`."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where} is not JSON. It must look like {A_LINE}.") from error
    if not isinstance(found, dict):
        raise InvalidPrompt(f"{where} is not a JSON object. It must look like {A_LINE}.")
    if isinstance(found.get("kind"), str):  # as the app calls it
        found.setdefault("label", found["kind"])
    if label is not None:
        found.setdefault("label", label)
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
