"""The token strip: each token in the colour of its first-choice expert, to click and to walk through with the keys.

If the trace does not say which expert that is, tokens have no colour, and the ids of all their experts.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import streamlit as st

from moeviz.charts import theme
from moeviz.metrics.tokens import PART_OF_CHARACTER, visible
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace

HERE = Path(__file__).parent
HTML = """<div class="strip" role="listbox" aria-orientation="horizontal"></div>
<div class="said" aria-live="polite"></div>"""
MOST_IDS = 4  # of a token's experts under it, where it has no first choice
CHANGED, NEW = "changed", "new"  # beside the same text with a word changed: another first choice; a token of its own
MOST_LINE_BREAKS = 2  # in a row: blank lines say nothing about routing and push the rest off the screen

_component = st.components.v2.component(
    "moeviz_token_strip",
    html=HTML,
    css="\n".join((HERE / name).read_text("utf-8") for name in ("token.css", "strip.css")),
    js=(HERE / "strip.js").read_text("utf-8"),
)


def token_strip(
    trace: RoutingTrace,
    layer: int,
    rows: range,
    selected: int | None,
    colours: Sequence[str],
    on_pick: Callable[[], None] | None = None,
    key: str | None = None,
    changes: Mapping[int, str] | None = None,
    names: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Draw the tokens in `rows` of `trace`, each in the colour of its first-choice expert in `layer`.

    `colours` has one entry per expert, or none: see `colours_of`. A click, or Enter, leaves the row in the widget's
    `pick` and calls `on_pick`; without `on_pick` the strip is only to look at, and shows its end.
    `changes`, beside another strip: the rows that are `CHANGED` there, or `NEW`; all others are pale. `names` of the
    layer's experts stand beside their ids, where a token is pointed at or read out.
    """
    at = trace.model.layers.index(layer)
    tokens = [_token(trace, at, row, colours, names) for row in rows]
    for row in rows if changes is not None else ():
        tokens[row - rows.start]["what"] = changes.get(row, "same")
    for row, mark in beginnings(trace, rows).items():
        tokens[row - rows.start]["mark"] = mark
    data = {
        "tokens": tokens,
        "start": rows.start,
        "selected": selected - rows.start if selected in rows else None,
        "name": f"Tokens {rows.start} to {rows.stop - 1}, {'first-choice ' * trace.ordered}experts in layer {layer}",
    }
    if on_pick is None:
        _component(key=key, data=data | {"live": True})
    else:
        _component(key=key, data=data, on_pick_change=on_pick)


def colours_of(trace: RoutingTrace, layer: int, rows: range) -> list[str]:
    """The colour of each expert of the layer, for a strip of these rows; none if first choices are not known."""
    at = trace.model.layers.index(layer)
    if not trace.ordered:
        return []
    return theme.expert_colours(trace.model.num_experts[at], theme.focus(trace.experts[at, rows.start : rows.stop, 0]))


def _token(trace: RoutingTrace, at: int, row: int, colours: Sequence[str], names: Mapping[int, str]) -> dict[str, Any]:
    experts = trace.experts[at, row]
    ids = experts[experts >= 0].tolist()
    text = trace.tokens["text"].iloc[row]
    return {
        "text": visible(text),
        "part": PART_OF_CHARACTER.fullmatch(text) is not None,
        "missing": bool(experts[0] == NOT_RECORDED),
        "newlines": min(text.count("\n"), MOST_LINE_BREAKS),
        "phase": str(trace.tokens["phase"].iloc[row]),
        "position": int(trace.tokens["position"].iloc[row]),
        **_choice(ids[:1] if colours else sorted(ids), bool(experts[0] == NOT_RECORDED), names),
        "weight": None if trace.weights is None or not ids else f"{trace.weights[at, row, 0]:.3f}",
        "colour": colours[ids[0]] if colours and ids else None,
    }


def _choice(ids: list[int], missing: bool, names: Mapping[int, str]) -> dict[str, str]:
    """Where a token went: in a mark under it, and in words."""
    if not ids:
        return {"expert": "?", "choice": "not recorded"} if missing else {"expert": "–", "choice": "no expert"}
    mark = ", ".join(map(str, ids[:MOST_IDS])) + " …" * (len(ids) > MOST_IDS)
    said = (f"{expert} ({names[expert]})" if expert in names else str(expert) for expert in ids)
    return {"expert": mark, "choice": f"expert{'s' * (len(ids) > 1)} {', '.join(said)}"}


def beginnings(trace: RoutingTrace, rows: range) -> dict[int, str]:
    """Return words for the rows where generated tokens begin, or the next of several texts does."""
    sequence, phase = trace.tokens["sequence"].to_numpy(), trace.tokens["phase"].to_numpy()
    several, marks = len(sequence) > 0 and sequence[-1] > 0, {}
    for row in rows:
        first = row == 0 or sequence[row] != sequence[row - 1]
        if first and several:
            marks[row] = f"text {sequence[row] + 1}"
        elif phase[row] == "generated" and (first or phase[row - 1] == "prompt"):
            marks[row] = "generated"
    return marks
