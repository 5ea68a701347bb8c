"""The text of a trace as text: what was given, and after it what the model wrote; and the sign that a run goes on.

The sign sends `moeviz:running` to the prompt box (`ask.py`), and hears `moeviz:stop` from it. After the run the box is
sent `moeviz:ran`.
"""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import streamlit as st

from moeviz.metrics.tokens import written_text
from moeviz.routing_trace import RoutingTrace

HERE = Path(__file__).parent
HTML = '<p class="written" role="group" aria-label="The text so far"></p>'

NO_TEXT = {"given": "", "continued": ""}

_component = st.components.v2.component(
    "moeviz_written",
    html=HTML,
    css=(HERE / "written.css").read_text("utf-8"),
    js=(HERE / "written.js").read_text("utf-8"),
)


def written(trace: RoutingTrace, key: str | None = None) -> None:
    """Draw the text of the trace's first sequence with generated tokens; nothing where none has any."""
    given, continued = text_of(trace)
    if continued:
        _component(key=key, data={"given": given, "continued": continued, "run": None, "ran": None})


def going_on(on_stop: Callable[[], None], key: str) -> None:
    """Tell the prompt box that a run goes on, for as long as this stays on the page. Its Stop calls `on_stop`."""
    _component(key=key, data=NO_TEXT | {"run": monotonic(), "ran": None}, on_stop_change=on_stop)


def has_run(text: str, runs: int) -> None:
    """Tell the prompt box that the run it asked for as number `runs` is over, and that this is the text on screen."""
    _component(key="has run", data=NO_TEXT | {"run": None, "ran": {"ran": text, "runs": runs}})


def text_of(trace: RoutingTrace) -> tuple[str, str]:
    """Prompt and continuation of the first sequence that has one; two empty strings where none has."""
    generated = (trace.tokens["phase"] == "generated").to_numpy()
    if not generated.any():
        return "", ""
    one = trace.select(
        tokens=(trace.tokens["sequence"] == trace.tokens["sequence"].iloc[generated.argmax()]).to_numpy()
    )
    return written_text(one, "prompt"), written_text(one, "generated")
