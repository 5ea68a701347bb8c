"""SGLang's expert distribution recorder, which KTransformers uses too: `expert_distribution_recorder_….pt`.

| mode | holds | becomes |
|---|---|---|
| stat, stat_approx | `logical_count` (steps, hidden layers, E) | counts by step |
| per_pass | `records` with physical counts | counts by pass |
| per_token | `records` with physical ids of each token | a trace, in no order of weight |

Physical ids and counts are of slots, and go through the last map of slots to experts. Steps are a ring: empty ones are
left out, and where it was full, the oldest are gone and the order is the ring's.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.formats.importers.torch_file import in_torch, of_torch
from moeviz.routing_trace import RoutingTrace

RING = "The recorder's steps are a ring: if it was full, the oldest are gone, and the order of steps is the ring's."
NO_REQUESTS = "The recorder does not say which request a token belongs to: a sequence goes on as long as positions do."
DECODE = 2  # forward_mode of a step that generates


def recognise(content: Any) -> bool:
    """A torch file with logical_count, or records and last_physical_to_logical_map."""
    return isinstance(content, dict) and (
        "logical_count" in content or {"records", "last_physical_to_logical_map"} <= content.keys()
    )


def read(content: Any, source: Source, options: ImportOptions) -> RoutingTrace | ExpertCounts:
    """Read counts or a trace, as the recorder's mode was."""
    if "logical_count" in content:
        counts = np.asarray(content["logical_count"])
        counts = whole(counts if counts.ndim == 3 else counts[None], 3, "The logical counts")
        return _by_step(counts[counts.any(axis=(1, 2))], source, options)
    records = sorted(content["records"], key=lambda record: (record["forward_pass_id"], record["rank"]))
    if not records:
        raise InvalidTrace("The recorder's file has no records. Dump it after requests were served.")
    slots = whole(content["last_physical_to_logical_map"], 2, "The map of slots")
    if "topk_ids_of_layer" in records[0]:
        return _by_token(records, slots, source, options)
    return _by_step(np.stack([_logical(record, slots) for record in records]), source, options)


def _by_step(table: np.ndarray, source: Source, options: ImportOptions) -> ExpertCounts:
    steps = tuple(range(len(table)))
    counted = CountTable(table, "sglang", hidden=True, groups=steps, group_kind="step", cautions=(RING,))
    return build_counts(counted, source.name, options)


def _logical(record: dict[str, Any], slots: np.ndarray) -> np.ndarray:
    """Add up the counts of physical slots by the expert that each slot holds."""
    physical = whole(record["global_physical_count"], 2, "The physical counts")
    if physical.shape != slots.shape or slots.min() < 0 or slots.max() >= slots.shape[1]:
        raise InvalidTrace("The recorder's counts and its map of slots do not fit each other. Dump it again.")
    table = np.zeros((len(slots), int(slots.max()) + 1), np.int64)
    for layer, row in enumerate(physical):
        np.add.at(table[layer], slots[layer], row)
    return table


def _by_token(records: list[dict[str, Any]], slots: np.ndarray, source: Source, options: ImportOptions) -> RoutingTrace:
    rows = np.concatenate([whole(record["topk_ids_of_layer"], 3) for record in records], axis=1)
    if rows.max() >= slots.shape[1] or len(rows) != len(slots):
        raise InvalidTrace(f"The file names slot {rows.max()}, and its map has {slots.shape[1]}. Dump it again.")
    found = np.take_along_axis(slots, np.maximum(rows, 0).reshape(len(slots), -1), axis=1).reshape(rows.shape)
    logical = np.where(rows < 0, -1, found)
    width = max(int((logical >= 0).sum(axis=-1).max()), 1)  # always 8 wide, and -1 beyond top-k
    position, token_id = (np.concatenate([np.asarray(r[name]) for r in records]) for name in ("positions", "input_ids"))
    late = np.repeat([record["forward_mode"] == DECODE for record in records], [len(r["input_ids"]) for r in records])
    if not len(position) == len(token_id) == rows.shape[1]:
        raise InvalidTrace("The recorder's tokens and its rows of routing are of different numbers. Dump it again.")
    sequence = np.cumsum(np.append(False, np.diff(position) != 1))
    part = SequenceRouting(logical[..., :width], position, token_id, late, sequence=sequence)
    about = SourceInfo("sglang", hidden=True, experts=int(slots.max()) + 1, cautions=(NO_REQUESTS,))
    return build_trace([part], about, source.name, options)


FORMAT = Importer(
    name="sglang-recorder",
    label="SGLang's expert distribution recorder (KTransformers too)",
    becomes="trace or counts",
    recognise=in_torch(recognise),
    read=of_torch(read),
    may_ask=("top_k", "moe_layers"),
)
