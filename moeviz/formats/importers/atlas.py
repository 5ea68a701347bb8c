"""Routing Atlas: a record a text with its tokens, and `activations` of layer, token, expert and weight.

JSON with `traces`, JSON lines, or Parquet, where each row repeats its text. Activations are in no order, and lines may
repeat: a line that says the same again is left out. Slots are sorted by weight here.
"""

from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import is_parquet, parquet_columns, read_parquet, whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, fill_slots
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

KEYS = ("layer", "token_idx", "expert_idx", "gate_weight")
OF_A_TEXT = ("model_id", "num_experts", "top_k", "token_ids", "token_strs", "domain")


def recognise(source: Source) -> bool:
    """JSON, lines or Parquet with activations of token_idx and expert_idx."""
    if is_parquet(source.data):
        return set(KEYS) <= set(parquet_columns(source.data))
    first = source.first
    return isinstance(first, dict) and ("activations" in first or isinstance(first.get("traces"), list))


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every text, one sequence each."""
    records = _of_parquet(source) if is_parquet(source.data) else _of_json(source)
    if len({(record["num_experts"], record["top_k"]) for record in records}) != 1:
        raise InvalidTrace("The texts of the file were not run by one model. Split the file.")
    parts = [_part(record) for record in records]
    if len({tuple(layers) for layers, _ in parts}) != 1:
        raise InvalidTrace("The texts of the file do not have the same layers. Record them again.")
    about = SourceInfo(
        "routing atlas", parts[0][0], experts=records[0]["num_experts"], model=records[0].get("model_id", "")
    )
    return build_trace([part for _, part in parts], about, source.name, options)


def _of_json(source: Source) -> list[dict[str, Any]]:
    first = source.first
    records = first.get("traces") or source.rows
    kept = [record for at, record in enumerate(records) if record not in records[max(at - 1, 0) : at]]
    return [
        {**record, "table": np.array([[row[key] for key in KEYS] for row in record["activations"]])} for record in kept
    ]


def _of_parquet(source: Source) -> list[dict[str, Any]]:
    frame = read_parquet(source, [*KEYS, "text"])
    texts = pd.factorize(frame["text"])[0]
    first = np.unique(texts, return_index=True)[1]
    facts = read_parquet(source, list(OF_A_TEXT), first.tolist())
    return [
        {str(name): _plain(facts[name].iloc[text]) for name in facts}
        | {"table": frame[list(KEYS)].to_numpy(np.float64)[texts == text]}
        for text in range(len(first))
    ]


def _plain(cell: Any) -> Any:
    return cell.tolist() if isinstance(cell, (np.generic, np.ndarray)) else cell


def _part(record: dict[str, Any]) -> tuple[list[int], SequenceRouting]:
    table, top_k = record["table"].astype(np.float64), record["top_k"]
    if table.ndim != 2 or not np.isfinite(table).all():
        raise InvalidTrace("A layer, token, expert or weight of the file is not a finite number. Record it again.")
    layer, token, expert = (table[:, at].astype(np.int64) for at in range(3))
    order = np.lexsort((token, layer))
    cell, tokens = (layer * (token.max() + 1) + token)[order], record["token_ids"]
    if top_k < 1 or len(cell) % top_k or (np.diff(cell.reshape(-1, top_k), axis=1) != 0).any():
        raise InvalidTrace(f"A token of the file does not have {top_k} experts at a layer, as its top_k says.")
    slot = np.empty(len(cell), np.int64)
    slot[order] = np.arange(len(cell)) % top_k
    layers, ids, (weights,) = fill_slots(layer, token, slot, expert, table[:, 3])
    if len(tokens) != ids.shape[1] or len(cell) != ids.size:
        raise InvalidTrace(f"The file lists {len(tokens):,} tokens and routes {ids.shape[1]:,}. Record it again.")
    label = record.get("domain") or None
    known = whole(tokens, 1, "The token ids")
    return layers, SequenceRouting(
        ids, token_id=known, text=[str(t) for t in record["token_strs"]], label=label, weights=weights
    )


FORMAT = Importer("atlas", "Routing Atlas", "trace", recognise, read)
