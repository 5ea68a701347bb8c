"""The token strip: each token in the colour of its first-choice expert, to click and to walk through with the keys."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from moeviz.metrics.tokens import PART_OF_CHARACTER, visible
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

HERE = Path(__file__).parent
HTML = """<div class="strip" role="listbox" aria-orientation="horizontal"></div>
<div class="said" aria-live="polite"></div>"""
MOST_LINE_BREAKS = 2  # in a row: blank lines say nothing about routing and push the rest off the screen

_component = st.components.v2.component(
    "moeviz_token_strip",
    html=HTML,
    css=(HERE / "strip.css").read_text("utf-8"),
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
) -> None:
    """Draw the tokens in `rows` of `trace`, each in the colour of its first-choice expert in `layer`.

    `colours` has one entry per expert. A click, or Enter, leaves the row in the widget's `pick` and calls `on_pick`;
    without `on_pick` the strip is only to look at, and shows its end.
    """
    at = trace.model.layers.index(layer)
    tokens = [_token(trace, at, row, colours) for row in rows]
    _mark_beginnings(tokens, trace, rows)
    data = {
        "tokens": tokens,
        "start": rows.start,
        "selected": selected - rows.start if selected in rows else None,
        "name": f"Tokens {rows.start} to {rows.stop - 1}, first-choice experts in layer {layer}",
    }
    if on_pick is None:
        _component(key=key, data=data | {"live": True})
    else:
        _component(key=key, data=data, on_pick_change=on_pick)


def _token(trace: RoutingTrace, at: int, row: int, colours: Sequence[str]) -> dict[str, Any]:
    expert = int(trace.experts[at, row, 0])
    text = trace.tokens["text"].iloc[row]
    return {
        "text": visible(text),
        "part": PART_OF_CHARACTER.fullmatch(text) is not None,
        "newlines": min(text.count("\n"), MOST_LINE_BREAKS),
        "phase": str(trace.tokens["phase"].iloc[row]),
        "position": int(trace.tokens["position"].iloc[row]),
        "expert": "–" if expert == NO_EXPERT else str(expert),
        "choice": "no expert" if expert == NO_EXPERT else f"expert {expert}",
        "weight": None if trace.weights is None else f"{trace.weights[at, row, 0]:.3f}",
        "colour": None if expert == NO_EXPERT else colours[expert],
    }


def _mark_beginnings(tokens: list[dict[str, Any]], trace: RoutingTrace, rows: range) -> None:
    """Say in the strip where the generated tokens begin, and where the next of several texts does."""
    sequence, phase = trace.tokens["sequence"], trace.tokens["phase"]
    several = sequence.iloc[-1] > 0
    for token, row in zip(tokens, rows, strict=True):
        first = row == 0 or sequence.iloc[row] != sequence.iloc[row - 1]
        if first and several:
            token["mark"] = f"text {sequence.iloc[row] + 1}"
        elif phase.iloc[row] == "generated" and (first or phase.iloc[row - 1] == "prompt"):
            token["mark"] = "generated"
