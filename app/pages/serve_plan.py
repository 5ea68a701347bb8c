"""The plan that an engine reads: a choice of engine, the file, the command that starts it, and how it was judged."""

import pandas as pd
import streamlit as st
from moeviz_app.jobs import model_catalog
from moeviz_app.session import session
from moeviz_app.url import serve_address
from moeviz_app.widgets.downloads import file_stem
from moeviz_app.widgets.messages import explained

from moeviz.routing_trace import Counted
from moeviz.serving.plans.engines import ENGINES, READ_NONE, export_plan
from moeviz.serving.plans.plan import ExpertPlan, make_plan

WHOLE_LAYERS, NEEDS_TORCH = "llama.cpp", "ktransformers"


def offer_plan(
    trace: Counted, devices: int, copies: int, layers_on_gpu: int | None, placed: pd.DataFrame | None
) -> None:
    """Where each expert goes, as a file for the engine that is chosen. `placed`: as for `make_plan`."""
    st.subheader("The plan for an engine", anchor=False)
    engine = st.selectbox(
        "Engine",
        list(ENGINES),
        format_func=lambda name: ENGINES[name].title,
        key=session.ENGINE,
        persist_state="session",
    )
    serve_address.show(serve_address.ENGINE, engine, next(iter(ENGINES)))
    in_all = trace.model.num_layers or _layers_in_all(trace)
    with explained():
        sizes = (1, 0) if engine == WHOLE_LAYERS else (devices, copies)
        plan = make_plan(trace, *sizes, in_all, layers_on_gpu, placed)
        st.text(plan.judged if engine != WHOLE_LAYERS else _of_whole_layers(plan))
        if plan.repaired:
            st.text(f"{plan.repaired} slots were changed, so that no device has an expert twice.")
        _file(plan, engine, f"{file_stem(trace)}-plan{ENGINES[engine].suffix}")
    st.text(READ_NONE["vllm"])


def _layers_in_all(trace: Counted) -> int | None:
    return st.number_input(
        "Layers of the model, dense ones too",
        min_value=max(trace.model.layers) + 1,
        value=None,
        key=f"{session.ALL_LAYERS} {trace.model.name}",
        persist_state="session",
        help="The trace does not say; it is the configuration's num_hidden_layers. Some engines count all layers.",
    )


def _of_whole_layers(plan: ExpertPlan) -> str:
    return (
        f"llama.cpp places whole layers: the experts of {plan.layers_on_gpu} of {len(plan.slots)} stay on the GPU, in "
        "those layers of which a step reads most. It was not judged on other tokens than it was made from."
    )


def _file(plan: ExpertPlan, name: str, file: str) -> None:
    """Written, read back and compared now: what an engine cannot hold is said here, and no broken file is offered."""
    if name == NEEDS_TORCH:
        model_catalog.bring_torch()
    data = export_plan(plan, name)
    st.text(f"{ENGINES[name].title} reads {ENGINES[name].reads}. Start it with:")
    st.code(ENGINES[name].command(plan, file), language="bash", wrap_lines=True)
    st.download_button("Download the plan", data, file, on_click="ignore", key="plan file", icon=":material/download:")
