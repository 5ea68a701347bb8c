"""Counts without tokens: how the work is divided, of a visitor's own file or of what others have published."""

import re

import streamlit as st
from moeviz_app.jobs import model_service
from moeviz_app.session import opened_counts, session
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.import_form import doctor_says
from moeviz_app.widgets.messages import explained, say

from moeviz.charts import load, specialization
from moeviz.charts.chart import Chart
from moeviz.charts.comparison import COMPARISONS
from moeviz.errors import MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.counts_file import to_counts_csv, to_counts_json
from moeviz.metrics.load import counts_summary, expert_load
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import Counted

ALL = "all together"
MOST_GROUPS = 200  # in a list to choose from
LONGEST = 40  # characters of a label


def counts_page() -> None:
    """Choose counts, and a part of them; the answer in a sentence, then charts."""
    st.title("Counts", anchor=False)
    counts = _chosen()
    _facts(counts)
    part = _part(counts)
    with explained():
        st.container(border=True, key="answer").text(counts_summary(expert_load(part)))
    doctor_says(counts)
    layer = _layer(part)
    for chart in load.CHARTS:
        _draw(chart, part.select(layers=[layer]) if chart.layers == "one" else part)
    if counts.group_kind == "label":
        for chart in specialization.CHARTS:
            _draw(chart, counts.select(layers=[layer]) if chart.layers == "one" else counts)
    _beside_trace(part)
    say(
        "Counts do not say which token went where. Routes of tokens, confidence, locality, co-activation, flow between "
        "layers and the costs of serving need that, so they take a trace."
    )
    _files(counts)


def _chosen() -> ExpertCounts:
    if gone := opened_counts.dropped():
        say(f"Memory was needed, so the oldest counts were let go: {', '.join(gone)}. Open them again to see them.")
    offered = opened_counts.offered()
    if session.value(session.COUNTS) not in offered:
        session.set_value(session.COUNTS, next(iter(offered)))
    session.keep(session.COUNTS)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Counts", list(offered), key=session.COUNTS, persist_state="session", width=420)
        session.link_to("Traces", "Open your own", ":material/upload:")
    return offered[name]


def _facts(counts: ExpertCounts) -> None:
    """Say whose counts these are, of how many tokens, and their caution. A file may say anything: never Markdown."""
    model = counts.model
    tokens, experts = int(counts.tokens.sum(axis=0).max(initial=0)), sorted({*model.num_experts})
    layers = f"{len(model.layers):,} MoE layer{'s' * (len(model.layers) != 1)}"
    of = "–".join(dict.fromkeys((f"{experts[0]:,}", f"{experts[-1]:,}")))
    st.text(
        f"{tokens:,} tokens through {visible(model.name)}, counted in {layers}: top-{model.top_k} of {of} experts"
        + (f", by {visible(model.backend)}" if model.backend not in ("file", "published") else "")
    )
    if model.caution:
        st.text(f"Caution: {model.caution}")


def _part(counts: ExpertCounts) -> ExpertCounts:
    """All groups together, or one of them."""
    if counts.group_kind == "all":
        return counts
    names = [ALL, *(visible(str(group))[:LONGEST] for group in counts.groups[:MOST_GROUPS])]
    places = list(range(len(names)))
    if session.value(session.GROUP) not in places:
        session.set_value(session.GROUP, 0)
    session.keep(session.GROUP)
    at = st.selectbox(
        counts.group_kind.capitalize(),
        places,
        format_func=names.__getitem__,
        key=session.GROUP,
        persist_state="session",
        width=260,
    )
    return counts.counts() if at == 0 else counts.of_group(at - 1)


def _layer(counts: ExpertCounts) -> int:
    """For charts of one layer."""
    layers = counts.model.layers
    if session.value(session.COUNTED_LAYER) not in layers:
        session.set_value(session.COUNTED_LAYER, layers[len(layers) // 2])
    if len(layers) == 1:
        return layers[0]
    session.keep(session.COUNTED_LAYER)
    return st.select_slider("Layer", layers, key=session.COUNTED_LAYER, persist_state="session", width=420)


def _draw(chart: Chart, counts: Counted | tuple[Counted, Counted]) -> None:
    """A chart, or nothing where it needs tokens: the page says so once."""
    try:
        frame = chart.measure(counts)
    except MissingField:
        return
    heading(chart)
    with explained():
        if sentence := chart.caption(frame):
            st.text(sentence)
        picture_and_words(chart, frame)


def _beside_trace(part: ExpertCounts) -> None:
    """Draw the trace on screen beside the counts, where it is of a model of this shape."""
    trace = session.current_trace()
    if trace is None or (trace.model.layers, trace.model.num_experts) != (part.model.layers, part.model.num_experts):
        return
    st.subheader("Beside the trace on screen", anchor=False)
    st.text("The first is these counts, the second the trace.")
    for chart in COMPARISONS:
        _draw(chart, (part, trace))


def _files(counts: ExpertCounts) -> None:
    stem = "-".join(["moeviz", *re.findall(r"[a-z0-9]+", counts.model.name.lower())[:6], "counts"])[:80]
    with st.container(horizontal=True):
        for kind, mime, make in (("JSON", "application/json", to_counts_json), ("CSV", "text/csv", to_counts_csv)):
            st.download_button(
                kind,
                model_service.file_maker(lambda make=make: make(counts)),
                f"{stem}.{kind.lower()}",
                mime,
                on_click="ignore",
                key=f"counts {kind}",
                icon=":material/download:",
            )
