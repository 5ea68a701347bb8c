"""The row that each importer ends in: a format's name, how a file of it is recognised, and how it is read.

Its options are facts that a file does not say, and a person knows. They are asked for, and never guessed.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from moeviz.errors import InvalidTrace, NotSaid
from moeviz.formats.importers.source import Source
from moeviz.routing_trace import Counted
from moeviz.text import quoted

MOST = 2**15 - 1
AXES = ("layers", "tokens")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Facts about a run that its file leaves out. None: not said.

    top_k            experts a token is sent to at each layer.
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
        """A number that `what` does not say. Raises `NotSaid` with a sentence that asks for it."""
        value: int | None = getattr(self, name)
        if value is None:
            raise NotSaid(
                f"{what} does not say {SAYS[name]}. Look in the model's config and say it: {flag(name)} on the command "
                f"line, ImportOptions({name}=…) in Python.",
                (name,),
            )
        return value

    def layers_first(self, shape: tuple[int, ...]) -> bool:
        """True if the first axis of an array is of layers, false if it is of tokens. Raises `NotSaid`."""
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
    """Layers as people write them, as `what`. Raises `InvalidTrace` for anything else.

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
            raise InvalidTrace(f"{what} names {stop - start + 1:,} layers, and no model has so many.")
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
