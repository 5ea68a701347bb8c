"""The charts of a run, or of two, in parts: only the part that is open is measured, and sent.

All of them at once take a browser twice as long as the first part, and the first picture comes with the last.
"""

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary, ref

import pandas as pd
import streamlit as st

import moeviz
from moeviz.charts import NAMED
from moeviz.charts.chart import Chart
from moeviz.charts.multi_trace import SATURATION
from moeviz.charts.training import (
    AUX,
    BALANCE,
    CHANGE,
    EFFECTIVE,
    GRADIENTS,
    HEATMAP,
    IMPORTANCE,
    LOGITS,
    LOSS,
    RunChart,
)
from moeviz.errors import MissingField, MoevizError
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz.training.recorded.over_steps import worst_layer
from moeviz.training.recorded.run import Over, TrainingRun
from moeviz_app.session import session, training_runs
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, on_dark, picture_and_words
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.pickers import choice_of, layer_of

BY_LABEL = NAMED["label_load_heatmap"]
MOST = 40  # snapshots that are read
Refs = list[ref[TrainingRun]]
Shown = dict[str, TrainingRun]
MOST_FRAMES = 24  # of a run


def show_charts(shown: Shown, over: Over) -> None:
    """Draw the part that is open; what the runs lack for it is reported once, at its end."""
    if not any(len(run.logs) for run in shown.values()):
        _snapshots(shown)
        return
    first, lacking = next(iter(shown.values())), list[str]()
    part = choice_of(st.segmented_control, "Details", list(training_runs.PARTS), session.RUN_PART, None)
    if part is None:
        return
    if part == training_runs.EXPERTS:
        _experts(shown, over, lacking)
    elif part == training_runs.BALANCE:
        _together((BALANCE, EFFECTIVE), shown, over, lacking)
    elif part == training_runs.LOSSES:
        _together((LOSS, AUX, LOGITS), shown, over, lacking)
        _draw(GRADIENTS, lambda: measured(GRADIENTS, first, over), lacking)
    else:
        _together((CHANGE,), shown, over, lacking)
        _snapshots(shown)
    if lacking:
        say(" ".join(dict.fromkeys(lacking)))


def _experts(shown: Shown, over: Over, lacking: list[str]) -> None:
    (_, first), *others = shown.items()
    layer = _layer(first)
    _draw(HEATMAP, lambda: measured(HEATMAP, first, layer, over), lacking)
    if layer is None:
        return
    for other, run in others:
        _second(other, run, layer, over)
    _draw(IMPORTANCE, lambda: measured(IMPORTANCE, first, layer), lacking)


def show_worst_layer(shown: Shown, over: Over) -> None:
    """Draw the experts of one layer over steps, for each run: of the chosen layer, or the first run's worst."""
    first = next(iter(shown.values()))
    layer = session.value(session.RUN_LAYER)
    layer = layer if layer in first.facts.layers else worst_layer(first)
    if layer is None:
        return
    for place, (name, run) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with place, explained(lambda _: None):  # the part on experts shows what is lacking
            frame = measured(HEATMAP, run, layer, over)
            st.markdown(f"**Layer {layer}: which experts do the work?**")
            altair_chart(HEATMAP.picture(frame, dark=on_dark()), key=f"{HEATMAP.key} {name}", alt=alternative(HEATMAP))


def _snapshots(shown: Shown) -> None:
    name, run = next((pair for pair in shown.items() if pair[1].snapshots), next(iter(shown.items())))
    if run.snapshots and len(shown) > 1:
        st.text(f"What follows is of {visible(name)} alone:")
    show_snapshots(run)


def _together(charts: tuple[Chart, ...], shown: Shown, over: Over, lacking: list[str]) -> None:
    for chart in charts:
        _draw(chart, lambda chart=chart: measured(chart, shown, over), lacking)


def _layer(run: TrainingRun) -> int | None:
    layers, worst = run.facts.layers, worst_layer(run)
    if worst is None:
        return None
    return layer_of(layers, session.RUN_LAYER, worst, f"Layer (the worst is {worst})")


_frames: WeakKeyDictionary[TrainingRun, dict[Hashable, tuple[Refs, pd.DataFrame]]] = WeakKeyDictionary()


def measured(chart: Chart, of: TrainingRun | dict[str, TrainingRun], *how: Hashable) -> pd.DataFrame:
    """Return the numbers of a chart; kept as long as the runs, which do not change."""
    together = list(of.values()) if isinstance(of, dict) else [of]
    kept, key = _frames.setdefault(together[0], {}), (chart.key, tuple(of) if isinstance(of, dict) else (), *how)
    known = kept.get(key)
    if known is not None and [run() for run in known[0]] == together[1:]:
        return known[1]
    frame = chart.measure(of, *how)
    if isinstance(of, dict):  # a run keeps its colour and its name where the other has nothing to draw
        frame = frame.assign(run=pd.Categorical(frame["run"], list(of)))
    kept.pop(key, None)
    while len(kept) >= MOST_FRAMES:
        kept.pop(next(iter(kept)), None)
    kept[key] = ([ref(run) for run in together[1:]], frame)
    return frame


def _draw(chart: Chart, measure: Callable[[], pd.DataFrame], lacking: list[str]) -> None:
    """Draw a chart with its sentence; what a run lacks for it is reported once, at the end."""
    try:
        frame = measure()
    except MissingField as why:
        lacking.append(str(why))
        return
    heading(chart)
    with explained():
        if sentence := chart.caption(frame):
            st.text(sentence)
        if isinstance(chart, RunChart) and (alone := chart.lacking(frame)):
            st.text(alone)
        picture_and_words(chart, frame)


def _second(name: str, run: TrainingRun, layer: int, over: Over) -> None:
    """Draw the layer of the other run, under the first."""
    st.text(f"Layer {layer} of {visible(name)}:")
    with explained():
        frame = measured(HEATMAP, run, layer, over)
        if sentence := HEATMAP.caption(frame):
            st.text(sentence)
        picture, _ = st.columns([3, 1], gap="medium")
        with picture:
            drawn = HEATMAP.picture(frame, dark=on_dark())
            altair_chart(drawn, key=f"{HEATMAP.key} of the other", alt=alternative(HEATMAP))


def show_snapshots(run: TrainingRun) -> None:
    """Draw saturation over training, and which experts each kind of text used at any snapshot."""
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
    """Measure saturation of these files; Streamlit's cache leaves out arguments that begin with an underscore."""
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
