"""The atlas: a map of all layers over many texts, and a card or a cell for every expert; and the search in it.

Two components that one event ties together (`moeviz:found`), so that an answer to a search sends no atlas anew. Texts,
labels and what a browser tells are a stranger's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

HERE = Path(__file__).parent
LONGEST = 200  # characters of what is typed that are looked at

HTML, CSS = "<div class='atlas'></div>", (HERE / "atlas.css").read_text("utf-8")
JS = "\n".join(
    (HERE / f"{name}.js").read_text("utf-8")
    for name in ("explorer_parts", "explorer_map", "atlas_data", "atlas_map", "atlas_cards", "atlas")
)
_atlas = st.components.v2.component("moeviz_atlas", html=HTML, css=CSS, js=JS)
SEARCH_HTML = """<div class='search'><div class='row'><input type='search' autocomplete='off' maxlength='200'
placeholder='Who takes this? Type a word, a sign, a digit' aria-label='Who takes this word?'>
<span class='tries' role='group' aria-label='Examples'></span></div><p class='said' role='status'></p></div>"""
SEARCH_CSS = (HERE / "atlas_search.css").read_text("utf-8")
SEARCH_JS = "\n".join((HERE / name).read_text("utf-8") for name in ("leaving.js", "atlas_search.js"))
_search = st.components.v2.component("moeviz_atlas_search", html=SEARCH_HTML, css=SEARCH_CSS, js=SEARCH_JS)


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
    return word[:LONGEST].encode("utf-8", "ignore").decode() if isinstance(word, str) else ""
