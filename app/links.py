"""A link repeats a view: the page in its path; prompt, model, generation, layer and token in its query.

What a page adds to that is in the table of `carried.py`.

The address follows what a visitor does, so a bookmark, a link in a message and the browser's back button all work. A
trace that came in a file has no link. What is in an address is a stranger's: it is checked like what is typed, and any
web page can lead a browser here, so it runs nothing by itself but what is in memory already.
"""

import streamlit as st
from moeviz_app import carried_datasets, datasets, models, shared, state
from moeviz_app.asked import Run, asked_run, number_in
from moeviz_app.carried import CARRIED
from moeviz_app.components.address import write_address
from moeviz_app.live import run_live
from moeviz_app.options import fill_in
from moeviz_app.server.short_links import LINKS
from moeviz_app.show import explained
from moeviz_app.to_expert import asked_expert, for_the_address
from moeviz_app.traces import recent

from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

FIRST = ""  # path of the first page


def record(run: Run, key: str = "going on") -> RoutingTrace:
    """Run, show the trace, and remember what it was asked for. `key`: as in `run_live`."""
    trace = run_live(run, key)
    state.set_trace(trace, run)
    state.point_at_awaited(run)
    return trace


def follow(page: str) -> None:
    """Show what the address of this page asks for, where the browser asks anew: at a visit, and after going back."""
    asked = st.query_params.to_dict()
    if not recent.asks(page, asked):
        return
    with explained():
        asked = LINKS.shown(asked)
    if "prompt" in asked:
        state.set_value(state.DATASET, None)
        with explained():
            run, place = asked_run(asked), (number_in(asked.get("layer")), number_in(asked.get("token")))
            if recent.run_of(state.current_trace()) != run:  # else what is being typed would be lost
                _show(run, *place)
                fill_in(run)
            state.point_at(*place)
    if page in CARRIED:
        CARRIED[page].fill_in(asked)


def _show(run: Run, layer: int | None, token: int | None) -> None:
    """What the run made, or makes where its model is at hand; else it waits for somebody to press Run.

    Raises `ModelNotFound` if the model is not on offer, and what `record` raises.
    """
    models.check_on_offer(run.model)
    if (known := recent.trace_of(run)) is not None:
        state.set_trace(known, run)
        return
    models.check_in_link(run.model)
    if shared.at_hand(run.model, run.how) and not run.new_tokens:
        record(run)
    else:
        what = "a model on a server" if models.answers_at_once(run.model) else "a model that is not loaded"
        what = f"up to {run.new_tokens} tokens to generate" if run.new_tokens else what
        state.wait(
            f"This link brings a prompt for {quoted(run.model)}, with {what}. Links do not start such runs by "
            "themselves: to start it, press Run on the Explore page.",
            run,
            layer,
            token,
        )


def write(page: str) -> None:
    """Let the address of this page say what is on screen."""
    trace = state.current_trace()
    run = recent.run_of(trace)
    wanted = {}
    of_dataset = page in carried_datasets.PAGES and datasets.chosen() is not None
    if run is not None and run.fits_an_address and not of_dataset:
        wanted = run.parameters() | {"layer": str(state.chosen_layers("one")[0])}
        if (token := state.selected_token()) is not None:
            wanted["token"] = str(token)
    if page in CARRIED:
        wanted |= CARRIED[page].written()
    wanted = for_the_address(wanted)
    recent.set_address(page, wanted)
    write_address(wanted)


def stay(page: str) -> None:
    """Leave the address of an expert's page as the page or a link wrote it, or write it where none has."""
    wanted = for_the_address(asked_expert())
    recent.set_address(page, wanted)
    if wanted != st.query_params.to_dict():
        write_address(wanted)
