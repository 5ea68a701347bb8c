"""From a file's numbers to `ExpertCounts`: how many tokens each expert got, and of how many that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts, GroupKind
from moeviz.file_limits import MAX_EXPERTS, MAX_LAYERS, check_experts
from moeviz.formats.importers.build_trace import name_of
from moeviz.formats.importers.importer import ImportOptions, flag
from moeviz.model_info import ModelInfo
from moeviz.text import listed

MAX_CELLS = 2**25


@dataclass(frozen=True, slots=True)
class CountTable:
    """A table of counts (G, L, E), or (L, E), as a file has it, with the facts that the file states."""

    table: np.ndarray
    backend: str
    layers: Sequence[int] | None = None  # from 0 where the file names none
    hidden: bool = False  # whether the file has rows for dense layers too
    top_k: int | None = None
    tokens: np.ndarray | None = None  # G, L
    groups: tuple[Any, ...] = ("",)
    group_kind: GroupKind = "all"
    complete: bool = True  # False: experts that got nothing may be missing at the end
    model: str = ""
    cautions: tuple[str, ...] = ()


def build_counts(counted: CountTable, name: str, options: ImportOptions) -> ExpertCounts:
    """Build `ExpertCounts`. Raises `InvalidTrace` for numbers that are no counts, or do not fit top-k."""
    table = _check_counts(counted.table)
    table = table if table.ndim == 3 else table[None]
    rows, layers, said = _choose_layers(table, counted, options)
    table = table[:, rows]
    table, few = _all_experts(table, counted, options)
    top_k = options.need("top_k", f"A file of {counted.backend}'s counts") if counted.top_k is None else counted.top_k
    assigned = table.sum(axis=2)
    tokens = -(-assigned // top_k) if counted.tokens is None else counted.tokens[:, rows]
    if counted.tokens is None and (assigned % top_k).any():
        few = [
            *few,
            f"The counts of some layers are not a multiple of {top_k}: some were dropped, padded or not counted.",
        ]
    _check_top_k(table, tokens, layers, top_k)
    model = ModelInfo(
        name_of(counted.model, name),
        counted.backend,
        tuple(layers),
        (table.shape[2],) * len(layers),
        top_k,
        caution=" ".join((*counted.cautions, *said, *few)),
    )
    check_experts(model)
    return ExpertCounts(model, table, tokens.astype(np.int64), counted.groups, counted.group_kind)


def sum_counts(
    layer: np.ndarray, expert: np.ndarray, count: np.ndarray, group: np.ndarray | None = None
) -> tuple[list[int], np.ndarray]:
    """Sum rows of (layer, expert, count) into a table (L, E), or (G, L, E) with groups; cells without a row are 0."""
    layers, at = np.unique(layer, return_inverse=True)
    if layers[0] < 0 or expert.min() < 0 or expert.max() >= MAX_EXPERTS:
        raise InvalidTrace(
            f"The file names expert {expert.min() if expert.min() < 0 else expert.max()} and layer {layers[0]}; both "
            f"are numbered from 0, experts up to {MAX_EXPERTS - 1}."
        )
    groups = 1 if group is None else int(group.max()) + 1
    shape = (groups, len(layers), int(expert.max()) + 1)
    if shape[0] * shape[1] * shape[2] > MAX_CELLS:
        raise InvalidTrace(f"The counts would be a table of {shape}, and at most {MAX_CELLS:,} cells are made.")
    table = np.zeros(shape, np.int64)
    np.add.at(table, (np.zeros(len(at), np.int64) if group is None else group, at, expert), count)
    return layers.tolist(), table if group is not None else table[0]


def _check_counts(values: np.ndarray) -> np.ndarray:
    table = np.asarray(values)
    if table.dtype.kind not in "iuf" or table.ndim not in (2, 3) or not table.size:
        raise InvalidTrace("The counts are not a full table of numbers, layers by experts. Write the file again.")
    with np.errstate(invalid="ignore"):
        good = (table >= 0).all() and (table < 2**53).all() and (np.rint(table) == table).all()
    if not good:
        raise InvalidTrace("A count is negative, no whole number, or too large to be one. Write the file again.")
    return table.astype(np.int64)


def _choose_layers(
    table: np.ndarray, counted: CountTable, options: ImportOptions
) -> tuple[list[int], list[int], list[str]]:
    every = [int(n) for n in (range(table.shape[1]) if counted.layers is None else counted.layers)]
    if len(every) > MAX_LAYERS or len(every) != table.shape[1]:
        raise InvalidTrace(f"The file names {len(every):,} layers and counts {table.shape[1]:,}.")
    some = np.asarray(table.any(axis=(0, 2)))
    if not some.any():
        raise InvalidTrace("Every count in the file is 0: nothing was counted. Record again, while requests run.")
    if options.moe_layers is not None:
        rows = [row for row, layer in enumerate(every) if layer in options.moe_layers]
        if len(rows) != len(set(options.moe_layers)):
            raise InvalidTrace(f"The file has the layers {listed(every)}, and not all of those that were named.")
        return rows, [every[row] for row in rows], []
    if not counted.hidden or some.all():
        return list(range(len(every))), every, []
    gone = listed([layer for layer, any_count in zip(every, some, strict=True) if not any_count])
    rows = np.flatnonzero(some).tolist()
    said = f"Layers without a count in the file are left out: {gone}. They are dense, or were not counted."
    return rows, [every[row] for row in rows], [said]


def _all_experts(table: np.ndarray, counted: CountTable, options: ImportOptions) -> tuple[np.ndarray, list[str]]:
    found = table.shape[2]
    if options.experts is not None and options.experts != found:
        if counted.complete or options.experts < found:
            raise InvalidTrace(f"The file counts {found} experts, and {flag('experts')} says {options.experts}.")
        return np.pad(table, ((0, 0), (0, 0), (0, options.experts - found))), []
    if counted.complete or options.experts is not None:
        return table, []
    return table, [
        f"The file leaves out experts that got nothing, so {found} counts those up to the highest that got something."
    ]


def _check_top_k(table: np.ndarray, tokens: np.ndarray, layers: list[int], top_k: int) -> None:
    """Check that no expert has more tokens than there are: top-k would be smaller than stated."""
    over = table > tokens[..., None]
    if over.any():
        group, row, expert = np.argwhere(over)[0]
        raise InvalidTrace(
            f"Expert {expert} of layer {layers[row]} was counted {table[group, row, expert]:,} times, and the layer's "
            f"assignments are those of {tokens[group, row]:,} tokens at {top_k} each. Is top-k smaller than {top_k}?"
        )
