"""The record of routing decisions on the device: rows that kernels fill, and their way to the host."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = ("experts", "weights", "entropy", "margin")


@dataclass(slots=True)
class Record:
    """Rows that a router fills; what is None is not recorded. R rows, K slots, E experts.

    `cursor` is the row of the first token, and `valid` the number of tokens that are real: both stand on the device, so
    that a CUDA graph records at every replay without being captured anew, and padding reaches neither rows nor counts.
    Rows from R on are not written; the cursor passes R all the same, and so tells how many were lost.
    """

    experts: Tensor | None = None  # (R, K) uint8 or int16
    weights: Tensor | None = None  # (R, K) float32, bfloat16 or float16
    entropy: Tensor | None = None  # (R,) float, nats
    margin: Tensor | None = None  # (R,) float, in units of what was ranked
    counts: Tensor | None = None  # (E,) int32, added to
    cursor: Tensor | None = None  # (1,) int64
    valid: Tensor | None = None  # (1,) int32

    def __post_init__(self) -> None:
        sizes = {len(part) for name in ROWS if (part := getattr(self, name)) is not None}
        if len(sizes) > 1:
            raise ValueError(f"All parts of a record have the same number of rows; these have {sorted(sizes)}.")
        if sizes and self.cursor is None:
            raise ValueError("A record with rows needs a cursor: the row of the first token, (1,) int64.")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return next((len(part) for name in ROWS if (part := getattr(self, name)) is not None), 0)

    def advance(self, tokens: int) -> None:
        """After a step of so many tokens: the next one goes to the rows behind. Nothing waits for the device."""
        self.cursor += tokens if self.valid is None else self.valid

    def arguments(self, unused: Tensor) -> tuple[Tensor | int, ...]:
        """Pointers for the kernel, in the order of the fields; `unused` stands for what is not recorded."""
        parts = [getattr(self, field.name) for field in fields(self)]
        return (*(unused if part is None else part for part in parts), self.rows)

    def flags(self) -> dict[str, bool]:
        """The kernel's compile-time arguments."""
        return {name.upper(): getattr(self, name) is not None for name in (*ROWS, "counts", "valid")}


class Recorded(NamedTuple):
    """What a record held when it was drained, on the host; filled rows alone."""

    parts: dict[str, Tensor]
    lost: int  # rows that did not fit


class Drain:
    """Host memory of a record's size. On CUDA a copy runs beside the device's further work: `start`, go on, `wait`."""

    def __init__(self, record: Record):
        kept = {name: getattr(record, name) for name in (*ROWS, "counts", "cursor")}
        self._device = {name: part for name, part in kept.items() if part is not None}
        self._on_cuda = any(part.is_cuda for part in self._device.values())
        self._host = {
            name: torch.empty(part.shape, dtype=part.dtype, pin_memory=self._on_cuda)
            for name, part in self._device.items()
        }
        self._done = torch.cuda.Event() if self._on_cuda else None

    def start(self) -> None:
        """Begin to copy the record as it is after the work that is queued now."""
        for name, part in self._device.items():
            self._host[name].copy_(part, non_blocking=self._on_cuda)
        if self._done is not None:
            self._done.record()

    def wait(self) -> Recorded:
        """Wait for the copy, and read it; valid until the next `start`."""
        if self._done is not None:
            self._done.synchronize()
        cursor = int(self._host["cursor"]) if "cursor" in self._host else 0
        parts = {name: part[:cursor] for name, part in self._host.items() if name in ROWS}
        rows = len(next(iter(self._host.values()))) if parts else cursor
        counts = {"counts": self._host["counts"]} if "counts" in self._host else {}
        return Recorded(parts | counts, max(0, cursor - rows))
