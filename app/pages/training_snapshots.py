"""The snapshots of a run's probe set: when did the routing settle, and which experts did each kind of text use then?"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st
from moeviz_app.session import session
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.messages import explained, say

import moeviz
from moeviz.charts import NAMED
from moeviz.charts.routing_over_training import SATURATION
from moeviz.errors import MoevizError
from moeviz.names import quoted
from moeviz.routing_trace import RoutingTrace
from moeviz.training.recorded.run import TrainingRun

BY_LABEL = NAMED["label_load_heatmap"]
MOST = 40  # snapshots that are read


def show_snapshots(run: TrainingRun) -> None:
    """Saturation over training; and which experts each kind of text used at any snapshot."""
    if not run.snapshots:
        return
    with explained():
        moments = _read(run.snapshots)
        if len(run.snapshots) > len(moments):
            say(f"The run has {len(run.snapshots):,} snapshots; {len(moments)} of them, evenly chosen, are drawn.")
        heading(SATURATION)
        with explained():
            files = tuple((str(file), file.stat().st_mtime_ns) for file in run.snapshots.values())
            picture_and_words(SATURATION, _saturation(files, moments))
        _by_label(moments)


def _read(files: Mapping[int, Path]) -> dict[int, RoutingTrace]:
    every = max(-(-(len(files) - 1) // (MOST - 1)), 1)
    kept = [*files][::-1][::every][::-1]
    return {tokens: _trace(files[tokens], files[tokens].stat().st_mtime_ns) for tokens in kept}


@st.cache_resource(show_spinner=False, max_entries=4 * MOST)
def _trace(file: Path, changed: int) -> RoutingTrace:
    try:
        return moeviz.read_trace(file)
    except OSError as error:
        raise MoevizError(f"{quoted(file.name)} cannot be read: {error.strerror or error}.") from error


@st.cache_data(show_spinner=False, max_entries=8)
def _saturation(files: tuple[tuple[str, int], ...], _moments: Mapping[int, RoutingTrace]) -> pd.DataFrame:
    """Of these files; Streamlit does not look at what begins with an underscore."""
    return SATURATION.measure(_moments)


def _by_label(moments: Mapping[int, RoutingTrace]) -> None:
    if "label" not in next(iter(moments.values())).tokens:
        return
    st.subheader(f"{BY_LABEL.question[:-1]}, and since when?", anchor=False)
    for key, options, usual in (
        (session.MOMENT, [*moments], max(moments)),
        (session.TRAINING_LAYER, layers := moments[max(moments)].model.layers, layers[len(layers) // 2]),
    ):
        if session.value(key) not in options:
            session.set_value(key, usual)
        session.keep(key)
    moment, layer = max(moments), layers[0]
    if len(moments) > 1:
        moment = st.select_slider(
            "Training tokens", [*moments], format_func="{:,}".format, key=session.MOMENT, persist_state="session"
        )
    if len(layers) > 1:
        layer = st.select_slider("Layer of these texts", layers, key=session.TRAINING_LAYER, persist_state="session")
    picture_and_words(BY_LABEL, BY_LABEL.measure(moments[moment].select(layers=[layer])))
