"""The atlas: a map of all layers over many texts, and a card or a cell for every expert; and the search in it.

Two components that one event ties together (`moeviz:found`), so that answering a search does not send the atlas again.
Texts, labels and a browser's messages are a stranger's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.atlas import atlas_spec, kind_colours, row_height
from moeviz.metrics.atlas import OTHERS, Atlas
from moeviz.metrics.atlas import atlas as atlas_of
from moeviz.metrics.expert_names import JOINED, names_that_hold, short_name
from moeviz.metrics.tokens import PART_OF_CHARACTER, visible
from moeviz.metrics.who_takes import WordTokens
from moeviz.metrics.words import item_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz_app.widgets.components import base64, component
from moeviz_app.widgets.components.explorer import LETTERS, vega_loader

LONGEST_WORD = 200  # characters of what is typed that are looked at

HTML, STYLES = "<div class='atlas'></div>", "atlas"
SCRIPTS = "token explorer_parts explorer_map atlas_data atlas_map atlas_cards atlas"
_atlas = component("atlas", HTML, STYLES, SCRIPTS)
SEARCH_HTML = """<div class='search'><div class='row'><input type='search' autocomplete='off' maxlength='200'
placeholder='Who takes this? Type a word, a sign, a digit' aria-label='Who takes this word?'>
<span class='tries' role='group' aria-label='Examples'></span></div><p class='said' role='status'></p></div>"""
SEARCH_STYLES, SEARCH_SCRIPTS = "atlas_search", "leaving atlas_search"
_search = component("atlas_search", SEARCH_HTML, SEARCH_STYLES, SEARCH_SCRIPTS)


def atlas(
    data: Mapping[str, Any], query: Mapping[str, str], key: str, on_open: Callable[[], None]
) -> tuple[int, int] | None:
    """Draw the data of `packed_atlas`, and return the layer (the model's own index) and expert that was opened.

    `query`: the part that the addresses of all its experts have in common.
    """
    told = _atlas(data={**data, "query": dict(query)}, key=key, on_open_change=on_open)
    match told.get("open"):
        case {"expert": [int(layer), int(expert)], "id": about} if about == data["id"] and layer in data["layers"]:
            if 0 <= expert < data["counts"][data["layers"].index(layer)]:
                return layer, expert
    return None


def search(
    word: str,
    said: Sequence[str],
    found: Mapping[str, Any] | None,
    tries: Sequence[str],
    key: str,
    on_word: Callable[[], None],
) -> None:
    """Draw the box that asks who takes a word, and what was found: a sentence, whose first part is bold.

    `found` of `packed_found` goes on to the atlas. `on_word` is called when another word is typed: see `typed`.
    """
    data = {"word": word, "said": list(said), "found": found, "tries": list(tries)}
    _search(data=data, key=key, on_word_change=on_word)


def typed(state: Any) -> str:
    """Return what was typed, from what Streamlit keeps for the component: any browser may say anything."""
    word = state.get("word") if state is not None else None
    return word[:LONGEST_WORD].encode("utf-8", "ignore").decode() if isinstance(word, str) else ""


KEPT = 4  # atlases whose data is kept: a rerun sends the same again
NONE = 255, 65_535  # instead of a first choice; a sample has fewer tokens than 2^15, so all else has two bytes
OF_CLASS, OF_NOTHING = 254, 255  # instead of the kind of text that a name begins with
LONGEST, LONGEST_KIND = 40, 32  # characters of a token, and of a kind of text
SHOWN = 24  # experts that a search shows, the first


def packed_atlas(trace: RoutingTrace, names: pd.DataFrame | None) -> tuple[dict[str, Any], Atlas]:
    """Return all that map, cards and grid show, and its atlas. Raises as `moeviz.metrics.atlas.atlas`.

    names   of the experts, as `expert_names` has them; None if unknown.
    """
    data, found = _without_names(trace)
    own = _names(found, names)
    return data | own | {"id": crc32(json.dumps([data["id"], own]).encode())}, found


@lru_cache(KEPT)
def _without_names(trace: RoutingTrace) -> tuple[dict[str, Any], Atlas]:
    found = atlas_of(trace)
    model = found.trace.model
    L, _, C = found.counts.shape
    kinds = [_cut(kind, LONGEST_KIND) for kind in found.kinds]
    colours = [theme.OTHER if kind == OTHERS else colour for kind, colour in zip(kinds, kind_colours(C), strict=True)]
    data = {
        "layers": list(model.layers),
        "counts": list(model.num_experts),
        "slots": model.top_k,
        "word": model.layer_kind[:LETTERS] or "layer",
        "item": item_word(model),
        "tokens": len(found.trace.tokens),
        "recorded": found.recorded.tolist(),
        "kinds": kinds,
        "by": found.by,
        "kindColours": colours,
        "columns": _columns(found, colours),
        "of": base64(found.of, np.uint16),
        "kindCounts": base64(found.counts, np.uint16),
        "has": base64(found.tokens, np.uint16),
        "first": _first(found),
        "none": _none(model),
        "text": base64(found.text, np.uint16),
        "drawn": base64(found.drawn, np.int16),
        "keeps": base64(found.keeps, np.int16),
        "expertColours": list(theme.EXPERT_COLOURS),
        "grey": theme.OTHER,
        "classColour": theme.MAIN,
        "row": row_height(L),
    }
    data |= _words(found)
    loader = vega_loader()
    data |= {"spec": atlas_spec(L, len(found.trace.tokens)) if loader else None, "loader": loader}
    return data | {"id": crc32(json.dumps(data).encode())}, found


def _columns(found: Atlas, colours: list[str]) -> list[dict[str, Any]]:
    """Return the rows, the name and the colour of each kind of text or text on the axis."""
    return [
        {
            "label": _cut(name, LONGEST_KIND),
            "start": start,
            "end": end,
            "colour": colours[found.kind[start]] if found.by == "kinds" else theme.OTHER,
        }
        for name, start, end in found.columns
    ]


def _first(found: Atlas) -> str | None:
    """Return the first choice of every token at every layer; None if it is not known."""
    if not found.trace.ordered:
        return None
    first, none = found.trace.experts[..., 0], _none(found.trace.model)
    return base64(np.where(first < 0, none, first), np.uint8 if none == NONE[0] else np.uint16)


def _none(model: ModelInfo) -> int:
    """Return the number that means no expert: the highest one of as few bytes as ids need."""
    return NONE[max(model.num_experts) > NONE[0]]


def _words(found: Atlas) -> dict[str, Any]:
    """Return the tokens by their vocabulary: as they are shown, and as they stand in a line of text."""
    codes, texts = pd.factorize(found.trace.tokens["text"])
    first = np.full(int(found.code.max(initial=-1)) + 1, 0)
    first[found.code] = codes  # of a token of the vocabulary, its text
    parts = [PART_OF_CHARACTER.fullmatch(text) for text in texts]
    shown = [visible(part[1] if part else text[: LONGEST + 1]) for part, text in zip(parts, texts, strict=True)]
    plain = ["" if part and part[2] != "1" else word for part, word in zip(parts, shown, strict=True)]
    return {
        "word_of": base64(codes, np.uint16),
        "words": [_cut(word, LONGEST) for word in shown],
        "plain": [word.replace("␣", " ")[:LONGEST] for word in plain],
        "text_of_code": base64(first, np.uint16),
    }


def _names(found: Atlas, names: pd.DataFrame | None) -> dict[str, Any]:
    """Return each expert's name, "" if none holds; how well it holds (0 to 100); the kind it begins with."""
    L, E, _ = found.counts.shape
    which, fits, kind = np.zeros((L, E), np.uint16), np.zeros((L, E), np.uint8), np.full((L, E), OF_NOTHING, np.uint8)
    every = [["", "", False]]
    if names is not None:
        held = names_that_hold(names)
        codes, unique = pd.factorize(pd.MultiIndex.from_frame(held[["name", "beaten"]]))
        rows = held["layer"].map({layer: row for row, layer in enumerate(found.trace.model.layers)}).to_numpy()
        at = rows, held["expert"].to_numpy()
        which[at], fits[at] = codes + 1, np.round(100 * held["phi"].clip(0, 1))
        every += [[_cut(name, 4 * LONGEST_KIND), short_name(name), bool(beaten)] for name, beaten in unique]
        kinds = {kind.replace(JOINED, "; "): place for place, kind in enumerate(found.kinds)}
        begins = [kinds.get(name, kinds.get(name.split(JOINED)[0], OF_CLASS)) for name, _ in unique]
        kind[at] = np.array(begins, np.uint8)[codes] if begins else OF_NOTHING
    return {
        "names": every,
        "name": base64(which, np.uint16),
        "fits": base64(fits, np.uint8),
        "kindOfName": base64(kind, np.uint8),
        "named": names is not None,
    }


def packed_found(found: WordTokens, takers: pd.DataFrame, atlas: Atlas, id_: int) -> dict[str, Any]:
    """Return the tokens that a search has found, as bits, and the first experts that take them."""
    place = {layer: row for row, layer in enumerate(atlas.trace.model.layers)}
    rows = [
        [
            place[taker.layer],
            int(taker.expert),
            int(taker.tokens),
            int(taker.of),
            float(taker.share),
            float(taker.usual),
        ]
        for taker in takers.itertuples()
    ]
    return {
        "id": id_,
        "word": found.word,
        "count": found.count,
        "bits": base64(np.packbits(found.tokens, bitorder="little"), np.uint8),
        "takers": rows[:SHOWN],
        "marked": [row[:2] for row in rows],
        "weighed": atlas.trace.weights is not None,
    }


def _cut(text: str, most: int) -> str:
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
