"""Strip, findings, token by layer map and card of one trace: one component, linked in the browser.

So a click needs no server: what is chosen is drawn at once, and told a moment later. What a token's text or a browser
says is a stranger's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st
from moeviz_app.widgets.components.explorer_data import packed, packed_muted, packed_names, packed_strip

from moeviz.charts.theme import MAX_TOKENS
from moeviz.errors import InvalidTrace
from moeviz.metrics.findings import Finding
from moeviz.routing_trace import RoutingTrace

HERE = Path(__file__).parent
HTML = "<div class='frame'><div class='explorer'></div></div>"  # two, since a container query asks what is around
SCRIPTS = ("parts", "trace", "strip", "bar", "map", "table", "path", "next", "card", "play", "decided")
MOST_MUTES = 8  # experts that one visitor may mute at once
SHEETS = ("explorer.css", "token.css", "explorer_strip.css", "explorer_card.css")
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
    trace: RoutingTrace | None = None  # of the same tokens; None where nothing is muted
    asked: int = 0  # so often for other mutes, as far as the page has heard


def _read(*names: str) -> str:
    return "\n".join((HERE / name).read_text("utf-8") for name in names)


CSS = _read(*SHEETS)
JS = _read("leaving.js", *(f"explorer_{name}.js" for name in SCRIPTS), "explorer.js")
_component = st.components.v2.component("moeviz_explorer", html=HTML, css=CSS, js=JS)


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

    Without a `key` it is only to look at: the last tokens of a run that goes on. Give the same `at` again, or the place
    that was chosen, and the view stays as it is; another place is followed. The same is better, as the argument of a
    fragment is: with another one, all data is sent anew. `link` says the query of an expert's page; see
    `expert_links.of_expert`. `stale` dims all, since the text above is no longer that of the trace. `template` names
    the tokens that a chat template added. `names` are those of `moeviz.metrics.expert_names`, where any are known.
    Without `muted`, nothing can be muted; `why_no_next` stands where the trace has no next tokens. `decided` says which
    words decided (`app/jobs`), and `can_decide` whether that can be asked for; `direct` whether the direct parts of a
    choice are on screen, None where they cannot be asked for.

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
    listen = on_choice or _nothing
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
    """The end of the tokens, each by the row that it has among these."""
    part = trace.select(tokens=slice(-MAX_TOKENS, None))
    layer = trace.model.layers[0] if at is None else at[0]
    return packed_strip(part) | {"at": [int(layer), len(part.tokens) - 1], "stale": False, "live": True}


def packed_finding(finding: Finding) -> dict[str, Any]:
    """A finding as the explorer reads it."""
    expert = None if finding.expert is None else int(finding.expert)
    return {"sentence": finding.sentence, "layer": int(finding.layer), "token": int(finding.token), "expert": expert}


def _constant(link: Link, trace: RoutingTrace) -> dict[str, str]:
    """Return the part that the addresses of all experts of a trace have in common."""
    query = link(trace, trace.model.layers[0], 0)
    return {name: value for name, value in query.items() if name not in ("layer", "expert")}


def _nothing() -> None:
    """No callback: that there is one lets the browser tell."""
