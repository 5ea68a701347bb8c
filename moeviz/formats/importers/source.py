"""A file from elsewhere, or a folder of them: its bytes, and what they are as JSON. Nothing is run."""

import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES
from moeviz.text import quoted

BYTES_A_VALUE = 32  # that Python takes for a number or a short text of JSON, as in `json_file`
MAX_FILES = 10_000
# The files of a folder that are read; all others are left alone.
WANTED = re.compile(
    r"meta_info\.json|rank\d+\.safetensors|(tokens_per_expert/)?rank\d+\.jsonl"
    r"|router_trace_rank\d+\.jsonl|logits_rank\d+\.bin|expert_weights_\d+\.txt"
)


class Source:
    """Bytes by the names of their files, and a budget for what is made of them.

    left_out  a sentence on each part that a reader had to leave out, as a key.
    """

    def __init__(self, name: str, files: dict[str, bytes], max_bytes: int = MAX_BYTES) -> None:
        self.name, self.files, self.max_bytes = name, files, max_bytes
        self.left_out: dict[str, None] = {}

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return set(self.files) != {self.name}

    @property
    def data(self) -> bytes:
        """The bytes of the one file; none of a folder."""
        return b"" if self.is_folder else self.files[self.name]

    def matching(self, pattern: str) -> list[str]:
        """The names of files that match, by the number in them."""
        found = [name for name in self.files if re.fullmatch(pattern, name)]
        return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    @cached_property
    def first(self) -> Any:
        """The JSON document, or the first of JSON lines; None for anything else."""
        if self.data[:64].lstrip()[:1] not in (b"{", b"["):
            return None
        line, _, rest = self.data.partition(b"\n")
        if (
            rest.strip()
            and line.rstrip().endswith(b"}")
            and not self._too_many(line)
            and (value := self._json(line)) is not None
        ):
            return value
        return None if self._too_many(self.data) else self._json(self.data)

    @cached_property
    def has_lines(self) -> bool:
        """True where each line is a JSON document of its own."""
        line, _, rest = self.data.partition(b"\n")
        return bool(rest.strip()) and self.first is not None and self._json(line) is not None

    @cached_property
    def rows(self) -> list[Any]:
        """Every line of JSON lines, or the one document."""
        return self.lines_of(self.name) if self.has_lines else [self.first]

    def lines_of(self, name: str) -> list[Any]:
        """The JSON lines of one file. A last line that was cut, as by a killed run, is left out, and noted."""
        self._check_values(self.files[name])
        lines = [line for line in self.files[name].split(b"\n") if line.strip()]
        values = [self._json(line) for line in lines]
        if values and values[-1] is None:
            values.pop()
            self.leave_out(
                f"Left out: the last of {len(lines):,} lines of {quoted(name)}, cut as where a run is killed."
            )
        if None in values:
            raise InvalidTrace(
                f"Line {values.index(None) + 1} of {quoted(name)} is not JSON. Remove it, or write the file again."
            )
        return values

    def leave_out(self, sentence: str) -> None:
        """Note what is lost of the file, with its number: it becomes part of the caution and of the findings."""
        self.left_out[sentence] = None

    def json_of(self, name: str) -> Any:
        """One file as JSON; None if it is none."""
        self._check_values(self.files[name])
        return self._json(self.files[name])

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None

    def _too_many(self, data: bytes) -> bool:
        return data.count(b",") + data.count(b"[") > self.max_bytes // BYTES_A_VALUE

    def _check_values(self, data: bytes) -> None:
        if self._too_many(data):
            raise InvalidTrace(
                f"{quoted(self.name)} holds up to {data.count(b',') + data.count(b'['):,} values as JSON, and at most "
                f"{self.max_bytes // BYTES_A_VALUE:,} are read. Split it."
            )


def source_of(path: Path, max_bytes: int = MAX_BYTES) -> Source:
    """Read a file, or the files of a folder that an importer might want.

    Raises `InvalidTrace` if that is more than `max_bytes`, and `OSError` if it cannot be read.
    """
    names = {path.name: path} if not path.is_dir() else dict(_wanted(path))
    size = sum(file.stat().st_size for file in names.values())
    if size > max_bytes or len(names) > MAX_FILES:
        raise InvalidTrace(
            f"{quoted(path.name)} has {size:,} bytes in {len(names):,} files, and up to {max_bytes:,} bytes are read. "
            "Save fewer tokens or layers, or leave the logits out."
        )
    return Source(path.name or str(path), {name: file.read_bytes() for name, file in names.items()}, max_bytes)


def _wanted(folder: Path) -> list[tuple[str, Path]]:
    places = [folder, *(place for name in ("tokens_per_expert",) if (place := folder / name).is_dir())]
    files = [(os.path.relpath(file, folder).replace(os.sep, "/"), file) for place in places for file in place.iterdir()]
    return sorted((name, file) for name, file in files if WANTED.fullmatch(name) and file.is_file())
