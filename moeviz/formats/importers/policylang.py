"""moe-policylang's recordings: JSON lines behind a header, or Parquet; one row for each token and layer.

Its scores are probabilities before they are renormalised, not the weights that were applied, so they are not read. It
takes softmax and top-k of the logits itself: for a router with a bias, groups or sigmoid, that is not what was chosen.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import (
    is_parquet,
    parquet_columns,
    read_parquet,
    sort_token_rows,
    stack_token_rows,
    whole,
)
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

OF_PARQUET = {
    "prompt_id": "p",
    "token_idx": "t",
    "layer_idx": "l",
    "selected_experts": "e",
    "router_logits": "lg_l",
    "token_id": "ti",
    "phase": "ph",
    "domain_tag": "dm",
}
CHOSEN_BY_IT = (
    "moe-policylang chose these experts itself, as the highest logits: for a router with a bias, groups or sigmoid "
    "scores, the model's own choices were others."
)


def recognise(source: Source) -> bool:
    """Lines behind a header with num_entries, or Parquet with selected_experts."""
    if is_parquet(source.data):
        return {"prompt_id", "layer_idx", "selected_experts"} <= set(parquet_columns(source.data))
    return isinstance(source.first, dict) and {"num_entries", "num_experts"} <= source.first.keys()


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every prompt, one sequence each."""
    rows: list[Any]
    experts, model = None, ""
    if is_parquet(source.data):
        names = [name for name in OF_PARQUET if name in parquet_columns(source.data)]
        rows = list(read_parquet(source, names).rename(columns=OF_PARQUET).to_dict("records"))
    else:
        header, *rows = source.rows
        experts, model = header["num_experts"], header.get("model_name", "")
        if len(rows) != header["num_entries"]:
            raise InvalidTrace(f"The file has {len(rows):,} of {header['num_entries']:,} entries: it was cut off.")
    prompts: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        prompts.setdefault(row["p"], []).append(row)
    parts = [_part(own) for own in prompts.values()]
    if len({tuple(layers) for layers, _ in parts}) != 1:
        raise InvalidTrace("The prompts of the file do not have the same layers. Record them again.")
    logits = parts[0][1].logits
    about = SourceInfo(
        "moe-policylang",
        parts[0][0],
        order="weight",
        experts=experts if logits is None else logits.shape[2],
        model=model,
        cautions=(CHOSEN_BY_IT,),
    )
    return build_trace([part for _, part in parts], about, source.name, options)


def _part(rows: list[dict[str, Any]]) -> tuple[list[int], SequenceRouting]:
    order, layers, tokens = sort_token_rows([row["l"] for row in rows], [row["t"] for row in rows])
    ids = stack_token_rows([row["e"] for row in rows], order, len(layers), np.int64)
    full = all(_there(row.get("lg_l")) for row in rows)
    logits = stack_token_rows([row["lg_l"] for row in rows], order, len(layers), np.float32) if full else None
    if logits is not None and not np.isfinite(logits).all():
        raise InvalidTrace("A logit of the file is not a finite number. Record it again.")
    one = [rows[at] for at in order[:tokens]]  # of the first layer: a row a token
    known = whole([row["ti"] for row in one], 1, "The token ids") if all(_there(r.get("ti")) for r in one) else None
    late = np.array([row["ph"] == "decode" for row in one]) if all(row.get("ph") for row in one) else None
    position = np.array([row["t"] for row in one])
    label = one[0].get("dm") or None
    return layers, SequenceRouting(
        ids, position, known, late, label=label if isinstance(label, str) else None, logits=logits
    )


def _there(value: Any) -> bool:
    """Return whether a cell has a value: a table has NaN in an empty column."""
    return value is not None and not (isinstance(value, float) and value != value)


FORMAT = Importer("policylang", "moe-policylang recordings", "trace", recognise, read, may_ask=("experts",))
