"""The address of the page of one expert: of which trace, or of which dataset, which layer and which expert."""

import streamlit as st
from moeviz_app import settings
from moeviz_app.jobs import recorded
from moeviz_app.session import recent
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import DATASET
from moeviz_app.url.short_links import LINKS

from moeviz.embedded import EMBEDDED
from moeviz.errors import MoevizError
from moeviz.routing_trace import RoutingTrace


def expert_query(trace: RoutingTrace, layer: int, expert: int, seen: str | None = None) -> dict[str, str]:
    """The query of the page of an expert of this trace.

    It is `seen` in this trace ("trace"), or at first in held-out texts of the model ("held-out"), if there are any:
    a text of a few tokens says little of an expert.
    """
    where, model = {"layer": str(layer), "expert": str(expert)}, trace.model.name
    if trace is recorded.held_out(model):
        return where if model == EMBEDDED else where | {"model": model, "seen": "held-out"}
    seen = seen or ("trace" if recorded.usual(trace.model) is None else "held-out")
    run = recent.run_of(trace)
    if run is not None and run.fits_an_address:
        return run.parameters() | where | {"seen": seen}
    return where | {"model": model, "seen": seen}


def asked_query() -> dict[str, str]:
    """The query of the page of an expert: that of the address or, right after `open_expert`, the one given there."""
    try:
        asked = LINKS.shown(st.query_params.to_dict())
    except MoevizError:  # which was told where the link was followed
        asked = {}
    return asked or visit().expert_asked


def for_the_address(query: dict[str, str]) -> dict[str, str]:
    """A query as the browser's address may hold it: with what was typed, or with a key in its place."""
    return query if settings.SETTINGS.prompts_in_links else LINKS.hidden(query)


def dataset_expert_query(name: str, layer: int, expert: int, sample: int = 0) -> dict[str, str]:
    """The query of the page of an expert, as this dataset shows it; `sample` says which of its contexts are drawn."""
    where = {DATASET: name, "layer": str(layer), "expert": str(expert)}
    return where | ({"sample": str(sample)} if sample else {})
