"""The page Balance: whether the work is shared evenly, of the trace on screen, of published counts or of one's own."""

import re

import pandas as pd
import streamlit as st

from moeviz.charts import specialization
from moeviz.charts.balance import BALANCE
from moeviz.charts.chart import Chart
from moeviz.charts.comparison import COMPARISONS
from moeviz.errors import MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.counts_file import to_counts_csv, to_counts_json
from moeviz.metrics.balance import balance_sentence, elsewhere_sentence, layer_sentence, luck_sentence
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import in_words_of
from moeviz.published import CHECKPOINTS
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz_app.jobs import model_service, recorded
from moeviz_app.jobs.recorded import cached_for_example
from moeviz_app.session import session
from moeviz_app.session.subject import subject
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import number, page_address
from moeviz_app.views.topic import draw
from moeviz_app.widgets.answers import whole
from moeviz_app.widgets.chart_panel import heading, picture_and_words, question
from moeviz_app.widgets.expert_links import follow_click
from moeviz_app.widgets.facts import cautions, dataset_facts
from moeviz_app.widgets.files import doctor_says
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.pickers import choice_of, layer_of

ALL = "all together"
MOST_GROUPS = 200  # in a list to choose from
LONGEST = 40  # characters of a label
ENOUGH = 2_000  # tokens: of fewer, a sentence says that a text is not the model
KINDS, BESIDE, FILES = "Kinds of text", "Beside the trace", "Files"
LACKING = (
    "Counts do not say which token went where. Routes of tokens, confidence, locality, co-activation, flow between "
    "layers and most costs of serving need that, so they take a trace. To record one: “moeviz trace - --model {} -o "
    "trace.npz < text.txt”."
)
ADDRESS = page_address(number(session.GROUP), number(session.COUNTED_LAYER))


def balance_page() -> None:
    """Draw the answer, the range of chance, and one picture; the rest on request."""
    question("Balance", BALANCE)
    if gone := visit().counts.take_dropped():
        say(f"Memory was needed, so the oldest counts were let go: {', '.join(gone)}. Open them again to see them.")
    with explained():
        if (shown := session.dataset()) is not None:
            dataset_facts(shown)
            if whole(shown):
                draw([BALANCE], shown)
            return
        counted = subject().read()
        part = _part(counted)
        _answer(counted, part)
        if isinstance(counted, ExpertCounts):
            _of_counts(counted, part)
    with st.container(horizontal=True):
        for page in ("Load", "Losses"):
            session.link_to(page, page)


def _part(counted: Counted) -> Counted:
    counts = counted
    if isinstance(counted, RoutingTrace) and "label" in counted.tokens:
        counts = counted.counts_by_label()
    if not isinstance(counts, ExpertCounts) or counts.group_kind == "all":
        return counted
    names = [ALL, *(visible(str(group))[:LONGEST] for group in counts.groups[:MOST_GROUPS])]
    places = list(range(len(names)))
    at = choice_of(st.selectbox, "Tokens of", places, session.GROUP, 0, format_func=names.__getitem__, width=260)
    return counted if at == 0 else counts.of_group(at - 1)


def _answer(counted: Counted, part: Counted) -> None:
    """Draw the sentence, the range that chance gives, and the picture; then whose routing it is."""
    model = counted.model
    frame = cached_for_example(part, (BALANCE.key, "numbers"), lambda: BALANCE.measure(part))
    with st.container(border=True, key="answer"):
        st.text(in_words_of(model, balance_sentence(frame)))
        if (luck := luck_sentence(frame)) is not None:
            st.text(in_words_of(model, luck))
        if isinstance(part, RoutingTrace) and len(part.tokens) < ENOUGH:
            _compare_with_other_texts(frame, part)
    trace = part if isinstance(part, RoutingTrace) else None
    if trace is not None:
        follow_click()
    picture_and_words(BALANCE, frame, trace, model)
    usual = int(frame["layer"][frame["times_uniform"].fillna(0).idxmax()])  # that of the answer
    layer = layer_of(model.layers, session.COUNTED_LAYER, usual, "Who, at layer")
    if (who := layer_sentence(frame, layer)) is not None:
        st.text(in_words_of(model, who))
    if isinstance(counted, RoutingTrace):
        cautions(counted)
    elif model.caution:
        st.text(f"Caution: {model.caution}")


def _compare_with_other_texts(frame: pd.DataFrame, part: RoutingTrace) -> None:
    """Warn that a short text is not the model, with its busiest expert's load elsewhere if that is known."""
    usual = recorded.usual(part.model)
    said = None if usual is None or usual is part else elsewhere_sentence(frame, BALANCE.measure(usual))
    st.text(
        said
        or "This is what these texts did, and not what the model does: choose texts or counts of more tokens above."
    )


def _of_counts(counts: ExpertCounts, part: Counted) -> None:
    """Draw the parts below the answer to counts: what they show, and a sentence on what needs a trace."""
    say(LACKING.format(CHECKPOINTS.get(counts.model.name, "MODEL")))
    doctor_says(counts)
    parts = [*([KINDS] if counts.group_kind == "label" else ()), *([BESIDE] if _like(counts) else ()), FILES]
    opened = choice_of(st.segmented_control, "Details", parts, session.COUNTED_PART, None)
    if opened == KINDS:
        layer = session.value(session.COUNTED_LAYER)
        for chart in specialization.CHARTS:
            _draw(chart, counts.select(layers=[layer]) if chart.layers == "one" else counts)
    elif opened == BESIDE:
        st.text("The first is these counts, the second the trace.")
        for chart in COMPARISONS:
            _draw(chart, (part, visit().trace))
    elif opened == FILES:
        _files(counts)


def _like(counts: ExpertCounts) -> bool:
    trace = visit().trace
    same = counts.model.layers, counts.model.num_experts
    return trace is not None and (trace.model.layers, trace.model.num_experts) == same


def _draw(chart: Chart, counts: Counted | tuple[Counted, Counted]) -> None:
    """Draw a chart, or nothing if it needs tokens: the page reports that once."""
    try:
        frame = chart.measure(counts)
    except MissingField:
        return
    heading(chart)
    with explained():
        if sentence := chart.caption(frame):
            st.text(sentence)
        picture_and_words(chart, frame)


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
