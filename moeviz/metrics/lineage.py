"""The experts that a checkpoint has lost, and the origin of each of its experts, for drawing."""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.metrics.expert_table import expert_table
from moeviz.metrics.inputs import Statistics
from moeviz.routing_trace import RoutingTrace

# Possible fates of an expert, the nearest to unchanged first, as in `moeviz.analyses.lineage`.
WHAT = ("kept", "moved", "tuned", "copied", "averaged", "spliced", "related", "unrelated", "zeroed", "cut")
FIGURES = ["tokens", "share", "times_uniform", "kind", "lift", "q", "role", "name"]


def lost_experts(lineage: pd.DataFrame, seen: RoutingTrace | Statistics) -> pd.DataFrame:
    """Look up in a trace or dataset of the base what each expert did that its child has lost.

    lineage   the table of `moeviz.lineage`.

    One row per lost expert. Columns: layer int32 and expert int16 (of the base); then, as in `expert_table`, tokens
    int64 · share, times_uniform float64 · kind str · lift, q float64 · role, name str.

    Raises `InvalidTrace` if the trace is of a model without one of these experts.
    """
    cut = lineage[lineage["what"] == "cut"]
    lost = pd.DataFrame({"layer": cut["base_layer"], "expert": [experts[0] for experts in cut["base_experts"]]})
    known = expert_table(seen)
    found = lost.merge(known[["layer", "expert", *FIGURES]], on=["layer", "expert"], how="left")
    if (missing := found["tokens"].isna()).any():
        layer, expert = found.loc[missing, ["layer", "expert"]].iloc[0]
        raise InvalidTrace(
            f"The base lost expert {expert} of layer {layer}, and {seen.model.name}, which was recorded, has no such "
            "expert. Give a trace or dataset of the base."
        )
    return found.astype({"layer": "int32", "expert": "int16", "tokens": "int64"})


def expert_fates(lineage: pd.DataFrame) -> pd.DataFrame:
    """Turn the table of `moeviz.lineage` around: what became of each expert of the base.

    An expert that several have gets the nearest one's fate: kept before moved, tuned, copied, averaged and spliced.
    An unknown fate has no row.

    One row per expert of the base. Columns: layer int32 (the base's) · expert int16 · what str · children int64
    (experts that come from it).
    """
    rows = lineage[lineage["base_experts"].map(len) > 0].explode("base_experts")
    order = rows["what"].map({what: at for at, what in enumerate(WHAT)})
    rows = rows.assign(order=order).sort_values("order", kind="stable")
    found = rows.groupby(["base_layer", "base_experts"], as_index=False).agg(
        what=("what", "first"), children=("expert", lambda experts: int((experts != -1).sum()))
    )
    found = found.rename(columns={"base_layer": "layer", "base_experts": "expert"})
    return found.astype({"layer": "int32", "expert": "int16", "what": "str", "children": "int64"})


def lineage_pairs(lineage: pd.DataFrame) -> pd.DataFrame:
    """Pair each expert of a child with each of its sources, from rows of the table of `moeviz.lineage`.

    One row per pair, and one for each expert without a partner. Columns: child, base str (numbers of experts; "cut" and
    "no match" without a partner, "MLP" for that of a dense model) · layer, base_layer int32 · what str · part float64
    (the source's coefficient) · similarity, difference float64.
    """
    facts = ["layer", "base_layer", "what", "similarity", "difference"]
    pairs = []
    for row in lineage.to_dict("records"):
        child = "cut" if row["what"] == "cut" else _number(row["expert"])
        sources = [_number(base) for base in row["base_experts"]] or ["no match"]
        parts = row["parts"] or [np.nan]
        ends = [{"child": child, "base": base, "part": part} for base, part in zip(sources, parts, strict=True)]
        pairs += [end | {name: row[name] for name in facts} for end in ends]
    columns = ["child", "base", "layer", "base_layer", "what", "part", "similarity", "difference"]
    kinds = dict.fromkeys(("child", "base", "what"), "str") | dict.fromkeys(("layer", "base_layer"), "int32")
    return pd.DataFrame(pairs, columns=columns).astype(kinds | {"part": "float64"})


def _number(expert: int) -> str:
    return "MLP" if expert < 0 else str(expert)
