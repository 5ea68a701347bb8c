"""The parts of a router's logits at one token, from the table that `moeviz.direct_attribution` makes."""

import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.text import spans

MOST = 24  # parts that are shown one by one
SAID = 3


def direct_parts(attribution: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Tell what each part of the model wrote of the logits of the experts that one router chose for a token.

    `attribution` is the table of `moeviz.direct_attribution`, `layer` the model's own index of an MoE layer. The 24
    parts that tell the first choice most are rows of their own, in the order of the residual stream; all others are
    one.

    One row per part and chosen expert. Columns: place int32 (of the part in the stream) · part str ("experts of layer
    3") · expert int16 · slot int8 · logit float64 (what the part adds to the logit of the expert) · above_mean float64
    (the same less its mean over all experts). Raises `InvalidTrace` for a layer that the table does not have, or whose
    router chose no expert.

    Source: see `moeviz.direct_attribution`.
    """
    own = attribution[attribution["layer"] == layer]
    chosen = own[own["slot"] >= 0]
    if chosen.empty:
        layers = attribution["layer"].unique().tolist()
        why = "chose no expert for this token" if len(own) else f"is not among those that were split, {spans(layers)}"
        raise InvalidTrace(f"Layer {layer} {why}. Choose another layer.")
    of = chosen["part_layer"].astype("str").radd(" of layer ").where(chosen["part_layer"] >= 0, "")
    named = chosen.assign(part=chosen["part"] + of)
    first = named[named["slot"] == named["slot"].min()]
    told = first if len(first) <= MOST + 1 else first.loc[first["above_mean"].abs().nlargest(MOST).index]
    others = f"{len(first) - len(told)} other parts"
    named["part"] = named["part"].where(named["part"].isin(told["part"]), others)
    found = named.groupby(["part", "expert", "slot"], sort=False)[["logit", "above_mean"]].sum().reset_index()
    places = {part: place for place, part in enumerate(sorted(found["part"].unique(), key=others.__eq__))}
    found.insert(0, "place", found["part"].map(places))
    kinds = {"place": "int32", "part": "str", "expert": "int16", "slot": "int8"}
    return found.sort_values(["place", "slot"], ignore_index=True).astype(kinds)


def direct_caption(parts: pd.DataFrame) -> Claim:
    """Claim how far the first choice is above the mean of all experts, and which parts wrote most of that.

    Columns: `direct_parts`.
    """
    first = parts[parts["slot"] == parts["slot"].min()]
    most = first.loc[first["above_mean"].abs().nlargest(SAID).index]
    wrote = tuple(zip(most["part"].tolist(), most["above_mean"].tolist(), strict=True))
    return captions.direct_parts(first["expert"].iloc[0], first["above_mean"].sum(), wrote)
