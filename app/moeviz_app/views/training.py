"""Routing while a model trained: the runs, their alarms on top, and then a part of their charts."""

from collections.abc import Collection
from functools import partial

import pandas as pd
import streamlit as st

from moeviz.charts.training import HEALTH
from moeviz.errors import MissingField
from moeviz.metrics.tokens import visible
from moeviz.training.reading import as_of
from moeviz.training.recorded.claims import router_verdict
from moeviz.training.recorded.over_steps import logs_in_a_column
from moeviz.training.recorded.rules import ALARM_KINDS
from moeviz.training.recorded.run import WHOLE_RUN, Over, TrainingRun
from moeviz_app import settings
from moeviz_app.session import session, training_runs
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import choice, number, page_address
from moeviz_app.views.training_charts import measured, show_charts, show_worst_layer
from moeviz_app.widgets.chart_panel import altair_chart, alternative, on_dark, particulars, question
from moeviz_app.widgets.messages import escape_markdown, explained, note, refuse, say

BY_GRAVITY = ("collapse", "dead", "aux_off", "load", "logits", "confidence")
ALARMS_SHOWN = 4  # before the rest is folded
NONE = "no other run"
LIGHTS = {
    "green": ":green[:material/check_circle:]",
    "amber": ":orange[:material/error:]",
    "red": ":red[:material/warning:]",
    "grey": ":gray[:material/help:]",
}
SECONDS = 5  # between two looks at a run that may grow
ADDRESS = page_address(
    choice("run", session.RUN, training_runs.SHIPPED),
    choice("beside", session.OTHER_RUN, training_runs.SHIPPED, cleared=True),
    number(session.RUN_LAYER),
    number("at", session.RUN_AT, cleared=True),
    choice("part", session.RUN_PART, training_runs.PARTS, cleared=True),
)


def training_page() -> None:
    """Draw two controls; of each run a light with an answer, and its picture; then alarms, and charts in parts."""
    question("Train", HEALTH)
    with explained():
        shown = _chosen()
        for place, (name, run) in zip(st.columns(len(shown)), shown.items(), strict=True):
            with place:
                show_verdict(name, run, len(shown) == 1)
        lacking = list[str]()
        rows = {WHOLE_RUN} if any((run.alarms["layer"] == WHOLE_RUN).any() for run in shown.values()) else set()
        for place, (name, run) in zip(st.columns(len(shown)), shown.items(), strict=True):
            with place:
                show_health(name, run, len(shown) == 1, _axis(), lacking, rows)
        if session.value(session.RUN_PART) != training_runs.EXPERTS:
            show_worst_layer(shown, _axis())
        if lacking:
            say(" ".join(dict.fromkeys(lacking)))
        for name, run in shown.items():
            st.text(_facts(name, run, len(shown) == 1))
            show_alarms(name, run, len(shown) == 1)
            _notes(run)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            _upload()
            st.radio("Axis", ["Steps", "Tokens"], horizontal=True, key=session.RUN_AXIS, persist_state="session")
        show_charts(shown, _axis())


def _axis() -> Over:
    return "tokens" if session.value(session.RUN_AXIS) == "Tokens" else "step"


def show_verdict(name: str, run: TrainingRun, alone: bool) -> None:
    """Draw a light with the answer next to it, and above it the run's name if there are two."""
    verdict = router_verdict(run)
    with st.container(border=True, key="answer" if alone else f"answer {name}"):
        if not alone:
            note(visible(name))
        with st.container(horizontal=True, vertical_alignment="top", wrap=False):
            st.markdown(LIGHTS[verdict.light], width="content")
            st.text(verdict.answer, width="stretch")
        if verdict.beside:
            st.text(verdict.beside)


def show_health(
    name: str, run: TrainingRun, alone: bool, over: Over, lacking: list[str], rows: Collection[int] = ()
) -> None:
    """Draw the picture of a run, with `rows` that another run's has too; what it lacks is listed once, under all."""
    if not len(run.logs):
        return
    try:
        frame = measured(HEALTH, run, over)
    except MissingField as why:
        lacking.append(str(why))
        return
    missing = pd.DataFrame({"layer": [row for row in rows if row not in set(frame["layer"])], "alarm": "", "says": ""})
    drawn = frame if missing.empty else pd.concat([frame, missing])
    altair_chart(HEALTH.picture(drawn, dark=on_dark()), key=f"{HEALTH.key} of {name}", alt=alternative(HEALTH))
    if alone:
        particulars(HEALTH, frame)


def _chosen() -> dict[str, TrainingRun]:
    if gone := visit().training_runs.take_dropped():
        say(f"Memory was needed, so the oldest runs were let go: {', '.join(gone)}. Open them again to see them.")
    offered = training_runs.offered()
    names = list(offered)
    opened, visit().opened_run = visit().opened_run, None
    if opened in names:
        session.set_value(session.RUN, opened)
        session.set_value(session.OTHER_RUN, NONE)
        for key in (session.RUN_LAYER, session.RUN_PART, session.RUN_AT):
            session.set_value(key, None)
    if session.value(session.RUN) not in names:
        session.set_value(session.RUN, names[0])
        session.set_value(session.OTHER_RUN, _usual_pair(names))
    others = [NONE, *(name for name in names if name != session.value(session.RUN))]
    if session.value(session.OTHER_RUN) not in others:
        session.set_value(session.OTHER_RUN, NONE)
    session.keep(session.RUN)
    session.keep(session.OTHER_RUN)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox("Run", names, key=session.RUN, persist_state="session", width=300)
        other = st.selectbox("Beside it", others, key=session.OTHER_RUN, persist_state="session", width=300)
        step = _choose_step(offered[chosen]())
    names = [name for name in (chosen, other) if name != NONE]
    for name in names:
        if training_runs.may_grow(name):
            _watch(name, training_runs.seen(name))  # before it is read: what comes meanwhile is seen next time
    return {name: offered[name]() if step is None else as_of(offered[name](), step) for name in names}


def _choose_step(run: TrainingRun) -> int | None:
    """Draw the slider that takes the page back to a step; None for the last, also while the run grows."""
    steps = run.logs["step"].tolist()
    if len(steps) < 2:
        return None
    at, last = session.value(session.RUN_AT), steps[-1]
    at, key = at if at in steps else last, f"as of {run.name} {last}"
    session.set_value(key, at)

    def keep() -> None:
        step = session.value(key)
        session.set_value(session.RUN_AT, None if step == last else step)

    st.select_slider("As of step", steps, format_func="{:,}".format, key=key, width=300, on_change=keep)
    return None if at == last else at


def _usual_pair(names: list[str]) -> str:
    """Return the second run at first: of the two that ship, or of two that the server was started with."""
    if names[0] == training_runs.AUX_OFF:
        return training_runs.AUX_ON
    started = list(training_runs.started())
    return started[1] if len(started) > 1 and names[0] == started[0] else NONE


@st.fragment(run_every=SECONDS)
def _watch(name: str, seen: training_runs.Signature) -> None:
    if training_runs.seen(name) != seen:
        st.rerun()


def _upload() -> None:
    most = min(settings.SETTINGS.max_upload_mb, st.get_option("server.maxUploadSize"))
    with st.popover("Open your own run", icon=":material/upload:"):
        st.markdown(
            'Watch a run with `moeviz.training.watch(trainer, out="run")`, and see its folder here, live while it '
            "grows, with `moeviz app run`. Or open its file:"
        )
        upload = st.file_uploader(
            f"A routing.jsonl of up to {most} MB. It is read in memory and not kept.",
            type=["jsonl"],
            max_upload_size=most,
            key=session.RUN_FILE,
        )
        if upload is None or visit().upload == upload.file_id:
            return
        with explained(refuse), st.spinner("Reading the file …"):
            training_runs.open_upload(upload.getvalue(), upload.name)
            visit().upload = upload.file_id
            st.rerun()


def _facts(name: str, run: TrainingRun, alone: bool) -> str:
    """Report whose run it is, its progress and its caution. A file may contain anything: never Markdown."""
    facts, parts = run.facts, []
    if len(run.logs):
        last, logs = run.logs.iloc[-1], len(run.logs)
        parts.append(f"{logs:,} log{'s' * (logs != 1)} up to step {last['step']:,.0f}, {last['tokens']:,.0f} tokens")
    elif facts.source == "snapshots":
        parts.append(f"{len(run.snapshots):,} snapshots of a probe set, and no log")
    else:
        parts.append("no log yet")
    if facts.model:
        parts.append(visible(facts.model)[:80])
    if facts.layers:
        layers = f"{len(facts.layers):,} MoE layer{'s' * (len(facts.layers) != 1)}"
        if facts.num_experts:  # event files of TensorBoard do not say it
            sizes = "–".join(dict.fromkeys((f"{min(facts.num_experts):,}", f"{max(facts.num_experts):,}")))
            layers += f", {'' if facts.top_k is None else f'top-{facts.top_k} of '}{sizes} experts"
        parts.append(layers)
    if facts.aux_coefficient is not None:
        effective = "" if facts.aux_effective is None else f" (in effect {facts.aux_effective:g})"
        parts.append(f"aux coefficient {facts.aux_coefficient:g}{effective}")
    begin = "Example, recorded beforehand. " if name in training_runs.SHIPPED else ""
    return begin + " · ".join(parts if alone else [visible(name), *parts])


def _notes(run: TrainingRun) -> None:
    for sentence in (*run.facts.said, *run.notes):
        st.text(visible(sentence))
    if (logs := logs_in_a_column(run)) > 1:
        st.text(
            f"A long run: up to {logs} logs in a row are one column of a picture. Their assignments are summed before "
            "they are measured; of other figures, the last is drawn."
        )


def show_alarms(name: str, run: TrainingRun, alone: bool) -> None:
    """Draw the alarms of a run: those that are on, the gravest first, with what to do; then those that are over."""
    if run.alarms.empty:
        return
    on, over = run.alarms[run.alarms["on"]], run.alarms[~run.alarms["on"]]
    number = f"{len(run.alarms):,} alarm{'s' * (len(run.alarms) != 1)}, and what to do"
    with st.expander(number if alone else f"{escape_markdown(visible(name))}: {number}"):
        on = on.assign(place=on["kind"].map(BY_GRAVITY.index)).sort_values(["place", "began", "layer"], kind="stable")
        for row, alarm in enumerate(on.head(ALARMS_SHOWN).itertuples()):
            _alarm(alarm, f"{name} {row}", run)
        if len(on) > ALARMS_SHOWN:
            _draw_folded(f"{len(on) - ALARMS_SHOWN:,} more are on", on.iloc[ALARMS_SHOWN:])
        if len(over):
            _draw_folded("One alarm is over" if len(over) == 1 else f"{len(over):,} alarms are over", over)


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
    """Format a sentence: a capital, and an end."""
    text = visible(says)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _draw_folded(label: str, alarms: pd.DataFrame) -> None:
    st.markdown(f"**{label}**")
    for alarm in alarms.head(200).itertuples():
        end = "" if pd.isna(alarm.over) else f" Over at step {alarm.over:,.0f}."
        st.text(_sentence(alarm.says) + end)
    if len(alarms) > 200:
        st.text(f"And {len(alarms) - 200:,} more: “moeviz watch” prints all of them.")
