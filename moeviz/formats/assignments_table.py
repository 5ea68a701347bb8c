"""The long table of a trace, one row per filled slot: what CSV and Parquet hold, and how it becomes a trace.

| column | dtype | meaning |
|---|---|---|
| sequence, position | int32 | which token: the text it belongs to, and its place there, both from 0 |
| phase | str | prompt or generated |
| token_id | int32 | in the vocabulary, -1 if unknown |
| token | str | the token's text |
| label, segment | str | only in traces that have them |
| kind, image, view, x0, y0, x1, y1 | str, int32, str, float32 | only in traces with images: see `moeviz.image_tokens` |
| layer | int32 | the model's own index of the layer |
| slot | int16 | 0 = the expert with the highest weight, if the order of slots is known |
| expert | int16 | its id |
| weight | float32 | the factor on the expert's output, empty if unknown |
| logit, probability | float32 | of that expert, only in traces that know them |

The logits of the experts that were not chosen are not here, so a trace that is read back has none: `.npz` and `.json`
keep them. Nor do the rows say why a token has none at a layer; the facts stored with the table do (`table_facts`). Rows
may come in any order.
"""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES, MAX_EXPERTS, check_experts, shown
from moeviz.formats.table_facts import TEXTS, all_tokens, checked_columns, mark_not_recorded, refuse_rows
from moeviz.formats.trace_facts import model_of
from moeviz.image_tokens import IMAGE_COLUMNS, images_of_json
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, OPTIONAL_COLUMNS, RoutingTrace, sort_slots, token_frame

REQUIRED = ("position", "layer", "expert")
COLUMNS = ("sequence", "position", "phase", "token_id", "token", "layer", "slot", "expert", "weight")
BYTES_A_ROW = 128  # of memory while rows are read: 2**23 rows of the usual budget, as of 61 x 17,000 x 8
BYTES_A_TEXT = 8  # at least, while a cell of a CSV is read
BYTES_A_CELL = 32  # of the layers x tokens x slots of the trace that a table describes
SMALL, CELLS_A_ROW = 2**20, 16  # a small table may describe SMALL of them, and a larger one CELLS_A_ROW for each row
UNNAMED = "a table that does not say"


def table_of(trace: RoutingTrace) -> pd.DataFrame:
    """Return the long table of a trace, ordered by token, layer and slot. Columns: see the module."""
    token, layer, slot = np.nonzero(trace.filled.transpose(1, 0, 2))
    tokens, expert = trace.tokens.iloc[token], trace.experts[layer, token, slot]
    weight = np.full(len(token), np.nan, np.float32) if trace.weights is None else trace.weights[layer, token, slot]
    columns: dict[str, pd.Series | np.ndarray] = {"sequence": tokens["sequence"], "position": tokens["position"]}
    columns |= {"phase": tokens["phase"], "token_id": tokens["token_id"], "token": tokens["text"]}
    columns |= {name: tokens[name].astype("str") for name in OPTIONAL_COLUMNS if name in tokens}
    columns |= {name: tokens[name] for name in IMAGE_COLUMNS if name in tokens}
    columns["layer"] = np.asarray(trace.model.layers, np.int32)[layer]
    columns |= {"slot": slot.astype(np.int16), "expert": expert, "weight": weight}
    if trace.logits is not None:
        columns["logit"] = trace.logits[layer, token, expert]
        if trace.model.score_function != "unknown":
            columns["probability"] = trace.probabilities("The table")[layer, token, expert]
    return pd.DataFrame({name: np.asarray(values) for name, values in columns.items()}).astype(
        {name: "str" for name in TEXTS if name in columns}
    )


def check_cells(rows: int, columns: int, max_bytes: int) -> None:
    """Raise `InvalidTrace` for more rows of a table, or cells of a CSV, than the budget is for."""
    most = min(max_bytes // BYTES_A_ROW, max_bytes // (BYTES_A_TEXT * columns))
    if rows > most + 1:  # one names the columns
        what = f"{rows:,} rows" + (f" of {columns} columns" if columns > 1 else "")
        raise InvalidTrace(f"The table has {what}, and at most {most:,} such rows are read. Use .npz for more.")


def trace_of_table(
    table: pd.DataFrame, facts: dict[str, Any] | None = None, max_bytes: int = MAX_BYTES
) -> RoutingTrace:
    """Return a trace from its long table.

    With the facts from `facts_beside_table`, the result is the same trace, without its logits. Without them, it can be
    any table with the columns `position`, `layer` and `expert`; the rest is taken from the rows. Tokens are then in
    order of sequence and position, and slots by weight if there are weights, otherwise in order of `slot`; with
    neither, their order is unknown. Ties go to the lower slot, or else to the lower expert. Each layer has as many
    experts as its highest id implies. A token without a row at a layer is not recorded there. Columns with other names,
    and logits, are not read. The order of rows never matters.

    `max_bytes` limits the rows, and the layers x tokens x slots that they describe, before arrays are made. Raises
    `InvalidTrace`, which names the row (the first is 1) and the value.
    """
    if len(table) > (most := max_bytes // BYTES_A_ROW):
        raise InvalidTrace(f"The table has {len(table):,} rows, and at most {most:,} are read. Use .npz for more.")
    if missing := [name for name in (REQUIRED if facts is None else COLUMNS) if name not in table]:
        raise InvalidTrace(
            f"The table has the columns {shown(list(table.columns))}, and a trace also needs {', '.join(missing)}. "
            "Give one row per chosen expert, with at least position, layer and expert."
        )
    if facts is None:  # what other programs call "kind" or "image" is something else
        table = table.drop(columns=[*IMAGE_COLUMNS], errors="ignore")
    columns = checked_columns(table)
    if not len(table) and facts is None:
        raise InvalidTrace("The table has no rows. A trace needs one row per chosen expert.")
    return _plain_trace(columns, max_bytes) if facts is None else _stated_trace(columns, facts, max_bytes)


def _plain_trace(columns: pd.DataFrame, max_bytes: int) -> RoutingTrace:
    token, tokens = _tokens(columns)
    order = np.lexsort((tokens["position"], tokens["sequence"]))
    token, tokens = np.argsort(order)[token], tokens.iloc[order].reset_index(drop=True)
    layers, layer = np.unique(columns["layer"], return_inverse=True)
    group = token * len(layers) + layer
    expert = columns["expert"].to_numpy()
    twice = pd.Series(group * MAX_EXPERTS + expert).duplicated()
    refuse_rows(columns["expert"], twice, "be another one: this token has that expert at this layer already")
    slot = _ranks(group, columns["slot"].to_numpy() if "slot" in columns else expert)
    counts, top_k = np.zeros(len(layers), np.int64), int(slot.max()) + 1
    np.maximum.at(counts, layer, expert + 1)
    ordered = "slot" in columns or columns["weight"].notna().all() or top_k == 1
    model = ModelInfo(UNNAMED, "file", tuple(layers.tolist()), tuple(counts.tolist()), top_k)
    check_experts(model)
    experts, weights = sort_slots(*_dense(columns, model, (layer, token, slot), len(tokens), max_bytes))
    experts[(experts == NO_EXPERT).all(axis=-1)] = NOT_RECORDED
    return RoutingTrace(model if ordered else replace(model, slot_order="unknown"), tokens, experts, weights)


def _stated_trace(columns: pd.DataFrame, facts: dict[str, Any], max_bytes: int) -> RoutingTrace:
    model = model_of(facts)
    if facts.get("rows") != len(columns):
        raise InvalidTrace(
            f"The table has {len(columns)} rows, and its facts say {shown(facts.get('rows'))}, so it was cut or "
            "edited. Remove the facts (in a CSV, the column 'about') to open it as a plain table."
        )
    token, tokens = all_tokens(*_tokens(columns), facts)
    layer = np.searchsorted(model.layers, columns["layer"]).clip(max=len(model.layers) - 1)
    refuse_rows(
        columns["layer"], np.asarray(model.layers)[layer] != columns["layer"], f"be one of {shown(model.layers)}"
    )
    refuse_rows(columns["slot"], columns["slot"] >= model.top_k, f"be from 0 to {model.top_k - 1}")
    place = layer, token, columns["slot"].to_numpy()
    experts, weights = _dense(columns, model, place, len(tokens), max_bytes)
    mark_not_recorded(experts, model, facts)
    stated = facts.get("weights") is True
    if len(columns) and stated != (weights is not None):
        raise InvalidTrace(
            f"The table's facts say {shown(facts.get('weights'))} for weights, and its rows disagree. Remove the "
            "facts to open it as a plain table."
        )
    return RoutingTrace(model, tokens, experts, weights if stated else None, images=images_of_json(facts.get("images")))


def _tokens(columns: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the token that each row is about, and the tokens by first appearance. Rows must agree about a token."""
    key = columns["sequence"].to_numpy() * 2**31 + columns["position"].to_numpy()
    token, _ = pd.factorize(key)
    first = np.unique(token, return_index=True)[1]
    kept = dict.fromkeys(("sequence", "position", "token_id", *TEXTS, *IMAGE_COLUMNS))
    facts = columns[[name for name in kept if name in columns]]
    tokens = facts.iloc[first].reset_index(drop=True)
    for name in facts.columns:
        stated, expected = columns[name].to_numpy(), tokens[name].to_numpy()[token]
        other = (stated != expected) & ~(pd.isna(stated) & pd.isna(expected))
        refuse_rows(columns[name], other, "be the same in every row of one sequence and position")
    arrays = {name: tokens[name].to_numpy() for name in ("sequence", "position", "token_id", "phase")}
    frame = token_frame(text=list(tokens["token"]), **arrays)
    more = {name: tokens[name] for name in (*OPTIONAL_COLUMNS, *IMAGE_COLUMNS) if name in tokens}
    return token, frame.assign(**more).astype({name: kind for name, kind in IMAGE_COLUMNS.items() if name in more})


def _ranks(group: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2 … within each group, in the order of the given numbers, which must differ."""
    order = np.lexsort((given, group))
    ordered = group[order]
    again = np.append(False, (np.diff(ordered) == 0) & (np.diff(given[order]) == 0))
    if again.any():
        raise InvalidTrace(
            f"Row {order[again][0] + 1} fills a slot that another row already fills: same token, layer and slot. "
            "Remove one of the two."
        )
    starts = np.flatnonzero(np.append(True, np.diff(ordered) != 0))
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return ranks


def _dense(
    columns: pd.DataFrame, model: ModelInfo, place: tuple[np.ndarray, ...], tokens: int, max_bytes: int
) -> tuple[np.ndarray, np.ndarray | None]:
    shape = (len(model.layers), tokens, model.top_k)
    cells, most = prod(shape), min(max_bytes // BYTES_A_CELL, max(SMALL, CELLS_A_ROW * len(columns)))
    if cells > most:
        raise InvalidTrace(
            "The table describes {:,} layers, {:,} tokens and {:,} slots".format(*shape)
            + f", {cells:,} cells in all, and at most {most:,} are read from {len(columns):,} rows. Use .npz for a "
            "trace like that."
        )
    experts = np.full(shape, NO_EXPERT, np.int16)
    experts[place] = columns["expert"]
    if np.count_nonzero(experts != NO_EXPERT) != len(columns):
        raise InvalidTrace(
            "Two rows of the table fill the same slot: same token, layer and slot. Remove one of the two."
        )
    if columns["weight"].isna().any():
        return experts, None
    weights = np.zeros(shape, np.float32)
    weights[place] = columns["weight"]
    return experts, weights
