"""A link repeats a view: the page in its path; prompt, model, generation, layer and token in its query.

The address follows what a visitor does, so a bookmark, a link in a message and the browser's back button all work. A
trace that came in a file has no link. What is in an address is a stranger's: it is checked like what is typed.
"""

from typing import Any

import streamlit as st
from moeviz_app import recent, settings, state
from moeviz_app.asked import Run, usual_temperature
from moeviz_app.live import run_live
from moeviz_app.show import explained

from moeviz.routing_trace import RoutingTrace

LONGEST = 1500  # characters of a prompt that an address can hold everywhere


def record(run: Run) -> RoutingTrace:
    """Run, show the trace, and remember what it was asked for."""
    trace = run_live(run)
    state.set_trace(trace, run)
    return trace


def follow() -> None:
    """Show what the address asks for, where that is not what is on screen: at the first visit, and after going back."""
    asked = st.query_params.to_dict()
    if "prompt" not in asked or asked == recent.address() or recent.on_its_way(asked):
        return
    with explained():
        run = _run_of(asked)
        if recent.run_of(state.current_trace()) != run:
            known = recent.trace_of(run)
            record(run) if known is None else state.set_trace(known, run)
        _fill_in(run)
        state.point_at(_number(asked.get("layer")), _number(asked.get("token")))


def write() -> None:
    """Let the address say what is on screen."""
    trace = state.current_trace()
    run = recent.run_of(trace)
    wanted = {}
    if run is not None and len(run.prompt) <= LONGEST:
        wanted = run.parameters() | {"layer": str(state.chosen_layers("one")[0])}
        if (token := state.selected_token()) is not None:
            wanted["token"] = str(token)
    recent.set_address(wanted)
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def stay() -> None:
    """Leave the address as the page or a link wrote it: another one would hold back who goes back."""
    recent.set_address(st.query_params.to_dict())


def of_expert(trace: RoutingTrace | None, layer: int, expert: int) -> dict[str, str]:
    """The query of the page of an expert, as this trace shows it; of None, as the held-out texts do."""
    where = {"layer": str(layer), "expert": str(expert)}
    if trace is None:
        return where
    run = recent.run_of(trace)
    if run is not None and len(run.prompt) <= LONGEST:
        return run.parameters() | where | {"seen": "trace"}
    return where | {"model": trace.model.name, "seen": "trace"}


def _run_of(asked: dict[str, str]) -> Run:
    """The run that an address asks for, within what this deployment allows."""
    most = settings.SETTINGS
    return Run(
        asked["prompt"][: most.max_prompt_chars],
        asked.get("model", most.models[0]),
        min(_number(asked.get("new_tokens")) or 0, most.max_new_tokens),
        min(_fraction(asked.get("temperature")), settings.HIGHEST_TEMPERATURE),
        min(_number(asked.get("seed")) or 0, settings.HIGHEST_SEED),
        *(asked[name] if asked.get(name) in known else None for name, known in state.HOW.items()),
        asked.get("site"),
        asked["kernels"] if asked.get("kernels") in state.KERNELS_CHOICES else None,
        asked["decoding"] if asked.get("decoding") in state.DECODING_CHOICES else None,
        chat=asked.get("chat") == str(True),
        system=asked["system"][: most.max_prompt_chars] if asked.get("system") else None,
    )


def _fill_in(run: Run) -> None:
    """Let the first page's widgets hold what was asked for."""
    values: dict[str, Any] = {
        state.PROMPT: run.prompt,
        state.MODEL: run.model,
        state.NEW_TOKENS: run.new_tokens,
        state.TEMPERATURE: run.temperature if run.new_tokens else usual_temperature(run.model),
        state.SEED: run.seed,
        state.DTYPE: run.dtype,
        state.DEVICE: run.device_map,
        state.SITE: run.site,
        state.KERNELS: run.kernels,
        state.DECODING: run.decoding,
    }
    for key, value in values.items():
        state.set_value(key, value)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) <= 10 else None


def _fraction(text: str | None) -> float:
    return float(text) if text is not None and text.replace(".", "", 1).isdecimal() and len(text) <= 10 else 0.0
