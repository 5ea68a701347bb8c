"""The alarms of a run, as sentences: those that are on, what to do, and those that are over."""

from functools import partial

import pandas as pd
import streamlit as st
from moeviz_app.session import session, training_runs

from moeviz.metrics.tokens import visible
from moeviz.training.recorded.rules import ALARM_KINDS
from moeviz.training.recorded.run import SNAPSHOTS, WHOLE_RUN, TrainingRun

FIRST = ("collapse", "dead", "aux_off", "load", "logits", "confidence")  # the gravest first
SHOWN = 4  # before the rest is folded


def show_alarms(name: str, run: TrainingRun, facts: str, alone: bool) -> None:
    """Of which run, and what is on, the gravest first; or that nothing is."""
    with st.container(border=True, key="answer" if alone else f"answer {name}"):
        st.text(facts)
        on, over = run.alarms[run.alarms["on"]], run.alarms[~run.alarms["on"]]
        if on.empty:
            st.text(_quiet(run))
        on = on.assign(place=on["kind"].map(FIRST.index)).sort_values(["place", "began", "layer"], kind="stable")
        for row, alarm in enumerate(on.head(SHOWN).itertuples()):
            _alarm(alarm, f"{name} {row}", run)
        if len(on) > SHOWN:
            _folded(f"{len(on) - SHOWN:,} more are on", on.iloc[SHOWN:])
        if len(over):
            _folded("One alarm is over" if len(over) == 1 else f"{len(over):,} alarms are over", over)


def _quiet(run: TrainingRun) -> str:
    if run.facts.source == SNAPSHOTS:
        return "Snapshots alone have no alarms: see below when the routing settled."
    if run.facts.source != "moeviz":
        return "This source has no alarms: moeviz judges runs that it watched itself."
    if not len(run.logs):
        return "Nothing has been logged yet, so nothing can be said."
    return f"No alarm is on at step {run.logs['step'].iloc[-1]:,}."


def _alarm(alarm: tuple, key: str, run: TrainingRun) -> None:
    with st.container(horizontal=True, vertical_alignment="top", wrap=True, key=f"alarm {key}"):
        st.markdown(":red[:material/warning:]", width="content")
        with st.container(width="stretch", gap=None):
            st.text(_sentence(alarm.says))
            st.text(ALARM_KINDS[alarm.kind].to_do)
        if alarm.layer != WHOLE_RUN and alarm.layer in run.facts.layers:
            st.button(
                f"See layer {alarm.layer}", key=f"see {key}", on_click=partial(_look, alarm.layer), width="content"
            )


def _look(layer: int) -> None:
    session.set_value(session.RUN_LAYER, layer)
    session.set_value(session.RUN_PART, training_runs.EXPERTS)


def _sentence(says: str) -> str:
    """As people write it: a capital, and an end."""
    text = visible(says)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _folded(label: str, alarms: pd.DataFrame) -> None:
    with st.expander(label):
        for alarm in alarms.head(200).itertuples():
            end = "" if pd.isna(alarm.over) else f" Over at step {alarm.over:,.0f}."
            st.text(_sentence(alarm.says) + end)
        if len(alarms) > 200:
            st.text(f"And {len(alarms) - 200:,} more: “moeviz training” prints all of them.")
