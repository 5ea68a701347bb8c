"""The interface of importers: the files from elsewhere that they are given, options, and the row that each ends in.

Nothing of a file is run. Options are facts that a file does not say, and a person knows: they are asked for, and never
guessed. A row has a format's name, how a file of it is recognised, and how it is read.
"""

import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from moeviz.errors import InvalidTrace, NotSaid
from moeviz.file_limits import MAX_BYTES
from moeviz.routing_trace import Counted
from moeviz.text import quoted

BYTES_A_VALUE = 32  # that Python takes for a number or a short text of JSON, as in `json_file`
MAX_FILES = 10_000
# The files of a folder that are read; all others are ignored.
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
        """True for the files of a folder."""
        return set(self.files) != {self.name}

    @property
    def data(self) -> bytes:
        """Bytes of the one file; empty for a folder."""
        return b"" if self.is_folder else self.files[self.name]

    def matching(self, pattern: str) -> list[str]:
        """List the names of files that match, by the number in them."""
        found = [name for name in self.files if re.fullmatch(pattern, name)]
        return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    @cached_property
    def first(self) -> Any:
        """Value of the JSON document, or of the first of JSON lines; None for anything else."""
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
        """True if each line is a JSON document of its own."""
        line, _, rest = self.data.partition(b"\n")
        return bool(rest.strip()) and self.first is not None and self._json(line) is not None

    @cached_property
    def rows(self) -> list[Any]:
        """Values of all JSON lines, or of the one document."""
        return self.lines_of(self.name) if self.has_lines else [self.first]

    def lines_of(self, name: str) -> list[Any]:
        """Read the JSON lines of one file. A last line that was cut, as by a killed run, is left out and noted."""
        self._check_values(self.files[name])
        lines = [line for line in self.files[name].split(b"\n") if line.strip()]
        values = [self._json(line) for line in lines]
        if values and values[-1] is None:
            values.pop()
            self.leave_out(
                f"Left out: the last of {len(lines):,} lines of {quoted(name)}, cut as when a run is killed."
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
        """Read one file as JSON; None if it is not JSON."""
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
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InvalidTrace(
            f"{quoted(path.name)} is a pipe or a device, whose end is not known. Save it as a file first."
        )
    names = {path.name: path} if not path.is_dir() else dict(_wanted_files(path))
    size = sum(file.stat().st_size for file in names.values())
    if size > max_bytes or len(names) > MAX_FILES:
        raise InvalidTrace(
            f"{quoted(path.name)} has {size:,} bytes in {len(names):,} files, and up to {max_bytes:,} bytes are read. "
            "Save fewer tokens or layers, or leave the logits out."
        )
    return Source(path.name or str(path), {name: file.read_bytes() for name, file in names.items()}, max_bytes)


def _wanted_files(folder: Path) -> list[tuple[str, Path]]:
    places = [folder, *(place for name in ("tokens_per_expert",) if (place := folder / name).is_dir())]
    files = [(os.path.relpath(file, folder).replace(os.sep, "/"), file) for place in places for file in place.iterdir()]
    return sorted((name, file) for name, file in files if WANTED.fullmatch(name) and file.is_file())


MOST = 2**15 - 1
AXES = ("layers", "tokens")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Facts about a run that its file leaves out. None: unknown.

    top_k            experts per token at each layer.
    hidden_layers    layers of the model, dense ones too.
    moe_layers       which of them have experts, by the model's own index, from 0.
    experts          routed experts of each layer. Where neither the file nor anybody says, the highest id seen counts.
    start            position of the first token of a response, where its request left out a known prefix.
    expert_parallel  devices that each layer's experts were divided among.
    first_axis       "layers" or "tokens": which comes first in an array of three axes.

    Raises `InvalidTrace` for a value that cannot be.

    >>> ImportOptions(top_k=2).need("top_k", "A list of router logits")
    2
    """

    top_k: int | None = None
    hidden_layers: int | None = None
    moe_layers: tuple[int, ...] | None = None
    experts: int | None = None
    start: int | None = None
    expert_parallel: int | None = None
    first_axis: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, low = getattr(self, field.name), int(field.name != "start")
            if field.name in ("moe_layers", "first_axis") or value is None:
                continue
            if not low <= value <= (MOST if low else 2**31 - 1):
                raise InvalidTrace(f"{field.name} is {value}; it must be a whole number from {low} on.")
        if self.moe_layers is not None and not (self.moe_layers and all(0 <= n < MOST for n in self.moe_layers)):
            raise InvalidTrace(f"moe_layers is {self.moe_layers!r}; give indices of layers, the first being 0.")
        if self.first_axis not in (None, *AXES):
            raise InvalidTrace(f"first_axis is {quoted(self.first_axis)}; say 'layers' or 'tokens'.")

    def need(self, name: str, what: str) -> int:
        """Return an option that `what` does not say. Raises `NotSaid` with a sentence that asks for it."""
        value: int | None = getattr(self, name)
        if value is None:
            raise NotSaid(
                f"{what} does not say {SAYS[name]}. Look in the model's config and say it: {flag(name)} on the command "
                f"line, ImportOptions({name}=…) in Python.",
                (name,),
            )
        return value

    def layers_first(self, shape: tuple[int, ...]) -> bool:
        """Return whether the first axis of an array is of layers, and not of tokens. Raises `NotSaid`."""
        if self.first_axis is None:
            name = flag("first_axis")
            raise NotSaid(
                f"The array has the shape {shape}, and does not say {SAYS['first_axis']}: vLLM's begins with tokens, "
                f"and a RoutingTrace's begins with layers. Say it: {name} layers or {name} tokens on the command line, "
                "ImportOptions(first_axis=…) in Python.",
                ("first_axis",),
            )
        return self.first_axis == "layers"


NOTHING_TOLD = ImportOptions()
SAYS = {
    "top_k": "how many experts a token is sent to",
    "hidden_layers": "how many layers the model has",
    "moe_layers": "which of the model's layers have experts",
    "experts": "how many experts a layer has",
    "start": "at which token of the prompt it begins",
    "expert_parallel": "among how many devices each layer's experts were divided",
    "first_axis": "whether its first axis is of layers or of tokens",
}


def layers_of(text: str, what: str = "--moe-layers") -> tuple[int, ...]:
    """Read layers as people write them, in the option `what`. Raises `InvalidTrace` for anything else.

    >>> layers_of("0,3-5")
    (0, 3, 4, 5)
    """
    layers: list[int] = []
    for word in text.split(","):
        first, dash, last = word.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()) or len(word) > 12:
            raise InvalidTrace(f"{what} is {text[:60]!r}. Give numbers and ranges, as in 1-26 or 1,3,5.")
        start, stop = int(first), int(last) if dash else int(first)
        if stop - start > 10_000:
            raise InvalidTrace(f"{what} names {stop - start + 1:,} layers, and no model has that many.")
        layers += range(start, stop + 1)
    return tuple(layers)


# Options that other commands have too are called as there.
CALLED = {"top_k": "experts_per_token", "hidden_layers": "num_layers"}


def flag(name: str) -> str:
    """Return the name of an option on the command line.

    >>> flag("top_k")
    '--experts-per-token'
    """
    name = name.replace("-", "_")
    return "--" + CALLED.get(name, name).replace("_", "-")


Recognise = Callable[[Source], bool]
Read = Callable[[Source, ImportOptions], Counted]
# Errors that Python's readers raise for bytes that make no sense; each becomes one sentence.
DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Importer:
    """A format that other programs write.

    name       as `--format` takes it.
    label      the format's name for people.
    becomes    "trace", "counts", or "trace or counts".
    recognise  returns whether a file is of this format, by its content, which its docstring names for the docs. It may
               raise what is in `DAMAGED`.
    read       returns the trace or the counts. It may raise what is in `DAMAGED`, and `NotSaid`.
    asks       options without which no file of the format can be read: fields of `ImportOptions`.
    may_ask    options that some of its files need.
    """

    name: str
    label: str
    becomes: str
    recognise: Recognise
    read: Read
    asks: tuple[str, ...] = ()
    may_ask: tuple[str, ...] = ()

    @property
    def looks_for(self) -> str:
        """The file that it recognises, in words."""
        return (self.recognise.__doc__ or "").removesuffix(".")


class Opened(NamedTuple):
    """A trace or counts, the format's label where another program wrote the file, and the doctor's findings on it."""

    counted: Counted
    label: str = ""
    findings: tuple[str, ...] = ()  # the doctor's, a sentence each
    left_out: tuple[str, ...] = ()  # those of them on parts of the file that could not be read
