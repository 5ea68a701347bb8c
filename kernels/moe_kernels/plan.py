"""The plan of a dispatch: assignments sorted by expert, cut into tiles of one expert each."""

from typing import NamedTuple

from torch import Tensor


class Plan(NamedTuple):
    """Who works on what. `tile` rows of one expert are one piece of work; no piece has rows of two experts."""

    order: Tensor  # (N,) int32: the assignment in each sorted row
    place: Tensor  # (N,) int32: the sorted row of each assignment
    start: Tensor  # (E,) int32: the first sorted row of each expert
    count: Tensor  # (E,) int32: its rows, which is its load
    tile_end: Tensor  # (E,) int32: running total of its tiles, ceil(count / tile)
    tile: int
    max_tiles: int  # tile_end[-1] is never more, whatever the ids


def max_tiles(assignments: int, num_experts: int, tile: int) -> int:
    """The most tiles that any shares of the experts can need: each used expert may leave one tile unfilled."""
    return min(assignments, (assignments + num_experts * (tile - 1)) // tile)
