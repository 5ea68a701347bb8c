"""The row that each importer ends in: a format's name, how a file of it is recognised, and how it is read."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source
from moeviz.routing_trace import Counted

Recognise = Callable[[Source], bool]
Read = Callable[[Source, ImportOptions], Counted]
# What Python's readers raise for bytes that make no sense; each becomes one sentence.
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
    looks_for  what recognises a file, in words.
    recognise  returns whether a file is of this format, by its content. It may raise what is in `DAMAGED`.
    read       returns the trace or the counts. It may raise what is in `DAMAGED`, and `NotSaid`.
    asks       options without which no file of the format can be read: fields of `ImportOptions`.
    may_ask    options that some of its files need.
    """

    name: str
    label: str
    becomes: str
    looks_for: str
    recognise: Recognise
    read: Read
    asks: tuple[str, ...] = ()
    may_ask: tuple[str, ...] = ()


class Opened(NamedTuple):
    """A trace or counts, the format's label where another program wrote the file, and the doctor's findings on it."""

    counted: Counted
    label: str = ""
    findings: tuple[str, ...] = ()  # the doctor's, a sentence each
    left_out: tuple[str, ...] = ()  # those of them on parts of the file that could not be read
