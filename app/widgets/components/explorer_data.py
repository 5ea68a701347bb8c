"""A trace as the explorer's JavaScript reads it: arrays in base64, and the chart without its rows."""

import json
from base64 import b64encode
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import streamlit as st
from moeviz_app.widgets.components.strip import MOST_LINE_BREAKS, beginnings

from moeviz.charts import theme
from moeviz.charts.overview import BRUSH, linked_overview
from moeviz.charts.token_layer_map import facts_of, images_of, map_spec
from moeviz.errors import MissingField
from moeviz.metrics.expert_names import short_name
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.tokens import PART_OF_CHARACTER, token_choices, visible
from moeviz.metrics.words import item_word
from moeviz.next_tokens import NextTokens
from moeviz.routing_trace import RoutingTrace

MOST_SCORES = (
    300_000  # of them are sent, in 0.8 MB; of a larger trace, the card shows the chosen experts' weights alone
)
MOST_TOKENS = 1_024  # in the map: of more, the overview stands in its place
LONGEST_NAME = 200  # characters of an expert's name: labels are a stranger's
LETTERS = 20  # of what one step of axis L is called: a stranger's file may say anything
STEPS = 65_535  # of a score between 0 and 1
KEPT = 12  # traces whose data is kept: a rerun sends the same again


@lru_cache(KEPT)
def packed(trace: RoutingTrace) -> dict[str, Any]:
    """All that strip, map and card show. `id` is of what it says: the same for the same trace, however it came."""
    data = packed_strip(trace) | {"scores": _scores(trace), "next": packed_next(trace.next_tokens)} | _map(trace)
    return data | {"id": crc32(json.dumps(data).encode())}


@lru_cache(KEPT)
def packed_muted(trace: RoutingTrace, muted: RoutingTrace) -> dict[str, Any]:
    """The routing of the same tokens with experts muted; the map where it is an image, or an overview."""
    choices = {
        "experts": _base64(muted.experts, np.int16),
        "weights": None if muted.weights is None else _base64(muted.weights, np.float32),
        "scores": _scores(muted),
        "next": packed_next(muted.next_tokens),
    }
    spec = packed(trace)["spec"]
    is_fixed = spec is not None and (spec["images"] or spec["overview"])
    return choices | ({"spec": _map(muted)["spec"]} if is_fixed else {})


def packed_next(found: NextTokens | None) -> dict[str, Any] | None:
    """The likeliest next tokens of every token, and of every layer where they are known; None where none are."""
    if found is None:
        return None
    lens = found.lens_ids is not None
    return {
        "texts": [visible(text) for text in found.texts],
        "ids": _base64(found.ids, np.int32),
        "p": _base64(found.p, np.float32),
        "lensIds": _base64(found.lens_ids, np.int32) if lens else None,
        "lensP": _base64(found.lens_p, np.float32) if lens else None,
    }


def packed_names(trace: RoutingTrace, names: pd.DataFrame | None) -> list[list[list[str] | None]] | None:
    """The name of each expert of each layer, short and whole; None for one without a name that holds."""
    if names is None:
        return None
    held = names[names["holds"]]
    known = {
        (layer, expert): [short_name(name), name[:LONGEST_NAME]]
        for layer, expert, name in zip(held["layer"], held["expert"], held["name"], strict=True)
    }
    model = trace.model
    return [
        [known.get((layer, expert)) for expert in range(count)]
        for layer, count in zip(model.layers, model.num_experts, strict=True)
    ]


def packed_strip(trace: RoutingTrace) -> dict[str, Any]:
    """Return the data of the strip alone."""
    model, tokens = trace.model, trace.tokens
    texts = tokens["text"].tolist()
    several = bool(len(tokens)) and tokens["sequence"].iloc[-1] > 0
    data = {
        "texts": [visible(text) for text in texts],
        "parts": [row for row, text in enumerate(texts) if PART_OF_CHARACTER.fullmatch(text)],
        "newlines": _base64([min(text.count("\n"), MOST_LINE_BREAKS) for text in texts], np.uint8),
        "positions": _base64(tokens["position"], np.int32),
        "generated": _base64(tokens["phase"] == "generated", np.uint8),
        "sequences": tokens["sequence"].tolist() if several else None,
        "marks": beginnings(trace, range(len(texts))),
        "layers": list(model.layers),
        "word": model.layer_kind[:LETTERS] or "layer",
        "item": item_word(model),
        "counts": list(model.num_experts),
        "zero": model.zero_experts,
        "slots": model.top_k,
        "ordered": trace.ordered,
        "experts": _base64(trace.experts, np.int16),
        "weights": None if trace.weights is None else _base64(trace.weights, np.float32),
    } | _colours(trace)
    return data | {"id": crc32(json.dumps(data).encode())}


def _colours(trace: RoutingTrace) -> dict[str, Any]:
    """Of each expert of each layer, its place in a palette: hundreds of experts have ten colours."""
    palette = [*theme.EXPERT_COLOURS, theme.OTHER]
    places = np.zeros((len(trace.experts), max(trace.model.num_experts)), np.uint8)
    for at, (ids, count) in enumerate(zip(trace.experts, trace.model.num_experts, strict=True)):
        colours = theme.expert_colours(count, theme.focus(ids[:, 0] if trace.ordered else ids))
        places[at, :count] = [palette.index(colour) for colour in colours]
    return {"palette": palette, "grey": theme.OTHER, "places": _base64(places, np.uint8)}


def _scores(trace: RoutingTrace) -> str | None:
    """The router's scores of all experts, where they are known and few enough."""
    L, T, _ = trace.experts.shape
    if L * T * max(trace.model.num_experts) > MOST_SCORES:
        return None
    try:
        shares = trace.probabilities("The card")
    except MissingField:
        return None
    return _base64(np.round(shares * STEPS), np.uint16)


def _map(trace: RoutingTrace) -> dict[str, Any]:
    """The chart that shows every layer; or a sentence, where there is none."""
    loader = vega_loader()
    try:
        spec = _overview(trace) if len(trace.tokens) > MOST_TOKENS else _token_by_layer(trace)
    except MissingField as missing:
        return {"spec": None, "instead": str(missing), "loader": loader}
    return {"spec": spec if loader else None, "instead": None, "loader": loader}


def _token_by_layer(trace: RoutingTrace) -> dict[str, Any]:
    frame = token_choices(trace)
    facts = facts_of(frame)
    images = images_of(frame, facts)
    return {"chart": map_spec(facts, images), "images": bool(images), "overview": None}


def _overview(trace: RoutingTrace) -> dict[str, Any]:
    return {
        "chart": linked_overview(modal_first_choice(trace)).to_dict(validate=False),
        "images": False,
        "overview": BRUSH,
    }


def vega_loader() -> str | None:
    """The file of Streamlit's front end that loads the library of its own charts: a hash is in its name."""
    found = list((Path(st.__file__).parent / "static/static/js").glob("loadVegaEmbed.*.js"))
    return found[0].name if len(found) == 1 else None


def _base64(values: Any, kind: type) -> str:
    return b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
