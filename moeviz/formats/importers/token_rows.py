"""Lists of one row for each token and layer, as traces of tools have them, put into a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import whole


def in_order(layer: Any, token: Any) -> tuple[np.ndarray, list[int], int]:
    """How to sort the rows by layer and token, the layers, and how many tokens there are.

    Raises `InvalidTrace` unless every token has one row at every layer.
    """
    layer, token = whole(layer, 1, "The layers"), whole(token, 1, "The numbers of tokens")
    layers, tokens = np.unique(layer), np.unique(token)
    order: np.ndarray = np.lexsort((token, layer))
    grid = len(layers) * len(tokens) == len(layer)
    if not grid or (np.diff(layer[order]) + np.diff(token[order]) == 0).any() or layers[0] < 0 or tokens[0] < 0:
        raise InvalidTrace("A token of the file misses a layer, or has one twice. Record it again.")
    return order, layers.tolist(), len(tokens)


def gathered(rows: Sequence[Any], order: np.ndarray, layers: int, dtype: type) -> np.ndarray:
    """The lists of all rows as an array (L, T, length). Raises `InvalidTrace` if they are not equally long."""
    if len({len(row) for row in rows}) != 1:
        raise InvalidTrace("The tokens of the file do not all have as many experts, or logits. Record it again.")
    table: np.ndarray = np.array(rows, dtype)[order].reshape(layers, len(order) // layers, -1)
    return table
