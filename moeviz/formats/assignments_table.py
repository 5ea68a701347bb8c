"""The long table of a trace, one row per filled slot: what CSV and Parquet hold, and how a trace comes back from it.

| column | dtype | meaning |
|---|---|---|
| sequence, position | int32 | which token: the text it belongs to, and its place there, both from 0 |
| phase | str | prompt or generated |
| token_id | int32 | in the vocabulary, -1 where unknown |
| token | str | the token's text |
| label | str | only in traces that have labels |
| layer | int32 | the model's own index of the layer |
| slot | int16 | 0 = the expert with the highest weight |
| expert | int16 | its id |
| weight | float32 | the factor on the expert's output, empty where unknown |
| logit, probability | float32 | of that expert, only in traces that know them |

The logits of the experts that were not chosen are not here, so a trace that is read back has none: `.npz` and `.json`
keep them.
"""

from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.formats.table_cells import TEXTS, checked_columns, refuse_rows
from moeviz.formats.trace_facts import LABEL, MAX_EXPERTS, facts_of, model_of, shown, tokens_as_json, tokens_of
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, sort_slots, token_frame

REQUIRED = ("position", "layer", "expert")
COLUMNS = ("sequence", "position", "phase", "token_id", "token", "layer", "slot", "expert", "weight")
MAX_ROWS = 2**23  # 61 layers of 8 experts for 17,000 tokens; a larger trace is a case for .npz
MAX_CELLS = 2**25  # layers x tokens x slots of the trace that a table describes
UNNAMED = "a table that does not say"


def table_of(trace: RoutingTrace) -> pd.DataFrame:
    """The long table of a trace, ordered by token, layer and slot. Columns: see the module."""
    token, layer, slot = np.nonzero(trace.experts.transpose(1, 0, 2) != NO_EXPERT)
    tokens, expert = trace.tokens.iloc[token], trace.experts[layer, token, slot]
    weight = np.full(len(token), np.nan, np.float32) if trace.weights is None else trace.weights[layer, token, slot]
    columns: dict[str, pd.Series | np.ndarray] = {"sequence": tokens["sequence"], "position": tokens["position"]}
    columns |= {"phase": tokens["phase"], "token_id": tokens["token_id"], "token": tokens["text"]}
    if LABEL in tokens:
        columns[LABEL] = tokens[LABEL].astype("str")
    columns["layer"] = np.asarray(trace.model.layers, np.int32)[layer]
    columns |= {"slot": slot.astype(np.int16), "expert": expert, "weight": weight}
    if trace.logits is not None:
        columns["logit"] = trace.logits[layer, token, expert]
        if trace.model.score_function != "unknown":
            columns["probability"] = trace.probabilities("The table")[layer, token, expert]
    return pd.DataFrame({name: np.asarray(values) for name, values in columns.items()}).astype(
        {name: "str" for name in TEXTS if name in columns}
    )


def facts_beside_table(trace: RoutingTrace) -> dict[str, Any]:
    """What the rows cannot say: the model, how many rows there are, whether weights are known, tokens without a row."""
    filled = trace.experts != NO_EXPERT
    idle = np.flatnonzero(~filled.any(axis=(0, 2)))
    return {
        **facts_of(trace),
        "rows": int(filled.sum()),
        "weights": trace.weights is not None,
        "idle_tokens": {"row": idle.tolist(), **tokens_as_json(trace.tokens.iloc[idle])},
    }


def trace_of_table(table: pd.DataFrame, facts: dict[str, Any] | None = None) -> RoutingTrace:
    """A trace from its long table.

    With the facts that `facts_beside_table` gave, the same trace again, less its logits. Without, a table from any
    hand: `position`, `layer` and `expert` are needed, and the rest is taken from the rows. Tokens are then in order of
    sequence and position, slots in order of `slot`, else of the rows, and by weight where there are weights; each
    layer has as many experts as its highest id says. Columns of other names, and logits, are not read.

    Raises `InvalidTrace`, which names the row (the first is 1) and the value.
    """
    if len(table) > MAX_ROWS:
        raise InvalidTrace(f"The table has {len(table):,} rows; at most {MAX_ROWS:,} are read. Use .npz for more.")
    if missing := [name for name in (REQUIRED if facts is None else COLUMNS) if name not in table]:
        raise InvalidTrace(
            f"The table has the columns {shown(list(table.columns))}; a trace needs {', '.join(missing)} too "
            "(one row per chosen expert: at least position, layer and expert)."
        )
    columns = checked_columns(table)
    if not len(table) and facts is None:
        raise InvalidTrace("The table has no rows; a trace needs one row per chosen expert.")
    return _plain_trace(columns) if facts is None else _stated_trace(columns, facts)


def _plain_trace(columns: pd.DataFrame) -> RoutingTrace:
    token, tokens = _tokens(columns)
    order = np.lexsort((tokens["position"], tokens["sequence"]))
    token, tokens = np.argsort(order)[token], tokens.iloc[order].reset_index(drop=True)
    layers, layer = np.unique(columns["layer"], return_inverse=True)
    group = token * len(layers) + layer
    twice = pd.Series(group * MAX_EXPERTS + columns["expert"].to_numpy()).duplicated()
    refuse_rows(columns["expert"], twice, "be another one: this token has that expert at this layer already")
    slot = _ranks(group, columns.get("slot"))
    counts = np.zeros(len(layers), np.int64)
    np.maximum.at(counts, layer, columns["expert"].to_numpy() + 1)
    model = ModelInfo(UNNAMED, "file", tuple(layers.tolist()), tuple(counts.tolist()), int(slot.max()) + 1)
    experts, weights = sort_slots(*_dense(columns, model, layer, token, len(tokens), slot))
    return RoutingTrace(model, tokens, experts, weights)


def _stated_trace(columns: pd.DataFrame, facts: dict[str, Any]) -> RoutingTrace:
    model = model_of(facts)
    if facts.get("rows") != len(columns):
        raise InvalidTrace(
            f"The table has {len(columns)} rows, and its facts say {shown(facts.get('rows'))}: it was cut or edited. "
            "Remove the facts (in a CSV the column 'about') to open it as a plain table."
        )
    token, tokens = _tokens(columns)
    token, tokens = _with_idle_tokens(token, tokens, facts.get("idle_tokens"))
    layer = np.searchsorted(model.layers, columns["layer"]).clip(max=len(model.layers) - 1)
    refuse_rows(
        columns["layer"], np.asarray(model.layers)[layer] != columns["layer"], f"be one of {shown(model.layers)}"
    )
    refuse_rows(columns["slot"], columns["slot"] >= model.top_k, f"be from 0 to {model.top_k - 1}")
    experts, weights = _dense(columns, model, layer, token, len(tokens), columns["slot"].to_numpy())
    stated = facts.get("weights") is True
    if len(columns) and stated != (weights is not None):
        raise InvalidTrace(f"The table's facts say weights: {shown(facts.get('weights'))}, and its rows differ.")
    return RoutingTrace(model, tokens, experts, weights if stated else None)


def _tokens(columns: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """The token that each row is about, and the tokens by first appearance. Rows must agree about a token."""
    key = columns["sequence"].to_numpy() * 2**31 + columns["position"].to_numpy()
    token, _ = pd.factorize(key)
    first = np.unique(token, return_index=True)[1]
    facts = columns[[name for name in ("sequence", "position", "token_id", *TEXTS) if name in columns]]
    tokens = facts.iloc[first].reset_index(drop=True)
    for name in facts.columns:
        stated, expected = columns[name].to_numpy(), tokens[name].to_numpy()[token]
        refuse_rows(columns[name], stated != expected, "be the same in every row of one sequence and position")
    arrays = {name: tokens[name].to_numpy() for name in ("sequence", "position", "token_id", "phase")}
    frame = token_frame(text=list(tokens["token"]), **arrays)
    return token, frame.assign(label=tokens[LABEL]) if LABEL in tokens else frame


def _with_idle_tokens(token: np.ndarray, tokens: pd.DataFrame, idle: Any) -> tuple[np.ndarray, pd.DataFrame]:
    """Put the tokens that fill no slot, and so have no row in the table, back in their places."""
    idle = dict(idle) if isinstance(idle, dict) else {}
    rows, idle = idle.pop("row", None), tokens_of(idle)
    count = len(tokens) + len(idle)
    places = isinstance(rows, list) and all(type(row) is int and 0 <= row < count for row in rows)
    if not places or not len(idle) == len(rows) == len(set(rows)):
        raise InvalidTrace(f"The facts' idle tokens have rows {shown(rows)}, which do not fit {count} tokens.")
    if len(tokens) and len(idle) and list(tokens.columns) != list(idle.columns):
        raise InvalidTrace("The tokens of the rows and those of the facts differ: only one of them has labels.")
    place = np.setdiff1d(np.arange(count), rows)
    both = pd.concat([part for part in (tokens, idle) if len(part)] or [idle], ignore_index=True)
    order = np.argsort(np.concatenate([place, np.asarray(rows, np.int64)]))
    return place[token], both.iloc[order].reset_index(drop=True)


def _ranks(group: np.ndarray, slot: pd.Series | None) -> np.ndarray:
    """0, 1, 2 … within each group, in the order of `slot`, or of the rows where there is none."""
    given = np.arange(len(group)) if slot is None else slot.to_numpy()
    order = np.lexsort((given, group))
    ordered = group[order]
    again = np.append(False, (np.diff(ordered) == 0) & (np.diff(given[order]) == 0))
    if again.any():
        raise InvalidTrace(
            f"Row {order[again][0] + 1} fills a slot that another row fills: same token, layer and slot."
        )
    starts = np.flatnonzero(np.append(True, np.diff(ordered) != 0))
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return ranks


def _dense(
    columns: pd.DataFrame, model: ModelInfo, layer: np.ndarray, token: np.ndarray, tokens: int, slot: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    shape = (len(model.layers), tokens, model.top_k)
    if shape[0] * shape[1] * shape[2] > MAX_CELLS:
        raise InvalidTrace(
            "The table describes {} layers, {} tokens and {} slots".format(*shape)
            + f", more than {MAX_CELLS:,} cells. Use .npz for a trace of that size."
        )
    experts = np.full(shape, NO_EXPERT, np.int16)
    experts[layer, token, slot] = columns["expert"]
    if np.count_nonzero(experts != NO_EXPERT) != len(columns):
        raise InvalidTrace("Two rows of the table fill the same slot: same token, layer and slot.")
    if columns["weight"].isna().any():
        return experts, None
    weights = np.zeros(shape, np.float32)
    weights[layer, token, slot] = columns["weight"]
    return experts, weights
