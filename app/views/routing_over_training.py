"""How the embedded model's routing settled as it was trained: recorded, so nothing is trained here."""

import streamlit as st
from moeviz_app import state
from moeviz_app.show import heading, picture_and_words
from moeviz_app.traces import recorded

from moeviz.charts import NAMED
from moeviz.charts.routing_over_training import SATURATION

BY_LABEL = NAMED["label_load_heatmap"]


def routing_over_training_page() -> None:
    """Saturation over training; and which experts each kind of text used at any recorded checkpoint."""
    st.title("Routing over training", anchor=False)
    moments = recorded.over_training()
    st.markdown(
        f"How the routing of the embedded model settled during training. At {len(moments)} points of its training, "
        "the model read the beginnings of its evaluation texts and its routing was recorded. See when experts "
        "specialised in kinds of text, and how early that was settled."
    )
    heading(SATURATION)
    picture_and_words(SATURATION, recorded.saturation())
    st.subheader(f"{BY_LABEL.question[:-1]}, and since when?", anchor=False)
    moment = st.select_slider(
        "Training tokens",
        moments,
        value=max(moments),
        format_func=lambda tokens: f"{tokens:,}",
        key=state.MOMENT,
        persist_state="session",
    )
    trace = moments[moment]
    layers = trace.model.layers
    middle = layers[len(layers) // 2]
    layer = st.select_slider("Layer", layers, value=middle, key=state.TRAINING_LAYER, persist_state="session")
    picture_and_words(BY_LABEL, BY_LABEL.measure(trace.select(layers=[layer])))
