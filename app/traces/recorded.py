"""What is recorded beforehand and shown to all visitors: the example, what ships, and a server's own file."""

import pandas as pd
import streamlit as st
from moeviz_app import settings

import moeviz
from moeviz.charts.routing_over_training import SATURATION
from moeviz.embedded.example import example_trace
from moeviz.embedded.reference import muted_experts, reference_routing
from moeviz.embedded.routing_over_training import traces_over_training
from moeviz.errors import MoevizError
from moeviz.history.systems import SYSTEMS
from moeviz.model_info import ModelInfo
from moeviz.names import quoted
from moeviz.routing_trace import RoutingTrace


@st.cache_resource(show_spinner=False)
def example() -> RoutingTrace:
    """What a page shows before anything has been run."""
    return example_trace()


def opened_file() -> RoutingTrace | None:
    """The trace that this server was started with, read once; None where it was started without.

    Raises `InvalidTrace` where the file holds none, and `MoevizError` where it cannot be read any more.
    """
    path = settings.SETTINGS.trace_file
    return None if path is None else _trace_in(path)


@st.cache_resource(max_entries=1, show_spinner="Reading the trace …")
def _trace_in(path: str) -> RoutingTrace:
    try:
        return moeviz.read_trace(path)
    except OSError as error:
        raise MoevizError(f"{quoted(path)} cannot be read: {error.strerror or error}.") from error


def usual(model: ModelInfo) -> RoutingTrace | None:
    """How other texts are routed by that model: known for the one whose texts ship, and has the layers it says."""
    known = reference()
    same = (known.model.name, known.model.layers, known.model.num_experts, known.model.top_k)
    return known if same == (model.name, model.layers, model.num_experts, model.top_k) else None


def evaluation_routing() -> RoutingTrace:
    """How the finished embedded model routes the texts of its evaluation set, labelled by domain."""
    return over_training()[max(over_training())]


@st.cache_resource(show_spinner=False)
def reference() -> RoutingTrace:
    """The same with weights: what the page of an expert shows before anything is asked of the model."""
    return reference_routing()


@st.cache_resource(show_spinner=False)
def reference_muted() -> pd.DataFrame:
    """What each kind of those texts loses without each expert of the embedded model."""
    return muted_experts()


@st.cache_resource(show_spinner=False)
def over_training() -> dict[int, RoutingTrace]:
    """How the embedded model routed its evaluation texts at each recorded moment of its training."""
    return traces_over_training()


@st.cache_resource(show_spinner=False)
def saturation() -> pd.DataFrame:
    """How much of the final routing each of those moments had."""
    return SATURATION.measure(over_training())


@st.cache_resource(show_spinner="Opening the gallery …")
def gallery() -> dict[str, RoutingTrace]:
    """How each system of the history gallery routes, as it ships; for Mixtral, the embedded model."""
    from moeviz.history.shipped_traces import shipped_trace

    traces = {row.title: shipped_trace(name) for name, row in SYSTEMS.items()}
    return traces | {"Mixtral (embedded)": evaluation_routing()}
