"""Buffers on the device: the record, rows that the router's kernel fills as it decides, and the plan of a dispatch,
assignments sorted by expert and cut into tiles of one expert each.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Plan(NamedTuple):
    """The plan of the work: `tile` rows of one expert are one piece; no piece has rows of two experts."""

    order: Tensor  # (N,) int32: the assignment in each sorted row
    place: Tensor  # (N,) int32: the sorted row of each assignment
    start: Tensor  # (E,) int32: the first sorted row of each expert
    count: Tensor  # (E,) int32: its rows, which is its load
    tile_end: Tensor  # (E,) int32: running total of its tiles, ceil(count / tile)
    tile: int
    max_tiles: int  # tile_end[-1] is never more, whatever the ids


def max_tiles(assignments: int, num_experts: int, tile: int) -> int:
    """Return the most tiles that any shares of the experts can need: each used expert may leave one tile unfilled."""
    return min(assignments, (assignments + num_experts * (tile - 1)) // tile)


@dataclass(frozen=True, slots=True)
class Record:
    """Rows that a router fills. R rows, K slots.

    `cursor` is the row of the first token. It stands on the device, so that a CUDA graph records at every replay
    without being captured anew. Rows from R on are not written; the cursor passes R all the same.
    """

    experts: Tensor  # (R, K) uint8 or int16
    weights: Tensor  # (R, K) float32, bfloat16 or float16
    cursor: Tensor  # (1,) int64

    def __post_init__(self) -> None:
        if self.experts.shape != self.weights.shape:
            shapes = f"{tuple(self.experts.shape)} and {tuple(self.weights.shape)}"
            raise ValueError(f"A record has rows of one shape for experts and weights, (R, K); these are {shapes}.")

    def advance(self, tokens: int) -> None:
        """Move the cursor past a step of `tokens` tokens, without waiting for the device."""
        self.cursor.add_(tokens)

    def arguments(self) -> tuple[Tensor | int, ...]:
        """For the kernel: pointers, and the number of rows."""
        return self.experts, self.weights, self.cursor, len(self.experts)
