"""Strip, findings, token by layer map and card of one trace: one component, linked in the browser.

So a click needs no server: what is chosen is drawn at once, and told a moment later. What a token's text or a browser
says is a stranger's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
from moeviz_app.widgets.components.explorer_data import packed, packed_strip

from moeviz.charts.theme import MAX_TOKENS
from moeviz.errors import InvalidTrace
from moeviz.metrics.findings import Finding
from moeviz.routing_trace import RoutingTrace

HERE = Path(__file__).parent
HTML = "<div class='frame'><div class='explorer'></div></div>"  # two, since a container query asks what is around
SCRIPTS = ("parts", "trace", "strip", "bar", "map", "table", "drawing", "card")
SHEETS = ("explorer.css", "token.css", "explorer_strip.css", "explorer_card.css")
Place = tuple[int, int]
Link = Callable[[RoutingTrace | None, int, int], Mapping[str, str]]


class Chosen(NamedTuple):
    """A visitor's choice in the browser; layers by the model's own index."""

    at: Place | None  # layer and token, since this trace is shown; None: nothing yet
    opened: Place | None  # layer and expert, in the one run that a click on an expert brings about


def _read(*names: str) -> str:
    return "\n".join((HERE / name).read_text("utf-8") for name in names)


_component = st.components.v2.component(
    "moeviz_explorer",
    html=HTML,
    css=_read(*SHEETS),
    js=_read("leaving.js", *(f"explorer_{name}.js" for name in SCRIPTS), "explorer.js"),
)


def explorer(
    trace: RoutingTrace,
    at: Place | None,
    findings: Sequence[Finding] = (),
    *,
    template: Sequence[int] = (),
    stale: bool = False,
    key: str | None = None,
    link: Link | None = None,
    on_choice: Callable[[], None] | None = None,
) -> Chosen:
    """Draw `trace`, opened `at` a layer and a token, and return what was chosen.

    Without a `key` it is only to look at: the last tokens of a run that goes on. Give the same `at` again, or the place
    that was chosen, and the view stays as it is; another place is followed. The same is better, as the argument of a
    fragment is: with another one, all data is sent anew. `link` says the query of an expert's page; see
    `expert_links.of_expert`. `stale` dims all, since the text above is no longer that of the trace. `template` names
    the tokens that a chat template added.

    What was chosen last stays in `Chosen.at` when the server names another place. A page that does (the browser's back
    button) keeps the place itself: `on_choice` is called before the run in which there is news, and `told` reads it.
    """
    if not len(trace.tokens):
        raise InvalidTrace("There is nothing to explore: this trace has no tokens. Run a text, or open another trace.")
    if key is None:
        _component(data=_live(trace, at))
        return Chosen(None, None)
    data = packed(trace) | {
        "at": None if at is None else [int(part) for part in at],
        "findings": [_finding(finding) for finding in findings],
        "query": {} if link is None else _constant(link, trace),
        "template": [int(token) for token in template],
        "stale": stale,
        "live": False,
    }
    listen = on_choice or _nothing
    return told(trace, _component(data=data, key=key, on_at_change=listen, on_open_change=listen))


def told(trace: RoutingTrace, state: Any) -> Chosen:
    """Return the browser's choice, as far as it fits this trace. `state` is what Streamlit keeps for the component."""
    layers, counts, asked = trace.model.layers, trace.model.num_experts, None
    at, opened, id_ = state.get("at"), state.get("open"), packed(trace)["id"]
    match opened:
        case {"expert": [int(layer), int(expert)], "at": [int(), int()] as place, "id": about} if about == id_:
            at = [*place, id_]
            if layer in layers and 0 <= expert < counts[layers.index(layer)]:
                asked = (layer, expert)
    match at:
        case [int(layer), int(token), about] if about == id_ and layer in layers and 0 <= token < len(trace.tokens):
            return Chosen((layer, token), asked)
    return Chosen(None, asked)


def _live(trace: RoutingTrace, at: Place | None) -> dict[str, Any]:
    """The end of the tokens, each by the row that it has among these."""
    part = trace.select(tokens=slice(-MAX_TOKENS, None))
    layer = trace.model.layers[0] if at is None else at[0]
    return packed_strip(part) | {"at": [int(layer), len(part.tokens) - 1], "stale": False, "live": True}


def _finding(finding: Finding) -> dict[str, Any]:
    expert = None if finding.expert is None else int(finding.expert)
    return {"sentence": finding.sentence, "layer": int(finding.layer), "token": int(finding.token), "expert": expert}


def _constant(link: Link, trace: RoutingTrace) -> dict[str, str]:
    """Return the part that the addresses of all experts of a trace have in common."""
    query = link(trace, trace.model.layers[0], 0)
    return {name: value for name, value in query.items() if name not in ("layer", "expert")}


def _nothing() -> None:
    """No callback: that there is one lets the browser tell."""
