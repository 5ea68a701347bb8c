"""Strip, findings, token by layer map and card of one trace: one component, linked in the browser.

So a click needs no server: the choice is drawn at once, and sent a moment later. A token's text and a browser's
messages are a stranger's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd
import streamlit as st

from moeviz.charts import theme
from moeviz.charts.overview import BRUSH, linked_overview
from moeviz.charts.theme import MAX_TOKENS
from moeviz.charts.token_layer_map import are_images, facts_of_trace, images_of, map_spec
from moeviz.errors import InvalidTrace, MissingField
from moeviz.image_tokens import IMAGE, image_runs
from moeviz.metrics.captions import count as counted
from moeviz.metrics.expert_names import names_that_hold
from moeviz.metrics.findings import Finding
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.tokens import PART_OF_CHARACTER, SPECIAL_TOKEN, token_choices, visible
from moeviz.metrics.words import item_word
from moeviz.next_tokens import NextTokens
from moeviz.routing_trace import RoutingTrace
from moeviz_app.widgets.components import base64, component, nothing
from moeviz_app.widgets.components.texts import MOST_LINE_BREAKS, beginnings

MOST_SCORES = (
    300_000  # of them are sent, in 0.8 MB; for a larger trace, the card shows only the chosen experts' weights
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
    """Return the routing of the same tokens with experts muted; the map where it is an image, or an overview."""
    choices = {
        "experts": base64(muted.experts, np.int16),
        "weights": None if muted.weights is None else base64(muted.weights, np.float32),
        "scores": _scores(muted),
        "next": packed_next(muted.next_tokens),
    }
    spec = packed(trace)["spec"]
    is_fixed = spec is not None and (spec["images"] or spec["overview"])
    return choices | ({"spec": _map(muted)["spec"]} if is_fixed else {})


def packed_next(found: NextTokens | None) -> dict[str, Any] | None:
    """Return the likeliest next tokens of every token, and of every layer where they are known; None where none are."""
    if found is None:
        return None
    lens = found.lens_rows is not None
    return {
        "texts": [visible(text) for text in found.texts],
        "ids": base64(found.rows, np.int32),
        "p": base64(found.p, np.float32),
        "lensIds": base64(found.lens_rows, np.int32) if lens else None,
        "lensP": base64(found.lens_p, np.float32) if lens else None,
    }


def packed_names(trace: RoutingTrace, names: pd.DataFrame | None) -> list[list[list[str] | None]] | None:
    """Return the name of each expert of each layer, short and whole; None for one without a name that holds."""
    if names is None:
        return None
    held = names_that_hold(names)
    known = {
        (layer, expert): [short, name[:LONGEST_NAME]]
        for layer, expert, short, name in zip(held["layer"], held["expert"], held["short"], held["name"], strict=True)
    }
    model = trace.model
    return [
        [known.get((layer, expert)) for expert in range(count)]
        for layer, count in zip(model.layers, model.num_experts, strict=True)
    ]


def packed_strip(trace: RoutingTrace) -> dict[str, Any]:
    """Return the data of the strip only."""
    model, tokens = trace.model, trace.tokens
    texts = tokens["text"].tolist()
    several = bool(len(tokens)) and tokens["sequence"].iloc[-1] > 0
    data = (
        {
            "texts": [visible(text) for text in texts],
            **_signs(tokens),
            "leading": len([*takewhile(SPECIAL_TOKEN.fullmatch, texts)]),  # special tokens that begin it
            "parts": [row for row, text in enumerate(texts) if PART_OF_CHARACTER.fullmatch(text)],
            "newlines": base64([min(text.count("\n"), MOST_LINE_BREAKS) for text in texts], np.uint8),
            "positions": base64(tokens["position"], np.int32),
            "generated": base64(tokens["phase"] == "generated", np.uint8),
            "sequences": tokens["sequence"].tolist() if several else None,
            "marks": beginnings(trace, range(len(texts))),
            "layers": list(model.layers),
            "word": model.layer_kind[:LETTERS] or "layer",
            "item": item_word(model),
            "counts": list(model.num_experts),
            "zero": model.zero_experts,
            "slots": model.top_k,
            "ordered": trace.ordered,
            "experts": base64(trace.experts, np.int16),
            "weights": None if trace.weights is None else base64(trace.weights, np.float32),
        }
        | _colours(trace)
    )
    return data | {"id": crc32(json.dumps(data).encode())}


def _signs(tokens: pd.DataFrame) -> dict[str, Any]:
    """Return one sign for each run of image tokens, by its first row; and the rows of those for which it stands."""
    runs = image_runs(tokens)
    signs = {}
    for start in np.flatnonzero(np.diff(runs, prepend=-1) * (runs >= 0)).tolist():
        of_run = runs == runs[start]
        signs[start] = f"▦ {counted(int((tokens['kind'][of_run] == IMAGE).sum()), 'image token')}"
    folded = [row for row in np.flatnonzero(runs >= 0).tolist() if row not in signs]
    return {"signs": signs, "folded": folded}


def _colours(trace: RoutingTrace) -> dict[str, Any]:
    """Return each expert's index in a palette, by layer: hundreds of experts have ten colours."""
    palette = [*theme.EXPERT_COLOURS, theme.OTHER]
    places = np.zeros((len(trace.experts), max(trace.model.num_experts)), np.uint8)
    for at, (ids, count) in enumerate(zip(trace.experts, trace.model.num_experts, strict=True)):
        colours = theme.expert_colours(count, theme.focus(ids[:, 0] if trace.ordered else ids))
        places[at, :count] = [palette.index(colour) for colour in colours]
    return {"palette": palette, "grey": theme.OTHER, "places": base64(places, np.uint8)}


def _scores(trace: RoutingTrace) -> str | None:
    """Return the router's scores of all experts, if they are known and few enough."""
    L, T, _ = trace.experts.shape
    if L * T * max(trace.model.num_experts) > MOST_SCORES:
        return None
    try:
        shares = trace.probabilities("The card")
    except MissingField:
        return None
    return base64(np.round(shares * STEPS), np.uint16)


def _map(trace: RoutingTrace) -> dict[str, Any]:
    """Return the chart that shows every layer; or a sentence, if there is none."""
    loader = vega_loader()
    try:
        spec = _overview(trace) if len(trace.tokens) > MOST_TOKENS else _token_by_layer(trace)
    except MissingField as missing:
        return {"spec": None, "instead": str(missing), "loader": loader}
    return {"spec": spec if loader else None, "instead": None, "loader": loader}


def _token_by_layer(trace: RoutingTrace) -> dict[str, Any]:
    facts = facts_of_trace(trace)
    images = images_of(token_choices(trace), facts) if are_images(facts) else []
    return {"chart": map_spec(facts, images), "images": bool(images), "overview": None}


def _overview(trace: RoutingTrace) -> dict[str, Any]:
    return {
        "chart": linked_overview(modal_first_choice(trace)).to_dict(validate=False),
        "images": False,
        "overview": BRUSH,
    }


def vega_loader() -> str | None:
    """Return the file of Streamlit's front end that loads the library of its own charts: a hash is in its name."""
    found = list((Path(st.__file__).parent / "static/static/js").glob("loadVegaEmbed.*.js"))
    return found[0].name if len(found) == 1 else None


HTML = "<div class='frame'><div class='explorer'></div></div>"  # two, since a container query asks what is around
SCRIPTS = (
    "leaving token explorer_parts explorer_trace explorer_strip explorer_bar explorer_map explorer_path "
    "explorer_next explorer_card explorer_play explorer_decided explorer"
)
MOST_MUTES = 8  # experts that one visitor may mute at once
STYLES = "explorer token explorer_strip explorer_card"
MOST_ASKED = 2**31
Place = tuple[int, int]
Link = Callable[[RoutingTrace | None, int, int], Mapping[str, str]]


class Chosen(NamedTuple):
    """A visitor's choice in the browser; layers by the model's own index."""

    at: Place | None  # layer and token, since this trace is shown; None: nothing yet
    opened: Place | None  # layer and expert, in the one run that a click on an expert brings about
    mutes: tuple[Place, ...] | None = None  # layers and experts, since this trace is shown; None: nothing yet
    asked: int = 0  # so often for other mutes
    decide: bool = False  # whether it is asked which word decided, in one run
    direct: tuple[int, bool] | None = None  # a token, and whether its direct parts are asked for, in one run


class Muted(NamedTuple):
    """Experts that a visitor has muted, and what came of it."""

    experts: tuple[Place, ...] = ()  # layer and expert
    trace: RoutingTrace | None = None  # of the same tokens; None if nothing is muted
    asked: int = 0  # the number of requests for other mutes that the page has received


_component = component("explorer", HTML, STYLES, SCRIPTS)


def explorer(
    trace: RoutingTrace,
    at: Place | None,
    findings: Sequence[Finding] = (),
    *,
    template: Sequence[int] = (),
    stale: bool = False,
    names: pd.DataFrame | None = None,
    muted: Muted | None = None,
    why_no_next: str = "",
    decided: Mapping[str, Any] | None = None,
    can_decide: bool = False,
    direct: bool | None = None,
    key: str | None = None,
    link: Link | None = None,
    on_choice: Callable[[], None] | None = None,
) -> Chosen:
    """Draw `trace`, opened `at` a layer and a token, and return what was chosen.

    Without a `key` it is read-only: the last tokens of a run that goes on. With the same `at`, or the place that was
    chosen, the view stays as it is; it moves to another place. The same is better, as for a fragment's argument: with
    another one, all data is sent anew. `link` gives the query of an expert's page; see `expert_links.of_expert`.
    `stale` dims all, since the text above is no longer that of the trace. `template` names the tokens that a chat
    template added. `names` are those of `moeviz.metrics.expert_names`, if any are known. Without `muted`, nothing can
    be muted; `why_no_next` is shown if the trace has no next tokens. `decided` says which words decided, and
    `can_decide` whether that can be asked for; `direct` whether the direct parts of a choice are on screen, None where
    they cannot be asked for.

    What was chosen last stays in `Chosen.at` when the server names another place. A page that does (the browser's back
    button) keeps the place itself: `on_choice` is called before the run in which there is news, and `told` reads it.
    """
    if not len(trace.tokens):
        raise InvalidTrace("There is nothing to explore: this trace has no tokens. Run a text, or open another trace.")
    if key is None:
        _component(data=_live(trace, at))
        return Chosen(None, None)
    data = (
        packed(trace)
        | {
            "at": None if at is None else [int(part) for part in at],
            "findings": [packed_finding(finding) for finding in findings],
            "query": {} if link is None else _constant(link, trace),
            "template": [int(token) for token in template],
            "stale": stale,
            "live": False,
            "names": packed_names(trace, names),
            "whyNoNext": why_no_next,
            "decided": decided,
            "canDecide": can_decide,
            "direct": direct,
        }
        | _muting(trace, muted)
    )
    listen = on_choice or nothing
    events = {f"on_{name}_change": listen for name in ("at", "open", "mutes", "decide", "direct")}
    return told(trace, _component(data=data, key=key, **events))


def _muting(trace: RoutingTrace, muted: Muted | None) -> dict[str, Any]:
    if muted is None:
        return {"canMute": False}
    own = [[int(layer), int(expert)] for layer, expert in muted.experts]
    answer = None if muted.trace is None else packed_muted(trace, muted.trace) | {"mutes": own}
    return {"canMute": True, "mostMutes": MOST_MUTES, "answered": muted.asked, "mutes": own, "muted": answer}


def told(trace: RoutingTrace, state: Any) -> Chosen:
    """Return the browser's choice, as far as it fits this trace. `state` is what Streamlit keeps for the component."""
    layers, counts, asked = trace.model.layers, trace.model.num_experts, None
    at, opened, id_ = state.get("at"), state.get("open"), packed(trace)["id"]
    mutes, times = _told_mutes(trace, state.get("mutes"), id_)
    decide = isinstance(state.get("decide"), Mapping) and state["decide"].get("id") == id_
    direct = _told_direct(trace, state.get("direct"), id_)
    match opened:
        case {"expert": [int(layer), int(expert)], "at": [int(), int()] as place, "id": about} if about == id_:
            at = [*place, id_]
            if layer in layers and 0 <= expert < counts[layers.index(layer)]:
                asked = (layer, expert)
    match at:
        case [int(layer), int(token), about] if about == id_ and layer in layers and 0 <= token < len(trace.tokens):
            return Chosen((layer, token), asked, mutes, times, decide, direct)
    return Chosen(None, asked, mutes, times, decide, direct)


def _told_mutes(trace: RoutingTrace, state: Any, id_: int) -> tuple[tuple[Place, ...] | None, int]:
    match state:
        case {"mutes": [*wanted], "asked": int(asked), "id": about} if about == id_ and 0 < asked < MOST_ASKED:
            mutes = {_expert_of(trace, one) for one in wanted[: MOST_MUTES + 1]}
            if len(wanted) <= MOST_MUTES and None not in mutes:
                return tuple(sorted(mutes)), asked
    return None, 0


def _told_direct(trace: RoutingTrace, state: Any, id_: int) -> tuple[int, bool] | None:
    match state:
        case {"token": int(token), "on": bool(on), "id": about} if about == id_ and 0 <= token < len(trace.tokens):
            return token, on
    return None


def _expert_of(trace: RoutingTrace, told: Any) -> Place | None:
    layers, counts = trace.model.layers, trace.model.num_experts
    match told:
        case [int(layer), int(expert)] if layer in layers and 0 <= expert < counts[layers.index(layer)]:
            return layer, expert
    return None


def _live(trace: RoutingTrace, at: Place | None) -> dict[str, Any]:
    """Return the end of the tokens, each by its row among these."""
    part = trace.select(tokens=slice(-MAX_TOKENS, None))
    layer = trace.model.layers[0] if at is None else at[0]
    return packed_strip(part) | {"at": [int(layer), len(part.tokens) - 1], "stale": False, "live": True}


def packed_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as the explorer reads it."""
    expert = None if finding.expert is None else int(finding.expert)
    return {"sentence": finding.sentence, "layer": int(finding.layer), "token": int(finding.token), "expert": expert}


def _constant(link: Link, trace: RoutingTrace) -> dict[str, str]:
    """Return the part that the addresses of all experts of a trace have in common."""
    query = link(trace, trace.model.layers[0], 0)
    return {name: value for name, value in query.items() if name not in ("layer", "expert")}
