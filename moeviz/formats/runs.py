"""Whole numbers as runs of consecutive ones: a short way to list which tokens of a long trace are meant.

`[[0, 3], [7, 1]]` is 0, 1, 2, 7: each run has its first number, and how many there are.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown


def runs_of(numbers: np.ndarray) -> list[list[int]]:
    """Numbers in any order as runs.

    >>> runs_of(np.array([4, 5, 6, 0, 1])), runs_of(np.array([], int))
    ([[4, 3], [0, 2]], [])
    """
    starts = np.flatnonzero(np.append(True, np.diff(numbers) != 1))[: len(numbers)]
    lengths = np.diff(np.append(starts, len(numbers)))
    return [list(run) for run in zip(numbers[starts].tolist(), lengths.tolist(), strict=True)]


def numbers_of(runs: Any, count: int, what: str) -> np.ndarray:
    """The numbers from `runs_of`, if they are different ones below `count`. Raises `InvalidTrace`.

    Nothing is made before the runs prove to hold no more than `count` numbers.
    """
    if not isinstance(runs, list) or not all(_is_run(run, count) for run in runs) or sum(n for _, n in runs) > count:
        raise _wrong(runs, count, what)
    numbers = np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + n) for first, n in runs)])
    if len(np.unique(numbers)) != len(numbers):
        raise _wrong(runs, count, what)
    return numbers


def _is_run(run: Any, count: int) -> bool:
    whole = isinstance(run, list) and len(run) == 2 and all(type(number) is int for number in run)
    return whole and run[0] >= 0 and run[1] >= 1 and run[0] + run[1] <= count


def _wrong(runs: Any, count: int, what: str) -> InvalidTrace:
    return InvalidTrace(
        f"The facts give {shown(runs)} as {what}, which does not fit {count:,} tokens: each run is its first token and "
        "how many follow, and no token comes twice. Remove the facts to open it as a plain table."
    )
